"""The audit log: whatever becomes of a request, exactly one line says who asked, for what, and what was decided."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import ClientSession

from llmos_gateway.catalog import HoldLimits
from llmos_gateway.proxy.limits import Limits
from llmos_gateway.runtime.recording import find_decision
from tests.gateway.engines import (
    Behaviour,
    answer,
    die,
    die_in_body,
    end_early,
    fail_with,
    open_engine,
    pause_in_stream,
)
from tests.gateway.stage import DEADLINE_S, Stage, open_gateway
from tests.gateway.values import api_key, key_text, pool, tenant

PROMPT = "a very private question"
CHAT: dict[str, Any] = {"model": "chat", "messages": [{"role": "user", "content": PROMPT}]}
STREAM = {**CHAT, "stream": True}
TENANT_KEY = {"Authorization": f"Bearer {key_text(1)}"}
GHOST_KEY = {"Authorization": f"Bearer {key_text(2)}"}
NARROW_KEY = {"Authorization": f"Bearer {key_text(3)}"}
FIELDS = {
    *("time", "request_id", "endpoint", "decision", "status", "code", "key", "tenant", "pool", "model", "replica"),
    *("stream", "attempts", "ms", "queue_ms", "ttft_ms"),
    *("prompt_tokens", "cached_tokens", "completion_tokens", "usage_exact"),
}
WHO = {"key": "key000000001", "tenant": "blue"}
WHAT = {"pool": "team/chat", "model": "qwen"}
NOTHING = {"pool": "", "model": "", "prompt_tokens": 0, "completion_tokens": 0}
TOKENS = {"prompt_tokens": 7, "cached_tokens": 4, "completion_tokens": 3, "usage_exact": True}


def admit(stage: Stage) -> None:
    stage.catalog.put_tenant(tenant("blue", "team"))
    stage.catalog.keys.put(api_key(1, tenant="blue"))
    stage.catalog.keys.put(api_key(2, tenant="ghost"))
    stage.catalog.keys.put(replace(api_key(3, tenant="blue"), endpoints=("embeddings",)))


async def read_only_line(stage: Stage) -> dict[str, Any]:
    """Return the one line there is, after a further request has shown that no second one comes."""
    headers = {"Authorization": f"Bearer {key_text()}", "X-Request-Id": "the-next-one"}
    async with stage.get("/v1/models", headers=headers) as response:
        await response.read()
    line, following = await stage.read_log(2)
    assert following["request_id"] == "the-next-one"
    assert line.keys() == FIELDS
    written = stage.log.getvalue().decode()
    assert PROMPT not in written
    assert "Paris" not in written
    assert key_text(1) not in written
    return line


@pytest.mark.parametrize(
    ("behave", "body", "expected"),
    [
        (answer, CHAT, {"decision": "served", "status": 200, "code": "", "stream": False, **TOKENS}),
        (answer, STREAM, {"decision": "served", "status": 200, "code": "", "stream": True, **TOKENS}),
        (fail_with(400, {"error": {"message": "no"}}), CHAT, {"decision": "failed", "status": 400}),
        (fail_with(500, "oh"), CHAT, {"decision": "failed", "status": 500, "code": "engine_error"}),
        (fail_with(503, "busy"), CHAT, {"decision": "failed", "status": 503, "code": "engine_error"}),
        (die, CHAT, {"decision": "failed", "status": 502, "code": "replica_lost"}),
        (end_early, STREAM, {"decision": "failed", "status": 502, "code": "replica_lost", "usage_exact": False}),
        (die_in_body, CHAT, {"decision": "failed", "status": 502, "code": "replica_lost"}),
    ],
)
async def test_what_was_sent_to_an_engine(behave: Behaviour, body: Any, expected: dict[str, Any]) -> None:
    async with open_engine(behave) as engine, open_gateway(engine.address) as stage:
        admit(stage)
        async with stage.post(body, headers=TENANT_KEY) as response:
            await response.read()
        line = await read_only_line(stage)
    assert (expected | WHO | WHAT | {"replica": engine.address}).items() <= line.items()
    assert line["attempts"] >= 1


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        ({}, CHAT, {"status": 401, "code": "missing_api_key", "key": "", "tenant": ""}),
        ({"Authorization": f"Bearer {key_text(9)}"}, CHAT, {"status": 401, "code": "invalid_api_key", "key": ""}),
        (GHOST_KEY, CHAT, {"status": 403, "code": "tenant_not_found", "key": "key000000002", "tenant": "ghost"}),
        (NARROW_KEY, CHAT, {"status": 403, "code": "endpoint_not_allowed", "key": "key000000003", "tenant": "blue"}),
        (TENANT_KEY, {**CHAT, "model": "other/secret"}, {"status": 404, "code": "model_not_found", **WHO}),
        (TENANT_KEY, {**CHAT, "messages": PROMPT}, {"status": 400, "code": "invalid_type", **WHO}),
        (TENANT_KEY, {**CHAT, "x": PROMPT * 1000}, {"status": 413, "code": "request_too_large", **WHO}),
    ],
)
async def test_what_the_gateway_refuses_at_once(headers: dict[str, str], body: Any, expected: dict[str, Any]) -> None:
    limits = replace(Limits(), max_body_bytes=4096)
    async with (
        open_engine() as engine,
        open_gateway(engine.address, pools=[pool("team/chat"), pool("other/secret")], limits=limits) as stage,
    ):
        admit(stage)
        async with stage.post(body, headers=headers) as response:
            await response.read()
        line = await read_only_line(stage)
    assert (expected | NOTHING | {"decision": "refused", "attempts": 0, "replica": ""}).items() <= line.items()
    assert not engine.bodies


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/v1/models", {"decision": "served", "status": 200}),
        ("GET", "/v1/models/chat", {"decision": "served", "status": 200}),
        ("GET", "/v1/models/secret", {"decision": "refused", "status": 404, "code": "model_not_found"}),
        ("GET", "/v1/chat/completions", {"decision": "refused", "status": 405, "code": "method_not_allowed"}),
        ("POST", "/metrics", {"decision": "refused", "status": 404, "code": "unknown_url"}),
    ],
)
async def test_what_is_about_no_one_model(method: str, path: str, expected: dict[str, Any]) -> None:
    async with open_gateway() as stage:
        admit(stage)
        async with stage.client.request(method, stage.url + path, headers=TENANT_KEY) as response:
            await response.read()
        line = await read_only_line(stage)
    assert (expected | NOTHING).items() <= line.items()


@pytest.mark.parametrize(
    ("one", "hold", "expected"),
    [
        (pool("team/chat"), HoldLimits(timeout_s=0.05), {"status": 503, "code": "timed_out"}),
        (pool("team/chat"), HoldLimits(max_requests=0), {"status": 429, "code": "queue_full"}),
        (pool("team/chat", is_hopeless=True, problem="No."), HoldLimits(), {"status": 503, "code": "unavailable"}),
    ],
)
async def test_what_no_replica_can_take(one: Any, hold: HoldLimits, expected: dict[str, Any]) -> None:
    async with open_gateway(pools=[replace(one, hold=hold)]) as stage:
        admit(stage)
        async with stage.post(CHAT, headers=TENANT_KEY) as response:
            await response.read()
        line = await read_only_line(stage)
    assert (expected | WHO | WHAT | {"decision": "refused", "attempts": 0}).items() <= line.items()


async def test_a_caller_that_leaves() -> None:
    async with open_engine(pause_in_stream) as engine, open_gateway(engine.address) as stage:
        admit(stage)
        async with ClientSession() as leaving:
            response = await leaving.post(f"{stage.url}/v1/chat/completions", json=STREAM, headers=TENANT_KEY)
            await response.content.readuntil(b"\n\n")
            response.close()
        await asyncio.wait_for(engine.cancelled.wait(), DEADLINE_S)
        await stage.read_log(1)
        line = await read_only_line(stage)
    expected = {"decision": "cancelled", "status": 499, "code": "caller_gone", "usage_exact": False}
    assert (expected | WHO | WHAT).items() <= line.items()


async def test_many_requests_leave_as_many_lines() -> None:
    async with open_engine() as engine, open_gateway(engine.address) as stage:
        admit(stage)

        async def ask(number: int) -> None:
            headers = {**TENANT_KEY, "X-Request-Id": f"n-{number}"}
            async with stage.post(CHAT if number % 2 else {**CHAT, "model": "no"}, headers=headers) as response:
                await response.read()

        await asyncio.gather(*map(ask, range(100)))
        await stage.read_log(100)
        written = [json.loads(line) for line in stage.log.getvalue().splitlines()]
    assert sorted(line["request_id"] for line in written) == sorted(f"n-{number}" for number in range(100))


def test_a_fault_of_the_gateway_is_no_refusal() -> None:
    assert find_decision(500, 0) == "failed"
