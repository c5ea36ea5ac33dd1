"""An idle engine is well, a silent one has hung, and one without progress is suspected."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmos_workers.serve.watchdog import Load, Pulse, compute_pulse, is_stalled, is_unresponsive

START = Pulse(0, 0)
LIMIT_S = 30


def busy(tokens: float) -> Load:
    return Load(running=2, waiting=1, progress=(tokens,))


def test_an_idle_engine_never_stalls() -> None:
    pulse = compute_pulse(START, 1000, healthy=True, load=Load(0, 0, (5,)))
    assert not is_stalled(pulse, 1000, LIMIT_S)
    assert not is_unresponsive(pulse, 1000, LIMIT_S)


def test_requests_without_progress_are_a_stall() -> None:
    pulse = compute_pulse(START, 10, healthy=True, load=busy(5))
    pulse = compute_pulse(pulse, 41, healthy=True, load=busy(5))
    assert is_stalled(pulse, 41, LIMIT_S)
    assert not is_unresponsive(pulse, 41, LIMIT_S)


def test_one_more_token_ends_a_stall() -> None:
    pulse = compute_pulse(START, 10, healthy=True, load=busy(5))
    pulse = compute_pulse(pulse, 41, healthy=True, load=busy(6))
    assert not is_stalled(pulse, 41, LIMIT_S)


def test_silence_is_counted_from_the_last_answer() -> None:
    pulse = compute_pulse(START, 10, healthy=True, load=None)
    pulse = compute_pulse(pulse, 39, healthy=False, load=None)
    assert not is_unresponsive(pulse, 39, LIMIT_S)
    assert is_unresponsive(pulse, 40, LIMIT_S)


@given(st.lists(st.tuples(st.booleans(), st.none() | st.integers(0, 3).map(busy)), max_size=30))
def test_a_memory_never_goes_back_in_time(looks: list[tuple[bool, Load | None]]) -> None:
    pulse = START
    for now_s, (healthy, load) in enumerate(looks, start=1):
        later = compute_pulse(pulse, now_s, healthy=healthy, load=load)
        assert pulse.healthy_at_s <= later.healthy_at_s <= now_s
        assert pulse.moved_at_s <= later.moved_at_s <= now_s
        pulse = later
