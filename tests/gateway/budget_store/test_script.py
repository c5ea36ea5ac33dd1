"""The script of the shared store does what the ledger does, step for step."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from llmos_gateway.budget_store.steps import (
    SCRIPT,
    Step,
    build_charge,
    build_report,
    build_settle,
    build_take,
    read_outcome,
    read_uses,
)
from llmos_gateway.limits import Granted, Ledger, Refused, Terms, find_starts
from tests.gateway.redis_server import Server

NOW = 1_790_000_000.0
TERMS = Terms(minute=100, day=300, month=400, concurrency=4)
OPEN_ENDED = Terms(day=300)
SHADOW = Terms(minute=50, concurrency=2, is_enforced=False)
AMOUNTS = st.integers(0, 60)
NAMES = st.sampled_from([f"r{number}" for number in range(6)])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("reserve"), NAMES, AMOUNTS, AMOUNTS),
        st.tuples(st.just("grow"), NAMES, AMOUNTS, AMOUNTS),
        st.tuples(st.just("settle"), NAMES, AMOUNTS, AMOUNTS),
        st.tuples(st.just("wait"), NAMES, AMOUNTS, st.sampled_from([1, 45, 3600, 86_400, 20 * 86_400])),
    ),
    max_size=30,
)


class Script:
    """The script on a real server, with a clock of the test."""

    def __init__(self, server: Server, lease_s: float = 10**8) -> None:
        self._redis = Redis(port=server.port)
        self._script = self._redis.register_script(SCRIPT)
        self._lease_s = lease_s

    def __call__(self, step: Step, now_s: float = NOW) -> Sequence[Any]:
        head = [step.name, str(int(now_s * 1000)), str(int(self._lease_s * 1000))]
        answer: Sequence[Any] = self._script(keys=step.build_keys(), args=[*head, *step.arguments])
        return answer

    def close(self) -> None:
        self._redis.close()


class Both:
    """A ledger and the script. The script takes totals of the whole request, the ledger what came since it grew."""

    def __init__(self, script: Script, terms: Terms, tenant: str) -> None:
        self.script, self.terms, self.tenant = script, terms, tenant
        self.ledger = Ledger()
        self.now_s = NOW
        self.before: dict[str, int] = {}

    def take(self, name: str, number: str, least: int, more: int) -> None:
        is_new = name == "reserve"
        if is_new == (number in self.before):
            return
        spent = 0 if is_new else least
        total = self.before.get(number, 0) + spent
        step = build_take(name, self.tenant, self.terms, number, least=least, most=least + more, spent=total)
        outcome = read_outcome(self.script(step, self.now_s), self.terms, least)
        where = self.now_s, self.tenant, self.terms, number
        if is_new:
            wanted = self.ledger.reserve(*where, least, least + more)
        else:
            wanted = self.ledger.grow(*where, spent, least, least + more)
        assert outcome == wanted
        if not is_new or isinstance(outcome, Granted):
            self.before[number] = total

    def settle(self, number: str, used: int) -> None:
        total = self.before.pop(number, 0) + used
        uses = read_uses(self.script(build_settle(self.tenant, number, total), self.now_s))
        self.ledger.settle(self.tenant, number, used)
        assert uses == self.ledger.read(self.now_s).get(self.tenant, uses)


_tenants = (f"tenant{number}" for number in itertools.count())


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, terms=st.sampled_from([TERMS, OPEN_ENDED, SHADOW]))
def test_the_script_and_the_ledger_agree_on_every_step(
    server: Server, steps: list[tuple[str, str, int, int]], terms: Terms
) -> None:
    script = Script(server)
    both = Both(script, terms, next(_tenants))
    for name, number, amount, more in steps:
        if name == "wait":
            both.now_s += more
        elif name == "settle":
            both.settle(number, amount)
        else:
            both.take(name, number, amount, more)
    script.close()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(now_s=st.integers(86_400, 7_000_000_000))
def test_the_script_knows_the_calendar(server: Server, now_s: int) -> None:
    script = Script(server)
    uses = read_uses(script(build_settle(next(_tenants), "none", 0), float(now_s)))
    assert tuple(use.start_s for use in uses) == find_starts(now_s)
    script.close()


def take(script: Script, number: str, amount: int, now_s: float = NOW) -> Granted | Refused:
    step = build_take("reserve", "acme", TERMS, number, least=amount, most=amount, spent=0)
    return read_outcome(script(step, now_s), TERMS, amount)


def test_a_clock_that_was_far_ahead_for_a_moment_does_not_stop_windows_from_ending(server: Server) -> None:
    script = Script(server)
    take(script, "ahead", 60, NOW + 70 * 366 * 86_400)
    assert read(script) == (0, 0)
    take(script, "now", 60)
    script(build_settle("acme", "ahead", 60), NOW)
    assert read(script) == (60, 60)
    script.close()


def read(script: Script, now_s: float = NOW) -> tuple[int, int]:
    use = read_uses(script(build_settle("acme", "none", 0), now_s))[2]
    return use.used, use.held


def test_a_request_whose_gateway_is_silent_is_settled_by_what_it_told_last(server: Server) -> None:
    script = Script(server, lease_s=20)
    take(script, "silent", 50)
    take(script, "alive", 30)
    script(build_report("acme", [("silent", 10), ("alive", 5)]), NOW + 5)
    script(build_report("acme", [("alive", 7)]), NOW + 15)
    assert read(script, NOW + 24) == (80, 80)
    assert read(script, NOW + 26) == (40, 30)
    script.close()


def test_a_settlement_that_comes_after_the_lease_counts_once(server: Server) -> None:
    script = Script(server, lease_s=20)
    take(script, "cut off", 50)
    assert read(script, NOW + 21) == (0, 0)
    for _ in range(2):
        script(build_settle("acme", "cut off", 45), NOW + 60)
        assert read(script, NOW + 60) == (45, 0)
    script.close()


def test_a_request_that_grows_after_its_lease_is_open_again(server: Server) -> None:
    script = Script(server, lease_s=20)
    take(script, "back", 50)
    script(build_report("acme", [("back", 20)]), NOW + 1)
    assert read(script, NOW + 30) == (20, 0)
    step = build_take("grow", "acme", TERMS, "back", least=1, most=30, spent=50)
    assert isinstance(read_outcome(script(step, NOW + 60), TERMS, 1), Granted)
    assert read(script, NOW + 60) == (80, 30)
    script(build_settle("acme", "back", 55), NOW + 60)
    assert read(script, NOW + 60) == (55, 0)
    script.close()


def test_a_step_whose_answer_was_lost_changes_nothing_when_it_is_settled(server: Server) -> None:
    script = Script(server)
    take(script, "r", 50)
    step = build_take("grow", "acme", TERMS, "r", least=1, most=40, spent=45)
    script(step)
    # The gateway does not know that it grew, and settles what it has used in all.
    script(build_settle("acme", "r", 48))
    assert read(script) == (48, 0)
    script.close()


def test_what_was_used_while_the_store_was_away_is_charged_once(server: Server) -> None:
    script = Script(server)
    charge = build_charge("acme", "c1", find_starts(NOW), 33)
    for _ in range(2):
        script(charge)
    assert read(script) == (33, 0)
    script.close()


def test_what_is_over_is_forgotten(server: Server) -> None:
    script = Script(server, lease_s=20)
    for number in range(5):
        take(script, str(number), 1)
    script(build_charge("acme", "c1", find_starts(NOW), 33))
    read(script, NOW + 30)
    read(script, NOW + 2 * 86_400)
    with Redis(port=server.port) as client:
        kept = {key.rpartition(b":")[2]: client.ttl(key) for key in client.keys("llmos:budget:{acme}:*")}
    assert set(kept) == {b"counters"}
    assert 0 < int(kept[b"counters"]) <= 35 * 86_400
    script.close()
