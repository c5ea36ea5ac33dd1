"""A connection to a replica that sends its bytes in any pieces, ends anywhere, and says anything."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmos_gateway.proxy.engine_connection import (
    MAX_HEAD_BYTES,
    MAX_UNREAD_BYTES,
    BrokenError,
    EngineConnection,
)

HEAD = b"POST / HTTP/1.1\r\nHost: replica\r\nContent-Length: 2\r\n\r\n"
TEXT = b"hello world"
LENGTH = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 11\r\n\r\nhello world"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nX-Empty:\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5;name=value\r\nhello\r\n6\r\n world\r\n0\r\nContent-Type: text/trailer\r\n\r\n"
)
HINTED = b"HTTP/1.1 103 Early Hints\r\nContent-Type: text/hint\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + LENGTH
CLOSED = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nhello world"
OLD = b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nhello world"
FRAMED = [LENGTH, CHUNKED, HINTED]
UNFRAMED = [CLOSED, OLD]


@dataclass
class Wire:
    """A connection, and the replica's end of it."""

    connection: EngineConnection
    replica: socket.socket

    async def send(self, *pieces: bytes) -> None:
        """Have each piece arrive by itself."""
        for piece in pieces:
            self.replica.sendall(piece)
            await turn()

    async def end(self) -> None:
        """Close the replica's end."""
        self.replica.close()
        await turn()

    async def ask(self) -> asyncio.Task[None]:
        """Send a request that the replica has read."""
        asking = asyncio.create_task(self.connection.ask(HEAD, b"{}"))
        await turn()
        with suppress(BlockingIOError):
            assert self.replica.recv(4096) == HEAD + b"{}"
        return asking


async def turn() -> None:
    """Let what has arrived be taken in."""
    for _ in range(3):
        await asyncio.sleep(0)


@asynccontextmanager
async def open_wire() -> AsyncIterator[Wire]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    ours.setblocking(False)
    lost = asyncio.Event()
    _, connection = await asyncio.get_running_loop().create_connection(
        lambda: EngineConnection("replica:80", lambda _: lost.set()), sock=ours
    )
    try:
        yield Wire(connection, theirs)
    finally:
        connection.abort()
        theirs.close()
        await lost.wait()


async def read_all(connection: EngineConnection) -> bytes:
    pieces = []
    while piece := await connection.read():
        pieces.append(piece)
    return b"".join(pieces)


async def read_into(came: list[bytes], asking: asyncio.Task[None], connection: EngineConnection) -> None:
    """Read an answer to its end, or to where it breaks."""
    await asyncio.wait_for(asking, 5)
    while piece := await asyncio.wait_for(connection.read(), 5):
        came.append(piece)


async def exchange(wire: Wire, pieces: Sequence[bytes], *, ends: bool) -> bytes:
    """Ask once; return the body of the answer."""
    asking = await wire.ask()
    await wire.send(*pieces)
    if ends:
        await wire.end()
    await asyncio.wait_for(asking, 5)
    assert (wire.connection.status, wire.connection.headers["Content-Type"]) == (200, "text/plain")
    return await asyncio.wait_for(read_all(wire.connection), 5)


@pytest.mark.parametrize("answer", FRAMED)
async def test_an_answer_is_the_same_wherever_it_is_cut_and_the_connection_is_used_again(answer: bytes) -> None:
    async with open_wire() as wire:
        for cut in range(1, len(answer)):
            assert await exchange(wire, (answer[:cut], answer[cut:]), ends=False) == TEXT
            assert wire.connection.renew()


@pytest.mark.parametrize("answer", [*FRAMED, *UNFRAMED])
async def test_an_answer_may_come_byte_by_byte(answer: bytes) -> None:
    async with open_wire() as wire:
        assert await exchange(wire, [bytes((byte,)) for byte in answer], ends=answer in UNFRAMED) == TEXT


