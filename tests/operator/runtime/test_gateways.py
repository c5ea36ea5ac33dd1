"""Which gateways are asked, and how: found by their label, one standing request each, patience with those that fail."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiohttp import web

from llmos.api.names import COMPONENT_GATEWAY, GATEWAY_ADMIN_PORT, LABEL_COMPONENT
from llmos_operator.kube.errors import Unavailable
from llmos_operator.kube.resources import PODS
from llmos_operator.runtime.fetching import FetchError, fetch, open_session
from llmos_operator.runtime.gateways import Gateway, Gateways, find_gateway
from tests.operator.fake_kube import FakeKube
from tests.operator.runtime.load_world import POOL_ID, FakeGateway, open_world, serve, wait_until

pytestmark = pytest.mark.steady


def pod(name: str, ip: str | None = "10.0.0.7", *, is_ready: bool = True, phase: str = "Running") -> dict[str, Any]:
    condition = {"type": "Ready", "status": "True" if is_ready else "False"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "llmos-system", "labels": {LABEL_COMPONENT: COMPONENT_GATEWAY}},
        "status": {"phase": phase, "conditions": [condition], **({"podIP": ip} if ip else {})},
    }


def test_a_ready_pod_is_expected_to_answer_and_another_one_is_only_asked() -> None:
    url = f"http://10.0.0.7:{GATEWAY_ADMIN_PORT}"
    assert find_gateway(pod("g")) == Gateway("g", url, is_expected=True)
    assert find_gateway(pod("g", is_ready=False)) == Gateway("g", url, is_expected=False)
    leaving = pod("g")
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert find_gateway(leaving) == Gateway("g", url, is_expected=False)


def test_a_pod_without_an_address_or_that_has_ended_is_no_gateway() -> None:
    assert find_gateway(pod("g", ip=None)) is None
    assert find_gateway(pod("g", phase="Failed")) is None


def test_an_address_of_the_newer_protocol_is_written_with_brackets() -> None:
    found = find_gateway(pod("g", ip="fd00::7"))
    assert found is not None
    assert found.url == f"http://[fd00::7]:{GATEWAY_ADMIN_PORT}"


async def test_gateways_are_found_by_their_label_and_forgotten_when_their_pod_is_gone() -> None:
    gateway = FakeGateway()
    ip = f"127.{random.randrange(1, 255)}.{random.randrange(1, 255)}.7"  # noqa: S311 - any address of loopback
    kube = FakeKube(pod("g-1", ip), pod("elsewhere", "127.0.0.1"), pod("starting", "127.0.0.2", is_ready=False))
    moved = {**pod("elsewhere", "127.0.0.1")}
    moved["metadata"] = {**moved["metadata"], "labels": {}}
    kube.put(moved)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(serve(gateway.load, GATEWAY_ADMIN_PORT, host=ip))
        session = await stack.enter_async_context(open_session())
        gateways = Gateways(session, kube, namespace="llmos-system")
        running = asyncio.create_task(gateways.run())
        clock = asyncio.get_running_loop().time
        try:
            await gateway.tell(queued=3)
            await wait_until(lambda: any(gateways.read(POOL_ID, clock()).values()))
            readings = gateways.read(POOL_ID, clock())
            assert list(readings) == ["g-1"], "one that is not ready and does not answer is not missed"
            assert (reading := readings["g-1"]) is not None
            assert reading.load.queued == 3
            await kube.delete(PODS, "g-1", "llmos-system", grace_period_s=0)
            await wait_until(lambda: gateways.read(POOL_ID, clock()) == {})
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def test_gateways_go_on_being_asked_while_the_api_server_is_away() -> None:
    gateway = FakeGateway()
    async with open_world(gateway) as world:
        await gateway.tell(queued=1)
        await world.hear(gateway)
        world.kube.fail_next("list", "Pod", Unavailable("away"), times=100)
        await asyncio.sleep(2.5)
        await gateway.tell(queued=2)
        await world.hear(gateway)
        assert world.gateways.are_known


async def test_a_gateway_at_rest_is_asked_once_a_second() -> None:
    gateway = FakeGateway()
    async with open_world(gateway):
        await wait_until(lambda: gateway.asked >= 1)
        before = gateway.asked
        await asyncio.sleep(2.2)
        assert 1 <= gateway.asked - before <= 4


async def test_a_gateway_that_is_urgent_without_end_is_not_asked_without_end() -> None:
    gateway = FakeGateway()
    async with open_world(gateway):
        for number in range(100):
            await gateway.tell(queued=number)
            await asyncio.sleep(0.01)
        assert gateway.asked <= 40


async def test_a_gateway_that_fails_is_asked_less_and_less_often_and_heard_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gateway = FakeGateway()
    gateway.is_babbling = True
    async with open_world(gateway) as world:
        await asyncio.sleep(1.5)
        assert gateway.asked <= 4
        clock = asyncio.get_running_loop().time
        assert list(world.gateways.read(POOL_ID, clock()).values()) == [None]
        assert len([r for r in caplog.records if "does not tell its load" in r.message]) == 1
        gateway.is_babbling = False
        await gateway.tell(queued=4)
        await world.hear(gateway)


async def test_one_gateway_that_is_reached_in_two_ways_counts_once() -> None:
    gateway = FakeGateway()
    async with open_world(gateway, gateway) as world:
        await gateway.tell(queued=4)
        await world.hear(gateway)
        await asyncio.sleep(0.2)
        clock = asyncio.get_running_loop().time
        assert len(world.gateways.read(POOL_ID, clock())) == 1


async def test_an_answer_without_end_is_cut_off() -> None:
    async def flood(_: web.Request) -> web.Response:
        return web.Response(body=b"x" * 10_000)

    async with serve(flood) as port, open_session() as session:
        with pytest.raises(FetchError, match="more than 5000 bytes"):
            await fetch(session, f"http://127.0.0.1:{port}/load", timeout_s=5, limit_bytes=5000)


async def test_an_address_that_is_none_is_an_error_in_words() -> None:
    async with open_session() as session:
        with pytest.raises(FetchError, match="did not answer"):
            await fetch(session, "http://[::1:80/load", timeout_s=1, limit_bytes=1)
        with pytest.raises(FetchError, match="did not answer"):
            await fetch(session, "http://127.0.0.1:1/load", timeout_s=1, limit_bytes=1)
