"""What a FineTuneJob may say."""

from __future__ import annotations

from typing import Any, Final

from tests.integration.crds.constraints.case import (
    Case,
    limits,
    longest_text,
    one_of,
    pod_name_part,
    quantity,
    reference,
    unique_items,
)

_JOB: Final = "FineTuneJob"
_URI_SAYS: Final = "the URI must start with one of"
_PARAMETERS: Final = "spec.trainer.hyperparameters"
_TARGET: Final = "spec.output.attachTo[]"
_SUITE: Final = "spec.evaluate.suites[]"
_STORAGE: Final = "spec.checkpoint.storage"


def _source(path: str) -> list[Case]:
    return [
        Case(_JOB, path, "required:uri", {"uri": "hf://a/b"}, {"uri": None}),
        Case(_JOB, f"{path}.uri", "maxLength", "hf://" + "a" * 1019, "hf://" + "a" * 1020),
        Case(_JOB, f"{path}.uri", "rule", "pvc://claim/set", "file:///etc/passwd", says=_URI_SAYS),
        Case(_JOB, f"{path}.secretRef", "required:name", {"name": "token"}, {}),
        *reference(_JOB, f"{path}.secretRef.name"),
    ]


def _share(path: str, highest: float = 1) -> list[Case]:
    return [Case(_JOB, path, "minimum", 0, -0.1), Case(_JOB, path, "maximum", highest, highest + 0.1)]


def _above_zero(path: str, highest: int) -> list[Case]:
    return [Case(_JOB, path, "exclusiveMinimum", 0.001, 0), Case(_JOB, path, "maximum", highest, highest + 1)]


def _below_one(path: str) -> list[Case]:
    return [Case(_JOB, path, "minimum", 0, -0.1), Case(_JOB, path, "exclusiveMaximum", 0.99, 1)]


def _column(name: str, of: str = "spec.dataset.format") -> list[Case]:
    path = f"{of}.columns.{name}"
    return [longest_text(_JOB, path, 128), Case(_JOB, path, "minLength", "a", "")]


_COLUMNS: Final = ("messages", "prompt", "completion", "text", "tokens", "labels", "label", "chosen", "rejected")
_COLUMNS_OF_PAIRS: Final = ("anchor", "positive")


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


_TAUGHT: Final = {"task": "distill", "distill": {"teacherRef": {"name": "teacher"}}}
_METHOD: Final = [
    Case(_JOB, "spec.method.task", "enum", "causal-lm", "other"),
    *one_of(_JOB, "spec.method.tuning", "lora", "qlora", "full"),
    Case(_JOB, "spec.method.distill", "required:teacherRef", {}, {"teacherRef": None}),
    Case(_JOB, "spec.method.distill.teacherRef", "required:name", {}, {"name": None}),
    *reference(_JOB, "spec.method.distill.teacherRef.name"),
    *_above_zero("spec.method.distill.temperature", 100),
    *_above_zero("spec.method.distill.alpha", 1),
    *(
        Case(_JOB, "spec.method", "rule", _TAUGHT, refused, says="method.distill is for", blamed="spec.method.distill")
        for refused in ({"task": "distill"}, {**_TAUGHT, "task": "causal-lm"})
    ),
    Case(
        _JOB,
        "spec",
        "rule",
        {"method": _TAUGHT},
        {"method": {**_TAUGHT, "distill": {"teacherRef": {"name": "m"}}}},
        says="a model cannot be its own teacher",
        blamed="spec.method.distill.teacherRef",
    ),
    *limits(_JOB, "spec.method.lora.rank", 1, 512),
    *limits(_JOB, "spec.method.lora.alpha", 1, 4096),
    *_below_one("spec.method.lora.dropout"),
    *unique_items(_JOB, "spec.method.lora.targetModules", 64, [f"m{number}" for number in range(65)]),
    longest_text(_JOB, "spec.method.lora.targetModules[]", 128),
    Case(_JOB, "spec.method.lora.targetModules[]", "pattern", "mlp.up_proj", "a b"),
    Case(_JOB, "spec.method.lora.targetModules[]", "pattern", "_a", "1a"),
]
_DATASET: Final = [
    Case(_JOB, "spec.dataset", "required:source", {}, {"source": None}),
    *_source("spec.dataset.source"),
    *one_of(_JOB, "spec.dataset.format.type", "chat", "instruction", "text"),
    *(case for name in (*_COLUMNS, *_COLUMNS_OF_PAIRS) for case in _column(name)),
    *_share("spec.dataset.validate.maxErrorRate"),
    *one_of(_JOB, "spec.dataset.validate.overlong", "truncate", "drop", "fail"),
    Case(_JOB, "spec.dataset.clean.nearDedup.threshold", "minimum", 0.5, 0.49),
    Case(_JOB, "spec.dataset.clean.nearDedup.threshold", "maximum", 1, 1.01),
    *one_of(_JOB, "spec.dataset.clean.pii", "keep", "redact", "drop", "fail"),
    *_below_one("spec.dataset.split.evalFraction"),
    *limits(_JOB, "spec.dataset.split.seed", 0, 2147483647),
]


