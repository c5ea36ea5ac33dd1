"""The order of examples, for any lengths."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos_workers.train.order import BATCH_COST_TOKENS, Order, compute_epoch_order, plan_micro_batches

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


def draw_lengths(kind: str) -> np.ndarray:
    """Lengths of 4000 examples, most of them short, and some as long as is allowed."""
    draw = np.random.default_rng(1)
    drawn = {
        "log-normal, sigma 0.7": np.exp(draw.normal(np.log(200), 0.7, 4000)),
        "log-normal, sigma 1": np.exp(draw.normal(np.log(150), 1.0, 4000)),
        "Pareto, alpha 1.5": 60 * (1 + draw.pareto(1.5, 4000)),
    }
    return np.asarray(np.clip(drawn[kind], 8, 2048), dtype=np.int64)


@pytest.mark.parametrize("kind", ["log-normal, sigma 0.7", "log-normal, sigma 1", "Pareto, alpha 1.5"])
def test_of_lengths_with_a_long_tail_less_than_a_twentieth_is_padding(kind: str) -> None:
    lengths = draw_lengths(kind)
    order = Order(lengths, seed=0, batch_tokens=16384, max_length=2048)
    position = learned = computed = 0
    while position < len(lengths):
        plan = order.plan_step(position, len(lengths))
        position, learned = plan.position, learned + plan.tokens
        computed += sum(len(batch) * int(lengths[list(batch)].max()) for batch in plan.micro_batches)
    assert learned == lengths.sum()
    assert 1 - learned / computed < 0.05


@given(LENGTHS)
def test_no_cut_of_the_sorted_examples_costs_less(lengths: np.ndarray) -> None:
    def cost(batches: tuple[tuple[int, ...], ...]) -> int:
        return sum(len(batch) * int(lengths[list(batch)].max()) + BATCH_COST_TOKENS for batch in batches)

    planned = plan_micro_batches(list(range(len(lengths))), lengths, 100)
    ordered = [example for batch in planned for example in batch]
    assert lengths[ordered].tolist() == sorted(lengths.tolist(), reverse=True)
    best = [0]
    for at in reversed(range(len(ordered))):
        ways = range(at + 1, len(ordered) + 1)
        room = (end for end in ways if (end - at) * lengths[ordered[at]] <= 100)
        best.insert(0, min(cost((tuple(ordered[at:end]),)) + best[end - at - 1] for end in room))
    assert cost(planned) == best[0]
    filled = plan_micro_batches(list(range(len(lengths))), lengths, 100, full=True)
    assert len(filled) <= len(planned)
