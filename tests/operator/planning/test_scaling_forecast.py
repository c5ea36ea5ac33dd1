"""Headroom that is learned in hindsight: how much comes out of steady, bursting and changing traffic."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmos_operator.planning.scaling_forecast import (
    HOLD_BUCKETS,
    LATE_SHARE,
    STABLE_SHARE,
    Hindsight,
    Promise,
    compute_needed,
    look_ahead,
    look_back,
)

PROMISE = Promise(patience_s=2.0, share=0.8, life_s=8.0)


def live(needs: list[float], *, hindsight: Hindsight | None = None, lag_s: float = 60.0) -> Hindsight:
    """Seconds in which this many replicas were needed, and half of that was work."""
    hindsight = hindsight or Hindsight()
    for needed in needs:
        hindsight = look_back(
            hindsight,
            interval_s=1.0,
            work_s=needed / 2,
            needed=needed,
            arrivals=10.0 if needed else 0.0,
            lag_s=lag_s,
        )
    return hindsight


def test_steady_traffic_needs_what_it_needs() -> None:
    outlook = look_ahead(live([4.0] * 1200))
    assert outlook.forecast == pytest.approx(2 / STABLE_SHARE)
    assert outlook.replicas == pytest.approx(4.0)


def test_bursts_that_recur_are_held_room_for() -> None:
    burst = [1.0] * 40 + [6.0] * 3
    assert look_ahead(live(burst * 30)).replicas >= 6.0


def test_a_burst_that_does_not_recur_is_forgotten_after_the_memory() -> None:
    hindsight = live([1.0] * 600 + [8.0] * 20 + [1.0] * 300)
    assert look_ahead(hindsight).replicas == pytest.approx(8.0, abs=0.5)
    assert look_ahead(live([1.0] * 900, hindsight=hindsight)).replicas < 2.0


def test_a_fall_of_traffic_is_followed_once_the_hold_is_over() -> None:
    hindsight = live([8.0] * 1200 + [2.0] * (HOLD_BUCKETS * 10 - 20))
    assert look_ahead(hindsight).forecast == pytest.approx(4 / STABLE_SHARE, rel=0.05)
    assert look_ahead(live([2.0] * 60, hindsight=hindsight)).forecast == pytest.approx(1 / STABLE_SHARE, rel=0.05)


def test_a_burst_of_very_few_requests_is_not_worth_a_replica() -> None:
    assert look_ahead(live([1.0] * 600 + [8.0] * 5 + [1.0] * 300)).replicas == pytest.approx(1.0)


def test_a_longer_start_up_asks_for_more_headroom_where_traffic_grows() -> None:
    growth = [2.0 + second / 200 for second in range(1500)]
    slow, fast = look_ahead(live(growth, lag_s=240.0)), look_ahead(live(growth, lag_s=0.0))
    assert slow.headroom == pytest.approx(fast.headroom + 240 / 200 / 2 / STABLE_SHARE, abs=0.1)


def test_before_anything_was_judged_some_headroom_is_assumed_and_it_is_said_to_be_learning() -> None:
    hindsight = live([4.0] * 60)
    assert hindsight.is_learning
    assert look_ahead(hindsight).replicas > look_ahead(hindsight).forecast
    assert not live([4.0] * 600).is_learning
    assert not Hindsight().is_learning


def test_the_wait_is_what_a_queue_of_that_size_would_have() -> None:
    """10 s of prefill at once, a patience of 2 s: 10 / (1 + 2) replicas. 1 s each second, for long: one replica."""
    brief = Promise(2.0, 1.0, 100.0)
    assert compute_needed([0.0] * 60 + [10.0], 0.5, 0.0, brief) == pytest.approx(0.5 + 10 / 3)
    assert compute_needed([1.0] * 64, 0.0, 0.0, brief) == pytest.approx(1.0)


def test_an_answer_that_takes_long_shares_with_the_mean_and_a_short_one_with_the_burst() -> None:
    burst = [0.0] * 60 + [3.0]
    short = compute_needed(burst, 0.0, 0.0, Promise(1e9, 0.5, 1.0))
    long = compute_needed(burst, 0.0, 0.0, Promise(1e9, 0.5, 32.0))
    assert short == pytest.approx(3.0 / 0.5)
    assert long == pytest.approx(3.0 / 32 / 0.5)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 20), min_size=20, max_size=40), st.sampled_from([0.0, 30.0, 120.0]))
def test_traffic_that_repeats_itself_is_late_no_more_than_promised(pattern: list[float], lag_s: float) -> None:
    """The guarantee of split conformal prediction, where the next quarter of an hour is like the last."""
    needs = [needed for needed in pattern for _ in range(10)]
    hindsight = live((needs * 10)[:1800], lag_s=lag_s)
    replicas, late = [], 0
    for needed in needs * 3:
        hindsight = live([needed], hindsight=hindsight, lag_s=lag_s)
        replicas.append(look_ahead(hindsight).replicas)
        before = replicas[max(0, len(replicas) - 1 - int(lag_s))]
        late += needed > before + 1e-6
    # Within a bucket the forecast may be a second older or younger than it was judged.
    assert late / len(replicas) <= LATE_SHARE + 0.1