@pytest.mark.parametrize("answer", FRAMED)
async def test_an_answer_that_is_cut_short_is_broken_after_what_came_of_it(answer: bytes) -> None:
    for cut in range(len(answer)):
        async with open_wire() as wire:
            asking = await wire.ask()
            await wire.send(answer[:cut])
            await wire.end()
            came: list[bytes] = []
            with pytest.raises(BrokenError):
                await read_into(came, asking, wire.connection)
            assert TEXT.startswith(b"".join(came))
            assert not wire.connection.renew()


@pytest.mark.parametrize("answer", UNFRAMED)
async def test_an_answer_that_says_no_length_ends_with_the_connection(answer: bytes) -> None:
    body_at = answer.index(b"\r\n\r\n") + 4
    for cut in range(body_at, len(answer) + 1):
        async with open_wire() as wire:
            assert await exchange(wire, (answer[:cut],) if cut else (), ends=True) == answer[body_at:cut]
            assert not wire.connection.renew()


def run(scene: Callable[[Wire], Awaitable[None]]) -> None:
    async def play() -> None:
        async with open_wire() as wire:
            await scene(wire)

    asyncio.run(play())


@given(st.lists(st.tuples(st.sampled_from(FRAMED), st.lists(st.integers(1, 200), max_size=6)), min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_any_answers_in_any_pieces_follow_each_other(answers: list[tuple[bytes, list[int]]]) -> None:
    async def scene(wire: Wire) -> None:
        for answer, cuts in answers:
            bounds = [0, *sorted({cut for cut in cuts if cut < len(answer)}), len(answer)]
            pieces = [answer[start:end] for start, end in itertools.pairwise(bounds)]
            assert await exchange(wire, pieces, ends=False) == TEXT
            assert wire.connection.renew()

    run(scene)


@given(st.lists(st.one_of(st.binary(max_size=40), st.sampled_from([*FRAMED, b"HTTP/1.1 ", b"\r\n", b"0\r\n\r\n"]))))
@settings(max_examples=60, deadline=None)
def test_whatever_a_replica_says_ends_in_an_answer_or_is_broken(pieces: list[bytes]) -> None:
    async def scene(wire: Wire) -> None:
        asking = await wire.ask()
        with suppress(BrokenPipeError, ConnectionResetError):
            await wire.send(*pieces)
        await wire.end()
        with suppress(BrokenError):
            await asyncio.wait_for(asking, 5)
            await asyncio.wait_for(read_all(wire.connection), 5)
        assert not wire.connection.renew()

    run(scene)


async def test_a_replica_is_not_read_on_while_nobody_takes_what_has_come() -> None:
    size = 8 * 1024 * 1024
    async with open_wire() as wire:
        asking = await wire.ask()
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        await asking
        data = memoryview(bytes(size))
        sending = asyncio.create_task(asyncio.get_running_loop().sock_sendall(wire.replica, data))
        await asyncio.sleep(0.2)
        assert not sending.done()
        first = await wire.connection.read()
        assert len(first) < MAX_UNREAD_BYTES + 512 * 1024
        assert len(first) + len(await read_all(wire.connection)) == size
        await sending
        assert wire.connection.renew()
        assert await exchange(wire, [LENGTH], ends=False) == TEXT


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"X-More: " + b"x" * 1000 + b"\r\n"),
        (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X-More: " + b"x" * 1000 + b"\r\n"),
    ],
)
async def test_what_comes_beside_a_body_is_bounded(begin: bytes, more: bytes) -> None:
    async with open_wire() as wire:
        asking = await wire.ask()
        await wire.send(begin)
        sent = 0
        while wire.connection.is_open:
            await wire.send(more * 20)
            sent += len(more) * 20
            assert sent < 2 * MAX_HEAD_BYTES
        with pytest.raises(BrokenError):
            await read_into([], asking, wire.connection)


