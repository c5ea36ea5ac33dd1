"""The control port: three answers about the engine, for kubelet and the operator. Traffic never passes here."""

from __future__ import annotations

from aiohttp import web

from llmos_workers.serve.state import ServeState


def build_control_app(state: ServeState) -> web.Application:
    """Routes that read `state` at each request."""

    async def healthz(_: web.Request) -> web.Response:
        return _answer(state.unhealthy_reason)

    async def readyz(_: web.Request) -> web.Response:
        return _answer(state.unready_reason)

    async def load(_: web.Request) -> web.Response:
        return web.json_response(
            {
                "running": state.load.running,
                "waiting": state.load.waiting,
                "ready": state.unready_reason is None,
                "draining": state.is_draining,
            }
        )

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/load", load)])
    return app


def _answer(problem: str | None) -> web.Response:
    return web.Response(status=503 if problem else 200, text=f"{problem or 'ok'}\n")