def _of_task(task: str, form: str, *metrics: str) -> dict[str, Any]:
    suites = [{"name": "suite", "metrics": list(metrics)}] if metrics else []
    return {"method": {"task": task}, "dataset": {"format": {"type": form}}, "evaluate": {"suites": suites}}


_TASKS: Final = [
    *(
        Case(_JOB, "spec", "rule", _of_task(task, form), _of_task(task, other), says=said, blamed=blamed)
        for said, blamed in (("does not learn from this format", "spec.dataset.format.type"),)
        for task, form, other in (
            ("causal-lm", "instruction", "preference"),
            ("dpo", "preference", "chat"),
            ("token-classification", "tokens-labels", "text-label"),
            ("sequence-classification", "text-label", "tokens-labels"),
            ("embedding", "pairs", "text"),
        )
    ),
    *(
        Case(_JOB, "spec", "rule", _of_task(*task, known), _of_task(*task, other), says=said, blamed=blamed)
        for said, blamed in (("a metric that the task has not", "spec.evaluate.suites"),)
        for task, known, other in (
            (("causal-lm", "chat"), "exact_match", "reward_margin"),
            (("dpo", "preference"), "reward_accuracy", "exact_match"),
            (("dpo", "preference"), "reward_margin", "accuracy"),
            (("token-classification", "tokens-labels"), "f1", "exact_match"),
            (("sequence-classification", "text-label"), "accuracy", "reward_margin"),
            (("embedding", "pairs"), "recall_at_1", "accuracy"),
        )
    ),
]
_ALTERNATIVES: Final = "spec.trainer.accelerator.alternatives"
_ONE_SEARCH: Final = {"parameters": [{"name": "learningRate", "values": [0.001]}], "maxTrials": 1, "parallelism": 1}
_TRAINER: Final = [
    Case(_JOB, "spec.trainer", "required:accelerator", {}, {"accelerator": None}),
    Case(_JOB, "spec.trainer.accelerator", "required:class", {}, {"class": None}),
    *reference(_JOB, "spec.trainer.accelerator.class"),
    *unique_items(_JOB, _ALTERNATIVES, 4, [f"gpu-{number}" for number in range(5)]),
    *reference(_JOB, f"{_ALTERNATIVES}[]"),
    Case(
        _JOB,
        "spec.trainer.accelerator",
        "rule",
        {"alternatives": ["nvidia-a100"]},
        {"alternatives": ["nvidia-a100", "nvidia-h100"]},
        says="class is the first choice already",
        blamed=_ALTERNATIVES,
    ),
    Case(
        _JOB,
        "spec.trainer.accelerator",
        "rule",
        {"alternatives": ["b"]},
        {"alternatives": ["cpu"]},
        says="is no AcceleratorClass",
        blamed=_ALTERNATIVES,
    ),
    Case(
        _JOB,
        "spec.trainer.accelerator",
        "rule",
        {"class": "cpu", "alternatives": []},
        {"class": "cpu", "alternatives": ["b"]},
        says="is no AcceleratorClass",
        blamed=_ALTERNATIVES,
    ),
    Case(
        _JOB,
        "spec",
        "rule",
        {"search": _ONE_SEARCH, "trainer": {"accelerator": {"alternatives": []}}},
        {"search": _ONE_SEARCH, "trainer": {"accelerator": {"alternatives": ["b"]}}},
        says="all trials of a search train on one class",
        blamed="spec.search",
    ),
    *limits(_JOB, "spec.trainer.nodes", 1, 64),
    Case(
        _JOB,
        "spec",
        "rule",
        {"trainer": {"nodes": 2}, "checkpoint": {"storage": {"accessMode": "ReadWriteMany"}}},
        {"trainer": {"nodes": 2}},
        says="several nodes share the claim of the job",
        blamed="spec.trainer.nodes",
    ),
    *limits(_JOB, "spec.trainer.acceleratorsPerNode", 1, 16),
    Case(
        _JOB,
        "spec",
        "rule",
        {"trainer": {"acceleratorsPerNode": 2}},
        {"trainer": {"acceleratorsPerNode": 2, "accelerator": {"class": "cpu"}}},
        says="the class cpu has one accelerator on each node",
        blamed="spec.trainer.acceleratorsPerNode",
    ),
    *one_of(_JOB, "spec.trainer.sharding", "auto", "none"),
    Case(
        _JOB,
        "spec",
        "rule",
        {"trainer": {"acceleratorsPerNode": 2, "sharding": "full"}},
        {"trainer": {"sharding": "full"}},
        says="one accelerator has nobody to share the model with",
        blamed="spec.trainer.sharding",
    ),
    Case(
        _JOB,
        "spec",
        "rule",
        {"trainer": {"acceleratorsPerNode": 2}, "method": {"tuning": "qlora"}},
        {"trainer": {"acceleratorsPerNode": 2, "sharding": "full"}, "method": {"tuning": "qlora"}},
        says="a model of four bits is not sharded",
        blamed="spec.trainer.sharding",
    ),
    *one_of(_JOB, "spec.trainer.precision", "auto", "float32", "bfloat16"),
    longest_text(_JOB, "spec.trainer.image", 512),
    *quantity(_JOB, "spec.trainer.memory"),
    *quantity(_JOB, "spec.trainer.cpu"),
    *reference(_JOB, "spec.trainer.priorityClassName"),
    *_above_zero(f"{_PARAMETERS}.epochs", 1000),
    *limits(_JOB, f"{_PARAMETERS}.maxSteps", 1, 100000000),
    *_above_zero(f"{_PARAMETERS}.learningRate", 1),
    *one_of(_JOB, f"{_PARAMETERS}.schedule", "cosine", "linear", "constant"),
    *_share(f"{_PARAMETERS}.warmupFraction"),
    *_share(f"{_PARAMETERS}.weightDecay"),
    *_above_zero(f"{_PARAMETERS}.maxGradNorm", 1000),
    *limits(_JOB, f"{_PARAMETERS}.batchTokens", 16, 16777216),
    *limits(_JOB, f"{_PARAMETERS}.maxLength", 16, 1048576),
    *_above_zero(f"{_PARAMETERS}.beta", 100),
    *_above_zero(f"{_PARAMETERS}.temperature", 10),
    *limits(_JOB, f"{_PARAMETERS}.seed", 0, 2147483647),
]
_CHECKPOINT: Final = [
    *limits(_JOB, "spec.checkpoint.everySteps", 1, 100000000),
    *limits(_JOB, "spec.checkpoint.everyMinutes", 1, 1440),
    *limits(_JOB, "spec.checkpoint.keep", 1, 100),
    *limits(_JOB, "spec.checkpoint.onPreempt.deadlineSeconds", 1, 86400),
    *quantity(_JOB, "spec.checkpoint.storage.size"),
    *reference(_JOB, "spec.checkpoint.storage.storageClassName"),
    *one_of(_JOB, "spec.checkpoint.storage.accessMode", "ReadWriteOnce", "ReadWriteMany"),
    Case(_JOB, _STORAGE, "rule", {"mode": "ephemeral", "uri": "s3://bucket"}, {"mode": "ephemeral"}, says="goes with"),
    Case(
        _JOB,
        _STORAGE,
        "rule",
        {"secretRef": {"name": "a"}, "uri": "gs://bucket/a"},
        {"secretRef": {"name": "a"}},
        says="secretRef is for",
    ),
    Case(_JOB, f"{_STORAGE}.mode", "enum", "claim", "other"),
    Case(_JOB, f"{_STORAGE}.uri", "rule", "s3://bucket/a/b_c/", "s3://key:secret@bucket/a", says="the URI must be s3"),
    Case(_JOB, f"{_STORAGE}.uri", "rule", "gs://b.u/a", "hf://org/name", says="the URI must be s3"),
    Case(_JOB, f"{_STORAGE}.uri", "rule", "s3://bucket/.a/..b/c..", "s3://bucket/a/../b", says="query, . and .."),
    Case(_JOB, f"{_STORAGE}.uri", "rule", "s3://bucket/a.", "s3://bucket/./a", says="query, . and .."),
    Case(_JOB, f"{_STORAGE}.uri", "maxLength", "s3://b.u/" + "a" * 503, "s3://b.u/" + "a" * 504),
    Case(_JOB, f"{_STORAGE}.secretRef", "required:name", {"name": "store"}, {}),
    *reference(_JOB, f"{_STORAGE}.secretRef.name"),
    Case(
        _JOB,
        "spec",
        "rule",
        _on_two_nodes({"uri": "s3://bucket", "mode": "claim"}),
        _on_two_nodes({"uri": "s3://bucket"}),
        says="several nodes share a claim",
        blamed="spec.trainer.nodes",
    ),
    *one_of(_JOB, "spec.earlyStopping.metric", "eval_loss"),
    *one_of(_JOB, "spec.earlyStopping.mode", "min"),
    *(
        Case(
            _JOB,
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
            _JOB,
            "spec.earlyStopping",
            "rule",
            {"metric": "eval_loss", "mode": "min"},
            refused,
            says="mode is the wrong way round for this metric",
            blamed="spec.earlyStopping.mode",
        )
        for refused in ({"mode": "max"}, {"metric": "eval_f1", "mode": "min"})
    ),
    *limits(_JOB, "spec.earlyStopping.patience", 1, 1000),
    *limits(_JOB, "spec.earlyStopping.minDelta", 0, 1000),
    Case(
        _JOB,
        "spec",
        "rule",
        {"earlyStopping": {}, "dataset": {"split": {"evalFraction": 0.1}}},
        {"earlyStopping": {}, "dataset": {"split": {"evalFraction": 0}}},
        says="earlyStopping needs held-out examples",
        blamed="spec.earlyStopping",
    ),
]
_EVALUATE: Final = [
    *limits(_JOB, "spec.evaluate.everySteps", 1, 100000000),
    Case(_JOB, "spec.evaluate.suites", "maxItems", _names(16), _names(17)),
    Case(
        _JOB,
        "spec.evaluate.suites",
        "listMapKeys",
        _names(2),
        [*_names(1), *_names(1)],
        blamed="spec.evaluate.suites[1]",
    ),
    Case(_JOB, _SUITE, "required:name", {}, {"name": None}),
    longest_text(_JOB, f"{_SUITE}.name", 40),
    Case(_JOB, f"{_SUITE}.name", "pattern", "a_1", "a-1"),
    *_source(f"{_SUITE}.source"),
    Case(_JOB, _SUITE, "rule", {"format": {}}, {"format": {}, "source": None}, says="format is that of an own source"),
    *one_of(_JOB, f"{_SUITE}.format.type", "chat", "instruction", "text"),
    *(case for name in (*_COLUMNS, *_COLUMNS_OF_PAIRS) for case in _column(name, f"{_SUITE}.format")),
    Case(
        _JOB,
        "spec",
        "rule",
        _with_suite({"type": "text"}),
        _with_suite({"type": "pairs"}),
        says="a suite has a format that the task does not",
        blamed="spec.evaluate.suites",
    ),
    Case(_JOB, f"{_SUITE}.metrics", "minItems", ["loss"], []),
    Case(
        _JOB,
        f"{_SUITE}.metrics",
        "maxItems",
        ["loss", "exact_match"],
        ["loss"] * 5,
    ),
    Case(
        _JOB,
        f"{_SUITE}.metrics",
        "listSet",
        ["loss", "exact_match"],
        ["loss", "loss"],
        blamed=f"{_SUITE}.metrics[1]",
    ),
    *one_of(_JOB, f"{_SUITE}.metrics[]", "loss", "exact_match"),
    *limits(_JOB, f"{_SUITE}.limit", 1, 100000),
    Case(
        _JOB,
        "spec.evaluate.gates",
        "maxItems",
        [{"metric": "eval_loss", "max": 1}] * 16,
        [{"metric": "eval_loss", "max": 1}] * 17,
    ),
    Case(_JOB, "spec.evaluate.gates[]", "required:metric", {}, {"metric": None}),
    Case(_JOB, "spec.evaluate.gates[]", "rule", {"min": 1}, {"max": None}, says="a gate needs a limit"),
    longest_text(_JOB, "spec.evaluate.gates[].metric", 64),
    Case(_JOB, "spec.evaluate.gates[].metric", "pattern", "eval_loss", "Eval"),
    *limits(_JOB, "spec.evaluate.gates[].min", -1000000, 1000000),
    *limits(_JOB, "spec.evaluate.gates[].max", -1000000, 1000000),
    *limits(_JOB, "spec.evaluate.gates[].minRelativeToBase", 0, 1000000),
    *limits(_JOB, "spec.evaluate.gates[].maxRelativeToBase", 0, 1000000),
]
_OUTPUT: Final = [
    Case(_JOB, "spec.output", "required:name", {}, {"name": None}),
    *reference(_JOB, "spec.output.name"),
    Case(_JOB, "spec.output.attachTo", "maxItems", _pools(16), _pools(17)),
    Case(
        _JOB,
        "spec.output.attachTo",
        "listMapKeys",
        _pools(2),
        [*_pools(1), *_pools(1)],
        blamed="spec.output.attachTo[1]",
    ),
    Case(_JOB, "spec.output.attachTo[]", "required:pool", {"pool": "a"}, {"pool": None}),
    *reference(_JOB, "spec.output.attachTo[].pool"),
    Case(
        _JOB,
        "spec",
        "rule",
        {"output": {"attachTo": _pools(1)}},
        {"output": {"attachTo": _pools(1)}, "method": {"tuning": "full"}},
        says="only adapters are attached to pools",
        blamed="spec.output.attachTo",
    ),
    Case(
        _JOB,
        "spec",
        "rule",
        {"output": {"attachTo": _pools(1), "kind": "adapter"}},
        {"output": {"attachTo": _pools(1), "kind": "merged"}},
        says="only adapters are attached to pools",
        blamed="spec.output.attachTo",
    ),
    *(
        Case(
            _JOB,
            "spec",
            "rule",
            {"output": {"attachTo": _pools(1)}},
            {"output": {"attachTo": _pools(1)}, **_of_task(task, form)},
            says="classifiers and embeddings are not served beside",
            blamed="spec.output.attachTo",
        )
        for task, form in (
            ("token-classification", "tokens-labels"),
            ("sequence-classification", "text-label"),
            ("embedding", "pairs"),
        )
    ),
    *one_of(_JOB, "spec.output.kind", "adapter", "merged"),
    Case(
        _JOB,
        "spec",
        "rule",
        {"output": {"kind": "merged"}, "method": {"tuning": "lora"}},
        {"output": {"kind": "merged"}, "method": {"tuning": "full"}},
        says="output.kind is for adapters",
        blamed="spec.output.kind",
    ),
    Case(
        _JOB,
        "spec",
        "rule",
        {"output": {"kind": "adapter", "attachTo": _pools(1)}, "method": {"tuning": "qlora"}},
        {"output": {"kind": "merged"}, "method": {"tuning": "qlora"}},
        says="a whole model would be asked unquantized",
        blamed="spec.output.kind",
    ),
    Case(
        _JOB,
        _TARGET,
        "rule",
        {"weight": 10, "promoteAfter": "30m"},
        {"replaces": None, "weight": 10},
        says="weight and promoteAfter are those of a canary",
    ),
    Case(
        _JOB,
        "spec",
        "rule",
        {"output": {"attachTo": [{"pool": "chat", "replaces": "former"}]}},
        {"output": {"attachTo": [{"pool": "chat", "replaces": "result"}]}},
        says="a result cannot replace itself",
        blamed="spec.output.attachTo",
    ),
    *reference(_JOB, f"{_TARGET}.replaces"),
    *limits(_JOB, f"{_TARGET}.weight", 1, 100),
    longest_text(_JOB, f"{_TARGET}.promoteAfter", 6, accepted="99999h"),
    Case(_JOB, f"{_TARGET}.promoteAfter", "pattern", "90s", "0s"),
    Case(_JOB, f"{_TARGET}.promoteAfter", "pattern", "2h", "2 h"),
    *limits(_JOB, "spec.retries.user", 0, 100),
    *limits(_JOB, "spec.retries.infrastructure", 0, 10000),
    *limits(_JOB, "spec.retries.stalledAfterMinutes", 1, 1440),
]
_PARAMETER: Final = "spec.search.parameters[]"
_RATES: Final = {"name": "learningRate", "values": [0.001, 0.01]}


