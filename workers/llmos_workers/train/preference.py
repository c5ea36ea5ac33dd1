"""Direct preference optimization: which of two answers is the better one.

    reward(answer) = beta (log p(answer | prompt) - log p_reference(answer | prompt))
    loss of a pair = -log sigmoid(reward(chosen) - reward(rejected))

Rafailov et al., "Direct Preference Optimization: Your Language Model is Secretly a Reward Model" (2023), equation 7.
log p of an answer is the sum over its tokens. The reference is the base model: with an adapter, the same weights with
the adapter switched off; else a copy that stays as it is. A step's loss is the mean over its pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow
import torch
from peft import PeftModel

from llmos_workers.train.dataset import Examples, MicroBatch, build_micro_batch, count_items
from llmos_workers.train.evaluation import Asked, Asking
from llmos_workers.train.order import Lengths, plan_micro_batches


@dataclass(frozen=True)
class PairBatch(MicroBatch):
    """The rows of the chosen answers, and then, in the same order, those of the rejected ones."""

    @property
    def learned(self) -> int:
        """Pairs."""
        return len(self.input_ids) // 2


class Pairs:
    """Pairs of answers: two rows each."""

    rows: Final = 2

    def count_tokens(self, table: pyarrow.Table) -> tuple[Lengths, Lengths]:
        """Both answers with their prompts, and twice the longer one, to which the other is padded."""
        chosen, rejected = count_items(table, "input_ids"), count_items(table, "other_ids")
        return chosen + rejected, 2 * np.maximum(chosen, rejected)

    def build(self, rows: Mapping[str, Any], padding: int) -> PairBatch:
        """Each token of the answers is predicted from those before it."""
        ids, labels = ([*rows[chosen], *rows[rejected]] for chosen, rejected in _COLUMNS)
        return PairBatch(**vars(build_micro_batch(ids, labels, padding)))


_COLUMNS: Final = (("input_ids", "other_ids"), ("labels", "other_labels"))


class Reference:
    """What the base model says. A copy of it is loaded only for a model that does not have it in itself."""

    def __init__(self, load: Callable[[], Any]) -> None:
        """Take what loads the base model."""
        self._load = load
        self._copy: Any = None

    @contextmanager
    def of(self, model: Any) -> Iterator[Any]:
        """The base model, without dropout, in the place of `model`."""
        if not isinstance(model, PeftModel):
            if self._copy is None:
                self._copy = self._load()
            yield self._copy
            return
        is_training = model.training
        model.eval()
        try:
            with model.disable_adapter():
                yield model
        finally:
            # Memory may not have sufficed: the step is then done again.
            model.train(is_training)


class Preference:
    """The objective of the task dpo."""

    layout: Final = Pairs()
    metrics: Final = ("loss", "reward_accuracy", "reward_margin")
    teacher: Final = None
    fills_batches: Final = False

    def __init__(self, beta: float, reference: Reference) -> None:
        """Take the strength of the tie to the reference, and the reference."""
        self._beta, self._reference = beta, reference

    def compute_loss_sum(self, model: Any, batch: MicroBatch) -> torch.Tensor:
        """Sum of the losses of the pairs."""
        return -torch.nn.functional.logsigmoid(self._compute_margins(model, batch)).sum()

    compute_eval_loss_sum = compute_loss_sum

    def ask(
        self, model: Any, examples: Examples, chosen: Sequence[int], wanted: Sequence[str], asking: Asking
    ) -> dict[str, Asked]:
        """The mean loss, the share of pairs whose chosen answer has the higher reward, and the mean difference."""
        found: list[torch.Tensor] = []
        with torch.no_grad(), asking.device.autocast():
            for batch in plan_micro_batches(list(chosen), examples.widths, asking.max_tokens):
                tensors = examples.build_micro_batch(batch, asking.padding).to(asking.device.device)
                found.append(self._compute_margins(model, tensors).double().cpu())
                asking.tick()
        margins = torch.cat(found) if found else torch.empty(0, dtype=torch.float64)
        values = {
            "loss": -torch.nn.functional.logsigmoid(margins),
            "reward_accuracy": (margins > 0).double(),
            "reward_margin": margins,
        }
        return {name: Asked(float(values[name].mean()) if len(margins) else None, len(margins)) for name in wanted}

    def _compute_margins(self, model: Any, batch: MicroBatch) -> torch.Tensor:
        """reward(chosen) - reward(rejected) of each pair."""
        with torch.no_grad(), self._reference.of(model) as reference:
            expected = compute_log_probabilities(reference, batch)
        chosen, rejected = (compute_log_probabilities(model, batch) - expected).chunk(2)
        return self._beta * (chosen - rejected)


def compute_log_probabilities(model: Any, batch: MicroBatch) -> torch.Tensor:
    """log p of the learned tokens of each row, in float32."""
    logits = model(input_ids=batch.input_ids, use_cache=False).logits
    learned = logits.flatten(0, 1).index_select(0, batch.positions)
    losses = torch.nn.functional.cross_entropy(learned.float(), batch.targets, reduction="none")
    rows, columns = batch.input_ids.shape
    return torch.zeros(rows, device=losses.device).index_add(0, batch.positions // columns, -losses)
