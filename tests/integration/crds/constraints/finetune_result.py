"""What a FineTuneJob may say of what becomes of its work: checkpoints, evaluations, the result."""

from __future__ import annotations

from typing import Any, Final

from tests.integration.crds.constraints.case import (
    Case,
    limits,
    longest_text,
    one_of,
    quantity,
    reference,
)
from tests.integration.crds.constraints.finetune_fields import (
    COLUMNS,
    COLUMNS_OF_PAIRS,
    JOB,
    column,
    job_source,
    of_task,
)

_TARGET: Final = "spec.output.attachTo[]"
_SUITE: Final = "spec.evaluate.suites[]"
_STORAGE: Final = "spec.checkpoint.storage"


def _with_suite(form: dict[str, str]) -> dict[str, Any]:
    return {"evaluate": {"suites": [{"name": "quiz", "source": {"uri": "hf://a/b"}, "format": form}]}}


def _names(count: int) -> list[dict[str, str]]:
    return [{"name": f"suite{number}"} for number in range(count)]


def _pools(count: int) -> list[dict[str, str]]:
    return [{"pool": f"pool-{number}"} for number in range(count)]


def _on_two_nodes(storage: dict[str, str]) -> dict[str, Any]:
    return {"trainer": {"nodes": 2}, "checkpoint": {"storage": {"accessMode": "ReadWriteMany", **storage}}}


def _stopping_by(task: str, form: str, metric: str) -> dict[str, Any]:
    stopping = {"earlyStopping": {"metric": metric}}
    return {"method": {"task": task}, "dataset": {"format": {"type": form}}, **stopping}


