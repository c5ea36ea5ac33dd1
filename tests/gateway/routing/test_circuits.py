"""When a failing replica gets requests."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmos_gateway.routing.circuits import (
    FAILURES_TO_OPEN,
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    LONGEST_PROBE_S,
    MOST_CIRCUITS,
    Circuits,
)


def open_circuit(circuits: Circuits, now_s: float) -> None:
    for _ in range(FAILURES_TO_OPEN):
        circuits.fail("a", now_s)


def test_two_failures_are_bad_luck_and_the_third_opens() -> None:
    circuits = Circuits()
    assert [circuits.fail("a", 0) for _ in range(FAILURES_TO_OPEN)] == [False, False, True]
    assert not circuits.admits("a", 0)
    assert circuits.admits("b", 0)


def test_a_success_between_failures_starts_the_count_anew() -> None:
    circuits = Circuits()
    for _ in range(10):
        circuits.fail("a", 0)
        circuits.fail("a", 0)
        circuits.succeed("a")
    assert circuits.admits("a", 0)


def test_after_the_pause_one_request_probes_and_a_second_does_not() -> None:
    circuits = Circuits()
    open_circuit(circuits, 0)
    assert circuits.admits("a", FIRST_PAUSE_S)
    assert circuits.begin("a", FIRST_PAUSE_S)
    assert not circuits.admits("a", FIRST_PAUSE_S)


def test_a_probe_that_succeeds_closes_the_circuit() -> None:
    circuits = Circuits()
    open_circuit(circuits, 0)
    circuits.begin("a", FIRST_PAUSE_S)
    circuits.succeed("a")
    assert circuits.admits("a", FIRST_PAUSE_S)
    assert len(circuits) == 0


def test_a_probe_whose_client_left_makes_room_for_another() -> None:
    circuits = Circuits()
    open_circuit(circuits, 0)
    circuits.begin("a", FIRST_PAUSE_S)
    circuits.give_up_probe("a")
    assert circuits.admits("a", FIRST_PAUSE_S)


def test_a_probe_of_which_nothing_is_heard_does_not_lose_the_replica() -> None:
    circuits = Circuits()
    open_circuit(circuits, 0)
    circuits.begin("a", FIRST_PAUSE_S)
    assert not circuits.admits("a", FIRST_PAUSE_S + LONGEST_PROBE_S / 2)
    assert circuits.admits("a", FIRST_PAUSE_S + LONGEST_PROBE_S)


def test_each_failed_probe_doubles_the_pause_up_to_the_longest() -> None:
    circuits, now_s, pauses = Circuits(), 0.0, []
    open_circuit(circuits, now_s)
    for _ in range(8):
        pauses.append(circuits.get_retry_s("a") - now_s)
        now_s = circuits.get_retry_s("a")
        circuits.begin("a", now_s)
        circuits.fail("a", now_s)
    assert pauses == [1, 2, 4, 8, 16, LONGEST_PAUSE_S, LONGEST_PAUSE_S, LONGEST_PAUSE_S]


def test_many_requests_that_fail_together_are_one_failure() -> None:
    circuits = Circuits()
    for _ in range(500):
        circuits.fail("a", 0)
    assert circuits.get_retry_s("a") == FIRST_PAUSE_S


@given(
    events=st.lists(st.tuples(st.sampled_from(["fail", "succeed", "begin", "give_up"]), st.floats(0, 10)), max_size=60)
)
def test_a_replica_is_tried_again_within_the_longest_pause_whatever_happened(events: list[tuple[str, float]]) -> None:
    circuits, now_s = Circuits(), 0.0
    for event, after_s in events:
        now_s += after_s
        match event:
            case "fail":
                circuits.fail("a", now_s)
            case "succeed":
                circuits.succeed("a")
            case "begin":
                circuits.begin("a", now_s)
            case _:
                circuits.give_up_probe("a")
    assert circuits.admits("a", now_s + max(LONGEST_PAUSE_S, LONGEST_PROBE_S))


def test_the_number_of_circuits_is_bounded() -> None:
    circuits = Circuits()
    for number in range(2 * MOST_CIRCUITS):
        circuits.fail(str(number), 0)
    assert len(circuits) == MOST_CIRCUITS
