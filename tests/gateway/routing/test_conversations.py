"""Which replica has which conversation, as gateways tell each other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos_gateway.routing import IndexLimits, Placement, PromptBlocks, Router, Routers
from llmos_gateway.routing.conversations import Conversations
from tests.gateway.routing.test_router import build_endpoints, choose, send


def name(number: int) -> int:
    """Return an anchor whose 48 bits are the number."""
    return number << 16 | 7


def build_prompt(number: int, blocks: int = 20, *, first: int = 0) -> PromptBlocks:
    """Return a turn of a conversation, from a block on that is a turn's own."""
    hashes = tuple(number * 100_000 + first + block for block in range(blocks))
    return PromptBlocks(hashes, 128 * blocks, anchor=name(number))


class Fleet:
    """Gateways before the same replicas."""

    def __init__(self, gateways: int = 2, replicas: int = 8) -> None:
        self.routers = [Router() for _ in range(gateways)]
        self.endpoints = build_endpoints(replicas)
        self.now_s = 0.0

    def send(self, gateway: int, prompt: PromptBlocks, *, is_told: bool = True) -> str:
        self.now_s += 0.1
        options = {"gateways": 2, "is_told": is_told, "now_s": self.now_s}
        return send(self.routers[gateway], self.endpoints, prompt, **options).endpoint.address

    def report(self, since_s: float = 0.0) -> None:
        told = [list(router.tell(since_s)) for router in self.routers]
        for number, router in enumerate(self.routers):
            for other, placements in enumerate(told):
                for placement in placements if other != number else ():
                    router.learn(placement)


def test_a_conversation_follows_its_last_turn_to_whichever_gateway_comes() -> None:
    fleet = Fleet()
    places = {number: fleet.send(0, build_prompt(number)) for number in range(40)}
    fleet.report()
    assert {number: fleet.send(1, build_prompt(number, 25)) for number in places} == places
    assert len(set(places.values())) == 8


def test_the_newest_word_counts_whoever_has_it() -> None:
    fleet = Fleet(gateways=3)
    first, second = fleet.endpoints[3].address, fleet.endpoints[5].address
    fleet.routers[0].learn(Placement(1, first, 1.0))
    fleet.routers[1].learn(Placement(1, second, 2.0))
    fleet.routers[2].learn(Placement(1, second, 2.0))
    fleet.routers[2].learn(Placement(1, first, 1.0))
    assert fleet.send(1, build_prompt(1)) == second
    assert fleet.send(2, build_prompt(1)) == second
    assert fleet.send(0, build_prompt(1)) == first
    fleet.report()
    assert fleet.send(1, build_prompt(1, first=50_000)) == first


def test_where_not_all_gateways_tell_what_nobody_knows_goes_where_all_agree_without_a_word() -> None:
    fleet = Fleet()
    places = [fleet.send(0, build_prompt(number), is_told=False) for number in range(40)]
    assert [fleet.send(1, build_prompt(number), is_told=False) for number in range(40)] == places


def test_what_is_known_counts_more_than_where_all_would_agree() -> None:
    fleet = Fleet()
    home = fleet.send(0, build_prompt(1), is_told=False)
    other = next(endpoint.address for endpoint in fleet.endpoints if endpoint.address != home)
    fleet.routers[1].learn(Placement(1, other, 5.0))
    assert fleet.send(1, build_prompt(1), is_told=False) == other


def test_a_word_about_a_replica_that_is_not_there_says_nothing() -> None:
    fleet = Fleet(replicas=3)
    fleet.routers[0].learn(Placement(1, "10.9.9.9:8000", 5.0))
    assert fleet.send(0, build_prompt(1)) in {endpoint.address for endpoint in fleet.endpoints}


def test_the_last_gateway_follows_what_those_that_are_gone_did_and_its_own_index() -> None:
    router, endpoints = Router(), build_endpoints(8)
    router.learn(Placement(1, endpoints[5].address, 5.0))
    decision = choose(router, endpoints, build_prompt(1))
    assert decision is not None
    assert decision.endpoint == endpoints[5]
    first = send(router, endpoints, build_prompt(2))
    other = choose(router, endpoints, build_prompt(2, first=50), loads={first.endpoint.address: 1})
    assert other is not None
    assert other.endpoint != first.endpoint


def test_a_conversation_does_not_follow_to_a_replica_that_has_more_than_its_share() -> None:
    router, endpoints = Router(), build_endpoints(4)
    router.learn(Placement(1, endpoints[2].address, 5.0))
    loads = {endpoint.address: 10 for endpoint in endpoints} | {endpoints[2].address: 40}
    decision = choose(router, endpoints, build_prompt(1), gateways=2, loads=loads)
    assert decision is not None
    assert decision.endpoint != endpoints[2]


