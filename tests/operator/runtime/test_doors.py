"""Ports that are tried: one that listens opens, one that does not, or never answers, is closed."""

from __future__ import annotations

import asyncio
import socket

from llmos_operator.planning.isolation import Doors
from llmos_operator.runtime.doors import TIMEOUT_S, DoorProber


async def test_a_port_that_listens_opens_and_hears_nothing() -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            heard.put_nowait(await reader.read())
        except ConnectionError:
            heard.put_nowait(b"")
        writer.close()

    server = await asyncio.start_server(hear, "127.0.0.1", 0)
    ended = await asyncio.start_server(hear, "127.0.0.1", 0)
    port, other = (each.sockets[0].getsockname()[1] for each in (server, ended))
    ended.close()
    await ended.wait_closed()
    doors = await DoorProber(control_port=port, engine_port=other).probe({"pod": "127.0.0.1"})
    assert doors == {"pod": Doors(control=True, engine=False)}
    assert await heard.get() == b""
    server.close()
    await server.wait_closed()


async def test_what_never_answers_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as deaf:
        address = deaf.getsockname()
        # Nobody accepts: with one connection in the queue of length 0, the next ones are not answered.
        with socket.create_connection(address):
            prober = DoorProber(control_port=address[1], engine_port=address[1])
            async with asyncio.timeout(10 * TIMEOUT_S):
                doors = await prober.probe({"pod": "127.0.0.1"})
    assert doors == {"pod": Doors(control=False, engine=False)}
