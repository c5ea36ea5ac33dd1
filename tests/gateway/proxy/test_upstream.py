"""What a request costs while it is sent to a replica."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from llmos_gateway.proxy.limits import Limits
from llmos_gateway.proxy.upstream import LostError, UnreachableError, Upstream, read_up_to

KIB = 1024
MIB = 1024 * 1024
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Replica:
    """Answers each request with the same bytes, and remembers requests by connection."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.address = ""
        self.heads: list[list[bytes]] = []
        self.tasks: list[asyncio.Task[None] | None] = []
        self._writers: list[asyncio.StreamWriter] = []

    def close_all(self) -> None:
        """Close every connection, as a server does that has kept them for long enough."""
        for writer in self._writers:
            writer.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads: list[bytes] = []
        self.heads.append(heads)
        self.tasks.append(asyncio.current_task())
        self._writers.append(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                heads.append(head)
                size = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                await reader.readexactly(size)
                writer.write(self.answer)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


@asynccontextmanager
async def open_replica(answer: bytes = OK) -> AsyncIterator[Replica]:
    replica = Replica(answer)
    async with await asyncio.start_server(replica.serve, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        replica.address = f"{host}:{port}"
        yield replica
        await asyncio.gather(*(task for task in replica.tasks if task is not None))


async def ask(upstream: Upstream, replica: Replica, body: bytes = b"{}") -> bytes:
    answer = await upstream.send(replica.address, "/v1/chat/completions", body, {"Accept": "*/*"})
    try:
        return (await read_up_to(answer, MIB))[0]
    finally:
        answer.close()


@pytest.mark.parametrize("size", [10, 60 * KIB, 2 * MIB])
async def test_requests_take_turns_on_a_connection_whatever_their_size(size: int) -> None:
    async with open_replica() as replica, Upstream(Limits()) as upstream:
        assert [await ask(upstream, replica, bytes(size)) for _ in range(3)] == [b"ok"] * 3
    assert len(replica.heads) == 1
    for head in replica.heads[0]:
        assert head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
        assert b"host: " + replica.address.encode() in head.lower()
        assert b"transfer-encoding" not in head.lower()


async def test_a_connection_whose_answer_was_not_read_to_its_end_is_closed() -> None:
    begun = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"
    async with open_replica(begun) as replica, Upstream(Limits()) as upstream:
        for _ in range(2):
            answer = await upstream.send(replica.address, "/", b"{}", {})
            answer.close()
    assert [len(heads) for heads in replica.heads] == [1, 1]


async def test_what_comes_before_the_answer_is_no_answer() -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    async with open_replica(hints + OK) as replica, Upstream(Limits()) as upstream:
        assert await ask(upstream, replica) == b"ok"


async def test_a_header_that_would_end_its_line_is_not_sent() -> None:
    async with open_replica() as replica, Upstream(Limits()) as upstream:
        for value in ("a\r\nHost: b", "a\nb", "a\0"):
            with pytest.raises(ValueError, match="end its line"):
                await upstream.send(replica.address, "/", b"{}", {"traceparent": value})
    assert replica.heads == []


async def test_bytes_of_a_caller_that_are_no_utf_8_leave_as_they_came() -> None:
    async with open_replica() as replica, Upstream(Limits()) as upstream:
        answer = await upstream.send(
            replica.address, "/", b"{}", {"traceparent": b"\xff".decode("utf-8", "surrogateescape")}
        )
        answer.close()
    assert b"\r\ntraceparent: \xff\r\n" in replica.heads[0][0]


async def test_what_is_no_http_is_a_lost_answer() -> None:
    async with open_replica(b"hello\r\n\r\n") as replica, Upstream(Limits()) as upstream:
        with pytest.raises(LostError):
            await ask(upstream, replica)


@pytest.mark.parametrize("size", [40 * KIB, 2 * MIB])
async def test_a_request_that_failed_does_not_hold_its_body_until_the_collector_comes(size: int) -> None:
    async with open_replica() as replica:
        address = replica.address
    async with Upstream(Limits()) as upstream:
        gc.disable()
        tracemalloc.start()
        try:
            for _ in range(30):
                with suppress(UnreachableError):
                    await upstream.send(address, "/", bytes(size), {})
            await asyncio.sleep(0)
            held_bytes, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            gc.enable()
    assert held_bytes < 10 * size


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
            sending = asyncio.create_task(upstream.send(f"{host}:{port}", "/", body, {}))
            await connected.wait()
            await asyncio.sleep(0.2)
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            ended.set()
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    assert peak_bytes < 8 * MIB


async def test_a_connection_is_not_lost_with_who_is_told_of_it() -> None:
    def fail() -> None:
        raise LookupError

    async with open_replica() as replica, Upstream(Limits(max_connections_per_replica=1, pool_timeout_s=5)) as upstream:
        with pytest.raises(LookupError):
            await upstream.send(replica.address, "/", b"{}", {}, fail)
        await ask(upstream, replica)
