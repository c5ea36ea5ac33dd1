"""The load that wrk cannot make: requests at a fixed rate, and many slow streams. Prints one JSON object.

`rate`: requests leave at their times whether or not earlier ones are answered, each on a free connection or a new one,
so that a slow server cannot slow its own load down. Latency counts from the moment a request is written; the clock of
the event loop ticks in milliseconds, so requests of one tick leave together.

`streams`: streams begin one after the other within `RAMP_S`, and `peak` is how many there were at a time. A stream is
whole if its status is 200, it ends with `[DONE]`, and it had as many events as were asked for.

A bare uvloop protocol as in `backend`, for the same reason.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from typing import Any, cast
from urllib.parse import urlsplit

import uvloop

PROMPT = "The quick brown fox jumps over the lazy dog. " * 20
CONNECTIONS = 256
RAMP_S = 3.0


def build_request(url: str, key: str, model: str, *, is_stream: bool) -> bytes:
    """Return a chat request of about a kilobyte."""
    parts = urlsplit(url)
    messages = [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": PROMPT}]
    body: dict[str, Any] = {"model": model, "messages": messages, "max_tokens": 16}
    data = json.dumps(body | {"stream": True} if is_stream else body, separators=(",", ":")).encode()
    head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
    head += f"Authorization: Bearer {key}\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


class Client(asyncio.Protocol):
    """One connection, one request at a time."""

    transport: asyncio.Transport

    def __init__(self, *, is_stream: bool) -> None:
        self._is_stream = is_stream
        self._data = b""
        self.began_s = 0.0
        self.first_s = 0.0
        self.events = 0
        self.status = b""
        self.answered: asyncio.Future[bool] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)

    def ask(self, request: bytes) -> asyncio.Future[bool]:
        """Send a request; the future says whether the answer was whole."""
        self._data, self.events, self.first_s, self.status = b"", 0, 0.0, b""
        self.answered = asyncio.get_running_loop().create_future()
        self.began_s = time.perf_counter()
        self.transport.write(request)
        return self.answered

    def data_received(self, data: bytes) -> None:
        """Look for the end of the answer."""
        if not self.status:
            self.status = data[9:12]
        # Some sides send their head at once, which is no token.
        if not self.first_s and (not self._is_stream or b"data:" in data):
            self.first_s = time.perf_counter()
        if self._is_stream:
            self.events += data.count(b"data: {")
            self._data = self._data[-64:] + data
            if self._data.endswith(b"0\r\n\r\n"):
                self._finish(is_whole=b"data: [DONE]" in self._data)
            return
        self._data += data
        head, found, body = self._data.partition(b"\r\n\r\n")
        if found and len(body) >= find_length(head):
            self._finish(is_whole=self.status == b"200")

    def connection_lost(self, exc: Exception | None) -> None:
        """A connection that breaks breaks its answer."""
        self._finish(is_whole=False)

    def _finish(self, *, is_whole: bool) -> None:
        if self.answered is not None and not self.answered.done():
            self.answered.set_result(is_whole)


def find_length(head: bytes) -> int:
    """Return the content length that a head announces."""
    at = head.lower().find(b"\r\ncontent-length:")
    return int(head[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else 0


async def run_rate(url: str, request: bytes, rate: float, seconds: float) -> dict[str, Any]:
    """Send requests at a rate."""
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    free: list[Client] = []
    latencies_ms: list[float] = []
    failed = 0

    async def connect() -> Client:
        _, client = await loop.create_connection(
            lambda: Client(is_stream=False), parts.hostname or "", parts.port or 80
        )
        return client

    async def ask(client: Client) -> None:
        nonlocal failed
        if await client.ask(request):
            latencies_ms.append((time.perf_counter() - client.began_s) * 1000)
            free.append(client)
        else:
            failed += 1

    free += [await connect() for _ in range(CONNECTIONS)]
    asking: set[asyncio.Task[None]] = set()
    began_s = loop.time()
    sent = waiting = 0
    while (now_s := loop.time() - began_s) < seconds:
        while sent < now_s * rate:
            sent += 1
            if not free:
                waiting += 1
                continue
            task = asyncio.create_task(ask(free.pop()))
            asking.add(task)
            task.add_done_callback(asking.discard)
        await asyncio.sleep(0.001)
    await asyncio.wait(asking or {asyncio.create_task(asyncio.sleep(0))}, timeout=10)
    return {"sent": sent, "unsent": waiting, "failed": failed + len(asking), "latencies_ms": latencies_ms}


async def run_streams(url: str, request: bytes, streams: int, events: int) -> dict[str, Any]:
    """Open streams and read them to their ends."""
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()

    open_now = peak = 0

    async def read(number: int) -> tuple[bool, int, float, float]:
        nonlocal open_now, peak
        await asyncio.sleep(RAMP_S * number / streams)
        open_now += 1
        peak = max(peak, open_now)
        _, client = await loop.create_connection(lambda: Client(is_stream=True), parts.hostname or "", parts.port or 80)
        is_whole = await client.ask(request)
        ended_s = time.perf_counter()
        open_now -= 1
        client.transport.close()
        is_whole = is_whole and client.status == b"200" and client.events == events
        return is_whole, client.events, client.first_s - client.began_s, ended_s - client.began_s

    results = await asyncio.gather(*(read(number) for number in range(streams)))
    return {
        "peak": peak,
        "broken": sum(not whole for whole, *_ in results),
        "events": sum(count for _, count, *_ in results),
        "ttft_ms": [1000 * ttft for *_, ttft, _ in results],
        "duration_s": [duration for *_, duration in results],
    }


def main() -> None:
    """Run what the command line says: rate|streams URL KEY MODEL NUMBER NUMBER."""
    mode, url, key, model, first, second = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    request = build_request(url, key, model, is_stream=mode == "streams")
    if mode == "rate":
        result = uvloop.run(run_rate(url, request, float(first), float(second)))
    else:
        result = uvloop.run(run_streams(url, request, int(first), int(second)))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
