"""Story 9: an application with OpenAI's own client and the gateway's URL. It lists models, chats, streams and embeds;
it is told what was used, and each refusal is the exception that the client has for it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from e2e.cluster.objects import Kubectl
from e2e.cluster.paths import repository_dir
from e2e.support.api import Api
from e2e.support.gateway import Gateway
from e2e.support.objects import build_model, build_pool, is_ready, wait_ready
from e2e.support.operator import OperatorProcess, OperatorSettings
from e2e.support.source import Source
from e2e.support.waiting import eventually

START_S = 1200
"""Fetching 93 MB, converting it and starting vLLM take minutes on two busy cores."""
QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the capital of France?"}]


def connect_client(gateway: Gateway, key: str) -> openai.AsyncOpenAI:
    """The client as an application makes it; without its retries, which would hide a failure."""
    web = openai.DefaultAsyncHttpxClient(trust_env=False)
    return openai.AsyncOpenAI(base_url=gateway.url, api_key=key, max_retries=0, http_client=web)


@pytest.fixture
async def client(gateway: Gateway, key: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with connect_client(gateway, key) as connected:
        yield connected


async def chat_and_stream(client: openai.AsyncOpenAI, model: str) -> str:
    """The same question whole and streamed: the same words and the same usage. Returns the words."""
    whole = await client.chat.completions.create(model=model, messages=QUESTION, max_tokens=40, temperature=0, seed=1)
    assert whole.usage is not None
    assert whole.usage.prompt_tokens > 0
    assert 0 < whole.usage.completion_tokens <= 40
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens

    stream = await client.chat.completions.create(
        model=model,
        messages=QUESTION,
        max_tokens=40,
        temperature=0,
        seed=1,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    *answer, last = chunks
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == whole.usage.completion_tokens
    text = "".join(chunk.choices[0].delta.content or "" for chunk in answer if chunk.choices)
    assert text == whole.choices[0].message.content
    return text


async def stream_without_usage(client: openai.AsyncOpenAI, model: str) -> None:
    """The gateway needs the usage; a client that did not ask for it must not see it."""
    stream = await client.chat.completions.create(model=model, messages=QUESTION, max_tokens=5, stream=True)
    async for chunk in stream:
        assert chunk.choices, f"a chunk that nobody asked for: {chunk}"
        assert chunk.usage is None


async def meet_refusals(client: openai.AsyncOpenAI, gateway: Gateway, model: str) -> None:
    """Who may not, what is not there, and what makes no sense."""
    async with connect_client(gateway, f"{client.api_key[:-3]}xyz") as stranger:
        with pytest.raises(openai.AuthenticationError):
            await stranger.models.list()
        with pytest.raises(openai.AuthenticationError):
            await stranger.chat.completions.create(model=model, messages=QUESTION)
    with pytest.raises(openai.NotFoundError) as unknown:
        await client.chat.completions.create(model="nobody-serves-this", messages=QUESTION)
    assert unknown.value.request_id
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError):
        await client.chat.completions.create(model=model, messages=QUESTION, max_tokens=-1)


@pytest.mark.timeout(600)
async def test_the_official_client_understands_all_that_the_gateway_says(
    api: Api, operator: OperatorProcess, source: Source, namespace: str, gateway: Gateway, client: openai.AsyncOpenAI
) -> None:
    await wait_ready(api, await api.create(build_model(namespace, f"{source.url}/tiny")))
    await wait_ready(api, await api.create(build_pool(namespace)))
    names = [model.id async for model in await client.models.list()]
    assert names == ["pool"]
    assert (await client.models.retrieve("pool")).id == "pool"
    for name in ("pool", f"{namespace}/pool", "tiny"):
        await chat_and_stream(client, name)
    await stream_without_usage(client, "pool")

    completion = await client.completions.create(model="pool", prompt="Once upon a time", max_tokens=7)
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 7
    embedded = await client.embeddings.create(model="pool", input=["one", "two"])
    assert [len(entry.embedding) for entry in embedded.data] == [len(embedded.data[0].embedding)] * 2
    assert embedded.usage.prompt_tokens > 0
    await meet_refusals(client, gateway, "pool")


@pytest.mark.vllm
@pytest.mark.timeout(1500)
async def test_a_real_model_answers_the_official_client(
    api: Api,
    vllm_image: None,
    operator_process: OperatorProcess,
    kubectl: Kubectl,
    namespace: str,
    gateway: Gateway,
    client: openai.AsyncOpenAI,
) -> None:
    operator_process.ensure(OperatorSettings(start_timeout_s=START_S, resync_s=30))
    kubectl("apply", f"--namespace={namespace}", f"--filename={repository_dir() / 'examples' / 'quickstart.yaml'}")
    await eventually(
        "the pool is ready", lambda: api.get("InferencePool", "chat", namespace), is_ready, timeout_s=START_S, poll_s=2
    )
    assert [model.id async for model in await client.models.list()] == ["chat"]
    assert "Paris" in await chat_and_stream(client, "chat")
    await stream_without_usage(client, "chat")
    completion = await client.completions.create(model="chat", prompt="The capital of France is", max_tokens=5)
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 5
    response = await client.responses.create(model="chat", input="What is the capital of France?", temperature=0)
    assert "Paris" in response.output_text
    await meet_refusals(client, gateway, "chat")
