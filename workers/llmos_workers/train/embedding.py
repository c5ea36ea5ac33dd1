"""Vectors that are near for texts that belong together.

    e(text)  = mean of the last layer's vectors of its tokens, brought to length 1
    loss of pair i = -log( exp(e(a_i) e(p_i) / t) / sum over j of exp(e(a_i) e(p_j) / t) )

where j runs over the pairs of the micro-batch: the other pairs' positives are the negatives (van den Oord et al.,
"Representation Learning with Contrastive Predictive Coding", 2018, equation 4; Henderson et al., "Efficient Natural
Language Response Suggestion for Smart Reply", 2017, section 4.4). A step's loss is the mean over its pairs. So
`maxLength` decides how many negatives there are: as many pairs as fit into it twice, of similar length, for a step is
sorted by it.

    recall_at_1   share of the anchors that no positive is nearer to than their own, among all that are asked
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow
import torch

from llmos_workers.train.classification import LabelledBatch, mask_rows
from llmos_workers.train.dataset import Examples, MicroBatch, pad_rows
from llmos_workers.train.evaluation import Asked, Asking
from llmos_workers.train.order import Lengths, plan_micro_batches
from llmos_workers.train.preference import Pairs

MOST_ASKED: Final = 10_000
"""Pairs that are held against each other at most: the first ones."""
_AT_ONCE: Final = 512


class PairBatch(LabelledBatch):
    """The rows of the anchors, and then, in the same order, those of their positives."""

    @property
    def learned(self) -> int:
        """Pairs."""
        return len(self.input_ids) // 2


class TextPairs:
    """Pairs of texts: two rows each."""

    rows: Final = 2

    def count_tokens(self, table: pyarrow.Table) -> tuple[Lengths, Lengths]:
        """Both texts, and twice the longer one, to which the other is padded."""
        return Pairs().count_tokens(table)

    def build(self, rows: Mapping[str, Any], padding: int) -> PairBatch:
        """Nothing is said at any position."""
        ids = [*rows["input_ids"], *rows["other_ids"]]
        nothing = torch.empty(0, dtype=torch.int64)
        return PairBatch(torch.from_numpy(pad_rows(ids, padding)), nothing, nothing, mask_rows(ids))


class Contrast:
    """The objective of the task embedding."""

    layout: Final = TextPairs()
    metrics: Final = ("loss", "recall_at_1")
    teacher: Final = None
    fills_batches: Final = True

    def __init__(self, temperature: float) -> None:
        """Take t."""
        self._temperature = temperature

    def compute_loss_sum(self, model: Any, batch: MicroBatch) -> torch.Tensor:
        """Sum over the pairs."""
        return self._compute_losses(*embed(model, batch).chunk(2)).sum()

    compute_eval_loss_sum = compute_loss_sum

    def ask(
        self, model: Any, examples: Examples, chosen: Sequence[int], wanted: Sequence[str], asking: Asking
    ) -> dict[str, Asked]:
        """The mean loss in the micro-batches, and the recall among all pairs."""
        losses: list[float] = []
        found: list[torch.Tensor] = []
        with torch.no_grad(), asking.device.autocast():
            for batch in plan_micro_batches(list(chosen)[:MOST_ASKED], examples.widths, asking.max_tokens, full=True):
                tensors = examples.build_micro_batch(batch, asking.padding).to(asking.device.device)
                anchors, positives = embed(model, tensors).chunk(2)
                losses += self._compute_losses(anchors, positives).double().tolist()
                found.append(torch.stack((anchors, positives)).cpu())
                asking.tick()
        if not found:
            return {name: Asked(None, 0) for name in wanted}
        values = {"loss": math.fsum(losses) / len(losses), "recall_at_1": compute_recall(*torch.cat(found, dim=1))}
        return {name: Asked(values[name], len(losses)) for name in wanted}

    def _compute_losses(self, anchors: torch.Tensor, positives: torch.Tensor) -> torch.Tensor:
        own = torch.arange(len(anchors), device=anchors.device)
        # In eight bits of precision most of the similarities would be the same.
        with torch.autocast(anchors.device.type, enabled=False):
            similarities = anchors @ positives.T / self._temperature
        return torch.nn.functional.cross_entropy(similarities, own, reduction="none")


def embed(model: Any, batch: MicroBatch) -> torch.Tensor:
    """The vector of each row, in float32."""
    if not isinstance(batch, LabelledBatch):
        raise TypeError("an embedding needs to know where its rows end")
    hidden = model(input_ids=batch.input_ids, attention_mask=batch.mask, use_cache=False).last_hidden_state
    weights = batch.mask.unsqueeze(-1).float()
    return torch.nn.functional.normalize((hidden.float() * weights).sum(1) / weights.sum(1), dim=-1)


def compute_recall(anchors: torch.Tensor, positives: torch.Tensor) -> float:
    """Share of the anchors that no positive is nearer to than their own; equal ones are not nearer."""
    right = 0
    for start in range(0, len(anchors), _AT_ONCE):
        some = anchors[start : start + _AT_ONCE]
        similarities = some @ positives.T
        own = similarities[torch.arange(len(some)), start + torch.arange(len(some))]
        right += int((similarities <= own.unsqueeze(-1) + 1e-6).all(dim=1).sum())
    return right / len(anchors)


def write_pooling(folder: Path, hidden_size: int, max_length: int) -> None:
    """Say beside a whole model how vectors are made of it, in the files of sentence-transformers, which vLLM reads."""
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(kinds)
    ]
    pooling = {"word_embedding_dimension": hidden_size, "pooling_mode_cls_token": False}
    pooling |= {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False}
    (folder / "1_Pooling").mkdir()
    files = {
        "modules.json": modules,
        "1_Pooling/config.json": pooling,
        "sentence_bert_config.json": {"max_seq_length": max_length, "do_lower_case": False},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
