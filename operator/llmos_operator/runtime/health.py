"""What probes and Prometheus read: /healthz, /readyz and /metrics on one small HTTP server.

Liveness fails only for what a restart cures: work that nobody takes, a worker that never ends, a watch that is silent.
An API server that is away is not among them; failed keys wait for their next try, and not for a worker.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web

from llmos_operator.runtime.metrics import CONTENT_TYPE, Metrics


@dataclass(frozen=True)
class HealthLimits:
    """From when on the process counts as stuck, in seconds."""

    oldest_waiting_s: float = 300.0
    longest_run_s: float = 180.0
    """More than the deadline of a reconcile, which ends one that merely waits."""


def find_problems(
    *, oldest_waiting_s: float, longest_run_s: float, is_watch_silent: bool, limits: HealthLimits
) -> list[str]:
    """Return why the process should be restarted; an empty list if it should not."""
    problems = []
    if oldest_waiting_s > limits.oldest_waiting_s:
        problems.append(f"a key has waited {oldest_waiting_s:.0f} s for a worker")
    if longest_run_s > limits.longest_run_s:
        problems.append(f"a worker has been busy with one key for {longest_run_s:.0f} s")
    if is_watch_silent:
        problems.append("objects changed and no watch event told it")
    return problems


@asynccontextmanager
async def serve_health(
    port: int,
    *,
    problems: Callable[[], list[str]],
    is_ready: Callable[[], bool],
    metrics: Metrics,
    host: str | None = None,
) -> AsyncIterator[int]:
    """Serve until the block ends, on all addresses if `host` is None; yield the port (0 lets the system choose)."""

    async def healthz(_request: web.Request) -> web.Response:
        found = problems()
        return web.Response(status=503, text="; ".join(found)) if found else web.Response(text="ok")

    async def readyz(_request: web.Request) -> web.Response:
        return web.Response(text="ok") if is_ready() else web.Response(status=503, text="the watches are not up yet")

    async def scrape(_request: web.Request) -> web.Response:
        return web.Response(body=metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", scrape)])
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host=host, port=port).start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()
