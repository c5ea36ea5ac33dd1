"""Objects, and a server that answers by a script: the transport of the tests, given to the client as a value."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import aclosing
from datetime import UTC, datetime
from inspect import isawaitable
from itertools import islice
from typing import Any

import httpx

from llmos.client import AsyncClient, Client, Connection

CONNECTION = Connection(server="https://cluster.test", namespace="team")
BORN = datetime(2026, 1, 1, tzinfo=UTC)
POOLS = "/apis/llmos.dev/v1alpha1/namespaces/team/inferencepools"
MODELS = "/apis/llmos.dev/v1alpha1/namespaces/team/llmmodels"
ACCELERATORS = "/apis/llmos.dev/v1alpha1/acceleratorclasses"
PROXY = "/api/v1/namespaces/team/services/smol:http/proxy/v1"

Json = dict[str, Any]
Handler = Callable[[httpx.Request], httpx.Response]


def condition(status: str, reason: str, message: str = "", *, generation: int = 1) -> Json:
    return {
        "type": "Ready",
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": generation,
        "lastTransitionTime": BORN.isoformat(),
    }


def metadata(name: str, namespace: str | None = "team", version: str = "7", generation: int = 1) -> Json:
    facts = {"name": name, "resourceVersion": version, "generation": generation, "creationTimestamp": BORN.isoformat()}
    return facts if namespace is None else {**facts, "namespace": namespace}


def pool(name: str = "smol", *conditions: Json, version: str = "7", generation: int = 1, **status: Any) -> Json:
    return {
        "apiVersion": "llmos.dev/v1alpha1",
        "kind": "InferencePool",
        "metadata": metadata(name, version=version, generation=generation),
        "spec": {"modelRef": {"name": "smollm2"}, "accelerator": {"class": "nvidia-l4"}},
        "status": {"conditions": list(conditions), **status},
    }


def model(name: str = "smollm2", *conditions: Json, **status: Any) -> Json:
    return {
        "apiVersion": "llmos.dev/v1alpha1",
        "kind": "LLMModel",
        "metadata": metadata(name),
        "spec": {"source": {"uri": "hf://HuggingFaceTB/SmolLM2-135M-Instruct"}},
        "status": {"conditions": list(conditions), **status},
    }


def accelerator(name: str = "nvidia-l4", memory: str = "23034Mi", *conditions: Json, **status: Any) -> Json:
    return {
        "apiVersion": "llmos.dev/v1alpha1",
        "kind": "AcceleratorClass",
        "metadata": metadata(name, None),
        "spec": {"memory": memory},
        "status": {"conditions": list(conditions), **status},
    }


READY = condition("True", "Ready")
STARTING = condition("False", "Starting", "Replica smol-1 is starting.")
TOO_BIG = condition("False", "DoesNotFit", "Needs 40 GiB on 1 x 24 GiB: use count 2.")


def answer(body: Json, status: int = 200) -> httpx.Response:
    return httpx.Response(status, json=body)


def objects(*items: Json, version: str = "7", more: str = "") -> httpx.Response:
    return answer({"items": list(items), "metadata": {"resourceVersion": version, "continue": more}})


def refusal(code: int, message: str) -> httpx.Response:
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message}
    return httpx.Response(code, json=body)


def events(*changes: tuple[str, Json]) -> httpx.Response:
    lines = [json.dumps({"type": kind, "object": thing}) for kind, thing in changes]
    return httpx.Response(200, text="\n".join(lines))


def server_sent(*chunks: Json | str) -> httpx.Response:
    lines = [f"data: {chunk if isinstance(chunk, str) else json.dumps(chunk)}\n\n" for chunk in chunks]
    return httpx.Response(200, text="".join(lines), headers={"content-type": "text/event-stream"})


def piece(text: str, finish_reason: str | None = None) -> Json:
    return {"model": "smollm2", "choices": [{"delta": {"content": text}, "finish_reason": finish_reason}]}


class Script:
    """Answers the requests in the order of the script and keeps what was asked."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self._answers = iter(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        reply = next(self._answers, None)
        assert reply is not None, f"the script ends before {request.method} {request.url}"
        if isinstance(reply, Exception):
            raise reply
        # A copy, because httpx binds a response to the kind of client that reads it.
        return httpx.Response(reply.status_code, headers=reply.headers, content=reply.content)

    @property
    def asked(self) -> list[str]:
        return [f"{request.method} {request.url.path}" for request in self.requests]

    def body(self, index: int = -1) -> Json:
        return dict(json.loads(self.requests[index].content))


class Twin:
    """Either client behind one face, so that each test runs against both."""

    def __init__(self, kind: str, handler: Handler) -> None:
        self.kind = kind
        self._handler = handler

    async def call(self, resource: str, method: str, *args: Any, **kwargs: Any) -> Any:
        """What the method returns."""
        if self.kind == "blocking":
            with Client(connection=CONNECTION, transport=httpx.MockTransport(self._handler)) as client:
                return getattr(getattr(client, resource), method)(*args, **kwargs)
        async with AsyncClient(connection=CONNECTION, transport=httpx.MockTransport(self._handler)) as twin:
            return await getattr(getattr(twin, resource), method)(*args, **kwargs)

    async def take(self, count: int, resource: str, method: str, *args: Any, **kwargs: Any) -> list[Any]:
        """The first items of what the method yields; then the iterator is closed."""
        taken: list[Any] = []
        if self.kind == "blocking":
            with Client(connection=CONNECTION, transport=httpx.MockTransport(self._handler)) as client:
                return list(islice(getattr(getattr(client, resource), method)(*args, **kwargs), count))
        async with AsyncClient(connection=CONNECTION, transport=httpx.MockTransport(self._handler)) as twin:
            made = getattr(getattr(twin, resource), method)(*args, **kwargs)
            async with aclosing(await made if isawaitable(made) else made) as items:
                async for item in items:
                    taken.append(item)
                    if len(taken) == count:
                        break
        return taken
