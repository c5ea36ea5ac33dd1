"""Where the account of budgets is kept: over restarts, and in a store that gateways share and that may be away."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from llmos_gateway.runtime.app import Options
from tests.gateway.engines import (
    open_engine,
)
from tests.gateway.proxy.budget_stage import (
    EVEN,
    PROMPT,
    ask,
    endless,
    open_tenant,
    read_status,
    read_used,
)
from tests.gateway.redis_server import Server
from tests.gateway.stage import Stage, split_events, wait_until
from tests.gateway.values import tenant


async def test_a_restart_forgets_nothing(tmp_path: Path) -> None:
    options = {"budget_journal": tmp_path / "journal"}
    async with open_engine() as engine:
        async with open_tenant(engine, perDay="1000", options=options) as stage:
            assert await read_status(ask(stage, max_tokens=100)) == 200
        async with open_tenant(engine, perDay="1000", options=options) as stage:
            assert await read_used(stage) == (10, 0)
    assert Options().budget_journal is None


async def test_a_gateway_without_its_journal_serves_who_has_no_limits_and_everybody_once_it_has_it(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "later"
    options = {"budget_journal": folder / "journal"}
    async with open_engine() as engine, open_tenant(engine, perDay="1000", options=options) as stage:
        async with ask(stage, max_tokens=100) as response:
            assert response.status == 503
            assert response.headers["Retry-After"] == "1"
            error = await stage.read_error(response)
        assert error["code"] == "budget_store_unavailable"
        assert "No such file or directory" in error["message"]
        assert str(tmp_path) not in error["message"]
        assert await read_status(stage.post()) == 200
        stage.catalog.put_tenant(tenant("acme", "team", tokens={"perDay": "1000", "mode": "shadow"}))
        assert await read_status(ask(stage)) == 200
        stage.catalog.put_tenant(tenant("acme", "team", tokens={"cost": EVEN, "perDay": "1000"}))
        folder.mkdir()
        await wait_until(lambda: is_served(stage))
        assert await read_used(stage) == (10, 0)


async def test_gateways_with_one_store_share_a_budget_and_a_restart_forgets_nothing(server: Server) -> None:
    options = {"budget_store": server.url}
    async with open_engine(endless) as engine, open_tenant(engine, perMonth="1000", options=options) as first:
        async with ask(first, stream=True) as response:
            events = split_events(await response.read())
        assert events[-1]["error"]["code"] == "insufficient_quota"
        assert len(events) - 1 >= 1000 - PROMPT - 50
        async with open_tenant(engine, perMonth="1000", options=options) as second, ask(second) as response:
            assert response.status == 429
            assert response.headers["x-ratelimit-remaining-tokens"] == "0"
        assert await read_used(first, "month") == (1000, 0)


async def test_a_store_that_answers_late_takes_nothing_from_a_stream_that_could_be_paid(server: Server) -> None:
    options = {"budget_store": server.url}
    async with open_engine(endless) as engine, open_tenant(engine, perMonth="4000", options=options) as stage:
        async with ask(stage, stream=True) as response:
            await response.content.readuntil(b"\n\n")
            assert server.process is not None
            server.process.send_signal(signal.SIGSTOP)
            try:
                # Less than its time-out; the engine goes on meanwhile.
                await asyncio.sleep(0.6)
            finally:
                server.process.send_signal(signal.SIGCONT)
            events = split_events(await response.read())
        assert events[-1]["error"]["code"] == "insufficient_quota"
        assert len(events) == 4000 - PROMPT + 1
        assert await read_used(stage, "month") == (4000, 0)


async def test_without_the_store_requests_go_on_for_a_while_and_are_then_told_why_not(server: Server) -> None:
    options = {"budget_store": server.url, "budget_away_s": 0.2}
    async with open_engine() as engine, open_tenant(engine, perDay="1000", options=options) as stage:
        server.kill()
        assert await read_status(ask(stage, max_tokens=10)) == 200
        await asyncio.sleep(0.3)
        async with ask(stage, max_tokens=10) as response:
            assert response.status == 503
            assert response.headers["Retry-After"] == "1"
            assert (await stage.read_error(response))["code"] == "budget_store_unavailable"
        assert await read_status(stage.post()) == 200


async def test_in_shadow_nobody_is_refused_when_the_store_is_away(server: Server) -> None:
    options = {"budget_store": server.url, "budget_away_s": 0.0}
    shadow = {"perDay": "1000", "mode": "shadow"}
    async with open_engine(endless) as engine, open_tenant(engine, options=options, **shadow) as stage:
        async with ask(stage, stream=True) as response:
            await response.content.readuntil(b"\n\n")
            server.kill()
            for _ in range(5000):
                assert b"error" not in await response.content.readuntil(b"\n\n")
        async with ask(stage, stream=True) as response:
            assert response.status == 200


async def is_served(stage: Stage) -> bool:
    return await read_status(ask(stage, max_tokens=100)) == 200
