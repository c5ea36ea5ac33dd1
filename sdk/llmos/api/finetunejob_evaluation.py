"""FineTuneJob: how a result is judged, on the way and at the end."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from llmos.api.finetunejob_dataset import DatasetFormat
from llmos.api.llmmodel import ModelSource
from llmos.api.meta import ApiModel, ListMap, ListSet, Rule

SuiteMetric = Literal["loss", "exact_match", "kl", "reward_accuracy", "reward_margin", "accuracy", "f1", "recall_at_1"]
"""What a suite may ask."""
EVAL_LOSS: Final = "eval_loss"
HeldOutMetric = Literal[
    "eval_loss",
    "eval_kl",
    "eval_reward_accuracy",
    "eval_reward_margin",
    "eval_accuracy",
    "eval_f1",
    "eval_recall_at_1",
]
"""What the held-out examples are asked, depending on the task."""
_LOWER_IS_BETTER: Final = frozenset({EVAL_LOSS, "eval_kl"})


class EarlyStopping(ApiModel):
    """Stop when it no longer gets better."""

    # Objects of older versions hold the default of the time, min, also where somebody changes the metric.
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"!has(self.mode) || (self.mode == 'min') == (self.metric in {sorted(_LOWER_IS_BETTER)})",
            "mode is the wrong way round for this metric: min for eval_loss and eval_kl, else max; or leave it out",
            field_path=".mode",
        ),
    )

    metric: HeldOutMetric = "eval_loss"
    """What the held-out examples are judged by: eval_loss, the mean loss for each learned token, or what else gates
    know of the task: eval_kl (distill), eval_reward_accuracy, eval_reward_margin (dpo), eval_accuracy, eval_f1
    (classification), eval_recall_at_1 (embedding). checkpoint.keepBest goes by it, too."""
    mode: Literal["min", "max"] | None = None
    """Whether lower or higher is better. Absent = min for eval_loss and eval_kl, max for all else."""
    patience: Annotated[int, Field(ge=1, le=1000)] = 3
    """Evaluations in a row without a better value."""
    min_delta: Annotated[float, Field(ge=0, le=1000)] = 0.0
    """Differences below this are no improvement."""

    @property
    def is_highest_best(self) -> bool:
        """Whether higher values are better."""
        return self.metric not in _LOWER_IS_BETTER


class EvaluationSuite(ApiModel):
    """Questions that base and result are both asked."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("!has(self.format) || has(self.source)", "format is that of an own source: name one, or leave it out"),
    )

    name: Annotated[str, Field(max_length=40, pattern=r"^[a-z][a-z0-9_]*$")]
    """Part of the names of its metrics, for example `<name>_loss` and `<name>_exact_match`."""
    source: ModelSource | None = None
    """Where its JSON lines are. Absent = the held-out examples."""
    format: DatasetFormat | None = None
    """How these lines are read, for example instruction beside a dataset of chats. Absent = as the dataset's."""
    metrics: Annotated[tuple[SuiteMetric, ...], Field(min_length=1, max_length=4), ListSet()] = ("loss",)
    """loss: mean loss for each token of the answers, for each pair of them, or for each label. exact_match (task
    causal-lm or distill): share of the prompts that are answered, at temperature 0, with the very words of the
    dataset; case, punctuation and surrounding space do not count. kl (task distill), reward_accuracy, reward_margin
    (task dpo), accuracy, f1 (classification), recall_at_1 (embedding): as in gates."""
    limit: Annotated[int, Field(ge=1, le=100000)] = 200
    """Examples that are asked at most."""


class Gate(ApiModel):
    """A condition under which the result may be used."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "[has(self.min), has(self.max), has(self.minRelativeToBase), has(self.maxRelativeToBase)]"
            ".exists(limit, limit)",
            "a gate needs a limit: min, max, minRelativeToBase or maxRelativeToBase",
        ),
    )

    metric: Annotated[str, Field(max_length=64, pattern=r"^[a-z][a-z0-9_]*$")]
    """`eval_loss`, or a suite's name and metric, for example `support_exact_match`. For task dpo also
    `eval_reward_accuracy`, the share of the held-out pairs whose chosen answer has the higher reward, and
    `eval_reward_margin`, the mean difference of the rewards; the base model's are 0. For distill also `eval_kl`, how
    far a model is from the teacher: the mean KL(teacher || model) of a learned token. For classification also
    `eval_accuracy`, the share of the labels that are right, and `eval_f1`, the mean of the F1 of all labels. For
    embedding also `eval_recall_at_1`, the share of the held-out anchors whose own positive is the nearest one."""
    min: Annotated[float, Field(ge=-1000000, le=1000000)] | None = None
    """The result must not be below this."""
    max: Annotated[float, Field(ge=-1000000, le=1000000)] | None = None
    """The result must not be above this."""
    min_relative_to_base: Annotated[float, Field(ge=0, le=1000000)] | None = None
    """The result must be at least the base model's value times this."""
    max_relative_to_base: Annotated[float, Field(ge=0, le=1000000)] | None = None
    """The result must be at most the base model's value times this: 0.95 for a loss means 5 % better."""


class Evaluate(ApiModel):
    """How good the result must be."""

    every_steps: Annotated[int, Field(ge=1, le=100000000)] | None = None
    """Compute eval_loss after so many optimizer steps, and at the end. Absent = after each tenth of the run."""
    suites: Annotated[tuple[EvaluationSuite, ...], Field(max_length=16), ListMap(("name",))] = ()
    """Questions that base and result are asked at the end, beside the held-out examples."""
    gates: Annotated[tuple[Gate, ...], Field(max_length=16)] = ()
    """All must hold, or nothing is registered."""


def compute_evaluate_every(evaluate: Evaluate, total_steps: int) -> int:
    """Return after how many of `total_steps` optimizer steps eval_loss is computed."""
    return evaluate.every_steps or max(1, -(-total_steps // 10))
