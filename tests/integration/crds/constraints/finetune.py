"""What a FineTuneJob may say; of what becomes of its work see `finetune_result`."""

from __future__ import annotations

from typing import Final

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
from tests.integration.crds.constraints.finetune_fields import (
    COLUMNS,
    COLUMNS_OF_PAIRS,
    JOB,
    above_zero,
    below_one,
    column,
    job_source,
    of_task,
    share,
)
from tests.integration.crds.constraints.finetune_result import RESULT_CASES

_PARAMETERS: Final = "spec.trainer.hyperparameters"


_TAUGHT: Final = {"task": "distill", "distill": {"teacherRef": {"name": "teacher"}}}
_METHOD: Final = [
    Case(JOB, "spec.method.task", "enum", "causal-lm", "other"),
    *one_of(JOB, "spec.method.tuning", "lora", "qlora", "full"),
    Case(JOB, "spec.method.distill", "required:teacherRef", {}, {"teacherRef": None}),
    Case(JOB, "spec.method.distill.teacherRef", "required:name", {}, {"name": None}),
    *reference(JOB, "spec.method.distill.teacherRef.name"),
    *above_zero("spec.method.distill.temperature", 100),
    *above_zero("spec.method.distill.alpha", 1),
    *(
        Case(JOB, "spec.method", "rule", _TAUGHT, refused, says="method.distill is for", blamed="spec.method.distill")
        for refused in ({"task": "distill"}, {**_TAUGHT, "task": "causal-lm"})
    ),
    Case(
        JOB,
        "spec",
        "rule",
        {"method": _TAUGHT},
        {"method": {**_TAUGHT, "distill": {"teacherRef": {"name": "m"}}}},
        says="a model cannot be its own teacher",
        blamed="spec.method.distill.teacherRef",
    ),
    *limits(JOB, "spec.method.lora.rank", 1, 512),
    *limits(JOB, "spec.method.lora.alpha", 1, 4096),
    *below_one("spec.method.lora.dropout"),
    *unique_items(JOB, "spec.method.lora.targetModules", 64, [f"m{number}" for number in range(65)]),
    longest_text(JOB, "spec.method.lora.targetModules[]", 128),
    Case(JOB, "spec.method.lora.targetModules[]", "pattern", "mlp.up_proj", "a b"),
    Case(JOB, "spec.method.lora.targetModules[]", "pattern", "_a", "1a"),
]
_DATASET: Final = [
    Case(JOB, "spec.dataset", "required:source", {}, {"source": None}),
    *job_source("spec.dataset.source"),
    *one_of(JOB, "spec.dataset.format.type", "chat", "instruction", "text"),
    *(case for name in (*COLUMNS, *COLUMNS_OF_PAIRS) for case in column(name)),
    *share("spec.dataset.validate.maxErrorRate"),
    *one_of(JOB, "spec.dataset.validate.overlong", "truncate", "drop", "fail"),
    Case(JOB, "spec.dataset.clean.nearDedup.threshold", "minimum", 0.5, 0.49),
    Case(JOB, "spec.dataset.clean.nearDedup.threshold", "maximum", 1, 1.01),
    *one_of(JOB, "spec.dataset.clean.pii", "keep", "redact", "drop", "fail"),
    *below_one("spec.dataset.split.evalFraction"),
    *limits(JOB, "spec.dataset.split.seed", 0, 2147483647),
]


