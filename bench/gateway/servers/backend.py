"""The engine of this benchmark: answers at once, or streams tokens at a steady pace, at the least cost that Python has.

A bare uvloop protocol, no HTTP library: it finds the end of the head and the content length, and looks for
`"stream":true`. Everything it sends is made once. `GET` anything answers 200, so that routers' health checks pass, and
`/v1/models` names the model. It is no simulator of an engine: its only task is not to be the bottleneck.

One timer writes the next token of all streams of one slot; the streams are spread over the slots of a period, so that
a thousand streams do not write at the same moment.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from typing import Any, cast

import uvloop

MODEL = "bench"
SLOTS = 20


def build_event(content: str, **extra: Any) -> bytes:
    """Return one token of a stream."""
    return build_line({"choices": [{"index": 0, "delta": {"content": content}, "logprobs": None}], **extra})


def build_usage(tokens: int) -> bytes:
    """Return the event that ends a stream whose usage was asked for."""
    usage = {"prompt_tokens": 250, "completion_tokens": tokens, "total_tokens": 250 + tokens}
    return build_line({"choices": [], "usage": usage})


def build_line(fields: dict[str, Any]) -> bytes:
    """Return one event as a chunk of HTTP."""
    head = {
        "id": "chatcmpl-0123456789abcdef",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": MODEL,
    }
    return build_chunk(b"data: " + json.dumps({**head, **fields}, separators=(",", ":")).encode() + b"\n\n")


def build_chunk(data: bytes) -> bytes:
    """Frame data as HTTP does in a body of unknown length."""
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def build_answer(body: bytes) -> bytes:
    """Return a whole answer."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


ANSWER = build_answer(
    json.dumps(
        {
            "id": "chatcmpl-0123456789abcdef",
            "object": "chat.completion",
            "created": 1700000000,
            "model": MODEL,
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "Paris."}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 250, "completion_tokens": 3, "total_tokens": 253},
        },
        separators=(",", ":"),
    ).encode()
)
MODELS = build_answer(
    json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "bench"}]}).encode()
)
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
TOKEN = build_event(" token")
COUNTED_TOKEN = build_event(" token", usage={"prompt_tokens": 250, "total_tokens": 300, "completion_tokens": 50})
"""For those that ask for a count in every event; the number does not matter here."""
STREAM_TAIL = build_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


class Pacer:
    """Writes one token to each stream once a period."""

    def __init__(self, tokens_per_s: float, tokens: int) -> None:
        self._tokens = tokens
        self._usage = build_usage(tokens)
        self._pause_s = 1.0 / tokens_per_s / SLOTS
        self._slots: list[dict[Connection, int]] = [{} for _ in range(SLOTS)]
        self._next = 0

    def add(self, connection: Connection) -> None:
        """Begin a stream."""
        slot = min(self._slots, key=len)
        slot[connection] = self._tokens

    async def run(self) -> None:
        """Write for ever."""
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        while True:
            due_s += self._pause_s
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            self._write(self._slots[self._next])
            self._next = (self._next + 1) % SLOTS

    def _write(self, slot: dict[Connection, int]) -> None:
        for connection, left in tuple(slot.items()):
            if connection.transport.is_closing():
                del slot[connection]
            elif left:
                slot[connection] = left - 1
                connection.transport.write(connection.token)
            else:
                del slot[connection]
                connection.end_stream(self._usage)


class Connection(asyncio.Protocol):
    """One client."""

    transport: asyncio.Transport

    def __init__(self, pacer: Pacer) -> None:
        self._pacer = pacer
        self._buffer = b""
        self._wants_usage = False
        self.token = TOKEN

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer every whole request."""
        data = self._buffer + data
        while (end := data.find(b"\r\n\r\n")) >= 0:
            length = find_length(data[:end])
            if len(data) < end + 4 + length:
                break
            self._answer(data[:end], data[end + 4 : end + 4 + length])
            data = data[end + 4 + length :]
        self._buffer = data

    def _answer(self, head: bytes, body: bytes) -> None:
        if b'"stream":true' in body or b'"stream": true' in body:
            self._wants_usage = b"include_usage" in body
            self.token = COUNTED_TOKEN if b'"continuous_usage_stats":true' in body else TOKEN
            self.transport.write(STREAM_HEAD)
            self._pacer.add(self)
        elif head.startswith(b"GET"):
            self.transport.write(MODELS)
        else:
            self.transport.write(ANSWER)

    def end_stream(self, usage: bytes) -> None:
        """Send what ends an answer."""
        self.transport.write((usage if self._wants_usage else b"") + STREAM_TAIL)


def find_length(head: bytes) -> int:
    """The content length that a head announces."""
    at = head.lower().find(b"\r\ncontent-length:")
    return int(head[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else 0


async def serve(ports: list[int], tokens_per_s: float, tokens: int) -> None:
    """Serve until killed."""
    pacer = Pacer(tokens_per_s, tokens)
    loop = asyncio.get_running_loop()
    for port in ports:
        await loop.create_server(lambda: Connection(pacer), "127.0.0.1", port, backlog=4096)
    print("ready", flush=True)
    await pacer.run()


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    uvloop.run(serve([int(port) for port in sys.argv[3:]], float(sys.argv[1]), int(sys.argv[2])))
