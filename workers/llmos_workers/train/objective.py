"""What a task learns: how its examples become rows, what a micro-batch's loss is, and how good a model is.

causal-lm                   the next token of texts and conversations      here
distill                     the next token as a teacher says it, too       distillation.py
dpo                         which of two answers is the better one         preference.py
token-classification        the label of each word                         classification.py
sequence-classification     the label of a text                            classification.py
embedding                   vectors of texts that belong together           embedding.py
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import torch

from llmos_workers.train.classification import Classification, Sentences, Words
from llmos_workers.train.dataset import Examples, Layout, MicroBatch, Texts
from llmos_workers.train.distillation import Distillation, Teacher
from llmos_workers.train.embedding import Contrast
from llmos_workers.train.evaluation import Asked, Asking, compute_exact_match, compute_loss
from llmos_workers.train.preference import Preference, Reference
from llmos_workers.train.settings import Settings
from llmos_workers.train.step import compute_loss_sum


class Objective(Protocol):
    """One task."""

    @property
    def layout(self) -> Layout:
        """How examples become rows."""
        ...

    @property
    def metrics(self) -> Sequence[str]:
        """What the held-out examples are asked at the end; the loss is the first."""
        ...

    @property
    def fills_batches(self) -> bool:
        """Whether the examples of a micro-batch are compared with each other: the more of them, the better."""
        ...

    def compute_loss_sum(self, model: Any, batch: MicroBatch) -> torch.Tensor:
        """Sum of the losses of all that a micro-batch teaches, in float32."""
        ...

    def compute_eval_loss_sum(self, model: Any, batch: MicroBatch) -> torch.Tensor:
        """The same for eval_loss, which is what results are compared by."""
        ...

    @property
    def teacher(self) -> Any | None:
        """A model that is asked beside base and result."""
        ...

    def ask(
        self, model: Any, examples: Examples, chosen: Sequence[int], wanted: Sequence[str], asking: Asking
    ) -> dict[str, Asked]:
        """The wanted metrics of a model on some examples."""
        ...


class NextToken:
    """The objective of the task causal-lm."""

    layout: Final = Texts()
    metrics: Final = ("loss",)
    teacher: Final = None
    fills_batches: Final = False

    def compute_loss_sum(self, model: Any, batch: MicroBatch) -> torch.Tensor:
        """Sum over the learned tokens."""
        return compute_loss_sum(model, batch)

    compute_eval_loss_sum = compute_loss_sum

    def ask(
        self, model: Any, examples: Examples, chosen: Sequence[int], wanted: Sequence[str], asking: Asking
    ) -> dict[str, Asked]:
        """The mean loss, and the share of the prompts that are answered with the very words."""
        ways = {"loss": compute_loss, "exact_match": compute_exact_match}
        return {name: ways[name](model, examples, chosen, asking) for name in wanted}


def build_objective(
    settings: Settings, load_base: Callable[[], Any], load_teacher: Callable[[], Any] | None = None
) -> Objective:
    """The objective of a run; `load_base` and `load_teacher` load models, ready to be asked."""
    if settings.task == "distill":
        return Distillation(settings.teacher_share, settings.teacher_temperature, Teacher(load_teacher))
    if settings.task == "dpo":
        return Preference(settings.beta, Reference(load_base))
    if settings.task == "token-classification":
        return Classification(Words())
    if settings.task == "sequence-classification":
        return Classification(Sentences())
    if settings.task == "embedding":
        return Contrast(settings.temperature)
    return NextToken()