_TASKS: Final = [
    *(
        Case(JOB, "spec", "rule", of_task(task, form), of_task(task, other), says=said, blamed=blamed)
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
        Case(JOB, "spec", "rule", of_task(*task, known), of_task(*task, other), says=said, blamed=blamed)
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
    Case(JOB, "spec.trainer", "required:accelerator", {}, {"accelerator": None}),
    Case(JOB, "spec.trainer.accelerator", "required:class", {}, {"class": None}),
    *reference(JOB, "spec.trainer.accelerator.class"),
    *unique_items(JOB, _ALTERNATIVES, 4, [f"gpu-{number}" for number in range(5)]),
    *reference(JOB, f"{_ALTERNATIVES}[]"),
    Case(
        JOB,
        "spec.trainer.accelerator",
        "rule",
        {"alternatives": ["nvidia-a100"]},
        {"alternatives": ["nvidia-a100", "nvidia-h100"]},
        says="class is the first choice already",
        blamed=_ALTERNATIVES,
    ),
    Case(
        JOB,
        "spec.trainer.accelerator",
        "rule",
        {"alternatives": ["b"]},
        {"alternatives": ["cpu"]},
        says="is no AcceleratorClass",
        blamed=_ALTERNATIVES,
    ),
    Case(
        JOB,
        "spec.trainer.accelerator",
        "rule",
        {"class": "cpu", "alternatives": []},
        {"class": "cpu", "alternatives": ["b"]},
        says="is no AcceleratorClass",
        blamed=_ALTERNATIVES,
    ),
    Case(
        JOB,
        "spec",
        "rule",
        {"search": _ONE_SEARCH, "trainer": {"accelerator": {"alternatives": []}}},
        {"search": _ONE_SEARCH, "trainer": {"accelerator": {"alternatives": ["b"]}}},
        says="all trials of a search train on one class",
        blamed="spec.search",
    ),
    *limits(JOB, "spec.trainer.nodes", 1, 64),
    Case(
        JOB,
        "spec",
        "rule",
        {"trainer": {"nodes": 2}, "checkpoint": {"storage": {"accessMode": "ReadWriteMany"}}},
        {"trainer": {"nodes": 2}},
        says="several nodes share the claim of the job",
        blamed="spec.trainer.nodes",
    ),
    *limits(JOB, "spec.trainer.acceleratorsPerNode", 1, 16),
    Case(
        JOB,
        "spec",
        "rule",
        {"trainer": {"acceleratorsPerNode": 2}},
        {"trainer": {"acceleratorsPerNode": 2, "accelerator": {"class": "cpu"}}},
        says="the class cpu has one accelerator on each node",
        blamed="spec.trainer.acceleratorsPerNode",
    ),
    *one_of(JOB, "spec.trainer.sharding", "auto", "none"),
    Case(
        JOB,
        "spec",
        "rule",
        {"trainer": {"acceleratorsPerNode": 2, "sharding": "full"}},
        {"trainer": {"sharding": "full"}},
        says="one accelerator has nobody to share the model with",
        blamed="spec.trainer.sharding",
    ),
    Case(
        JOB,
        "spec",
        "rule",
        {"trainer": {"acceleratorsPerNode": 2}, "method": {"tuning": "qlora"}},
        {"trainer": {"acceleratorsPerNode": 2, "sharding": "full"}, "method": {"tuning": "qlora"}},
        says="a model of four bits is not sharded",
        blamed="spec.trainer.sharding",
    ),
    *one_of(JOB, "spec.trainer.precision", "auto", "float32", "bfloat16"),
    longest_text(JOB, "spec.trainer.image", 512),
    *quantity(JOB, "spec.trainer.memory"),
    *quantity(JOB, "spec.trainer.cpu"),
    *reference(JOB, "spec.trainer.priorityClassName"),
    *above_zero(f"{_PARAMETERS}.epochs", 1000),
    *limits(JOB, f"{_PARAMETERS}.maxSteps", 1, 100000000),
    *above_zero(f"{_PARAMETERS}.learningRate", 1),
    *one_of(JOB, f"{_PARAMETERS}.schedule", "cosine", "linear", "constant"),
    *share(f"{_PARAMETERS}.warmupFraction"),
    *share(f"{_PARAMETERS}.weightDecay"),
    *above_zero(f"{_PARAMETERS}.maxGradNorm", 1000),
    *limits(JOB, f"{_PARAMETERS}.batchTokens", 16, 16777216),
    *limits(JOB, f"{_PARAMETERS}.maxLength", 16, 1048576),
    *above_zero(f"{_PARAMETERS}.beta", 100),
    *above_zero(f"{_PARAMETERS}.temperature", 10),
    *limits(JOB, f"{_PARAMETERS}.seed", 0, 2147483647),
]
_PARAMETER: Final = "spec.search.parameters[]"
_RATES: Final = {"name": "learningRate", "values": [0.001, 0.01]}


def _parameters(count: int) -> list[dict[str, object]]:
    names = ("learningRate", "weightDecay", "warmupFraction", "maxGradNorm", "batchTokens", "rank", "alpha", "dropout")
    return [{"name": name, "values": [0.1]} for name in names[:count]]


_SEARCH: Final = [
    Case(JOB, "spec.search", "required:parameters", {}, {"parameters": None}),
    *one_of(JOB, "spec.search.algorithm", "asha", "random", "grid", "tpe"),
    *limits(JOB, "spec.search.maxTrials", 1, 64),
    *limits(JOB, "spec.search.parallelism", 1, 16),
    *above_zero("spec.search.budgetAcceleratorHours", 1000000),
    *limits(JOB, "spec.search.reductionFactor", 2, 10),
    *limits(JOB, "spec.search.seed", 0, 2147483647),
    Case(JOB, "spec.search.parameters", "minItems", _parameters(1), []),
    Case(JOB, "spec.search.parameters", "maxItems", _parameters(8), [*_parameters(8), *_parameters(1)]),
    Case(
        JOB,
        "spec.search.parameters",
        "listMapKeys",
        _parameters(2),
        [*_parameters(1), *_parameters(1)],
        blamed="spec.search.parameters[1]",
    ),
    Case(JOB, _PARAMETER, "required:name", {}, {"name": None}),
    Case(JOB, f"{_PARAMETER}.name", "enum", "weightDecay", "maxLength"),
    Case(JOB, f"{_PARAMETER}.values", "maxItems", [0.1] * 32, [0.1] * 33),
    *(
        Case(JOB, f"{_PARAMETER}.{name}", keyword, accepted, refused)
        for name in ("min", "max")
        for keyword, accepted, refused in (("minimum", 0, -1), ("maximum", 16777216, 16777217))
    ),
    Case(
        JOB,
        _PARAMETER,
        "rule",
        {"values": None, "min": 0, "max": 1},
        {"min": 0, "max": 1},
        says="name either values, or min and max",
    ),
    Case(
        JOB,
        _PARAMETER,
        "rule",
        {"values": None, "min": 0.1, "max": 0.2},
        {"values": None, "min": 0.2, "max": 0.1},
        says="min must be below max",
    ),
    Case(
        JOB,
        _PARAMETER,
        "rule",
        {"values": None, "min": 0.1, "max": 0.2, "log": True},
        {"values": None, "min": 0, "max": 0.2, "log": True},
        says="log needs min above 0",
    ),
    Case(
        JOB,
        "spec.search",
        "rule",
        {"algorithm": "grid"},
        {"algorithm": "grid", "parameters": [{"name": "dropout", "min": 0, "max": 0.5}]},
        says="a grid needs values for each parameter",
        blamed="spec.search.parameters",
    ),
    Case(
        JOB,
        "spec.search",
        "rule",
        {"parallelism": 2, "maxTrials": 2},
        {"parallelism": 3, "maxTrials": 2},
        says="parallelism must not be above maxTrials",
    ),
    Case(
        JOB,
        "spec",
        "rule",
        {"search": {"parameters": [_RATES]}},
        {"search": {"parameters": [_RATES]}, "dataset": {"split": {"evalFraction": 0}}},
        says="search compares trials by held-out examples",
        blamed="spec.search",
    ),
    Case(
        JOB,
        "spec",
        "rule",
        {"search": {"parameters": [{"name": "rank", "values": [8]}]}},
        {"search": {"parameters": [{"name": "rank", "values": [8]}]}, "method": {"tuning": "full"}},
        says="rank, alpha and dropout are those of an adapter",
        blamed="spec.search.parameters",
    ),
    Case(
        JOB,
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
    Case(JOB, "", "required:spec", {}, {"spec": None}),
    *pod_name_part(JOB),
    *(
        Case(JOB, "spec", f"required:{name}", {}, {name: None})
        for name in ("baseModelRef", "dataset", "trainer", "output")
    ),
    Case(JOB, "spec.baseModelRef", "required:name", {}, {"name": None}),
    *reference(JOB, "spec.baseModelRef.name"),
    *_METHOD,
    *_TASKS,
    *_DATASET,
    *_TRAINER,
    *RESULT_CASES,
    *_SEARCH,
]