def _parameters(count: int) -> list[dict[str, object]]:
    names = ("learningRate", "weightDecay", "warmupFraction", "maxGradNorm", "batchTokens", "rank", "alpha", "dropout")
    return [{"name": name, "values": [0.1]} for name in names[:count]]


_SEARCH: Final = [
    Case(_JOB, "spec.search", "required:parameters", {}, {"parameters": None}),
    *one_of(_JOB, "spec.search.algorithm", "asha", "random", "grid", "tpe"),
    *limits(_JOB, "spec.search.maxTrials", 1, 64),
    *limits(_JOB, "spec.search.parallelism", 1, 16),
    *_above_zero("spec.search.budgetAcceleratorHours", 1000000),
    *limits(_JOB, "spec.search.reductionFactor", 2, 10),
    *limits(_JOB, "spec.search.seed", 0, 2147483647),
    Case(_JOB, "spec.search.parameters", "minItems", _parameters(1), []),
    Case(_JOB, "spec.search.parameters", "maxItems", _parameters(8), [*_parameters(8), *_parameters(1)]),
    Case(
        _JOB,
        "spec.search.parameters",
        "listMapKeys",
        _parameters(2),
        [*_parameters(1), *_parameters(1)],
        blamed="spec.search.parameters[1]",
    ),
    Case(_JOB, _PARAMETER, "required:name", {}, {"name": None}),
    Case(_JOB, f"{_PARAMETER}.name", "enum", "weightDecay", "maxLength"),
    Case(_JOB, f"{_PARAMETER}.values", "maxItems", [0.1] * 32, [0.1] * 33),
    *(
        Case(_JOB, f"{_PARAMETER}.{name}", keyword, accepted, refused)
        for name in ("min", "max")
        for keyword, accepted, refused in (("minimum", 0, -1), ("maximum", 16777216, 16777217))
    ),
    Case(
        _JOB,
        _PARAMETER,
        "rule",
        {"values": None, "min": 0, "max": 1},
        {"min": 0, "max": 1},
        says="name either values, or min and max",
    ),
    Case(
        _JOB,
        _PARAMETER,
        "rule",
        {"values": None, "min": 0.1, "max": 0.2},
        {"values": None, "min": 0.2, "max": 0.1},
        says="min must be below max",
    ),
    Case(
        _JOB,
        _PARAMETER,
        "rule",
        {"values": None, "min": 0.1, "max": 0.2, "log": True},
        {"values": None, "min": 0, "max": 0.2, "log": True},
        says="log needs min above 0",
    ),
    Case(
        _JOB,
        "spec.search",
        "rule",
        {"algorithm": "grid"},
        {"algorithm": "grid", "parameters": [{"name": "dropout", "min": 0, "max": 0.5}]},
        says="a grid needs values for each parameter",
        blamed="spec.search.parameters",
    ),
    Case(
        _JOB,
        "spec.search",
        "rule",
        {"parallelism": 2, "maxTrials": 2},
        {"parallelism": 3, "maxTrials": 2},
        says="parallelism must not be above maxTrials",
    ),
    Case(
        _JOB,
        "spec",
        "rule",
        {"search": {"parameters": [_RATES]}},
        {"search": {"parameters": [_RATES]}, "dataset": {"split": {"evalFraction": 0}}},
        says="search compares trials by held-out examples",
        blamed="spec.search",
    ),
    Case(
        _JOB,
        "spec",
        "rule",
        {"search": {"parameters": [{"name": "rank", "values": [8]}]}},
        {"search": {"parameters": [{"name": "rank", "values": [8]}]}, "method": {"tuning": "full"}},
        says="rank, alpha and dropout are those of an adapter",
        blamed="spec.search.parameters",
    ),
    Case(
        _JOB,
        "spec",
        "rule",
        {"search": {"parameters": [_RATES]}},
        {
            "search": {"parameters": [_RATES]},
            "trainer": {"nodes": 2},
            "checkpoint": {"storage": {"accessMode": "ReadWriteMany"}},
        },
        says="each trial of a search trains in one pod",
        blamed="spec.search",
    ),
]
JOB_CASES: Final = [
    Case(_JOB, "", "required:spec", {}, {"spec": None}),
    *pod_name_part(_JOB),
    *(
        Case(_JOB, "spec", f"required:{name}", {}, {name: None})
        for name in ("baseModelRef", "dataset", "trainer", "output")
    ),
    Case(_JOB, "spec.baseModelRef", "required:name", {}, {"name": None}),
    *reference(_JOB, "spec.baseModelRef.name"),
    *_METHOD,
    *_TASKS,
    *_DATASET,
    *_TRAINER,
    *_CHECKPOINT,
    *_EVALUATE,
    *_OUTPUT,
    *_SEARCH,
]
