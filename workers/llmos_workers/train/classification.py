"""Classifiers: the label of each word, or of a text.

    loss      -log p(label), summed over labels, cross entropy
    accuracy  share of the labels that are the most probable ones
    f1        mean over the labels that occur, or are said, of 2 TP / (2 TP + FP + FN): the macro average of van
              Rijsbergen's measure (Information Retrieval, 1979, chapter 7), as scikit-learn computes it

The label of a word is said at its first token, that of a text at its last. A decoder sees only what stands before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow
import torch
from numpy.typing import NDArray

from llmos_workers.train.dataset import UNLEARNED, Examples, Layout, MicroBatch, count_items, find_learned, pad_rows
from llmos_workers.train.evaluation import Asked, Asking
from llmos_workers.train.order import Lengths, plan_micro_batches


@dataclass(frozen=True)
class LabelledBatch(MicroBatch):
    """`targets` are numbers of labels, `mask` is 0 where a row is filled: a model may look in both directions."""

    mask: torch.Tensor


class Words:
    """Texts whose words have labels; the label stands at the word's first token."""

    rows: Final = 1

    def count_tokens(self, table: pyarrow.Table) -> tuple[Lengths, Lengths]:
        """Both are the text's."""
        lengths = count_items(table, "input_ids")
        return lengths, lengths

    def build(self, rows: Mapping[str, Any], padding: int) -> LabelledBatch:
        """What is said at a position is the label there."""
        learned = find_learned(pad_rows(rows["labels"], UNLEARNED))
        return LabelledBatch(*_pad_texts(rows, padding, learned))


class Sentences(Words):
    """Texts that have a label each, which stands at the first token. What is said is one thing for each row."""

    def build(self, rows: Mapping[str, Any], padding: int) -> LabelledBatch:
        """Positions are rows."""
        targets = torch.tensor([int(row[0]) for row in rows["labels"]])
        return LabelledBatch(*_pad_texts(rows, padding, (torch.arange(len(targets)), targets)))


def _pad_texts(
    rows: Mapping[str, Any], padding: int, learned: tuple[torch.Tensor, torch.Tensor]
) -> tuple[torch.Tensor, ...]:
    return torch.from_numpy(pad_rows(rows["input_ids"], padding)), *learned, mask_rows(rows["input_ids"])


def mask_rows(rows: Sequence[Any]) -> torch.Tensor:
    """1 where a row has something, 0 where it is filled."""
    return torch.from_numpy(pad_rows([np.ones(len(row), dtype=np.int64) for row in rows], 0))


class Classification:
    """The objective of both tasks; they differ in their layout."""

    metrics: Final = ("loss", "accuracy", "f1")
    teacher: Final = None
    fills_batches: Final = False

    def __init__(self, layout: Layout) -> None:
        """Take how examples become rows."""
        self.layout = layout

    def compute_loss_sum(self, model: Any, batch: MicroBatch) -> torch.Tensor:
        """Sum over the labels."""
        return torch.nn.functional.cross_entropy(compute_logits(model, batch), batch.targets, reduction="sum")

    compute_eval_loss_sum = compute_loss_sum

    def ask(
        self, model: Any, examples: Examples, chosen: Sequence[int], wanted: Sequence[str], asking: Asking
    ) -> dict[str, Asked]:
        """The mean loss, the share of labels that are right, and the macro average of F1."""
        losses: list[float] = []
        confusion = np.zeros((model.config.num_labels,) * 2, dtype=np.int64)
        with torch.no_grad(), asking.device.autocast():
            for batch in plan_micro_batches(list(chosen), examples.widths, asking.max_tokens):
                tensors = examples.build_micro_batch(batch, asking.padding).to(asking.device.device)
                logits = compute_logits(model, tensors)
                losses.append(float(torch.nn.functional.cross_entropy(logits, tensors.targets, reduction="sum")))
                np.add.at(confusion, (tensors.targets.cpu().numpy(), logits.argmax(-1).cpu().numpy()), 1)
                asking.tick()
        count = int(confusion.sum())
        if not count:
            return {name: Asked(None, len(chosen)) for name in wanted}
        accuracy, f1 = compute_scores(confusion)
        values = {"loss": math.fsum(losses) / count, "accuracy": accuracy, "f1": f1}
        return {name: Asked(values[name], len(chosen)) for name in wanted}


def compute_logits(model: Any, batch: MicroBatch) -> torch.Tensor:
    """What is said of each label, at the positions that have one, in float32."""
    mask = batch.mask if isinstance(batch, LabelledBatch) else None
    logits = model(input_ids=batch.input_ids, attention_mask=mask, use_cache=False).logits
    return logits.flatten(0, -2).index_select(0, batch.positions).float()


def compute_scores(confusion: NDArray[np.int64]) -> tuple[float, float]:
    """Accuracy and macro F1 of counts by true label (rows) and said label (columns)."""
    right = np.diag(confusion)
    # TP + FN and TP + FP: their sum is the denominator.
    seen = confusion.sum(axis=0) + confusion.sum(axis=1)
    occurs = seen > 0
    return float(right.sum() / confusion.sum()), float((2 * right[occurs] / seen[occurs]).mean())