_CHECKPOINT: Final = [
    *limits(JOB, "spec.checkpoint.everySteps", 1, 100000000),
    *limits(JOB, "spec.checkpoint.everyMinutes", 1, 1440),
    *limits(JOB, "spec.checkpoint.keep", 1, 100),
    *limits(JOB, "spec.checkpoint.onPreempt.deadlineSeconds", 1, 86400),
    *quantity(JOB, "spec.checkpoint.storage.size"),
    *reference(JOB, "spec.checkpoint.storage.storageClassName"),
    *one_of(JOB, "spec.checkpoint.storage.accessMode", "ReadWriteOnce", "ReadWriteMany"),
    Case(JOB, _STORAGE, "rule", {"mode": "ephemeral", "uri": "s3://bucket"}, {"mode": "ephemeral"}, says="goes with"),
    Case(
        JOB,
        _STORAGE,
        "rule",
        {"secretRef": {"name": "a"}, "uri": "gs://bucket/a"},
        {"secretRef": {"name": "a"}},
        says="secretRef is for",
    ),
    Case(JOB, f"{_STORAGE}.mode", "enum", "claim", "other"),
    Case(JOB, f"{_STORAGE}.uri", "rule", "s3://bucket/a/b_c/", "s3://key:secret@bucket/a", says="the URI must be s3"),
    Case(JOB, f"{_STORAGE}.uri", "rule", "gs://b.u/a", "hf://org/name", says="the URI must be s3"),
    Case(JOB, f"{_STORAGE}.uri", "rule", "s3://bucket/.a/..b/c..", "s3://bucket/a/../b", says="query, . and .."),
    Case(JOB, f"{_STORAGE}.uri", "rule", "s3://bucket/a.", "s3://bucket/./a", says="query, . and .."),
    Case(JOB, f"{_STORAGE}.uri", "maxLength", "s3://b.u/" + "a" * 503, "s3://b.u/" + "a" * 504),
    Case(JOB, f"{_STORAGE}.secretRef", "required:name", {"name": "store"}, {}),
    *reference(JOB, f"{_STORAGE}.secretRef.name"),
    Case(
        JOB,
        "spec",
        "rule",
        _on_two_nodes({"uri": "s3://bucket", "mode": "claim"}),
        _on_two_nodes({"uri": "s3://bucket"}),
        says="several nodes share a claim",
        blamed="spec.trainer.nodes",
    ),
    *one_of(JOB, "spec.earlyStopping.metric", "eval_loss"),
    *one_of(JOB, "spec.earlyStopping.mode", "min"),
    *(
        Case(
            JOB,
            "spec",
            "rule",
            _stopping_by(task, form, accepted),
            _stopping_by(task, form, refused),
            says="earlyStopping has a metric that the task has not",
            blamed="spec.earlyStopping.metric",
        )
        for task, form, accepted, refused in (
            ("causal-lm", "chat", "eval_loss", "eval_accuracy"),
            ("dpo", "preference", "eval_reward_accuracy", "eval_f1"),
            ("token-classification", "tokens-labels", "eval_f1", "eval_kl"),
            ("embedding", "pairs", "eval_recall_at_1", "eval_reward_margin"),
        )
    ),
    *(
        Case(
            JOB,
            "spec.earlyStopping",
            "rule",
            {"metric": "eval_loss", "mode": "min"},
            refused,
            says="mode is the wrong way round for this metric",
            blamed="spec.earlyStopping.mode",
        )
        for refused in ({"mode": "max"}, {"metric": "eval_f1", "mode": "min"})
    ),
    *limits(JOB, "spec.earlyStopping.patience", 1, 1000),
    *limits(JOB, "spec.earlyStopping.minDelta", 0, 1000),
    Case(
        JOB,
        "spec",
        "rule",
        {"earlyStopping": {}, "dataset": {"split": {"evalFraction": 0.1}}},
        {"earlyStopping": {}, "dataset": {"split": {"evalFraction": 0}}},
        says="earlyStopping needs held-out examples",
        blamed="spec.earlyStopping",
    ),
]
_EVALUATE: Final = [
    *limits(JOB, "spec.evaluate.everySteps", 1, 100000000),
    Case(JOB, "spec.evaluate.suites", "maxItems", _names(16), _names(17)),
    Case(
        JOB,
        "spec.evaluate.suites",
        "listMapKeys",
        _names(2),
        [*_names(1), *_names(1)],
        blamed="spec.evaluate.suites[1]",
    ),
    Case(JOB, _SUITE, "required:name", {}, {"name": None}),
    longest_text(JOB, f"{_SUITE}.name", 40),
    Case(JOB, f"{_SUITE}.name", "pattern", "a_1", "a-1"),
    *job_source(f"{_SUITE}.source"),
    Case(JOB, _SUITE, "rule", {"format": {}}, {"format": {}, "source": None}, says="format is that of an own source"),
    *one_of(JOB, f"{_SUITE}.format.type", "chat", "instruction", "text"),
    *(case for name in (*COLUMNS, *COLUMNS_OF_PAIRS) for case in column(name, f"{_SUITE}.format")),
    Case(
        JOB,
        "spec",
        "rule",
        _with_suite({"type": "text"}),
        _with_suite({"type": "pairs"}),
        says="a suite has a format that the task does not",
        blamed="spec.evaluate.suites",
    ),
    Case(JOB, f"{_SUITE}.metrics", "minItems", ["loss"], []),
    Case(
        JOB,
        f"{_SUITE}.metrics",
        "maxItems",
        ["loss", "exact_match"],
        ["loss"] * 5,
    ),
    Case(
        JOB,
        f"{_SUITE}.metrics",
        "listSet",
        ["loss", "exact_match"],
        ["loss", "loss"],
        blamed=f"{_SUITE}.metrics[1]",
    ),
    *one_of(JOB, f"{_SUITE}.metrics[]", "loss", "exact_match"),
    *limits(JOB, f"{_SUITE}.limit", 1, 100000),
    Case(
        JOB,
        "spec.evaluate.gates",
        "maxItems",
        [{"metric": "eval_loss", "max": 1}] * 16,
        [{"metric": "eval_loss", "max": 1}] * 17,
    ),
    Case(JOB, "spec.evaluate.gates[]", "required:metric", {}, {"metric": None}),
    Case(JOB, "spec.evaluate.gates[]", "rule", {"min": 1}, {"max": None}, says="a gate needs a limit"),
    longest_text(JOB, "spec.evaluate.gates[].metric", 64),
    Case(JOB, "spec.evaluate.gates[].metric", "pattern", "eval_loss", "Eval"),
    *limits(JOB, "spec.evaluate.gates[].min", -1000000, 1000000),
    *limits(JOB, "spec.evaluate.gates[].max", -1000000, 1000000),
    *limits(JOB, "spec.evaluate.gates[].minRelativeToBase", 0, 1000000),
    *limits(JOB, "spec.evaluate.gates[].maxRelativeToBase", 0, 1000000),
]
_OUTPUT: Final = [
    Case(JOB, "spec.output", "required:name", {}, {"name": None}),
    *reference(JOB, "spec.output.name"),
    Case(JOB, "spec.output.attachTo", "maxItems", _pools(16), _pools(17)),
    Case(
        JOB,
        "spec.output.attachTo",
        "listMapKeys",
        _pools(2),
        [*_pools(1), *_pools(1)],
        blamed="spec.output.attachTo[1]",
    ),
    Case(JOB, "spec.output.attachTo[]", "required:pool", {"pool": "a"}, {"pool": None}),
    *reference(JOB, "spec.output.attachTo[].pool"),
    Case(
        JOB,
        "spec",
        "rule",
        {"output": {"attachTo": _pools(1)}},
        {"output": {"attachTo": _pools(1)}, "method": {"tuning": "full"}},
        says="only adapters are attached to pools",
        blamed="spec.output.attachTo",
    ),
    Case(
        JOB,
        "spec",
        "rule",
        {"output": {"attachTo": _pools(1), "kind": "adapter"}},
        {"output": {"attachTo": _pools(1), "kind": "merged"}},
        says="only adapters are attached to pools",
        blamed="spec.output.attachTo",
    ),
    *(
        Case(
            JOB,
            "spec",
            "rule",
            {"output": {"attachTo": _pools(1)}},
            {"output": {"attachTo": _pools(1)}, **of_task(task, form)},
            says="classifiers and embeddings are not served beside",
            blamed="spec.output.attachTo",
        )
        for task, form in (
            ("token-classification", "tokens-labels"),
            ("sequence-classification", "text-label"),
            ("embedding", "pairs"),
        )
    ),
    *one_of(JOB, "spec.output.kind", "adapter", "merged"),
    Case(
        JOB,
        "spec",
        "rule",
        {"output": {"kind": "merged"}, "method": {"tuning": "lora"}},
        {"output": {"kind": "merged"}, "method": {"tuning": "full"}},
        says="output.kind is for adapters",
        blamed="spec.output.kind",
    ),
    Case(
        JOB,
        "spec",
        "rule",
        {"output": {"kind": "adapter", "attachTo": _pools(1)}, "method": {"tuning": "qlora"}},
        {"output": {"kind": "merged"}, "method": {"tuning": "qlora"}},
        says="a whole model would be asked unquantized",
        blamed="spec.output.kind",
    ),
    Case(
        JOB,
        _TARGET,
        "rule",
        {"weight": 10, "promoteAfter": "30m"},
        {"replaces": None, "weight": 10},
        says="weight and promoteAfter are those of a canary",
    ),
    Case(
        JOB,
        "spec",
        "rule",
        {"output": {"attachTo": [{"pool": "chat", "replaces": "former"}]}},
        {"output": {"attachTo": [{"pool": "chat", "replaces": "result"}]}},
        says="a result cannot replace itself",
        blamed="spec.output.attachTo",
    ),
    *reference(JOB, f"{_TARGET}.replaces"),
    *limits(JOB, f"{_TARGET}.weight", 1, 100),
    longest_text(JOB, f"{_TARGET}.promoteAfter", 6, accepted="99999h"),
    Case(JOB, f"{_TARGET}.promoteAfter", "pattern", "90s", "0s"),
    Case(JOB, f"{_TARGET}.promoteAfter", "pattern", "2h", "2 h"),
    *limits(JOB, "spec.retries.user", 0, 100),
    *limits(JOB, "spec.retries.infrastructure", 0, 10000),
    *limits(JOB, "spec.retries.stalledAfterMinutes", 1, 1440),
]

RESULT_CASES: Final = [*_CHECKPOINT, *_EVALUATE, *_OUTPUT]
