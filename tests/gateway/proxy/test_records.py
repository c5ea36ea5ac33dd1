"""What a request leaves behind: metrics, access log, traces."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.parser import text_string_to_metric_families

from tests.gateway.engines import Engine, fail_with, open_engine
from tests.gateway.stage import CHAT, DEADLINE_S, KEY, POOL, open_gateway
from tests.gateway.values import api_key, key_text, tenant

PROMPT = "a very private question"
PRIVATE: dict[str, Any] = {**CHAT, "messages": [{"role": "user", "content": PROMPT}]}


def read_samples(text: str) -> dict[tuple[str, str], float]:
    """Return values by name and pool, summed over other labels."""
    values: dict[tuple[str, str], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = (sample.name, sample.labels.get("pool", ""))
            values[name] = values.get(name, 0.0) + sample.value
    return values


async def test_every_request_is_counted_with_its_tokens() -> None:
    async with open_engine() as engine, open_gateway(engine.address) as stage:
        for body in (CHAT, {**CHAT, "stream": True}, {**CHAT, "model": "nothing"}):
            async with stage.post(body) as response:
                await response.read()
        await stage.read_log(3)
        samples = read_samples(await stage.scrape())
    assert samples["llmos_gateway_requests_total", POOL] == 2
    assert samples["llmos_gateway_requests_total", ""] == 1
    assert samples["llmos_gateway_prompt_tokens_total", POOL] == 14
    assert samples["llmos_gateway_cached_tokens_total", POOL] == 8
    assert samples["llmos_gateway_completion_tokens_total", POOL] == 6
    assert samples["llmos_gateway_time_to_first_token_seconds_count", POOL] == 1
    assert samples["llmos_gateway_time_per_output_token_seconds_count", POOL] == 1
    assert samples["llmos_gateway_request_duration_seconds_count", POOL] == 2
    assert samples["llmos_gateway_running_requests", POOL] == 0


async def test_a_callers_words_never_become_labels() -> None:
    async with open_gateway() as stage:
        for number in range(20):
            async with stage.post({**CHAT, "model": f"guess-{number}"}) as response:
                assert response.status == 404
            async with stage.get(f"/guess-{number}") as response:
                assert response.status == 404
        assert "guess" not in await stage.scrape()


async def test_a_deleted_pool_takes_its_series_with_it() -> None:
    async with open_engine(fail_with(503, "draining")) as bad, open_engine() as good, open_gateway() as stage:
        stage.put_endpoints(bad.address, good.address)
        for _ in range(2):
            async with stage.post() as response:
                await response.read()
        await stage.read_log(2)
        names = {sample for sample, pool_id in read_samples(await stage.scrape()) if pool_id == POOL}
        assert {f"llmos_gateway_{name}" for name in ("requests_total", "retries_total", "held_requests")} <= names
        stage.catalog.remove_pool(POOL)
        left = {sample for sample, pool_id in read_samples(await stage.scrape()) if pool_id == POOL}
        assert left <= {"llmos_gateway_running_requests", "llmos_gateway_dispatch_window"}, "what is there now"


async def test_a_retry_is_counted_as_its_tenant_s_and_of_what_it_asked_for() -> None:
    async with open_engine(fail_with(503, "draining")) as bad, open_engine() as good, open_gateway() as stage:
        stage.put_endpoints(bad.address, good.address)
        stage.catalog.put_tenant(tenant("acme", "team"))
        stage.catalog.keys.put(api_key(1, tenant="acme"))
        for _ in range(2):
            async with stage.post(headers={"Authorization": f"Bearer {key_text(1)}"}) as response:
                assert response.status == 200
                await response.read()
        again = sum(line["attempts"] - 1 for line in await stage.read_log(2))
        metrics = await stage.scrape()
    assert again > 0
    of_tenant = f'model="qwen",pool="{POOL}",reason="declined",tenant="acme"'
    assert f"llmos_gateway_retries_total{{{of_tenant}}} {again}.0" in metrics


async def test_the_access_log_says_what_happened_and_nothing_that_was_said() -> None:
    async with open_engine() as engine, open_gateway(engine.address) as stage:
        headers = {"Authorization": f"Bearer {KEY}", "X-Request-Id": "abc"}
        async with stage.post({**PRIVATE, "stream": True}, headers=headers) as response:
            await response.read()
        (line,) = await stage.read_log(1)
        written = stage.log.getvalue().decode()
    assert PROMPT not in written
    assert "Paris" not in written
    assert KEY not in written
    expected = {
        "request_id": "abc",
        "endpoint": "chat",
        "status": 200,
        "code": "",
        "key": "key000000000",
        "pool": POOL,
        "replica": engine.address,
        "stream": True,
        "attempts": 1,
        "prompt_tokens": 7,
    }
    assert expected.items() <= line.items()
    assert line["ms"] >= line["ttft_ms"] >= 0


async def test_spans_reach_a_collector_and_the_trace_goes_on_in_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    received: asyncio.Queue[ExportTraceServiceRequest] = asyncio.Queue()

    async def collect(request: web.Request) -> web.Response:
        received.put_nowait(ExportTraceServiceRequest.FromString(await request.read()))
        return web.Response()

    app = web.Application()
    app.router.add_post("/v1/traces", collect)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{runner.addresses[0][1]}")
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    headers = {"Authorization": f"Bearer {KEY}", "traceparent": f"00-{trace_id}-b7ad6b7169203331-01"}
    try:
        async with open_engine() as engine, open_gateway(engine.address) as stage:
            await _read(stage.post(PRIVATE, headers=headers))
        export = await asyncio.wait_for(received.get(), DEADLINE_S)
    finally:
        await runner.cleanup()
    (scope,) = export.resource_spans[0].scope_spans
    spans = {span.name: span for span in scope.spans}
    request, attempt = spans["POST /v1/chat/completions"], spans["attempt"]
    assert request.trace_id.hex() == attempt.trace_id.hex() == trace_id
    assert attempt.parent_span_id == request.span_id
    assert engine.headers[0]["traceparent"] == f"00-{trace_id}-{attempt.span_id.hex()}-01"
    assert PROMPT not in str(export)
    assert any(pair.key == "llmos.pool" and pair.value.string_value == POOL for pair in request.attributes)


async def test_a_fault_of_the_gateway_is_told_without_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_engine() as engine, open_gateway(engine.address) as stage:
        # No real fault is known.
        monkeypatch.setattr(stage.catalog, "find_meant", _break)
        async with stage.post() as response:
            assert response.status == 500
            error = await stage.read_error(response)
        (line,) = await stage.read_log(1)
    assert error["code"] == line["code"] == "internal_error"
    assert "secret" not in str(error)


def _break(*_: object) -> None:
    raise RuntimeError("secret detail")


async def test_load_names_each_replica() -> None:
    async def answer_slowly(engine: Engine, request: web.Request) -> web.StreamResponse:
        await engine.went_on.wait()
        return web.json_response({"path": request.path})

    async with open_engine(answer_slowly) as engine, open_gateway(engine.address) as stage:
        asking = asyncio.create_task(_read(stage.post()))
        load = await stage.wait_for_load(running=1, arrivalsTotal=1)
        assert load["endpoints"] == {engine.address: 1}
        engine.went_on.set()
        await asking
        await stage.wait_for_load(running=0, finishedTotal=1)


async def _read(asking: Any) -> None:
    async with asking as response:
        await response.read()
