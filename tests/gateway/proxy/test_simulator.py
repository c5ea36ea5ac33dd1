"""The gateway before real engines: the simulator, whose API and metrics are vLLM's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import uvicorn

from llmos_workers.simulate.__main__ import crash
from llmos_workers.simulate.app import Server
from llmos_workers.simulate.settings import parse_settings
from tests.gateway.stage import CHAT, KEY, open_gateway, split_events, wait_until
from tests.gateway.values import api_key, key_text, tenant

STREAM = {**CHAT, "stream": True, "max_tokens": 20}


@asynccontextmanager
async def open_simulator(*arguments: str) -> AsyncIterator[str]:
    """Serve a simulated engine; yield its address."""
    settings = parse_settings(["--served-model-name", "qwen", *arguments])
    config = uvicorn.Config(Server(settings, crash).build_app(), host="127.0.0.1", port=0, log_config=None)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    try:
        await wait_until(lambda: _now(server.started))
        yield f"127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


async def test_answers_and_streams_of_an_engine_pass_and_are_counted() -> None:
    async with open_simulator() as address, open_gateway(address) as stage:
        async with stage.post({**CHAT, "max_tokens": 5}) as response:
            whole = await response.json()
        async with stage.post(STREAM) as response:
            events = split_events(await response.read())
        async with stage.post({"model": "chat", "prompt": "Once", "max_tokens": 4}, "/v1/completions") as response:
            assert response.status == 200
        lines = await stage.read_log(3)
    assert whole["usage"]["completion_tokens"] == 5
    assert events[-1] == "data: [DONE]"
    assert not any("usage" in event for event in events[:-1])
    assert [line["completion_tokens"] for line in lines] == [5, 20, 4]
    assert all(line["prompt_tokens"] == whole["usage"]["prompt_tokens"] for line in lines[:2])


async def test_an_engine_stops_generating_for_a_caller_that_left() -> None:
    async with open_simulator() as address, open_gateway(address) as stage:
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as leaving:
            body = {**STREAM, "max_tokens": 4000}
            response = await leaving.post(f"{stage.url}/v1/chat/completions", json=body)
            await response.content.readuntil(b"\n\n")
            response.close()
        await wait_until(lambda: _is_idle(stage.client, address))
        (line,) = await stage.read_log(1)
    assert line["status"] == 499
    assert line["completion_tokens"] < 4000


async def test_engines_errors_pass_in_their_own_words() -> None:
    async with open_simulator() as address, open_gateway(address) as stage:
        async with stage.post({**CHAT, "max_tokens": "many"}) as response:
            assert response.status == 400
            assert "max_tokens" in (await stage.read_error(response))["message"]
        async with stage.post({"model": "chat", "input": "a"}, "/v1/responses") as response:
            assert response.status == 404
            assert (await stage.read_error(response))["code"] == "not_supported"


async def test_keys_of_one_tenant_find_each_others_prompts_in_the_cache_and_others_do_not() -> None:
    content = "the price of item stays between the parties " * 100
    async with open_simulator("--max-model-len", "4096") as address, open_gateway(address) as stage:
        stage.catalog.replace_tenants([tenant("red", "team"), tenant("blue", "lib", models={"allow": ["team/*"]})])
        stage.catalog.put_sharing("team/qwen", frozenset({"blue"}))
        found = []
        for number, name in ((1, "red"), (2, "red"), (3, "blue"), (4, "blue"), (5, ""), (6, "")):
            stage.catalog.keys.put(api_key(number, tenant=name))
            before = await _count_hits(stage.client, address)
            body = {**CHAT, "messages": [{"role": "user", "content": content}], "max_tokens": 1, "cache_salt": "mine"}
            headers = {"Authorization": f"Bearer {key_text(number)}", "X-Tenant": "red"}
            async with stage.post({**body, "model": "team/chat"}, headers=headers) as response:
                assert response.status == 200
            found.append(await _count_hits(stage.client, address) > before)
    assert found == [False, True, False, True, False, False]


async def _count_hits(client: aiohttp.ClientSession, address: str) -> float:
    async with client.get(f"http://{address}/metrics") as response:
        lines = (await response.text()).splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:prefix_cache_hits_total"))


async def _now(value: bool) -> bool:
    return value


async def _is_idle(client: aiohttp.ClientSession, address: str) -> bool:
    async with client.get(f"http://{address}/metrics") as response:
        lines = (await response.text()).splitlines()
    return any(line.startswith("vllm:num_requests_running{") and line.endswith(" 0.0") for line in lines)
