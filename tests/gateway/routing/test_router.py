"""What the router chooses, as a gateway sees it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos_gateway.routing import Decision, IndexLimits, PromptBlocks, Router, Routers, hash_blocks
from llmos_gateway.routing.circuits import FAILURES_TO_OPEN, FIRST_PAUSE_S, LONGEST_PAUSE_S
from llmos_gateway.routing.home import find_home
from llmos_gateway.routing.policies import POLICIES

SHORT = hash_blocks("Hello", b"t")
every_policy = pytest.mark.parametrize("policy", sorted(POLICIES))


@dataclass(frozen=True)
class Endpoint:
    address: str


def build_endpoints(count: int) -> list[Endpoint]:
    return [Endpoint(f"10.0.0.{number}:8000") for number in range(count)]


def choose(
    router: Router,
    endpoints: Sequence[Endpoint],
    prompt: PromptBlocks = SHORT,
    *,
    policy: str = "auto",
    loads: Mapping[str, int] | None = None,
    now_s: float = 0.0,
    exclude: Sequence[str] = (),
    gateways: int = 1,
    is_told: bool = False,
) -> Decision[Endpoint] | None:
    return router.choose(
        policy=policy,
        endpoints=endpoints,
        load=lambda address: (loads or {}).get(address, 0),
        prompt=prompt,
        now_s=now_s,
        exclude=exclude,
        gateways=gateways,
        is_told=is_told,
    )


def send(router: Router, endpoints: Sequence[Endpoint], prompt: PromptBlocks, **options: object) -> Decision[Endpoint]:
    decision = choose(router, endpoints, prompt, **options)  # type: ignore[arg-type]  # passed on as they are
    assert decision is not None
    router.committed(decision, prompt)
    return decision


def build_prompt(number: int, blocks: int = 20) -> PromptBlocks:
    return PromptBlocks(tuple(number * 1000 + block for block in range(blocks)), 128 * blocks, 128, number)


@dataclass
class Fleet:
    """A router and what is in flight, driven at random."""

    router: Router
    endpoints: list[Endpoint]
    loads: Counter[str]

    def send(self, prompt: PromptBlocks, policy: str) -> Decision[Endpoint]:
        decision = send(self.router, self.endpoints, prompt, policy=policy, loads=self.loads)
        self.loads[decision.endpoint.address] += 1
        return decision


def build_fleet(replicas: int) -> Fleet:
    return Fleet(Router(), build_endpoints(replicas), Counter())


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(sorted(POLICIES)),
            st.sets(st.integers(0, 4)),
            st.sets(st.integers(0, 4)),
            st.integers(0, 9),
            st.sampled_from(["succeeded", "failed", "erred", "left"]),
            st.floats(0, 2),
        ),
        max_size=40,
    )
)
def test_what_is_not_ready_or_excluded_gets_nothing_and_anything_else_that_is_left_does(
    steps: list[tuple[str, set[int], set[int], int, str, float]],
) -> None:
    router, everyone, now_s = Router(), build_endpoints(5), 0.0
    for policy, ready, excluded, prompt_number, outcome, after_s in steps:
        now_s += after_s
        endpoints = [endpoint for place, endpoint in enumerate(everyone) if place in ready]
        exclude = [everyone[place].address for place in excluded]
        prompt = build_prompt(prompt_number)
        decision = choose(router, endpoints, prompt, policy=policy, now_s=now_s, exclude=exclude)
        if not ready - excluded:
            assert decision is None
            continue
        assert decision is not None
        assert decision.endpoint in endpoints
        assert decision.endpoint.address not in exclude
        router.committed(decision, prompt)
        if outcome == "succeeded":
            router.succeeded(decision.endpoint.address, "caller", prompt, now_s)
        elif outcome == "failed":
            router.failed(decision.endpoint.address, now_s)
        elif outcome == "erred":
            router.erred(decision.endpoint.address, "caller", prompt, now_s)
        router.finished(decision)


@every_policy
def test_equal_replicas_take_turns(policy: str) -> None:
    router, endpoints = Router(), build_endpoints(4)
    chosen = [choose(router, endpoints, policy=policy) for _ in range(12)]
    assert [decision.endpoint for decision in chosen if decision] == endpoints * 3


@every_policy
def test_equal_histories_end_in_equal_choices(policy: str) -> None:
    def run() -> list[str]:
        fleet, rng = build_fleet(6), random.Random(7)  # noqa: S311  # reproducible draws
        return [fleet.send(build_prompt(rng.randrange(20)), policy).endpoint.address for _ in range(100)]

    assert run() == run()


@pytest.mark.parametrize("policy", ["auto", "least-load", "prefix"])
def test_a_new_prompt_goes_where_the_fewest_requests_are(policy: str) -> None:
    router, endpoints = Router(), build_endpoints(4)
    loads = {endpoint.address: 5 for endpoint in endpoints} | {endpoints[2].address: 1}
    decision = choose(router, endpoints, build_prompt(1), policy=policy, loads=loads)
    assert decision is not None
    assert decision.endpoint == endpoints[2]


@pytest.mark.parametrize("policy", ["auto", "prefix"])
def test_a_conversation_comes_back_to_the_replica_that_has_it(policy: str) -> None:
    router, endpoints = Router(), build_endpoints(8)
    text = "Tell me about replicas. " * 200
    first = send(router, endpoints, hash_blocks(text, b"t"), policy=policy)
    for number in range(5):
        send(router, endpoints, build_prompt(number), policy=policy)
    again = choose(router, endpoints, hash_blocks(text + "And more? " * 50, b"t"), policy=policy)
    assert again is not None
    assert again.endpoint == first.endpoint
    assert again.cached_tokens > 1000
    assert again.new_tokens < 200


@pytest.mark.parametrize("policy", ["auto", "prefix"])
def test_an_equal_prompt_of_another_tenant_is_not_drawn_to_the_same_replica(policy: str) -> None:
    router, endpoints = Router(), build_endpoints(4)
    text = "Shared words. " * 500
    first = send(router, endpoints, hash_blocks(text, b"tenant-a"), policy=policy)
    other = choose(router, endpoints, hash_blocks(text, b"tenant-b"), policy=policy)
    assert other is not None
    assert other.cached_tokens == 0
    assert other.endpoint != first.endpoint


def test_of_equally_loaded_replicas_a_new_prompt_takes_the_one_with_the_shorter_queue() -> None:
    router, endpoints = Router(), build_endpoints(2)
    long, short = send(router, endpoints, build_prompt(1, 1000)), send(router, endpoints, build_prompt(2, 10))
    assert long.endpoint != short.endpoint
    loads = {endpoint.address: 1 for endpoint in endpoints}
    third = choose(router, endpoints, build_prompt(3), loads=loads)
    assert third is not None
    assert third.endpoint == short.endpoint


@pytest.mark.parametrize("end", ["first_token", "finished"])
def test_a_prompt_leaves_the_queue_with_its_first_token_or_its_end(end: str) -> None:
    router, endpoints = Router(), build_endpoints(2)
    long = send(router, endpoints, build_prompt(1, 1000))
    send(router, endpoints, build_prompt(2, 10))
    getattr(router, end)(long)
    router.finished(long)
    third = choose(router, endpoints, build_prompt(3), loads={endpoint.address: 1 for endpoint in endpoints})
    assert third is not None
    assert third.endpoint == long.endpoint


@pytest.mark.parametrize("policy", ["auto", "prefix"])
@given(documents=st.integers(2, 30), seed=st.integers(0, 1000))
def test_no_replica_gets_more_than_its_share_for_its_caches_sake(policy: str, documents: int, seed: int) -> None:
    fleet, rng = build_fleet(8), random.Random(seed)  # noqa: S311  # reproducible draws
    running: list[Decision[Endpoint]] = []
    for _ in range(400):
        mean = (len(running) + 1) / 8
        decision = fleet.send(build_prompt(rng.randrange(documents)), policy)
        assert fleet.loads[decision.endpoint.address] <= max(1.25 * mean, mean + 2.5 * mean**0.5) + 1
        running.append(decision)
        if len(running) > 64:
            done = running.pop(rng.randrange(len(running)))
            fleet.router.finished(done)
            fleet.loads[done.endpoint.address] -= 1


def test_a_prefix_that_everyone_asks_for_spreads_over_the_replicas() -> None:
    fleet = build_fleet(8)
    for _ in range(800):
        fleet.send(build_prompt(1), "auto")
    assert max(fleet.loads.values()) <= 1.25 * 100 + 1
    assert len(fleet.loads) == 8
    assert min(fleet.loads.values()) >= 100 / 3 - 1


def test_a_replica_that_has_just_come_relieves_the_others_though_it_has_nothing_cached() -> None:
    fleet = build_fleet(4)
    for _ in range(400):
        fleet.send(build_prompt(1), "auto")
    fleet.endpoints = build_endpoints(5)
    for _ in range(30):
        fleet.send(build_prompt(1), "auto")
    assert fleet.loads[fleet.endpoints[4].address] >= 25


def test_two_gateways_send_a_conversation_to_one_replica_without_a_word_between_them() -> None:
    endpoints = build_endpoints(8)
    routers = [Router(), Router()]
    for number in range(50):
        prompt = build_prompt(number)
        addresses = {send(router, endpoints, prompt, gateways=2).endpoint.address for router in routers}
        assert len(addresses) == 1
        for router in routers:
            decision = choose(router, endpoints, prompt, gateways=2)
            assert decision is not None
            assert decision.cached_tokens > 0


@given(anchor=st.integers(0, 2**64 - 1), count=st.integers(2, 30), leaving=st.integers(0, 29))
def test_only_conversations_of_a_replica_that_leaves_move_home(anchor: int, count: int, leaving: int) -> None:
    addresses = [endpoint.address for endpoint in build_endpoints(count)]
    home = addresses[find_home(anchor, addresses)]
    left = [address for place, address in enumerate(addresses) if place != leaving]
    if home in left:
        assert left[find_home(anchor, left)] == home


def test_homes_are_spread_evenly() -> None:
    rng, addresses = random.Random(0), [endpoint.address for endpoint in build_endpoints(8)]  # noqa: S311  # reproducible draws
    counts = Counter(find_home(rng.getrandbits(64), addresses) for _ in range(8000))
    assert max(counts.values()) < 1150


def break_replica(router: Router, address: str, now_s: float) -> None:
    for _ in range(FAILURES_TO_OPEN):
        router.failed(address, now_s)


@every_policy
def test_a_broken_replica_gets_nothing_then_exactly_one_probe_then_its_share(policy: str) -> None:
    router, endpoints = Router(), build_endpoints(3)
    broken = endpoints[1]
    break_replica(router, broken.address, 0.0)
    loads = {endpoint.address: 9 for endpoint in endpoints} | {broken.address: 0}

    def count(now_s: float) -> int:
        chosen = [choose(router, endpoints, policy=policy, loads=loads, now_s=now_s) for _ in range(9)]
        return sum(decision.endpoint == broken for decision in chosen if decision)

    assert count(FIRST_PAUSE_S / 2) == 0
    assert count(FIRST_PAUSE_S) == 1
    router.succeeded(broken.address, "caller", SHORT, FIRST_PAUSE_S)
    assert count(FIRST_PAUSE_S) >= 3


def test_a_probe_whose_request_was_cancelled_is_followed_by_another() -> None:
    router, endpoints = Router(), build_endpoints(2)
    break_replica(router, endpoints[0].address, 0.0)
    loads = {endpoints[1].address: 9}
    for _ in range(3):
        probe = choose(router, endpoints, loads=loads, now_s=FIRST_PAUSE_S)
        assert probe is not None
        assert probe.is_probe
        router.finished(probe)


def test_when_all_circuits_are_open_the_request_goes_where_the_pause_ends_first_and_says_so() -> None:
    router, endpoints = Router(), build_endpoints(3)
    for endpoint, now_s in zip(endpoints, (0.3, 0.1, 0.2), strict=True):
        break_replica(router, endpoint.address, now_s)
    decision = choose(router, endpoints, now_s=0.5)
    assert decision is not None
    assert decision.endpoint == endpoints[1]
    assert "all circuits are open" in decision.why
    second = choose(router, endpoints, now_s=0.5, exclude=[endpoints[1].address])
    assert second is not None
    assert second.endpoint == endpoints[2]


def test_a_replica_that_broke_is_taken_to_have_lost_its_cache() -> None:
    router, endpoints = Router(), build_endpoints(2)
    first = send(router, endpoints, build_prompt(1))
    break_replica(router, first.endpoint.address, 0.0)
    router.succeeded(first.endpoint.address, "caller", SHORT, 0.0)
    decision = choose(router, endpoints, build_prompt(1), now_s=LONGEST_PAUSE_S)
    assert decision is not None
    assert decision.cached_tokens == 0


def test_a_replica_that_is_gone_is_forgotten() -> None:
    router, endpoints = Router(), build_endpoints(2)
    send(router, endpoints, build_prompt(1))
    send(router, endpoints, build_prompt(2))
    router.retain([endpoints[1].address])
    assert router.sweep(1000) == 20
    router.retain([])
    assert router.sweep(1000) == 20


@given(st.lists(st.integers(0, 50), max_size=80))
def test_finished_requests_leave_nothing_behind_but_the_index(numbers: list[int]) -> None:
    router, endpoints = Router(IndexLimits(blocks_per_replica=100)), build_endpoints(3)
    for number in numbers:
        decision = send(router, endpoints, build_prompt(number))
        router.finished(decision)
        router.finished(decision)
    chosen = [choose(router, endpoints, SHORT) for _ in range(3)]
    assert {decision.endpoint.address for decision in chosen if decision} == {e.address for e in endpoints}


def test_an_unknown_policy_is_auto() -> None:
    endpoints = build_endpoints(2)
    decision = choose(Router(), endpoints, policy="from-a-later-version")
    assert decision is not None


def test_pools_share_one_budget_and_give_room_when_one_comes() -> None:
    routers, endpoints = Routers(IndexLimits(blocks_in_all=1024)), build_endpoints(1)
    send(routers.get("ns/one"), endpoints, build_prompt(1, 1000))
    send(routers.get("ns/two"), endpoints, build_prompt(2, 1000))
    routers.sweep(10_000)
    for pool, number in (("ns/one", 1), ("ns/two", 2)):
        decision = choose(routers.get(pool), endpoints, build_prompt(number, 1000))
        assert decision is not None
        assert decision.cached_tokens == 480 * 128
    routers.retain(["ns/two"])
    decision = choose(routers.get("ns/one"), endpoints, build_prompt(1, 1000))
    assert decision is not None
    assert decision.cached_tokens == 0


def count_cached(router: Router, endpoints: Sequence[Endpoint], prompt: PromptBlocks) -> int:
    decision = choose(router, endpoints, prompt)
    assert decision is not None
    return decision.cached_tokens


def test_a_pool_remembers_twice_what_its_replicas_can_cache_and_more_when_they_can() -> None:
    routers, endpoints = Routers(), build_endpoints(1)
    router = routers.get("ns/pool", 128_000)
    for number in range(6):
        send(router, endpoints, build_prompt(number, 500))
    held = [count_cached(router, endpoints, build_prompt(number, 500)) for number in range(6)]
    assert held == [0, 0, *[500 * 128] * 4]
    routers.refresh("ns/pool", [endpoints[0].address], 384_000)
    send(router, endpoints, build_prompt(6, 500))
    assert count_cached(router, endpoints, build_prompt(2, 500)) == 500 * 128


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["get", "send", "refresh", "leave"]),
            st.sampled_from(["ns/one", "ns/two", "ns/three"]),
            st.integers(0, 20_000),
        ),
        max_size=30,
    )
)
def test_however_pools_come_and_go_none_keeps_more_than_its_share_or_its_caches_hold(
    steps: list[tuple[str, str, int]],
) -> None:
    routers, endpoints = Routers(IndexLimits(blocks_in_all=300)), build_endpoints(1)
    sizes: dict[str, int] = {}
    for step, pool_id, tokens in steps:
        if step == "leave":
            sizes.pop(pool_id, None)
            routers.retain(sizes)
        elif step == "refresh":
            routers.refresh(pool_id, [endpoints[0].address], tokens)
            if pool_id in sizes:
                sizes[pool_id] = tokens
        else:
            router = routers.get(pool_id, tokens)
            sizes.setdefault(pool_id, tokens)
            if step == "send":
                send(router, endpoints, build_prompt(1, 400))
    routers.sweep(10**6)
    for pool_id, tokens in sizes.items():
        held = count_cached(routers.get(pool_id), endpoints, build_prompt(1, 400)) // 128
        assert held <= 300 // len(sizes)
        assert not tokens or held <= max(1, 2 * tokens // 128)
