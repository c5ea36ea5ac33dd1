"""Reserve, grow and settle, whatever the order."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from llmos_gateway.limits import Granted, Ledger, Refused, Terms, find_end, find_starts
from llmos_gateway.limits.ledger import find_reset_s

NOW = 1_790_000_000.0
TERMS = Terms(minute=100, day=1000, month=10_000)
AMOUNTS = st.integers(0, 60)


def reserve(ledger: Ledger, number: str, least: int, most: int | None = None, **change: Any) -> Granted | Refused:
    terms = replace(TERMS, **{name: value for name, value in change.items() if name != "now_s"})
    now_s = change.get("now_s", NOW)
    return ledger.reserve(now_s, "acme", terms, number, least, least if most is None else most)


def used(ledger: Ledger, now_s: float = NOW) -> tuple[int, ...]:
    return tuple(use.used for use in ledger.read(now_s)["acme"])


def test_what_is_reserved_is_not_there_for_others_and_what_was_not_used_comes_back() -> None:
    ledger = Ledger()
    assert isinstance(reserve(ledger, "a", 80), Granted)
    refused = reserve(ledger, "b", 30)
    assert isinstance(refused, Refused)
    assert (refused.by, refused.is_brief, refused.is_never) == ("minute", True, False)
    ledger.settle("acme", "a", 50)
    assert isinstance(reserve(ledger, "b", 30), Granted)
    assert used(ledger) == (80, 80, 80)


def test_what_ended_requests_have_used_comes_back_with_the_next_window_only() -> None:
    ledger = Ledger()
    reserve(ledger, "a", 80)
    ledger.settle("acme", "a", 80)
    refused = reserve(ledger, "b", 30)
    assert isinstance(refused, Refused)
    assert not refused.is_brief
    wait_s = find_reset_s(refused.uses[0], NOW)
    assert 1 <= wait_s <= 60
    assert isinstance(reserve(ledger, "b", 30, now_s=NOW + wait_s), Granted)
    assert used(ledger, NOW + wait_s) == (30, 110, 110)


def test_the_window_that_is_over_last_is_named() -> None:
    ledger = Ledger()
    for number in range(10):
        reserve(ledger, str(number), 100, now_s=NOW + 60 * number)
    refused = reserve(ledger, "more", 50, now_s=NOW + 541)
    assert isinstance(refused, Refused)
    assert refused.by == "day"


def test_more_than_the_limit_never_fits() -> None:
    refused = reserve(Ledger(), "a", 101)
    assert isinstance(refused, Refused)
    assert refused.is_never


def test_who_takes_less_gets_what_there_is() -> None:
    ledger = Ledger()
    reserve(ledger, "a", 70)
    granted = reserve(ledger, "b", 10, 500)
    assert isinstance(granted, Granted)
    assert granted.amount == 30


def test_a_request_that_needed_more_is_charged_all_of_it() -> None:
    ledger = Ledger()
    reserve(ledger, "a", 80)
    ledger.settle("acme", "a", 130)
    assert used(ledger) == (130, 130, 130)
    assert isinstance(reserve(ledger, "b", 0), Refused)


def test_a_late_settlement_changes_the_windows_of_the_reservation_only() -> None:
    ledger = Ledger()
    reserve(ledger, "a", 80)
    reserve(ledger, "b", 10, now_s=NOW + 60)
    ledger.settle("acme", "a", 20)
    assert used(ledger, NOW + 60) == (10, 30, 30)


def test_a_reservation_that_grows_is_settled_where_it_was_and_made_anew_where_it_is() -> None:
    ledger = Ledger()
    reserve(ledger, "a", 50)
    grown = ledger.grow(NOW + 60, "acme", TERMS, "a", 40, 1, 50)
    assert isinstance(grown, Granted)
    assert used(ledger, NOW + 60) == (50, 90, 90)
    ledger.settle("acme", "a", 10)
    assert used(ledger, NOW + 60) == (10, 50, 50)


def test_a_reservation_that_cannot_grow_holds_what_was_spent_and_stays_a_running_request() -> None:
    ledger = Ledger()
    reserve(ledger, "a", 100)
    assert isinstance(ledger.grow(NOW, "acme", TERMS, "a", 100, 1, 50), Refused)
    assert (used(ledger)[0], ledger.running("acme")) == (100, 1)
    ledger.settle("acme", "a", 3)
    assert (used(ledger)[0], ledger.running("acme")) == (103, 0)


def test_as_many_requests_at_a_time_as_allowed() -> None:
    ledger = Ledger()
    outcomes = [reserve(ledger, str(number), 1, concurrency=3) for number in range(5)]
    assert [isinstance(outcome, Granted) for outcome in outcomes] == [True, True, True, False, False]
    assert isinstance(outcomes[-1], Refused)
    assert (outcomes[-1].by, outcomes[-1].is_brief) == ("concurrency", True)
    ledger.settle("acme", "0", 1)
    assert isinstance(reserve(ledger, "more", 1, concurrency=3), Granted)


@pytest.mark.parametrize(("least", "running", "exceeded"), [(10, 9, None), (150, 9, "minute"), (10, 1, "concurrency")])
def test_in_shadow_all_is_granted_and_counted_and_told(least: int, running: int, exceeded: str | None) -> None:
    ledger = Ledger()
    reserve(ledger, "a", 10, is_enforced=False)
    granted = reserve(ledger, "b", least, is_enforced=False, concurrency=running)
    assert isinstance(granted, Granted)
    assert (granted.amount, granted.exceeded) == (least, exceeded)
    assert used(ledger)[0] == 10 + least


def test_tenants_do_not_see_each_other() -> None:
    ledger = Ledger()
    ledger.reserve(NOW, "acme", TERMS, "a", 100, 100)
    assert isinstance(ledger.reserve(NOW, "other", TERMS, "a", 100, 100), Granted)


def test_a_clock_that_steps_back_gives_nothing_back() -> None:
    ledger = Ledger()
    reserve(ledger, "a", 100, now_s=NOW)
    assert isinstance(reserve(ledger, "b", 1, now_s=NOW - 120), Refused)


def test_a_clock_that_was_far_ahead_for_a_moment_does_not_stop_windows_from_ending() -> None:
    ledger = Ledger()
    reserve(ledger, "a", 100, now_s=NOW + 70 * 366 * 86_400)
    assert used(ledger) == (0, 0, 0)
    assert isinstance(reserve(ledger, "b", 100), Granted)
    ledger.settle("acme", "a", 100)
    assert used(ledger) == (100, 100, 100)


def test_what_was_used_before_is_counted_if_its_window_is_not_over() -> None:
    ledger = Ledger()
    minute, day, month = find_starts(NOW)
    ledger.load("acme", {"minute": minute - 60, "day": day, "month": month}, {"minute": 90, "day": 950, "month": 960})
    assert used(ledger) == (0, 950, 960)
    refused = reserve(ledger, "a", 60)
    assert isinstance(refused, Refused)
    assert refused.by == "day"


def test_a_running_request_counts_as_far_as_it_has_reported() -> None:
    ledger = Ledger()
    reserve(ledger, "a", 50)
    reserve(ledger, "b", 50)
    ledger.settle("acme", "b", 7)
    ledger.report("acme", "a", 20)
    assert [use.used for use in ledger.read_spent("acme")] == [27, 27, 27]


def test_tenants_of_whom_nothing_counts_any_more_are_forgotten() -> None:
    ledger = Ledger()
    reserve(ledger, "a", 50)
    over_s = find_end("month", find_starts(NOW)[2]) + 1
    ledger.prune(over_s)
    assert list(ledger.tenants()) == ["acme"]
    ledger.settle("acme", "a", 50)
    ledger.prune(over_s)
    assert not list(ledger.tenants())


@given(st.lists(st.tuples(AMOUNTS, AMOUNTS), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_the_order_in_which_requests_end_changes_nothing(requests: list[tuple[int, int]], random: Any) -> None:
    forward, shuffled = Ledger(), Ledger()
    order = list(range(len(requests)))
    random.shuffle(order)
    for ledger, ending in ((forward, range(len(requests))), (shuffled, order)):
        for number, (amount, _) in enumerate(requests):
            reserve(ledger, str(number), amount)
        for number in ending:
            ledger.settle("acme", str(number), min(requests[number]))
    assert forward.read(NOW) == shuffled.read(NOW)


class Requests(RuleBasedStateMachine):
    """Any sequence of requests of one tenant that use no more than they reserved."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.now_s = NOW
        self.numbers = itertools.count()
        self.open: dict[str, int] = {}
        self.spent: list[tuple[float, int]] = []
        """When it was reserved, and what was used of it."""
        self.born: dict[str, float] = {}

    @rule(least=AMOUNTS, more=AMOUNTS)
    def reserve(self, least: int, more: int) -> None:
        number = str(next(self.numbers))
        outcome = self.ledger.reserve(self.now_s, "acme", TERMS, number, least, least + more)
        if isinstance(outcome, Granted):
            assert least <= outcome.amount <= least + more
            self.open[number], self.born[number] = outcome.amount, self.now_s

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.open)))
        part = data.draw(st.integers(0, self.open.pop(number)))
        self.spent.append((self.born[number], part))
        self.ledger.settle("acme", number, part)
        self.ledger.settle("acme", number, 10_000)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), most=AMOUNTS)
    def grow(self, data: st.DataObject, most: int) -> None:
        number = data.draw(st.sampled_from(sorted(self.open)))
        part = data.draw(st.integers(0, self.open[number]))
        self.spent.append((self.born[number], part))
        outcome = self.ledger.grow(self.now_s, "acme", TERMS, number, part, 1, 1 + most)
        self.open[number] = outcome.amount if isinstance(outcome, Granted) else 0
        self.born[number] = self.now_s

    @rule(seconds=st.sampled_from([1, 30, 61, 7200, 86_400]))
    def wait(self, seconds: int) -> None:
        self.now_s += seconds

    @invariant()
    def never_beyond_a_limit(self) -> None:
        for use, limit in zip(self.ledger.read(self.now_s).get("acme", ()), TERMS.limits, strict=False):
            assert limit is not None
            assert 0 <= use.held <= use.used <= limit

    @invariant()
    def exact(self) -> None:
        starts = find_starts(self.now_s)
        for index, use in enumerate(self.ledger.read(self.now_s).get("acme", ())):
            settled = sum(part for born, part in self.spent if find_starts(born)[index] == starts[index])
            held = sum(amount for n, amount in self.open.items() if find_starts(self.born[n])[index] == starts[index])
            assert (use.used, use.held) == (settled + held, held)


TestRequests = Requests.TestCase
TestRequests.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
