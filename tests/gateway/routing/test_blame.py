"""Errors that engines answer with: whose fault they are, and what becomes of the replicas that answered."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from llmos_gateway.routing import PromptBlocks, Router, hash_blocks
from llmos_gateway.routing.blame import ERRORS_TO_BLAME, MOST_CALLERS, MOST_REQUESTS, RECENT_ANSWERS, SERVED_WITHIN_S
from llmos_gateway.routing.circuits import FIRST_PAUSE_S, LONGEST_PAUSE_S, MOST_EJECTED_SHARE

NEVER = hash_blocks("the prompt that no engine survives", b"tenant")
_numbers = itertools.count()


def build_prompt() -> PromptBlocks:
    """Return a prompt that nobody has sent before."""
    return hash_blocks(f"prompt {next(_numbers)}", b"tenant")


@dataclass(frozen=True)
class Endpoint:
    address: str


@dataclass
class Pool:
    """Replicas that answer, or err, as a test says; requests go to them in turn."""

    size: int
    broken: set[str] = field(default_factory=set)
    now_s: float = 0.0
    router: Router = field(default_factory=Router)

    def __post_init__(self) -> None:
        self.endpoints = [Endpoint(f"10.0.0.{number}:8000") for number in range(self.size)]

    def ask(self, caller: str, prompt: PromptBlocks | None = None, *, is_bad: bool = False) -> str:
        """Send a request, bad ones in vain; return the address that it went to."""
        prompt = prompt or build_prompt()
        decision = self.router.choose(
            policy="round-robin",
            endpoints=self.endpoints,
            load=lambda _: 0,
            prompt=prompt,
            now_s=self.now_s,
        )
        assert decision is not None
        address = decision.endpoint.address
        self.router.committed(decision, prompt)
        self.router.finished(decision)
        note = self.router.erred if is_bad or address in self.broken else self.router.succeeded
        note(address, caller, prompt, self.now_s)
        return address

    def find_asked(self, caller: str = "observer") -> set[str]:
        """Return which replicas get good requests now."""
        return {self.ask(caller) for _ in range(2 * self.size)}

    @property
    def addresses(self) -> set[str]:
        return {endpoint.address for endpoint in self.endpoints}


@given(size=st.integers(1, 6), gaps_s=st.lists(st.floats(0, 5), min_size=1, max_size=40))
def test_one_bad_request_sent_again_and_again_takes_no_replica_away(size: int, gaps_s: list[float]) -> None:
    pool = Pool(size)
    for gap_s in gaps_s:
        pool.now_s += gap_s
        pool.ask("bad", NEVER, is_bad=True)
    assert pool.find_asked() == pool.addresses


@given(size=st.integers(1, 6), steps=st.lists(st.tuples(st.booleans(), st.floats(0, 1)), max_size=80))
def test_a_caller_of_bad_requests_takes_no_replica_from_those_whom_it_serves(
    size: int, steps: list[tuple[bool, float]]
) -> None:
    pool = Pool(size)
    pool.find_asked("good")
    served_s = 0.0
    for is_bad, gap_s in steps:
        pool.now_s += gap_s
        if pool.now_s - served_s > SERVED_WITHIN_S / 2 or not is_bad:
            assert pool.find_asked("good") == pool.addresses
            served_s = pool.now_s
        pool.ask("bad", is_bad=True)
    assert pool.find_asked("good") == pool.addresses


@given(
    size=st.integers(1, 7),
    steps=st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.floats(0, 2)), max_size=120),
)
def test_whatever_is_answered_at_least_half_of_the_replicas_go_on(
    size: int, steps: list[tuple[str, bool, float]]
) -> None:
    pool = Pool(size)
    for caller, is_bad, gap_s in steps:
        pool.now_s += gap_s
        pool.ask(caller, is_bad=is_bad)
        closed = [address for address in pool.addresses if pool.router.is_healthy(address)]
        assert len(closed) >= (1 - MOST_EJECTED_SHARE) * size


@given(size=st.integers(2, 6), before=st.integers(0, 60), callers=st.lists(st.sampled_from("abc"), min_size=200))
def test_a_replica_that_fails_everything_is_left_alone_after_few_requests(
    size: int, before: int, callers: list[str]
) -> None:
    pool, gap_s = Pool(size), 0.5
    broken = pool.endpoints[0].address
    asked: list[str] = []
    for number, caller in enumerate(callers):
        if number == before:
            pool.broken.add(broken)
            asked.clear()
        pool.now_s += gap_s
        asked.append(pool.ask(caller))
        if not pool.router.is_healthy(broken):
            break
    # If it is always the same caller's turn there, until those whom it served before are forgotten.
    most = max(RECENT_ANSWERS, SERVED_WITHIN_S / gap_s / size + 1)
    assert ERRORS_TO_BLAME <= asked.count(broken) <= most


def test_a_broken_replica_is_found_by_one_request_that_succeeds_elsewhere() -> None:
    pool = Pool(2)
    pool.broken.add(pool.endpoints[0].address)
    same = build_prompt()
    asked = [pool.ask("one", same) for _ in range(20)]
    assert asked.count(pool.endpoints[0].address) == ERRORS_TO_BLAME


def test_a_replica_whose_errors_follow_the_request_to_another_one_is_pardoned() -> None:
    pool = Pool(2)
    first, second = (endpoint.address for endpoint in pool.endpoints)
    prompts = [build_prompt() for _ in range(RECENT_ANSWERS)]
    pool.ask("good")
    for prompt in prompts:
        pool.router.erred(first, "bad", prompt, SERVED_WITHIN_S + 1)
    assert not pool.router.is_healthy(first)
    for prompt in prompts:
        pool.router.erred(second, "bad", prompt, SERVED_WITHIN_S + 1)
    assert pool.find_asked() == {first, second}


def test_a_replica_that_recovers_is_found_by_a_probe_and_begins_anew() -> None:
    pool = Pool(3)
    broken = pool.endpoints[1].address
    pool.broken.add(broken)
    for _ in range(10):
        pool.ask("a")
        pool.ask("b")
    assert broken not in pool.find_asked()
    pool.now_s += FIRST_PAUSE_S
    assert [pool.ask("a") for _ in range(6)].count(broken) == 1, "a probe"
    assert broken not in pool.find_asked(), "and the pause is longer now"
    pool.broken.clear()
    pool.now_s += LONGEST_PAUSE_S
    assert broken in pool.find_asked()
    assert pool.find_asked() == pool.addresses
    pool.router.erred(broken, "a", build_prompt(), pool.now_s)
    assert pool.router.is_healthy(broken)


def test_a_probe_by_a_request_that_fails_everywhere_says_nothing() -> None:
    pool = Pool(2)
    broken = pool.endpoints[0].address
    pool.broken.add(broken)
    for _ in range(10):
        pool.ask("a")
        pool.ask("b")
    pool.broken.clear()
    pool.router.erred(pool.endpoints[1].address, "bad", NEVER, pool.now_s)
    pool.now_s += FIRST_PAUSE_S
    pool.router.erred(broken, "bad", NEVER, pool.now_s)
    assert pool.find_asked() == pool.addresses


def test_a_first_token_is_a_sign_that_others_are_served() -> None:
    pool = Pool(2)
    streaming = pool.endpoints[0].address
    pool.router.served(streaming, "good", 0.0)
    for _ in range(2 * RECENT_ANSWERS):
        pool.router.erred(streaming, "bad", build_prompt(), SERVED_WITHIN_S / 2)
    assert pool.router.is_healthy(streaming)


def test_what_is_remembered_is_bounded() -> None:
    pool = Pool(2)
    for number in range(2 * MOST_REQUESTS):
        pool.ask(f"caller {number}", is_bad=number % 2 == 0)
        pool.now_s += 0.01
    blame = pool.router._blame
    assert len(blame._suspects) <= MOST_REQUESTS
    records = blame._records.values()
    assert all(len(record.served) <= MOST_CALLERS for record in records)
