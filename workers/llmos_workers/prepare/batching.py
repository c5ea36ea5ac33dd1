"""Gathers examples and encodes them together; deals with those that are too long, of suites and datasets alike.

Batches are bounded by text, not by examples, so that memory is, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from llmos.api.finetunejob import FineTuneJobSpec
from llmos_workers.prepare.encoding import Formatter, Text, count_learned, select, truncate
from llmos_workers.prepare.labels import LABELLED
from llmos_workers.prepare.tally import Tally
from llmos_workers.prepare.tokenizing import Rows

BATCH_CHARS: Final = 2 << 20
BATCH_EXAMPLES: Final = 4096


@dataclass(frozen=True, slots=True)
class Waiting:
    """An example that waits for its batch."""

    label: str
    place: float
    text: Text


class Batches:
    """Gathers examples and encodes them."""

    def __init__(self, spec: FineTuneJobSpec, formatter: Formatter, tally: Tally) -> None:
        """Take what encodes, and what counts."""
        self._formatter, self._tally = formatter, tally
        self._overlong = spec.dataset.validation.overlong
        self._most = spec.trainer.hyperparameters.max_length
        self._is_labelled = spec.dataset.format.type in LABELLED
        self._waiting: list[Waiting] = []
        self._chars = 0

    def add(self, one: Waiting) -> bool:
        """Take an example; return whether the batch is full."""
        self._waiting.append(one)
        self._chars += one.text.chars
        return self._chars >= BATCH_CHARS or len(self._waiting) >= BATCH_EXAMPLES

    def encode(self) -> tuple[Rows, list[Waiting]]:
        """Encode what waits; return the rows that are kept, and what they come from."""
        waiting, self._waiting, self._chars = self._waiting, [], 0
        rows = self._formatter.encode([one.text for one in waiting])
        lengths = rows.longest
        self._tally.lengths.update(lengths.tolist())
        is_long = lengths > self._most
        kept = ~is_long
        if is_long.any():
            if self._overlong == "truncate":
                rows = truncate(rows, self._most)
                kept = count_learned(rows) > 0
            self._report(waiting, lengths, is_long, kept)
        if self._is_labelled:
            self._drop_unlabelled(waiting, rows, kept)
        return select(rows, kept), [one for one, is_kept in zip(waiting, kept, strict=True) if is_kept]

    def _drop_unlabelled(self, waiting: list[Waiting], rows: Rows, kept: npt.NDArray[np.bool_]) -> None:
        for index in np.flatnonzero(kept & (count_learned(rows) == 0)):
            self._tally.add("broken", waiting[index].label, "the tokenizer makes nothing of what has a label")
            kept[index] = False

    def _report(
        self,
        waiting: list[Waiting],
        lengths: npt.NDArray[np.int64],
        is_long: npt.NDArray[np.bool_],
        kept: npt.NDArray[np.bool_],
    ) -> None:
        for index in np.flatnonzero(is_long):
            what = "" if kept[index] or self._overlong != "truncate" else "; what is learned lies beyond it"
            problem = f"{lengths[index]} tokens, maxLength is {self._most}{what}"
            self._tally.add("overlong", waiting[index].label, problem)
