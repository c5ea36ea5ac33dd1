"""The admin server: /healthz, /readyz, /metrics and /load, on a port of its own that callers never reach.

Ready means: everything has been read from the API server once, and the process is not about to end. It stays ready
while the API server is away; the last known state serves. Healthy means that the event loop turns, which answering at
all shows.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from llmos_gateway.metrics import CONTENT_TYPE, Metrics


@asynccontextmanager
async def serve_admin(
    host: str | None,
    port: int,
    *,
    find_reason_not_ready: Callable[[], str],
    metrics: Metrics,
    load: Callable[[web.Request], Awaitable[web.Response]],
) -> AsyncIterator[int]:
    """Serve until the block ends; yield the port (0 lets the system choose)."""

    async def healthz(_request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def readyz(_request: web.Request) -> web.Response:
        reason = find_reason_not_ready()
        return web.Response(status=503, text=reason) if reason else web.Response(text="ok")

    async def scrape(_request: web.Request) -> web.Response:
        return web.Response(body=metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", scrape)])
    app.add_routes([web.get("/load", load)])
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host=host, port=port).start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()
