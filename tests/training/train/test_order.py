"""The order of examples, for any lengths."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llmos_workers.train.order import Order, compute_epoch_order

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=30).map(lambda lengths: np.array(lengths, dtype=np.int64))


@given(LENGTHS, st.integers(0, 99), st.integers(16, 100), st.floats(0.2, 3))
def test_steps_take_each_example_once_an_epoch_within_the_budget(
    lengths: np.ndarray, seed: int, batch_tokens: int, epochs: float
) -> None:
    order = Order(lengths, seed=seed, batch_tokens=batch_tokens, max_length=40)
    end = max(1, round(epochs * len(lengths)))
    taken: list[int] = []
    position = steps = 0
    while position < end:
        plan = order.plan_step(position, end)
        # A step is the same for one that comes from nowhere.
        assert plan == Order(lengths, seed=seed, batch_tokens=batch_tokens, max_length=40).plan_step(position, end)
        examples = [example for batch in plan.micro_batches for example in batch]
        assert plan.tokens == lengths[examples].sum()
        assert plan.tokens <= batch_tokens or len(examples) == 1
        assert all(len(batch) * lengths[list(batch)].max() <= 40 for batch in plan.micro_batches)
        taken += examples
        position, steps = plan.position, steps + 1
    assert position == end
    assert steps == order.count_steps(end)
    wanted = [int(compute_epoch_order(len(lengths), seed, at // len(lengths))[at % len(lengths)]) for at in range(end)]
    assert sorted(taken) == sorted(wanted)


def test_the_order_of_an_epoch_is_the_same_for_ever() -> None:
    assert compute_epoch_order(8, 42, 0).tolist() == [7, 1, 6, 4, 3, 5, 0, 2]
    assert compute_epoch_order(8, 42, 1).tolist() == [4, 5, 3, 0, 2, 7, 1, 6]
