"""What says which of several evaluations is the best: one score each, the lower the better. Pure.

    score = value of earlyStopping.metric, with its sign turned where higher values are better

Scores of different metrics are not compared: each says what it was `judged_by`. What was saved before there were any
was judged by eval_loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from llmos.api.finetunejob_evaluation import EarlyStopping
from llmos_workers.train.files import Entry

_DEFAULT: Final = EarlyStopping()
Saved = TypeVar("Saved")


def name_judge(rule: EarlyStopping | None) -> str:
    """What evaluations are judged by, for example `eval_f1 max`."""
    rule = rule or _DEFAULT
    return f"{rule.metric} {'max' if rule.is_highest_best else 'min'}"


BY_LOSS: Final = name_judge(None)


class Scored(Entry):
    """The part of a checkpoint's manifest that says how good it is. `eval_loss` is that of `evaluated_step`."""

    step: int
    evaluated_step: int
    eval_loss: float | None = None
    judged_by: str = BY_LOSS
    score: float | None = None

    @property
    def compared(self) -> float | None:
        """The score, also of one that was saved when there were none."""
        return self.eval_loss if self.score is None and self.judged_by == BY_LOSS else self.score


def list_comparable(saved: Iterable[Saved], read: Callable[[Saved], Scored]) -> list[Saved]:
    """Those that were evaluated as they are, and are judged by the same as the newest of these."""
    evaluated = [one for one in saved if read(one).step == read(one).evaluated_step and read(one).compared is not None]
    newest = max(evaluated, key=lambda one: read(one).step, default=None)
    return [] if newest is None else [one for one in evaluated if read(one).judged_by == read(newest).judged_by]
