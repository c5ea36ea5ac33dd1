"""What a client of the simulator sees: OpenAI's API, vLLM's errors and metrics."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import time
from array import array
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from prometheus_client.parser import text_string_to_metric_families

from llmos_workers.serve.guard import KEY_HEADER, KEY_VARIABLE

StartSimulator = Callable[..., Awaitable[ClientSession]]

HELLO = {"model": "m", "messages": [{"role": "user", "content": "Hello, who are you?"}]}


async def post(session: ClientSession, path: str, body: Any) -> tuple[int, Any]:
    async with session.post(path, json=body) as response:
        return response.status, await response.json()


async def ask(session: ClientSession, **fields: Any) -> Any:
    status, body = await post(session, "/v1/chat/completions", {**HELLO, **fields})
    assert status == 200, body
    return body


async def stream(session: ClientSession, path: str, body: Any) -> list[Any]:
    async with session.post(path, json={**body, "stream": True}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        text = await response.text()
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


async def scrape(session: ClientSession) -> dict[str, float]:
    """Values of all metrics without their labels, added up."""
    async with session.get("/metrics") as response:
        text = await response.text()
    values: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            values[sample.name] = values.get(sample.name, 0.0) + sample.value
    return values


async def test_a_chat_answer_has_text_usage_and_a_finish_reason(start_simulator: StartSimulator) -> None:
    session = await start_simulator()
    body = await ask(session, max_tokens=10)
    choice = body["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["role"] == "assistant"
    assert len(choice["message"]["content"]) == 40
    assert body["usage"] == {"prompt_tokens": 8, "completion_tokens": 10, "total_tokens": 18}


async def test_an_answer_without_a_limit_ends_by_itself(start_simulator: StartSimulator) -> None:
    session = await start_simulator("--output-tokens", "20")
    body = await ask(session)
    assert body["choices"][0]["finish_reason"] == "stop"
    assert 10 <= body["usage"]["completion_tokens"] <= 30


async def test_the_same_seed_and_request_give_the_same_text(start_simulator: StartSimulator) -> None:
    one, two, other = [await start_simulator("--seed", seed) for seed in ("7", "7", "8")]
    answers = [(await ask(session, max_tokens=20))["choices"] for session in (one, one, two, other)]
    assert answers[0] == answers[1] == answers[2]
    assert answers[3] != answers[0]
    assert (await ask(one, max_tokens=20, seed=1))["choices"] != answers[0]


async def test_a_stream_has_one_token_a_chunk_and_ends_with_usage_and_done(start_simulator: StartSimulator) -> None:
    session = await start_simulator()
    chunks = await stream(
        session, "/v1/chat/completions", {**HELLO, "max_tokens": 5, "stream_options": {"include_usage": True}}
    )
    first, *tokens, usage = chunks
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [len(chunk["choices"][0]["delta"]["content"]) for chunk in tokens] == [4] * 5
    assert [chunk["choices"][0]["finish_reason"] for chunk in tokens] == [None] * 4 + ["length"]
    assert usage["choices"] == []
    assert usage["usage"] == {"prompt_tokens": 8, "completion_tokens": 5, "total_tokens": 13}


async def test_a_stream_says_nothing_before_its_first_token(start_simulator: StartSimulator) -> None:
    session = await start_simulator("--max-num-seqs", "1")
    spoken: list[str] = []

    async def listen(name: str) -> None:
        async with session.post("/v1/chat/completions", json={**HELLO, "max_tokens": 50, "stream": True}) as response:
            async for line in response.content:
                if line.startswith(b"data: {"):
                    spoken.append(name)  # noqa: PERF401 - as each line comes

    async with asyncio.TaskGroup() as listeners:
        listeners.create_task(listen("one"))
        listeners.create_task(listen("other"))
    assert spoken == sorted(spoken, key=spoken.index), "the second speaks when the first has ended"


async def test_streamed_and_whole_text_are_equal(start_simulator: StartSimulator) -> None:
    session = await start_simulator()
    body = {"prompt": "Once upon a time", "max_tokens": 12}
    _, whole = await post(session, "/v1/completions", body)
    chunks = await stream(session, "/v1/completions", body)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole["choices"][0]["text"]


async def test_usage_can_come_with_every_chunk_for_each_choice(start_simulator: StartSimulator) -> None:
    session = await start_simulator()
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = {"prompt": "Hi", "max_tokens": 3, "n": 2, "stream_options": options}
    *chunks, total = await stream(session, "/v1/completions", body)
    for index in range(2):
        usages = [chunk["usage"] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert [usage["completion_tokens"] for usage in usages] == [1, 2, 3]
        assert {usage["prompt_tokens"] for usage in usages} == {total["usage"]["prompt_tokens"]}
    assert total["usage"]["completion_tokens"] == 6


async def test_usage_with_every_chunk_comes_only_beside_usage_at_the_end(start_simulator: StartSimulator) -> None:
    session = await start_simulator()
    body = {"prompt": "Hi", "max_tokens": 3, "stream_options": {"continuous_usage_stats": True}}
    assert not any("usage" in chunk for chunk in await stream(session, "/v1/completions", body))


async def test_a_stop_string_ends_the_answer(start_simulator: StartSimulator) -> None:
    session = await start_simulator()
    whole = (await ask(session, max_tokens=30))["choices"][0]["message"]["content"]
    stop = whole[41:44]
    choice = (await ask(session, max_tokens=30, stop=stop))["choices"][0]
    assert choice["message"]["content"] == whole[: whole.index(stop)]
    assert choice["finish_reason"] == "stop"


async def test_several_prompts_and_choices_come_back_in_order(start_simulator: StartSimulator) -> None:
    session = await start_simulator()
    _, body = await post(session, "/v1/completions", {"prompt": ["One", "Two"], "n": 2, "max_tokens": 4})
    texts = [choice["text"] for choice in body["choices"]]
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    assert len(set(texts)) == 4
    _, alone = await post(session, "/v1/completions", {"prompt": "Two", "n": 2, "max_tokens": 4})
    assert [choice["text"] for choice in alone["choices"]] == texts[2:]


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/v1/completions", {"prompt": "x" * 800}, 400, "maximum context length is 200 tokens"),
        ("/v1/completions", {"model": "m"}, 400, "prompt: Field required"),
        ("/v1/completions", {"prompt": ""}, 400, "prompt"),
        ("/v1/completions", {"prompt": "Hi", "max_tokens": 0}, 400, "greater than or equal to 1"),
        ("/v1/completions", {"prompt": "Hi", "model": "other"}, 404, "The model `other` does not exist"),
        ("/v1/chat/completions", {"messages": []}, 400, "at least 1 item"),
        ("/v1/chat/completions", "not an object", 400, "validation error"),
        ("/v1/embeddings", {"input": ["x" * 4000]}, 400, "maximum context length"),
    ],
)
async def test_a_bad_request_is_refused_in_openai_shape(
    start_simulator: StartSimulator, path: str, body: Any, status: int, words: str
) -> None:
    session = await start_simulator("--max-model-len", "200")
    got, answer = await post(session, path, body)
    assert got == status
    assert answer["error"]["code"] == status
    assert words in answer["error"]["message"]


async def test_max_tokens_is_cut_at_the_end_of_the_context(start_simulator: StartSimulator) -> None:
    session = await start_simulator("--max-model-len", "30")
    _, body = await post(session, "/v1/completions", {"prompt": "x" * 40, "max_tokens": 100})
    assert body["usage"] == {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}


async def test_embeddings_are_unit_vectors_that_only_depend_on_the_input(start_simulator: StartSimulator) -> None:
    session = await start_simulator()
    body = {"model": "m", "input": ["same", "same", "other"]}
    _, answer = await post(session, "/v1/embeddings", body)
    same, again, other = [item["embedding"] for item in answer["data"]]
    assert math.sqrt(math.fsum(value**2 for value in same)) == pytest.approx(1, rel=1e-5)
    assert same == again != other
    _, answer = await post(session, "/v1/embeddings", {**body, "encoding_format": "base64"})
    assert array("f", base64.b64decode(answer["data"][0]["embedding"])).tolist() == same


async def test_a_pooling_model_generates_nothing(start_simulator: StartSimulator) -> None:
    session = await start_simulator("--runner", "pooling")
    async with session.post("/v1/completions", json={"prompt": "Hi"}) as response:
        assert response.status == 404
    status, _ = await post(session, "/v1/embeddings", {"input": "Hi"})
    assert status == 200


async def test_models_tells_the_name_and_the_context(start_simulator: StartSimulator) -> None:
    session = await start_simulator("--max-model-len", "200")
    async with session.get("/v1/models") as response:
        card = (await response.json())["data"][0]
    assert (card["id"], card["max_model_len"]) == ("m", 200)


async def test_metrics_carry_the_names_of_vllm(start_simulator: StartSimulator) -> None:
    session = await start_simulator()
    await ask(session, max_tokens=5)
    values = await scrape(session)
    assert values["vllm:prompt_tokens_total"] == 8
    assert values["vllm:generation_tokens_total"] == 5
    assert values["vllm:request_success_total"] == 1
    for name in (
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:kv_cache_usage_perc",
        "vllm:prefix_cache_queries_total",
        "vllm:prefix_cache_hits_total",
        "vllm:time_to_first_token_seconds_bucket",
        "vllm:inter_token_latency_seconds_bucket",
        "vllm:request_time_per_output_token_seconds_bucket",
        "vllm:e2e_request_latency_seconds_bucket",
        "vllm:cache_config_info",
    ):
        assert name in values


async def test_the_next_turn_of_a_chat_finds_its_prefix_in_the_cache(start_simulator: StartSimulator) -> None:
    session = await start_simulator()
    question = {"role": "user", "content": "Tell me a long story about the sea." * 4}
    first = await ask(session, messages=[question], max_tokens=40)
    turns = [question, first["choices"][0]["message"], {"role": "user", "content": "Go on."}]
    await ask(session, messages=turns, max_tokens=5, cache_salt="another tenant")
    assert (await scrape(session))["vllm:prefix_cache_hits_total"] == 0
    await ask(session, messages=turns, max_tokens=5)
    shared = (35 + 3 + 40 - 1) // 16 * 16
    assert (await scrape(session))["vllm:prefix_cache_hits_total"] == shared


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_client_that_goes_away_frees_its_place(start_simulator: StartSimulator, streamed: bool) -> None:
    session = await start_simulator("--max-num-seqs", "1", "--decode-step-ms", "20")
    body = {"prompt": "Hi", "max_tokens": 5000, "stream": streamed}
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3), session.post("/v1/completions", json=body) as response:
            await response.read()
    async with asyncio.timeout(2):
        await post(session, "/v1/completions", {"prompt": "Hi", "max_tokens": 2})
    assert (await scrape(session))["vllm:num_requests_running"] == 0


async def test_more_requests_than_the_queue_holds_are_told_to_go_elsewhere(start_simulator: StartSimulator) -> None:
    session = await start_simulator("--max-num-queued-reqs", "3")
    status, answer = await post(session, "/v1/completions", {"prompt": "Hi", "n": 4})
    assert status == 503
    assert "try again" in answer["error"]["message"]


async def test_the_error_fault_strikes_the_same_share_of_requests_each_time(start_simulator: StartSimulator) -> None:
    async def statuses(session: ClientSession) -> list[int]:
        return [(await post(session, "/v1/completions", {"prompt": "Hi", "max_tokens": 1}))[0] for _ in range(40)]

    faults = ("--fault-error-rate", "0.5", "--seed", "3")
    first, second = [await statuses(await start_simulator(*faults)) for _ in range(2)]
    assert first == second
    assert 8 <= first.count(500) <= 32


async def test_a_dead_engine_is_unhealthy(start_simulator: StartSimulator) -> None:
    session = await start_simulator("--fault-crash-after-requests", "0")
    async with session.get("/health") as response:
        assert response.status == 200
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await post(session, "/v1/completions", {"prompt": "Hi"})
    async with session.get("/health") as response:
        assert response.status == 503


async def test_faults_strike_one_adapter_only_if_it_is_named(
    start_simulator: StartSimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "1")
    monkeypatch.setenv(KEY_VARIABLE, "key")
    (tmp_path / "adapter_config.json").write_text('{"r": 8}')
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    faults = ("--fault-error-rate=1", "--fault-delay-s=0.2", "--fault-adapter=bad")
    session = await start_simulator("--enable-lora", "--max-loras=2", *faults)
    for name in ("bad", "good"):
        body = {"lora_name": name, "lora_path": str(tmp_path)}
        async with session.post("/v1/load_lora_adapter", json=body, headers={KEY_HEADER: "key"}) as loaded:
            assert loaded.status == 200
    began_s = time.monotonic()
    assert (await post(session, "/v1/completions", {"model": "bad", "prompt": "Hi"}))[0] == 500
    assert time.monotonic() - began_s >= 0.2
    for model in ("good", "m"):
        assert (await post(session, "/v1/completions", {"model": model, "prompt": "Hi", "max_tokens": 1}))[0] == 200
