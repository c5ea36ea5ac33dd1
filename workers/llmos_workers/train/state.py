"""Where a run is: plain frozen facts that stand in the checkpoint as JSON, and what they decide. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from pydantic import AliasChoices, Field

from llmos.api.finetunejob_evaluation import EarlyStopping
from llmos_workers.train.files import Entry
from llmos_workers.train.scores import BY_LOSS, name_judge

WINDOW_STEPS: Final = 10
"""Steps over which the loss is averaged for people."""


class StepLoss(Entry):
    """Sum of the losses of one step's learned tokens, and how many they are."""

    total: float
    learned: int


class Patience(Entry):
    """Early stopping: the score to beat, and how many evaluations in a row did not beat it."""

    best: float | None = None
    misses: int = 0

    def after(self, value: float, rule: EarlyStopping) -> Patience:
        """What follows from one more evaluation. Differences below minDelta are no improvement."""
        if self.best is None or (value < self.best and self.best - value >= rule.min_delta):
            return Patience(best=value)
        return Patience(best=self.best, misses=self.misses + 1)


class State(Entry):
    """After so many optimizer steps. `position` is that in the stream of examples; scores are those of `scores.py`."""

    step: int = 0
    position: int = 0
    tokens: int = 0
    losses: tuple[StepLoss, ...] = ()
    evaluated_step: int = 0
    eval_loss: float | None = None
    judged_by: str = BY_LOSS
    # Older versions saved losses only.
    score: float | None = Field(None, validation_alias=AliasChoices("score", "evalLoss"), serialization_alias="score")
    best_score: float | None = Field(
        None, validation_alias=AliasChoices("bestScore", "bestEvalLoss"), serialization_alias="bestScore"
    )
    value: float | None = None
    """Of the metric that it is judged by, where that is not the loss."""
    patience: Patience = Patience()

    @property
    def loss(self) -> float | None:
        """Mean for each learned token of the last steps."""
        return compute_mean(self.losses)

    def after_step(self, *, position: int, tokens: int, loss: StepLoss) -> State:
        """The state after one more step."""
        return self.model_copy(
            update={
                "step": self.step + 1,
                "position": position,
                "tokens": self.tokens + tokens,
                "losses": (*self.losses, loss)[-WINDOW_STEPS:],
            }
        )

    def after_evaluation(self, loss: float, rule: EarlyStopping | None, value: float | None = None) -> State:
        """The state after the held-out examples were asked; `value` is that of another metric than the loss."""
        judged = loss if value is None else value
        score = -judged if rule is not None and rule.is_highest_best else judged
        judged_by = name_judge(rule)
        # What was judged by another metric says nothing about this one.
        is_same = judged_by == self.judged_by
        best = self.best_score if is_same else None
        patience = self.patience if is_same else Patience()
        return self.model_copy(
            update={
                "evaluated_step": self.step,
                "eval_loss": loss,
                "judged_by": judged_by,
                "score": score,
                "best_score": score if best is None else min(score, best),
                "value": value,
                "patience": patience.after(score, rule) if rule is not None else patience,
            }
        )

    def is_best(self) -> bool:
        """Whether this very step was evaluated, and none was better."""
        return self.step > 0 and self.evaluated_step == self.step and self.score == self.best_score

    def is_finished(self, total_steps: int, rule: EarlyStopping | None) -> bool:
        """Whether there is nothing more to learn, or it no longer gets better."""
        return self.step >= total_steps or (rule is not None and self.patience.misses >= rule.patience)

    def is_evaluation_due(self, every_steps: int, total_steps: int) -> bool:
        """Whether the held-out examples are to be asked now."""
        wanted = self.step > 0 and (self.step % every_steps == 0 or self.step >= total_steps)
        return wanted and self.evaluated_step != self.step


def compute_mean(losses: Iterable[StepLoss]) -> float | None:
    """Mean for each learned token; None where there is none."""
    losses = tuple(losses)
    learned = sum(loss.learned for loss in losses)
    return math.fsum(loss.total for loss in losses) / learned if learned else None
