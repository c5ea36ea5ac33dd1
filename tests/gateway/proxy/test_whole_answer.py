"""What the head of a whole answer says, in the words of the caller's version of HTTP."""

from __future__ import annotations

import asyncio
import socket
from email.utils import parsedate_to_datetime

import pytest

from llmos_gateway.protocol.headers import join_head
from tests.gateway.engines import open_engine
from tests.gateway.raw import connect, exchange
from tests.gateway.stage import KEY, open_gateway

BODY = b'{"model":"chat","messages":[{"role":"user","content":"Hello"}]}'


def build_request(line: str, *headers: str) -> bytes:
    """Return a chat request that begins with this line."""
    lines = [line, "Host: gateway", f"Authorization: Bearer {KEY}", f"Content-Length: {len(BODY)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + BODY


def split_answer(answer: bytes) -> tuple[bytes, dict[str, str], bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    line, *lines = head.split(b"\r\n")
    headers = dict(header.decode().split(": ", 1) for header in lines)
    assert len(headers) == len(lines)
    return line, headers, body


@pytest.mark.parametrize(
    ("version", "header", "told"),
    [
        ("1.1", "Connection: close", "close"),
        ("1.0", "Connection: close", None),
        ("1.0", "X-Nothing: here", None),
    ],
)
async def test_the_last_answer_of_a_connection_says_so(version: str, header: str, told: str | None) -> None:
    async with open_engine() as engine, open_gateway(engine.address) as stage:
        line, headers, body = split_answer(
            await exchange(stage, build_request(f"POST /v1/chat/completions HTTP/{version}", header))
        )
    assert line == f"HTTP/{version} 200 OK".encode()
    assert headers.get("Connection") == told
    assert headers["Content-Length"] == str(len(body))
    assert headers["Content-Type"] == "application/json; charset=utf-8"
    assert headers["Server"] == "llmos"
    assert headers["X-Request-Id"]
    assert parsedate_to_datetime(headers["Date"])


async def test_a_connection_of_http_1_0_is_kept_where_its_caller_asks_for_it() -> None:
    first = build_request("POST /v1/chat/completions HTTP/1.0", "Connection: keep-alive")
    last = build_request("POST /v1/chat/completions HTTP/1.0")
    async with open_engine() as engine, open_gateway(engine.address) as stage:
        answers = (await exchange(stage, first + last)).split(b"HTTP/1.0 200 OK\r\n")
    assert [b"Connection: keep-alive" in answer for answer in answers[1:]] == [True, False]


async def test_an_answer_to_head_has_a_length_and_no_body() -> None:
    async with open_gateway() as stage:
        request = f"HEAD /v1/models HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n\r\n"
        line, headers, body = split_answer(await exchange(stage, request.encode()))
    assert line == b"HTTP/1.1 405 Method Not Allowed"
    assert int(headers["Content-Length"]) > 0
    assert body == b""


@pytest.mark.parametrize("value", ["a\r\nb", "a\nb", "a\rb", "a\0b"])
def test_nothing_in_a_head_ends_its_line(value: str) -> None:
    with pytest.raises(ValueError, match="end its line"):
        join_head(["HTTP/1.1 200 OK", f"Content-Type: {value}"])


async def test_who_asks_and_asks_and_reads_nothing_is_not_answered_on_and_on() -> None:
    """Small answers, of which none fills a buffer, must not fill the memory."""
    request = f"GET /v1/models/{'m' * 7900} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode()
    async with open_gateway() as stage:
        _, writer = await connect(stage)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        # The gateway answers what buffers take, and then reads no more requests.
        async with asyncio.timeout(30):
            while await is_taken(writer, request):
                pass
        writer.transport.abort()


async def is_taken(writer: asyncio.StreamWriter, data: bytes) -> bool:
    """Send; return whether there is room for more within a second."""
    writer.write(data)
    try:
        await asyncio.wait_for(writer.drain(), 1)
    except TimeoutError:
        return False
    return True
