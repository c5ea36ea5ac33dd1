"""Bytes to a gateway and back, without an HTTP library that would not say what should not be said."""

from __future__ import annotations

import asyncio
import socket

from tests.gateway.stage import DEADLINE_S, Stage


async def connect(stage: Stage) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a connection."""
    return await asyncio.open_connection("127.0.0.1", int(stage.url.rpartition(":")[2]))


async def connect_to(port: int) -> bool:
    """Return whether somebody listens on a port."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


def find_closed_port() -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def exchange(stage: Stage, data: bytes) -> bytes:
    """Send bytes, and return everything until the gateway closes the connection."""
    reader, writer = await connect(stage)
    try:
        writer.write(data)
        return await asyncio.wait_for(reader.read(), DEADLINE_S)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()
