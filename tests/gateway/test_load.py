"""The load book: totals that add up, and the answer that operators and other gateways read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st

from llmos.api.load import LATENCY_BUCKETS_S, GatewayLoad, PoolLoad
from llmos_gateway.load import LoadBook, Outcome, build_load_handler

POOL = "team/chat"


@dataclass(frozen=True)
class Tokens:
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


def read(book: LoadBook) -> PoolLoad:
    """Return the pool's numbers after a journey over the wire."""
    text = book.build("gw", "boot").model_dump_json(by_alias=True, exclude_defaults=True)
    return GatewayLoad.model_validate_json(text).pools[POOL]


def test_a_request_is_seen_at_each_stop_and_counted_at_its_end() -> None:
    now = [100.0]
    book = LoadBook(clock=lambda: now[0])
    book.arrived(POOL, 50)
    ticket = book.held(POOL, 50)
    now[0] = 107.0
    queued = read(book)
    assert (queued.queued, queued.queued_prompt_tokens, queued.oldest_queued_s, queued.running) == (1, 50, 7.0, 0)
    book.released(POOL, ticket)
    book.started(POOL, "a:8000", 50)
    running = read(book)
    assert (running.queued, running.running, running.running_prompt_tokens) == (0, 1, 50)
    assert (running.endpoints, book.in_flight("a:8000")) == ({"a:8000": 1}, 1)
    book.first_token(POOL, 7.5)
    book.ended(POOL, "a:8000", 50, "finished", Tokens(48, 16, 9), tpot_s=0.02)
    done = read(book)
    assert (done.arrivals_total, done.arrived_prompt_tokens_total, done.finished_total) == (1, 50, 1)
    assert (done.prompt_tokens_total, done.cached_tokens_total, done.completion_tokens_total) == (48, 16, 9)
    assert (done.running, done.endpoints, book.in_flight("a:8000")) == (0, {}, 0)
    assert done.ttft.counts[LATENCY_BUCKETS_S.index(7.5)] == 1
    assert done.tpot.counts[LATENCY_BUCKETS_S.index(0.02)] == 1
    assert done.ttft.sum_s == 7.5


def test_a_latency_beyond_all_buckets_is_counted_in_the_last() -> None:
    book = LoadBook()
    book.arrived(POOL, 1)
    book.first_token(POOL, 1000)
    assert read(book).ttft.counts[-1] == 1


def test_a_retry_leaves_the_first_replica_and_ends_nothing() -> None:
    book = LoadBook()
    book.arrived(POOL, 5)
    book.started(POOL, "a:8000", 5)
    book.ended(POOL, "a:8000", 5, "retried")
    assert book.open(POOL) == 1
    book.started(POOL, "b:8000", 5)
    book.ended(POOL, "b:8000", 5, "failed")
    assert (book.open(POOL), read(book).failed_total) == (0, 1)


@given(st.lists(st.tuples(st.sampled_from(["finished", "failed", "cancelled"]), st.integers(0, 3)), max_size=30))
def test_every_arrival_is_open_or_ended_once(ends: list[tuple[Outcome, int]]) -> None:
    book = LoadBook()
    for number, (outcome, retries) in enumerate(ends):
        book.arrived(POOL, number)
        for _ in range(retries):
            book.started(POOL, "a:8000", number)
            book.ended(POOL, "a:8000", number, "retried")
        assert book.open(POOL) == 1
        book.started(POOL, "b:8000", number)
        book.ended(POOL, "b:8000", number, outcome)
        load = read(book)
        assert load.arrivals_total == load.finished_total + load.failed_total + load.rejected_total == number + 1
        assert (load.running, load.running_prompt_tokens, book.open(POOL)) == (0, 0, 0)


def test_more_ends_than_starts_are_a_mistake_that_shows() -> None:
    book = LoadBook()
    book.arrived(POOL, 1)
    with pytest.raises(ValueError, match="more requests ended than started on a:8000"):
        book.ended(POOL, "a:8000", 1, "finished")


def test_the_longest_idle_pool_is_forgotten_first_and_a_busy_one_never() -> None:
    now = [0.0]
    book = LoadBook(clock=lambda: now[0], max_pools=2)
    book.arrived("busy", 1)
    for number, name in enumerate(["first", "second", "third"]):
        now[0] = float(number + 1)
        book.arrived(name, 1)
        book.refused(name)
    assert set(book.build("gw", "boot").pools) == {"busy", "third"}


def test_a_pool_is_active_while_it_has_requests_and_a_while_after() -> None:
    now = [0.0]
    book = LoadBook(clock=lambda: now[0])
    book.arrived(POOL, 1)
    now[0] = 100.0
    assert book.find_active(30) == [POOL]
    book.dropped(POOL)
    assert book.find_active(30) == []


@pytest.fixture
async def admin() -> AsyncIterator[tuple[LoadBook, TestServer]]:
    book, app = LoadBook(), web.Application()
    app.router.add_get("/load", build_load_handler(book, gateway="gw-1", boot="b1"))
    server = TestServer(app)
    async with server:
        yield book, server


async def ask(server: TestServer, query: str = "") -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(server.make_url(f"/load{query}")) as response:
        return response.status, await response.text()


async def test_the_answer_names_the_gateway_and_its_pools(admin: tuple[LoadBook, TestServer]) -> None:
    book, server = admin
    book.arrived(POOL, 7)
    status, text = await ask(server)
    load = GatewayLoad.model_validate_json(text)
    assert (status, load.gateway, load.boot, load.sequence) == (200, "gw-1", "b1", 0)
    assert load.pools[POOL].arrived_prompt_tokens_total == 7


async def test_a_reader_that_waits_hears_at_once_of_requests_nobody_can_take(
    admin: tuple[LoadBook, TestServer],
) -> None:
    book, server = admin
    reader = asyncio.create_task(ask(server, "?wait_s=30&seen=0"))
    await asyncio.sleep(0.05)
    assert not reader.done()
    book.arrived(POOL, 7)
    book.held(POOL, 7)
    _, text = await asyncio.wait_for(reader, 10)
    load = GatewayLoad.model_validate_json(text)
    assert (load.sequence, load.pools[POOL].queued) == (1, 1)


async def test_a_reader_that_has_not_seen_all_does_not_wait(admin: tuple[LoadBook, TestServer]) -> None:
    _, server = admin
    status, _ = await asyncio.wait_for(ask(server, "?wait_s=30&seen=7"), 10)
    assert status == 200


@pytest.mark.parametrize(
    "query", ["?wait_s=soon", "?seen=1.5", "?wait_s=nan", "?wait_s=inf", "?conversations_s=all", "?conversations_s=nan"]
)
async def test_what_is_no_number_is_refused(admin: tuple[LoadBook, TestServer], query: str) -> None:
    assert (await ask(admin[1], query))[0] == 400
