"""What probes and Prometheus read: /healthz, /readyz and /metrics on one small HTTP server; and /scaling, for people.

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
    read_scaling: Callable[[str, str], bytes | None] = lambda _namespace, _pool: None,
    host: str | None = None,
) -> AsyncIterator[int]:
    """Serve until the block ends, on all addresses if `host` is None; yield the port (0 lets the system choose).

    `read_scaling` gives the recorded decisions about a pool (namespace, name), None if there are none.
    """

    async def healthz(_request: web.Request) -> web.Response:
        found = problems()
        return web.Response(status=503, text="; ".join(found)) if found else web.Response(text="ok")

    async def readyz(_request: web.Request) -> web.Response:
        return web.Response(text="ok") if is_ready() else web.Response(status=503, text="the watches are not up yet")

    async def scrape(_request: web.Request) -> web.Response:
        return web.Response(body=metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    async def scaling(request: web.Request) -> web.Response:
        lines = read_scaling(request.match_info["namespace"], request.match_info["pool"])
        if lines is None:
            return web.Response(status=404, text="this replica of the operator has decided nothing about such a pool")
        return web.Response(body=lines, content_type="application/x-ndjson")

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", scrape)])
    app.add_routes([web.get("/scaling/{namespace}/{pool}", scaling)])
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host=host, port=port).start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()
