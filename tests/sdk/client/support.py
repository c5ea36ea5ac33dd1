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
JOBS = "/apis/llmos.dev/v1alpha1/namespaces/team/finetunejobs"
PODS = "/api/v1/namespaces/team/pods"
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


def job(
    name: str = "support",
    *conditions: Json,
    class_name: str = "cpu",
    suspend: bool = False,
    evaluate: Json | None = None,
    attach: tuple[str, ...] = (),
    **status: Any,
) -> Json:
    output = {"name": name, **({"attachTo": [{"pool": pool} for pool in attach]} if attach else {})}
    spec = {
        "baseModelRef": {"name": "smollm2"},
        "dataset": {"source": {"uri": "https://example.com/support.jsonl"}},
        "trainer": {"accelerator": {"class": class_name}},
        "output": output,
        "suspend": suspend,
        "evaluate": evaluate or {},
    }
    return {
        "apiVersion": "llmos.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": metadata(name),
        "spec": spec,
        "status": {"conditions": list(conditions), **status},
    }


def pod(
    name: str,
    *,
    component: str = "train",
    born: str = "2026-01-01T00:00:00Z",
    phase: str = "Running",
    states: Json | None = None,
    init: tuple[str, ...] = (),
    rank: str = "0",
    conditions: tuple[Json, ...] = (),
) -> Json:
    """A pod of the operator; `states` are those of its containers, in the order in which they start."""
    told = {"train": {"running": {}}} if states is None else states
    statuses = [{"name": each, "state": state} for each, state in told.items()]
    return {
        "metadata": {
            "name": name,
            "creationTimestamp": born,
            "labels": {"llmos.dev/component": component, "llmos.dev/rank": rank},
        },
        "spec": {
            "initContainers": [{"name": each} for each in told if each in init],
            "containers": [{"name": each} for each in told if each not in init],
        },
        "status": {
            "phase": phase,
            "conditions": list(conditions),
            "initContainerStatuses": [each for each in statuses if each["name"] in init],
            "containerStatuses": [each for each in statuses if each["name"] not in init],
        },
    }


def log(*lines: tuple[int, str]) -> httpx.Response:
    """A container's log: seconds of the minute, with their text."""
    return httpx.Response(200, text="".join(f"2026-01-01T00:00:{s:02}.5Z {text}\n" for s, text in lines))


TRAINING = condition("False", "Training", "Step 20 of 80.")
SUCCEEDED = condition("True", "Registered", "LLMModel support is registered.")
GATE_FAILED = condition("False", "GateFailed", "eval_loss 2.1 is above 0.95 x 2.0.")
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
