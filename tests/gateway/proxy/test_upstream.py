"""What a request costs while it is sent to a replica."""

from __future__ import annotations

import asyncio
import tracemalloc

from multidict import CIMultiDict

from llmos_gateway.proxy.limits import Limits
from llmos_gateway.proxy.upstream import Upstream

MIB = 1024 * 1024


async def test_a_large_body_is_not_copied_while_a_replica_is_slow_to_read_it() -> None:
    connected, ended = asyncio.Event(), asyncio.Event()

    async def read_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        await ended.wait()
        writer.close()

    body = bytes(32 * MIB)
    async with (
        await asyncio.start_server(read_nothing, "127.0.0.1", 0, limit=64 * 1024) as server,
        Upstream(Limits()) as upstream,
    ):
        host, port = server.sockets[0].getsockname()
        tracemalloc.start()
        try:
            sending = asyncio.create_task(upstream.send(f"{host}:{port}", "/", body, CIMultiDict()))
            await connected.wait()
            await asyncio.sleep(0.2)
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            ended.set()
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    assert peak_bytes < 8 * MIB
