"""How many requests go at once: learned from what replicas tell, shared between gateways."""

from __future__ import annotations

import math

import pytest

from llmos_gateway.fairness import EngineFigures, Room, Window
from llmos_gateway.fairness.window import CUSHION, LEAST, START

A, B = "a:8000", "b:8000"


def build(*addresses: str, max_sequences: int = 0) -> Window:
    window = Window()
    window.retain(addresses or (A,), max_sequences)
    return window


def tell(window: Window, running: int, waiting: int = 0, kv_usage: float = 0.5, times: int = 1) -> float:
    """Tell the figures so often, and return the limit."""
    for _ in range(times):
        window.tell(A, EngineFigures(running, waiting, kv_usage), is_awaited=True)
    return window.read_limits()[A]


def test_a_pool_without_replicas_has_no_room() -> None:
    assert Window().compute_room() == Room(0.0, 0.0)


def test_the_first_limit_is_what_the_pool_says_or_a_guess() -> None:
    assert build().read_limits() == {A: START}
    assert build(max_sequences=8).read_limits() == {A: 8}


def test_an_engine_that_lets_nothing_wait_gets_more_until_it_does() -> None:
    window = build()
    for _ in range(20):
        tell(window, min(200, int(window.compute_room().shared)), 0, 0.1)
    assert tell(window, 200, 9, 0.1) == 200


def test_a_full_cache_leaves_a_little_room_in_the_engine() -> None:
    window = build()
    tell(window, 100, 20, kv_usage=0.96)
    assert window.compute_room().shared < 100


def test_engines_that_run_the_same_number_again_and_again_are_full() -> None:
    window = build()
    tell(window, 64, 10, kv_usage=0.2)
    assert window.compute_room().shared == 64 + CUSHION
    tell(window, 64, 10, kv_usage=0.2, times=3)
    assert window.compute_room().shared < 64


def test_a_limit_follows_a_cache_that_fills_with_longer_requests() -> None:
    window = build()
    tell(window, 100, 5, kv_usage=0.97, times=4)
    assert tell(window, 40, 60, kv_usage=0.97, times=4) == 40
    assert tell(window, 39, 0, kv_usage=0.86) > 40


def test_what_waits_for_the_step_that_runs_is_no_limit() -> None:
    window = build()
    window.tell(A, EngineFigures(2, 1), is_awaited=False)
    assert window.read_limits() == {A: START}
    assert tell(window, 2, 1) == LEAST


def test_streams_that_have_begun_are_seen_without_a_report() -> None:
    window = build()
    tell(window, 8, 30)
    assert [window.begin(A) for _ in range(10)] == [False] * 8 + [True] * 2
    assert window.compute_room().shared == 10 + CUSHION


def test_an_engine_that_begins_every_answer_at_once_gets_no_more_than_its_pool_says() -> None:
    window = build(max_sequences=16)
    assert not any(window.begin(A) for _ in range(60))
    assert window.compute_room().shared == 16 + CUSHION


def test_a_replica_that_cannot_be_asked_is_guarded_only_by_what_its_pool_says() -> None:
    unknown, known = build(), build(max_sequences=8)
    for window in (unknown, known):
        window.tell(A, None, is_awaited=True)
    assert unknown.compute_room().shared == math.inf
    assert known.compute_room().shared == 8 + CUSHION
    tell(unknown, 3)
    unknown.tell(A, None, is_awaited=True)
    assert unknown.compute_room().shared < math.inf


def test_a_new_replica_begins_with_what_the_others_run() -> None:
    window = build()
    tell(window, 100, 20)
    window.retain([A, B])
    assert window.read_limits() == {A: 100, B: 100}
    window.retain([B])
    assert window.read_limits() == {B: 100}


@pytest.mark.parametrize(("theirs", "own"), [(0, 100), (30, 70), (50, 50), (90, 50)])
def test_gateways_use_what_others_leave_and_have_their_part_in_any_case(theirs: int, own: int) -> None:
    window = build()
    tell(window, 96, 20)
    assert window.compute_room(gateways=2, others=lambda _: float(theirs)).shared == own
