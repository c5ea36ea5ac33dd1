"""A listener takes all that have come, on both loops, and survives a system that has no room."""

from __future__ import annotations

import asyncio
import resource
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from typing import cast

import pytest
import uvloop

from llmos_gateway.http.listener import AT_A_TIME, PAUSE_S, Listener

HOST = "127.0.0.1"


class Greeting(asyncio.Protocol):
    """Says hello, and is counted."""

    made = 0
    lost = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        Greeting.made += 1
        cast("asyncio.Transport", transport).write(b"hello")
        transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        Greeting.lost += 1


@pytest.fixture(autouse=True)
def nobody_yet() -> None:
    Greeting.made = Greeting.lost = 0


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner


@asynccontextmanager
async def listening(host: str | None = HOST) -> AsyncIterator[tuple[Listener, int]]:
    listener = Listener(Greeting)
    try:
        yield listener, await listener.start(host, 0)
    finally:
        await listener.stop()
        while Greeting.lost < Greeting.made:  # noqa: ASYNC110 - protocols only count
            await asyncio.sleep(0.01)


def connect(port: int, number: int) -> list[socket.socket]:
    """The system completes connections before anybody takes them."""
    return [socket.create_connection((HOST, port), timeout=5) for _ in range(number)]


def test_all_that_have_come_are_taken_within_a_few_turns(runner: asyncio.Runner) -> None:
    async def scenario() -> int:
        async with listening() as (_, port):
            clients = connect(port, 4 * AT_A_TIME)
            for _ in range(12):  # A loop that takes one a turn would have taken a dozen.
                await asyncio.sleep(0)
            made = Greeting.made
            for client in clients:
                client.close()
            return made

    assert runner.run(scenario()) >= 2 * AT_A_TIME


def test_a_system_without_room_is_asked_again_after_a_pause_and_nobody_is_lost(
    runner: asyncio.Runner, caplog: pytest.LogCaptureFixture
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def scenario() -> None:
        async with listening() as (_, port):
            clients = connect(port, 3)
            highest = max(client.fileno() for client in clients)
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, limits[1]))
            fillers: list[socket.socket] = []
            try:
                while True:
                    fillers.append(clients[0].dup())
            except OSError:
                pass
            try:
                await asyncio.sleep(2.5 * PAUSE_S)
                assert Greeting.made == 0
                assert 1 <= len(caplog.records) <= 3
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
                for filler in fillers:
                    filler.close()
            until_s = time.monotonic() + 5
            while Greeting.made < 3 and time.monotonic() < until_s:  # noqa: ASYNC110 - protocols only count
                await asyncio.sleep(0.01)
            for client in clients:
                with closing(client):
                    assert client.recv(5) == b"hello"

    runner.run(scenario())
    assert "limit of open files" in caplog.text


def test_a_closed_listener_takes_nobody_and_a_taken_port_is_an_error(runner: asyncio.Runner) -> None:
    async def scenario() -> None:
        async with listening() as (listener, port):
            with pytest.raises(OSError, match="in use"):
                await Listener(Greeting).start(HOST, port)
            listener.close()
            with pytest.raises(OSError, match="refused"):
                connect(port, 1)

    runner.run(scenario())


def test_without_a_host_it_listens_on_all_addresses_with_one_port(runner: asyncio.Runner) -> None:
    async def scenario() -> None:
        async with listening(None) as (_, port):
            hosts = [HOST] + (["::1"] if socket.has_dualstack_ipv6() else [])
            for host in hosts:
                reader, writer = await asyncio.open_connection(host, port)
                assert await reader.read() == b"hello"
                writer.close()

    runner.run(scenario())
