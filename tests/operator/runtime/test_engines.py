"""Replicas are asked all at once; one that fails is asked less and less often, and costs the others nothing."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from llmos_operator.runtime.engines import DEADLINE_S, Engines
from llmos_operator.runtime.fetching import open_session
from tests.operator.runtime.load_world import FakeGateway, FakeReplica, serve

pytestmark = pytest.mark.steady


async def test_what_replicas_say_is_dated_by_the_age_of_their_figures() -> None:
    replica = FakeReplica("r", figures={"running": 3, "age_s": 0.2})
    clock = asyncio.get_running_loop().time
    async with serve(replica.load) as port, open_session() as session:
        began_s = clock()
        reading = (await Engines(session).read({"r": f"127.0.0.1:{port}"}))["r"]
        assert reading is not None
        assert reading.load.running == 3
        assert began_s - 0.2 <= reading.figures_s <= clock() - 0.2


async def test_one_that_hangs_costs_the_others_nothing_but_one_deadline() -> None:
    replica, deaf = FakeReplica("r"), FakeGateway()
    deaf.is_deaf = True
    clock = asyncio.get_running_loop().time
    async with serve(replica.load) as port, serve(deaf.load) as deaf_port, open_session() as session:
        addresses = {f"d{number}": f"127.0.0.1:{deaf_port}" for number in range(5)}
        began_s = clock()
        readings = await Engines(session).read({**addresses, "r": f"127.0.0.1:{port}"})
        assert readings.pop("r") is not None
        assert set(readings.values()) == {None}
        assert clock() - began_s < 2 * DEADLINE_S, "the deadline is for all at once"


async def test_one_that_is_gone_is_asked_less_and_less_often_and_forgotten_with_its_pool() -> None:
    asked = 0

    async def fail(_: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        return web.Response(status=500)

    async with serve(fail) as port, open_session() as session:
        engines = Engines(session)
        addresses = {"r": f"127.0.0.1:{port}"}
        for _ in range(20):
            assert await engines.read(addresses) == {"r": None}
        assert asked == 2, "again in the next second, then after a pause"
        engines.keep(addresses.values())
        await engines.read(addresses)
        assert asked == 2
        engines.keep([])
        await engines.read(addresses)
        assert asked == 3
