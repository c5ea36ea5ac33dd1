"""Writes examples to the side that splitting.py says: learned, or held out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llmos_workers.prepare.encoding import select
from llmos_workers.prepare.splitting import Smallest
from llmos_workers.prepare.storing import Store
from llmos_workers.prepare.tokenizing import Rows

Mask = npt.NDArray[np.bool_]
Answers = list[str | None]


class Sides:
    """The two folders of a dataset."""

    def __init__(self, fraction: float, train: Store, held_out: Store) -> None:
        """Take the share that is held out, and where both sides go."""
        self._fraction, self._train, self._held_out = fraction, train, held_out
        self._smallest: Smallest[tuple[Rows, Answers]] = Smallest()

    def write(self, rows: Rows, answers: Answers, places: npt.NDArray[np.float64]) -> None:
        """Write a batch."""
        is_held_out = places < self._fraction
        self._held_out.write(select(rows, is_held_out), _pick(answers, is_held_out))
        is_held_back = np.zeros(len(places), dtype=bool)
        if self._fraction > 0 and not self._held_out.count:
            is_held_back = self._hold_back(rows, answers, places)
        else:
            self._learn(self._smallest.release())
        is_learned = ~is_held_out & ~is_held_back
        self._train.write(select(rows, is_learned), _pick(answers, is_learned))

    def finish(self) -> None:
        """Write what is held back. With nothing else to learn, holding it out would leave an empty dataset."""
        is_held_out = self._fraction > 0 and not self._held_out.count and self._train.count > 0
        for rows, answers in self._smallest.release():
            (self._held_out if is_held_out else self._train).write(rows, answers)

    def _hold_back(self, rows: Rows, answers: Answers, places: npt.NDArray[np.float64]) -> Mask:
        mask = places <= self._smallest.place
        for index in np.flatnonzero(mask):
            chosen = np.arange(len(places)) == index
            self._learn(self._smallest.offer(float(places[index]), (select(rows, chosen), _pick(answers, chosen))))
        return mask

    def _learn(self, released: list[tuple[Rows, Answers]]) -> None:
        for rows, answers in released:
            self._train.write(rows, answers)


def _pick(answers: Answers, chosen: Mask) -> Answers:
    return [answer for answer, is_chosen in zip(answers, chosen, strict=True) if is_chosen]
