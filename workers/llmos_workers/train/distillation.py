"""Distillation: the next token as the dataset has it, and as a teacher would say it.

    loss of a token = alpha T^2 KL(teacher_T || student_T) + (1 - alpha) (-log p_student(token))
    p_T             = softmax(logits / T)

Hinton et al., "Distilling the Knowledge in a Neural Network" (2015), section 2: softening by T shows what the teacher
finds likely beside the token itself; T^2 keeps the size of its gradient, which falls with 1 / T^2. The tokens are those
of the task causal-lm, and each weighs the same.

eval_loss is the loss of the dataset's tokens alone, so base, result and teacher can be compared by it, and with other
methods; kl says how far a model is from the teacher, at T = 1. Both tokenizers are the same, which the step prepare
saw to; rows of an embedding that pad it stand for no token and are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch

from llmos_workers.train.dataset import Examples, MicroBatch, Texts
from llmos_workers.train.errors import TrainError
from llmos_workers.train.evaluation import Asked, Asking, compute_exact_match, compute_loss, compute_mean_loss
from llmos_workers.train.order import plan_micro_batches
from llmos_workers.train.step import compute_loss_sum


class Teacher:
    """The model that teaches: loaded when it is first asked, and never changed."""

    def __init__(self, load: Callable[[], Any] | None) -> None:
        """Take what loads it."""
        self._load, self._model = load, None

    @property
    def model(self) -> Any:
        """The model.

        Raises:
            TrainError: there is none.
        """
        if self._load is None:
            raise TrainError("The task distill has no teacher", "Start the trainer with --teacher.")
        if self._model is None:
            self._model = self._load()
        return self._model


class Distillation:
    """The objective of the task distill."""

    layout: Final = Texts()
    metrics: Final = ("loss", "kl")
    fills_batches: Final = False

    def __init__(self, share: float, temperature: float, teacher: Teacher) -> None:
        """Take the teacher, its share of the loss (alpha), and the temperature."""
        self._share, self._temperature, self._teacher = share, temperature, teacher

    @property
    def teacher(self) -> Any:
        """The model that teaches."""
        return self._teacher.model

    def compute_loss_sum(self, model: Any, batch: MicroBatch) -> torch.Tensor:
        """Sum over the learned tokens."""
        # First the teacher, of which only this is left when the student's layers are kept for their gradients.
        expected = self._ask_teacher(batch, self._temperature)
        logits = compute_learned_logits(model, batch)
        distance = compute_divergence_sum(logits, expected, self._temperature)
        loss = self._share * self._temperature**2 * distance
        if self._share < 1:
            words = torch.nn.functional.cross_entropy(logits, batch.targets, reduction="sum")
            loss = loss + (1 - self._share) * words
        return loss

    def compute_eval_loss_sum(self, model: Any, batch: MicroBatch) -> torch.Tensor:
        """Sum of -log p of the dataset's tokens."""
        return compute_loss_sum(model, batch)

    def ask(
        self, model: Any, examples: Examples, chosen: Sequence[int], wanted: Sequence[str], asking: Asking
    ) -> dict[str, Asked]:
        """The mean loss, the share of right answers, and the mean distance from the teacher."""
        ways = {"loss": compute_loss, "exact_match": compute_exact_match, "kl": self._compute_kl}
        return {name: ways[name](model, examples, chosen, asking) for name in wanted}

    def _compute_kl(self, model: Any, examples: Examples, chosen: Sequence[int], asking: Asking) -> Asked:
        totals, learned = [], 0
        with torch.no_grad(), asking.device.autocast():
            for rows in plan_micro_batches(list(chosen), examples.widths, asking.max_tokens):
                batch = examples.build_micro_batch(rows, asking.padding).to(asking.device.device)
                if batch.learned:
                    expected = self._ask_teacher(batch, 1.0)
                    logits = compute_learned_logits(model, batch)
                    totals.append(float(compute_divergence_sum(logits, expected, 1.0)))
                    learned += batch.learned
                asking.tick()
        return Asked(compute_mean_loss(totals, learned), len(chosen))

    def _ask_teacher(self, batch: MicroBatch, temperature: float) -> torch.Tensor:
        """Logarithms of the teacher's softened probabilities."""
        with torch.no_grad():
            return (compute_learned_logits(self._teacher.model, batch) / temperature).log_softmax(-1)


def compute_learned_logits(model: Any, batch: MicroBatch) -> torch.Tensor:
    """Logits of the learned tokens, in float32."""
    logits = model(input_ids=batch.input_ids, use_cache=False).logits
    return logits.flatten(0, 1).index_select(0, batch.positions).float()


def compute_divergence_sum(logits: torch.Tensor, expected: torch.Tensor, temperature: float) -> torch.Tensor:
    """Sum of KL(teacher || student) over tokens.

    Args:
        logits: of the student, tokens x vocabulary.
        expected: log p of the teacher, softened by the same temperature, tokens x vocabulary; the smaller of the two
            vocabularies has all that is said.
        temperature: what the student is softened by.
    """
    shared = min(logits.shape[-1], expected.shape[-1])
    said = (logits[:, :shared] / temperature).log_softmax(-1)
    wanted = expected if expected.shape[-1] == shared else expected[:, :shared].log_softmax(-1)
    return torch.nn.functional.kl_div(said, wanted, reduction="sum", log_target=True)
