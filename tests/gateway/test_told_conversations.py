"""Two gateways tell each other which conversations they sent where: over the wire, and as whole processes would."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from pydantic import ValidationError

from llmos.api.load import MAX_AGE_MS, MAX_CONVERSATIONS, GatewayLoad, PoolLoad
from llmos_gateway.catalog import Catalog
from llmos_gateway.load import LoadBook, build_told, read_told
from llmos_gateway.proxy.accounts import Accounts
from llmos_gateway.routing import Placement
from tests.gateway.engines import open_engine
from tests.gateway.stage import POOL, FixedWatch, Stage, open_gateway, wait_until
from tests.gateway.values import endpoint, pool

ENGINE = endpoint().address


def build_load(*placements: Placement, now_s: float = 10.0) -> GatewayLoad:
    told = build_told(((POOL, placement) for placement in placements), now_s)
    pools = {pool_id: PoolLoad.model_construct(conversations=found) for pool_id, found in told.items()}
    load = GatewayLoad(gateway="other", boot="b").model_copy(update={"pools": pools})
    return GatewayLoad.model_validate_json(load.model_dump_json(by_alias=True, exclude_defaults=True))


def test_a_word_keeps_its_age_on_the_wire_whatever_the_clocks_say() -> None:
    load = build_load(Placement(2**48 - 1, ENGINE, 8.5))
    assert list(read_told(load, 100.0)) == [(POOL, Placement(2**48 - 1, ENGINE, 98.5))]


def test_no_more_than_the_newest_that_fit_are_told() -> None:
    load = build_load(*(Placement(number, ENGINE, 0.0) for number in range(MAX_CONVERSATIONS + 5)))
    assert [placement.conversation for _, placement in read_told(load, 0.0)] == list(range(MAX_CONVERSATIONS))


def test_of_more_than_may_be_told_in_many_pools_the_rest_is_not_read() -> None:
    many = PoolLoad(conversations={ENGINE: tuple((number, 0) for number in range(MAX_CONVERSATIONS))})
    load = GatewayLoad(gateway="other", boot="b", pools={f"team/{number}": many for number in range(3)})
    assert len(list(read_told(load, 0.0))) == MAX_CONVERSATIONS


@pytest.mark.parametrize(
    "words",
    [
        [[-1, 0]],
        [[2**48, 0]],
        [[1, -1]],
        [[1, MAX_AGE_MS + 1]],
        [[1, 10**400]],
        [[1]],
        ["ab"],
        {"1": 2},
        [[1, 0]] * (MAX_CONVERSATIONS + 1),
    ],
)
def test_words_that_no_gateway_says_are_refused(words: object) -> None:
    with pytest.raises(ValidationError):
        PoolLoad.model_validate({"conversations": {ENGINE: words}})


def test_a_gateway_takes_words_about_replicas_and_pools_that_there_are_and_no_others() -> None:
    catalog = Catalog()
    catalog.put_pool(pool(POOL))
    catalog.put_endpoints(POOL, (endpoint(),))
    accounts = Accounts(catalog, LoadBook(), extra=lambda _: 0, clock=lambda: 10.0)
    words = build_load(Placement(1, ENGINE, 9.0), Placement(2, "10.9.9.9:8000", 9.0))
    accounts.learn(words, 10.0)
    assert accounts._routers.find(POOL) is None, "nobody has asked for this pool here"
    accounts._routers.get(POOL)
    accounts.learn(words, 10.0)
    accounts.learn(GatewayLoad(gateway="other", boot="b", pools={"team/unknown": PoolLoad()}), 10.0)
    router = accounts._routers.get(POOL)
    assert router._conversations.find(1 << 16) == ENGINE
    assert len(router._conversations) == 1
    assert accounts.tell(60.0) == {}, "what others told is not told again"


def test_of_more_words_than_are_remembered_the_newest_stay() -> None:
    catalog = Catalog()
    catalog.put_pool(pool(POOL))
    catalog.put_endpoints(POOL, (endpoint(),))
    accounts = Accounts(catalog, LoadBook(), extra=lambda _: 0, clock=lambda: 1000.0)
    conversations = accounts._routers.get(POOL)._conversations
    conversations.resize(100)
    accounts.learn(
        build_load(*(Placement(number, ENGINE, 1000.0 - number) for number in range(1000)), now_s=1000.0), 1000.0
    )
    assert [number for number in range(1000) if conversations.find(number << 16)] == list(range(100))


class PeerWatch(FixedWatch):
    """A watch whose gateway has other gateways."""

    def __init__(self) -> None:
        self.others: list[str] = []

    def peers(self) -> list[str]:
        return self.others


@asynccontextmanager
async def open_two(*addresses: str) -> AsyncIterator[tuple[Stage, Stage]]:
    """Run two gateways that know each other."""
    async with AsyncExitStack() as stack:
        watches = [PeerWatch(), PeerWatch()]
        stages = [
            await stack.enter_async_context(open_gateway(*addresses, watch=watch, name=f"gateway-{number}"))
            for number, watch in enumerate(watches)
        ]
        for watch, other in zip(watches, reversed(stages), strict=True):
            watch.others.append(other.admin_url.removeprefix("http://"))
        yield stages[0], stages[1]


def build_chat(number: int, turns: int = 1) -> dict[str, object]:
    messages = [{"role": "user", "content": f"Conversation {number}. " * 100}]
    for turn in range(1, turns):
        messages.append({"role": "assistant", "content": f"Answer {turn}. " * 50})
        messages.append({"role": "user", "content": f"And {turn}? " * 50})
    return {"model": "chat", "messages": messages, "max_tokens": 1}


async def test_a_turn_follows_the_one_before_it_through_another_gateway() -> None:
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(open_engine()) for _ in range(4)]
        first, second = await stack.enter_async_context(open_two(*(engine.address for engine in engines)))
        first.put_endpoints(engines[0].address)
        numbers = itertools.count()

        async def send(stage: Stage, number: int, turns: int) -> int:
            before = [len(engine.bodies) for engine in engines]
            async with stage.post(build_chat(number, turns)) as response:
                assert response.status == 200
                await response.read()
            return next(place for place, engine in enumerate(engines) if len(engine.bodies) > before[place])

        async def do_all_follow() -> bool:
            some = list(itertools.islice(numbers, 6))
            assert {await send(first, number, 1) for number in some} == {0}
            # A report is up to a second old; and nobody asks for one before there was traffic.
            await asyncio.sleep(1.5)
            return {await send(second, number, 2) for number in some} == {0}

        await wait_until(do_all_follow)
        async with first.client.get(f"{first.admin_url}/load?conversations_s=60") as response:
            text = await response.text()
        load = GatewayLoad.model_validate_json(text)
        assert load.tells_conversations
        assert load.pools[POOL].conversations.keys() == {engines[0].address}
        assert "Conversation 0" not in text
        assert "conversations" not in (await first.read_load()), "only a gateway that asks is told"