def test_what_a_replica_had_is_forgotten_when_it_breaks_or_goes() -> None:
    conversations = Conversations(10)
    conversations.note(name(1), "a", 1.0)
    conversations.learn(Placement(2, "b", 1.0))
    conversations.learn(Placement(3, "c", 1.0))
    conversations.forget("a")
    conversations.retain(["a", "c"])
    assert [conversations.find(name(number)) for number in (1, 2, 3)] == [None, None, "c"]
    assert list(conversations.tell(0.0)) == []


def test_a_replica_that_broke_is_not_told_of_any_more() -> None:
    fleet = Fleet()
    address = fleet.send(0, build_prompt(1))
    for _ in range(3):
        fleet.routers[0].failed(address, fleet.now_s)
    assert list(fleet.routers[0].tell(0.0)) == []


def test_only_own_words_are_told_those_since_then_and_the_newest_first() -> None:
    conversations = Conversations(10)
    for number in range(4):
        conversations.note(name(number), "a", float(number))
    conversations.learn(Placement(9, "b", 9.0))
    conversations.learn(Placement(3, "b", 9.0))
    conversations.note(name(1), "a", 10.0)
    assert list(conversations.tell(1.5)) == [Placement(1, "a", 10.0), Placement(2, "a", 2.0)]


def test_the_newest_words_of_all_pools_are_told_first() -> None:
    routers, endpoints = Routers(), build_endpoints(1)
    for number in range(6):
        send(routers.get(f"ns/{number % 2}"), endpoints, build_prompt(number), now_s=float(number))
    told = [(pool_id, placement.conversation) for pool_id, placement in routers.tell(1.0)]
    assert told == [(f"ns/{number % 2}", number) for number in (5, 4, 3, 2, 1)]


def test_conversations_take_a_sixteenth_of_the_budget_of_blocks() -> None:
    routers, endpoints = Routers(IndexLimits(blocks_in_all=3200)), build_endpoints(1)
    for number in range(500):
        send(routers.get("ns/one"), endpoints, build_prompt(number), now_s=float(number))
    assert len(list(routers.get("ns/one").tell(0.0))) == 200
    routers.get("ns/two")
    routers.sweep(10_000)
    assert [p.conversation for p in routers.get("ns/one").tell(0.0)] == list(range(499, 399, -1))


@given(
    limit=st.integers(0, 6),
    steps=st.lists(
        st.tuples(
            st.sampled_from(["note", "learn", "forget", "resize"]),
            st.integers(0, 9),
            st.sampled_from(["a", "b", "c"]),
            st.integers(-5, 3),
        ),
        max_size=60,
    ),
)
def test_the_newest_word_is_found_unless_it_was_too_much_and_never_one_of_a_replica_that_is_gone(
    limit: int, steps: list[tuple[str, int, str, int]]
) -> None:
    conversations = Conversations(limit)
    newest: dict[int, tuple[float, str]] = {}
    own: set[int] = set()
    was_full = False
    for now, (step, number, address, offset) in enumerate(steps):
        at_s = float(now)
        if step == "note":
            conversations.note(name(number), address, at_s)
            newest[number] = (at_s, address)
            own.add(number)
        elif step == "learn":
            at_s += min(0, offset) + 0.5
            conversations.learn(Placement(number, address, at_s))
            if number not in newest or newest[number][0] < at_s:
                newest[number] = (at_s, address)
                own.discard(number)
        elif step == "forget":
            conversations.forget(address)
            newest = {key: word for key, word in newest.items() if word[1] != address}
        else:
            conversations.resize(limit := max(0, offset))
            conversations.sweep(100)
        assert len(conversations) <= limit
        known = {number: conversations.find(name(number)) for number in range(10)}
        found = {number: address for number, address in known.items() if address is not None}
        was_full = was_full or len(newest) > limit
        # What was forgotten for want of room may come back by an older word.
        if not was_full:
            assert found == {number: address for number, (_, address) in newest.items()}
        told = list(conversations.tell(float("-inf")))
        assert {placement.conversation for placement in told} <= own
        assert len(found) == len(conversations)


def test_hundreds_of_pools_that_come_at_once_are_given_their_shares_once(monkeypatch: pytest.MonkeyPatch) -> None:
    resized: list[Router] = []
    monkeypatch.setattr(Router, "resize", lambda router, _: resized.append(router))
    routers, pools = Routers(IndexLimits(blocks_in_all=100_000)), [f"team/{number}" for number in range(300)]
    for pool in pools:
        routers.get(pool)
        routers.refresh(pool, ["a"], 50_000)
    resized.clear()
    for _ in range(2):
        routers.sweep(10)
    assert len(resized) == len(pools)
