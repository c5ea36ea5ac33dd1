"""Reports: what runs on a replica beyond our own requests, as others tell it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from llmos.api.load import EngineLoad, GatewayLoad, PoolLoad
from llmos_gateway.catalog import Catalog
from llmos_gateway.load import LoadBook, Reports
from llmos_gateway.load.reports import MAX_BYTES, MAX_TARGETS, STALE_S, HttpFetch, ReportError
from tests.gateway.values import endpoint, pool

POOL, ENGINE, CONTROL = "team/chat", endpoint().address, f"http://{endpoint().control}/load"
PEER = "http://peer:8081/load"


class World:
    """A pool with one replica and one other gateway, both as values."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.catalog, self.book = Catalog(), LoadBook(clock=lambda: self.now_s)
        self.catalog.put_pool(pool(POOL))
        self.catalog.put_endpoints(POOL, (endpoint(),))
        self.answers: dict[str, str] = {}
        self.asked: list[str] = []
        self.queries: list[str] = []
        self.meanwhile: Callable[[], None] = lambda: None
        self.reports = Reports(
            self.catalog, self.book, peers=lambda: ["peer:8081"], fetch=self.fetch, gateway="me", clock=self.clock
        )

    def clock(self) -> float:
        return self.now_s

    async def fetch(self, url: str) -> bytes:
        url, _, query = url.partition("?")
        self.asked.append(url)
        if query:
            self.queries.append(query)
        await asyncio.sleep(0)
        self.meanwhile()
        if url not in self.answers:
            raise ReportError(f"{url} did not answer")
        return self.answers[url].encode()

    def engine(self, *, running: int, waiting: int = 0, age_s: float = 0.0) -> None:
        load = EngineLoad(running=running, waiting=waiting, age_s=age_s)
        self.answers[CONTROL] = load.model_dump_json(by_alias=True)

    def peer(self, requests: int, name: str = "other", *, tells: bool = False) -> None:
        pools = {POOL: PoolLoad(endpoints={ENGINE: requests})}
        load = GatewayLoad(gateway=name, boot="b", pools=pools, tells_conversations=tells)
        self.answers[PEER] = load.model_dump_json(by_alias=True)

    def start(self, requests: int = 1) -> None:
        for _ in range(requests):
            self.book.arrived(POOL, 1)
            self.book.started(POOL, ENGINE, 1)


@pytest.fixture
def world() -> World:
    world = World()
    world.start()
    return world


async def test_an_engines_total_less_our_own_is_what_others_have_there(world: World) -> None:
    world.engine(running=3, waiting=2)
    await world.reports.ask_all()
    assert world.reports.extra(ENGINE) == 4
    assert world.reports.extra("unknown:8000") == 0


async def test_the_larger_of_the_two_accounts_counts(world: World) -> None:
    world.engine(running=3)
    world.peer(7)
    await world.reports.ask_all()
    assert world.reports.extra(ENGINE) == 7
    world.engine(running=20)
    await world.reports.ask_all()
    assert world.reports.extra(ENGINE) == 19


async def test_what_we_sent_while_the_engine_counted_is_not_taken_for_anothers(world: World) -> None:
    world.engine(running=3)
    world.meanwhile = lambda: world.start(1)
    await world.reports.ask_all()
    assert world.reports.extra(ENGINE) <= 1


async def test_a_gateway_does_not_count_itself_as_another(world: World) -> None:
    world.peer(7, name="me")
    await world.reports.ask_all()
    assert world.reports.extra(ENGINE) == 0


async def test_it_is_known_whether_all_other_gateways_tell_of_conversations(world: World) -> None:
    assert not world.reports.is_told()
    world.peer(1, tells=True)
    await world.reports.ask_all()
    assert world.reports.is_told()
    world.peer(1)
    await world.reports.ask_all()
    assert not world.reports.is_told(), "it is of an older version"
    world.peer(1, tells=True)
    await world.reports.ask_all()
    world.answers[PEER] = "[]"
    await world.reports.ask_all()
    assert not world.reports.is_told()
    world.peer(1, tells=True)
    await world.reports.ask_all()
    world.now_s += STALE_S + 0.1
    assert not world.reports.is_told()


