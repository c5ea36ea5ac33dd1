"""Which examples make which optimizer step: a pure function of the examples' lengths, the seed and the position.

The examples of all epochs form one endless stream, each epoch in an order of its own. A step takes examples from it
as long as their tokens stay within `batchTokens` (at least one). So the position is one number, and steps may cross
epochs.

    order of epoch e = argsort(Philox(key = (seed, e)))

numpy promises that the raw numbers of a bit generator never change, which it does not for `permutation`: an image
with a newer numpy goes on in the same order.

Within a step the examples are sorted by length and cut into micro-batches of rows x longest <= maxLength tokens,
padded on the right, so that

    sum of rows x longest  +  BATCH_COST_TOKENS x micro-batches

is the least that there is (dynamic programming over the sorted examples). Padding instead of packing: since all
examples of a step are summed into one gradient, how they are cut changes nothing that is learned, and leaves little to
pad (measured in docs/decisions/0023-micro-batches-instead-of-packing.md); no example can see another, whatever the
model's layers are; and causal attention needs no mask, so its fastest kernels apply everywhere. Where the examples of a
micro-batch are compared with each other (embedding), it is filled instead. The longest micro-batches come first, so
that memory that does not suffice is noticed in the first steps.

Several accelerators would take micro-batches r, r + n, r + 2n ... each and sum gradients; nothing else depends on
them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

BATCH_COST_TOKENS: Final = 96
"""So many tokens of padding are as dear as one more micro-batch."""
Lengths = NDArray[np.int64]
"""Tokens of each example."""


@dataclass(frozen=True)
class StepPlan:
    """One optimizer step: the examples of each micro-batch, and the position after it in the stream."""

    micro_batches: tuple[tuple[int, ...], ...]
    tokens: int
    position: int


def compute_epoch_order(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order in which the examples come in one epoch."""
    keys = np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64)).random_raw(count)
    return np.argsort(keys, kind="stable")


class Order:
    """The stream of examples."""

    def __init__(
        self,
        lengths: Lengths,
        *,
        seed: int,
        batch_tokens: int,
        max_length: int,
        widths: Lengths | None = None,
        full: bool = False,
    ) -> None:
        """Raise ValueError for no examples, or for one that is longer than `max_length`.

        `widths` are the tokens that an example takes when it is computed, where these are others than its own. `full`
        fills each micro-batch.
        """
        widths = lengths if widths is None else widths
        if len(lengths) == 0:
            raise ValueError("there are no examples")
        if (longest := int(widths.max())) > max_length:
            raise ValueError(f"an example takes {longest} tokens, more than maxLength allows: {max_length}")
        self.count = len(lengths)
        self._lengths, self._widths, self._seed = lengths, widths, seed
        self._batch_tokens, self._max_length, self._full = batch_tokens, max_length, full
        self._epochs: dict[int, _Epoch] = {}

    def plan_step(self, position: int, end: int | None) -> StepPlan:
        """The step that begins at `position`, and does not go beyond `end`."""
        after = self._find_step_end(position, end)
        examples = [self._get_example(at) for at in range(position, after)]
        tokens = int(self._lengths[examples].sum())
        batches = plan_micro_batches(examples, self._widths, self._max_length, full=self._full)
        return StepPlan(batches, tokens, after)

    def count_steps(self, end: int) -> int:
        """Steps from the beginning of the stream to `end`."""
        steps = position = 0
        while position < end:
            position = self._find_step_end(position, end)
            steps += 1
        return steps

    def _find_step_end(self, position: int, end: int | None) -> int:
        room, at = self._batch_tokens, position
        while end is None or at < end:
            epoch, offset = divmod(at, self.count)
            sums = self._get_epoch(epoch).sums
            stop = int(np.searchsorted(sums, sums[offset] + room, side="right")) - 1
            if end is not None:
                stop = min(stop, end - epoch * self.count)
            room -= int(sums[stop] - sums[offset])
            at = epoch * self.count + stop
            if stop < self.count:
                break
        return max(at, position + 1)

    def _get_example(self, position: int) -> int:
        epoch, offset = divmod(position, self.count)
        return int(self._get_epoch(epoch).order[offset])

    def _get_epoch(self, number: int) -> _Epoch:
        if number not in self._epochs:
            order = compute_epoch_order(self.count, self._seed, number)
            sums = np.concatenate(([0], np.cumsum(self._lengths[order])))
            # A step may cross from one epoch to the next; those before are never asked for again.
            self._epochs = {key: value for key, value in self._epochs.items() if key == number - 1}
            self._epochs[number] = _Epoch(order, sums)
        return self._epochs[number]


@dataclass(frozen=True)
class _Epoch:
    order: NDArray[np.int64]
    sums: NDArray[np.int64]
    """Tokens of the first n examples, for n = 0 ... count."""


def plan_micro_batches(
    examples: list[int], lengths: Lengths, max_tokens: int, *, full: bool = False
) -> tuple[tuple[int, ...], ...]:
    """Cut examples into batches of rows x longest <= max_tokens, longest first.

    Args:
        examples: their numbers.
        lengths: tokens that each takes.
        max_tokens: that are computed at once; a batch of one may have more.
        full: take as many rows as there is room for, however much is padded.
    """
    ordered = sorted(examples, key=lambda example: (-int(lengths[example]), example))
    sizes = [int(lengths[example]) for example in ordered]
    rooms = [max(1, max_tokens // max(1, size)) for size in sizes]
    rows = rooms if full else _choose_rows(sizes, rooms)
    batches: list[tuple[int, ...]] = []
    at = 0
    while at < len(ordered):
        batches.append(tuple(ordered[at : at + rows[at]]))
        at += rows[at]
    return tuple(batches)


def _choose_rows(sizes: list[int], rooms: list[int]) -> list[int]:
    """How many rows the batch that begins at each example has, so that all after it cost the least."""
    costs = np.zeros(len(sizes) + 1, dtype=np.int64)
    rows = [0] * len(sizes)
    for at in reversed(range(len(sizes))):
        most = min(rooms[at], len(sizes) - at)
        each = sizes[at] * np.arange(1, most + 1) + costs[at + 1 : at + 1 + most]
        rows[at] = int(each.argmin()) + 1
        costs[at] = each[rows[at] - 1] + BATCH_COST_TOKENS
    return rows
