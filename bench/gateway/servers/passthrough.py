"""The floor for Python: aiohttp and uvloop, parse the body, send it to one of two engines, send the answer back."""

from __future__ import annotations

import asyncio
import itertools
import resource
import sys

import aiohttp
import orjson
import uvloop
from aiohttp import web


async def serve(port: int, engines: list[str]) -> None:
    """Serve until killed."""
    turn = itertools.cycle(engines)
    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar())

    async def handle(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        wants_stream = orjson.loads(body).get("stream")
        headers = {"Content-Type": "application/json"}
        async with session.post(next(turn) + request.path, data=body, headers=headers) as answer:
            if not wants_stream:
                return web.Response(body=await answer.read(), status=answer.status, content_type=answer.content_type)
            response = web.StreamResponse(status=answer.status, headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            return response

    app = web.Application()
    app.router.add_post("/v1/chat/completions", handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    uvloop.run(serve(int(sys.argv[1]), sys.argv[2:]))