async def test_a_gateway_is_asked_for_what_it_noted_since_the_last_answer_and_at_first_for_all(world: World) -> None:
    heard: list[tuple[str, float]] = []
    world.reports.listen_to_peers(lambda load, asked_s: heard.append((load.gateway, asked_s)))
    world.peer(1)
    for now_s in (0.0, 1.0):
        world.now_s = now_s
        await world.reports.ask_all()
    del world.answers[PEER]
    world.now_s = 2.0
    await world.reports.ask_all()
    world.peer(1)
    world.now_s = 3.0
    await world.reports.ask_all()
    assert world.queries == [f"conversations_s={within_s}.000" for within_s in (3600, 2, 2, 3)]
    assert heard == [("other", 0.0), ("other", 1.0), ("other", 3.0)]
    world.peer(1, name="me")
    await world.reports.ask_all()
    assert len(heard) == 3


async def test_old_figures_say_nothing(world: World) -> None:
    world.engine(running=9)
    world.peer(9)
    await world.reports.ask_all()
    world.now_s = STALE_S
    assert world.reports.extra(ENGINE) == 9
    world.now_s = STALE_S + 0.1
    assert world.reports.extra(ENGINE) == 0


async def test_figures_that_were_old_when_they_came_say_nothing(world: World) -> None:
    world.engine(running=9, age_s=STALE_S + 1)
    await world.reports.ask_all()
    assert world.reports.extra(ENGINE) == 0


async def test_nonsense_and_silence_are_no_load(world: World) -> None:
    world.answers[PEER] = "[]"
    await world.reports.ask_all()
    assert world.reports.extra(ENGINE) == 0


async def test_pools_without_traffic_are_not_asked_about(world: World) -> None:
    world.book.ended(POOL, ENGINE, 1, "finished")
    world.now_s = 60.0
    await world.reports.ask_all()
    assert world.asked == []


async def test_who_listens_is_told_what_each_replica_says_and_which_cannot_be_asked(world: World) -> None:
    told: list[tuple[str, EngineLoad | None]] = []
    world.reports.listen(lambda address, load: told.append((address, load)), list)
    await world.reports.ask_all()
    world.engine(running=3, waiting=2)
    await world.reports.ask_all()
    assert told == [(ENGINE, None), (ENGINE, EngineLoad(running=3, waiting=2))]


async def test_replicas_for_which_requests_wait_are_asked_in_between(world: World) -> None:
    awaited: list[str] = []
    world.reports.listen(lambda _, __: None, lambda: awaited)
    await world.reports.ask_awaited()
    assert world.asked == []
    awaited.append(POOL)
    await world.reports.ask_awaited()
    assert world.asked == [CONTROL]


async def test_too_many_replicas_take_turns(world: World) -> None:
    many = tuple(replace(endpoint(), control=f"e{number}:8001") for number in range(MAX_TARGETS + 10))
    world.catalog.put_endpoints(POOL, many)
    await world.reports.ask_all()
    first = {url for url in world.asked if url != PEER}
    await world.reports.ask_all()
    assert len(first) == MAX_TARGETS
    assert {url for url in world.asked if url != PEER} == {f"http://{e.control}/load" for e in many}


@pytest.mark.looptime
async def test_the_round_goes_on_about_once_a_second_whatever_fails(world: World) -> None:
    task = asyncio.create_task(world.reports.run())
    await asyncio.sleep(10.5)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert 8 <= world.asked.count(CONTROL) <= 14


async def test_a_report_comes_over_http_or_not_at_all() -> None:
    async def big(_request: web.Request) -> web.Response:
        return web.Response(body=bytes(MAX_BYTES + 1))

    async def good(_request: web.Request) -> web.Response:
        return web.Response(text="x" * 300_000)

    app = web.Application()
    app.router.add_get("/big", big)
    app.router.add_get("/good", good)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        fetch = HttpFetch(session)
        assert len(await fetch(str(server.make_url("/good")))) == 300_000
        with pytest.raises(ReportError, match="404"):
            await fetch(str(server.make_url("/other")))
        with pytest.raises(ReportError, match="more than"):
            await fetch(str(server.make_url("/big")))
        address = str(server.make_url("/good"))
        await server.close()
        with pytest.raises(ReportError, match="did not answer"):
            await fetch(address)