async def test_a_connection_that_speaks_unasked_is_closed() -> None:
    async with open_wire() as wire:
        assert await exchange(wire, [LENGTH], ends=False) == TEXT
        assert wire.connection.renew()
        await wire.send(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
        assert not wire.connection.is_open
        with pytest.raises(BrokenError):
            await wire.connection.ask(HEAD, b"{}")


@pytest.mark.parametrize("extra", [LENGTH, b"HTT"])
async def test_a_replica_that_answers_twice_is_not_asked_again(extra: bytes) -> None:
    async with open_wire() as wire:
        assert await exchange(wire, [LENGTH + extra], ends=False) == TEXT
        assert not wire.connection.renew()


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nConnection: close\r\n", b"HTTP/1.0 200 OK\r\n"])
async def test_a_connection_that_its_replica_closes_is_not_used_again(head: bytes) -> None:
    answer = head + b"Content-Type: text/plain\r\nContent-Length: 11\r\n\r\n" + TEXT
    async with open_wire() as wire:
        assert await exchange(wire, [answer], ends=False) == TEXT
        assert not wire.connection.renew()


async def test_another_protocol_is_an_answer_without_a_body() -> None:
    upgrade = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\n"
    async with open_wire() as wire:
        asking = await wire.ask()
        await wire.send(upgrade + b"anything")
        await asking
        assert (wire.connection.status, await read_all(wire.connection)) == (101, b"")
        assert not wire.connection.renew()


async def test_a_large_body_is_sent_to_its_end_though_the_answer_began_before() -> None:
    body = bytes(8 * 1024 * 1024)
    async with open_wire() as wire:
        asking = asyncio.create_task(wire.connection.ask(HEAD, body))
        await turn()
        assert not asking.done()
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
        await asyncio.wait_for(asking, 5)
        got = 0
        while got < len(HEAD) + len(body):
            got += len(await asyncio.get_running_loop().sock_recv(wire.replica, 1024 * 1024))
        await wire.send(b"k")
        assert (wire.connection.status, await read_all(wire.connection)) == (200, b"ok")
        assert wire.connection.renew()


@pytest.mark.parametrize("then", ["stays", "ends its side", "closes"])
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n" + bytes(3_000_000),
    ],
    ids=["refusal", "small", "large"],
)
async def test_the_answer_to_a_large_body_that_nobody_read_is_an_answer(answer: bytes, then: str) -> None:
    async def reply() -> None:
        await asyncio.get_running_loop().sock_sendall(wire.replica, answer)
        if then == "ends its side":
            wire.replica.shutdown(socket.SHUT_WR)
        elif then == "closes":
            wire.replica.close()

    async with open_wire() as wire:
        asking = asyncio.create_task(wire.connection.ask(HEAD, bytes(8 * 1024 * 1024)))
        await turn()
        replying = asyncio.create_task(reply())
        await asyncio.wait_for(asking, 5)
        _, _, body = answer.partition(b"\r\n\r\n")
        assert await asyncio.wait_for(read_all(wire.connection), 5) == body
        await replying
        assert not wire.connection.renew()


async def test_chunks_that_are_cut_short_are_no_answer_though_another_encoding_is_named_first() -> None:
    async with open_wire() as wire:
        asking = await wire.ask()
        await wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel")
        await wire.end()
        await asking
        with pytest.raises(BrokenError):
            await read_all(wire.connection)


@pytest.mark.parametrize("size", [5, 300_000])
async def test_what_comes_before_the_answer_has_no_body(size: int) -> None:
    async with open_wire() as wire:
        asking = await wire.ask()
        early = b"HTTP/1.1 104 Whatever\r\nContent-Length: %d\r\n\r\n" % size + bytes(size) + LENGTH
        sending = asyncio.create_task(asyncio.get_running_loop().sock_sendall(wire.replica, early))
        with pytest.raises(BrokenError):
            await asyncio.wait_for(asking, 5)
        assert wire.connection.status == 0
        await asyncio.gather(sending, return_exceptions=True)
