"""The flows of a conversation with a pool, in the OpenAI-compatible form, and the values they yield.

A pool is reached through the API server's service proxy: `services/NAME:http/proxy`. That needs no local port, chooses
only replicas that are ready, passes server-sent events on at once, is free of the API server's request timeout, and
ends with the HTTP request itself, so nothing is left behind however the caller ends. It needs the permission `create`
on `services/proxy`, which the usual roles `edit` and `admin` have. Against a plain address the same flows run as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypedDict

from pydantic import BaseModel, ConfigDict

from llmos.api import InferencePool
from llmos.client.answers import as_sentence, build_error, is_status
from llmos.client.errors import EngineError, ForbiddenError, NotFoundError, OverloadedError, UnauthenticatedError
from llmos.client.flow import Emit, Flow, Open, Read, Reply, Request, Send, T, parse_object
from llmos.client.readiness import build_not_ready
from llmos.client.resources import ResourceFlows

_ANSWER_SILENCE_S: Final = 300.0
_DATA: Final = "data:"
_DONE: Final = "[DONE]"
_UNAUTHORIZED: Final = 401


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class ChatMessage(_Value):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class Usage(_Value):
    """Tokens that a request took."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class ChatChunk(_Value):
    """A piece of an answer as it comes. The last ones carry the reason why it ended, and the usage."""

    model: str = ""
    text: str = ""
    finish_reason: str | None = None
    usage: Usage | None = None


class ChatCompletion(_Value):
    """A whole answer."""

    model: str = ""
    text: str = ""
    finish_reason: str | None = None
    usage: Usage = Usage()


class ChatOptions(TypedDict, total=False):
    """Optional parameters of a request; None leaves the choice to the server."""

    model: str | None
    """Served name; by default the first model that the server lists."""
    max_tokens: int | None
    temperature: float | None


@dataclass(frozen=True)
class ChatFlows:
    """Conversations with the OpenAI-compatible server whose API lies under `base` (`{base}/v1/...`)."""

    base: str = ""
    title: str = "The server"

    def complete(self, messages: Sequence[ChatMessage], options: ChatOptions) -> Flow[ChatCompletion]:
        """The whole answer at once."""
        body = yield from self._build_body(messages, options)
        reply = yield Send(self._request("POST", "chat/completions", body))
        answer = self._check(reply).as_object()
        choice = _first(answer.get("choices"))
        return ChatCompletion(
            model=answer.get("model", ""),
            text=choice.get("message", {}).get("content") or "",
            finish_reason=choice.get("finish_reason"),
            usage=answer.get("usage") or Usage(),
        )

    def stream(self, messages: Sequence[ChatMessage], options: ChatOptions) -> Flow[None]:
        """Emit ChatChunks as the engine generates them."""
        body = yield from self._build_body(messages, options)
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        self._check((yield Open(self._request("POST", "chat/completions", body))))
        while (line := (yield Read())) is not None:
            data = line.removeprefix(_DATA).strip() if line.startswith(_DATA) else ""
            if data == _DONE:
                return
            if data:
                yield Emit(self._parse_chunk(data))
        raise EngineError(
            f"{self.title} ended the answer before it was complete.",
            "Ask again; if it comes back, look at the engine's log (kubectl logs POD -c engine --previous).",
            status=200,
        )

    def _build_body(self, messages: Sequence[ChatMessage], options: ChatOptions) -> Flow[dict[str, Any]]:
        given = {key: value for key, value in options.items() if value is not None}
        if "model" not in given:
            given["model"] = yield from self.served_model()
        return {**given, "messages": [message.model_dump() for message in messages]}

    def served_model(self) -> Flow[str]:
        """The name of the model that the server serves: the first one it lists."""
        reply = yield Send(self._request("GET", "models"))
        model = _first(self._check(reply).as_object().get("data")).get("id")
        if not model:
            raise EngineError(
                f"{self.title} lists no model under /v1/models.",
                "Check that the address belongs to an OpenAI-compatible server.",
                status=reply.status,
            )
        return str(model)

    def _request(self, method: Literal["GET", "POST"], path: str, body: Mapping[str, Any] | None = None) -> Request:
        return Request(method, f"{self.base}/v1/{path}", body=body, read_timeout_s=_ANSWER_SILENCE_S)

    def _check(self, reply: Reply) -> Reply:
        if not reply.is_error:
            return reply
        body = reply.as_object()
        if self.base and is_status(body):
            raise build_error(reply, self.title)
        if reply.status == _UNAUTHORIZED and not self.base:
            raise UnauthenticatedError(
                f"{self.title} does not accept the API key.",
                "Name a valid one with --key or LLMOS_API_KEY; llmos keys create makes one.",
            )
        raise self._engine_error(body, reply.text, reply.status)

    def _engine_error(self, body: Mapping[str, Any], text: str, status: int) -> EngineError:
        error = body.get("error", body)
        words = error.get("message") if isinstance(error, Mapping) else error
        said = as_sentence(str(words or text.strip() or f"HTTP {status}")[:2000])
        remedy = (
            "Correct the request as it says."
            if 400 <= status < 500
            else "Ask again; if it stays so, read the engine's log."
        )
        return EngineError(f"{self.title} refused (HTTP {status}): {said}", remedy, status=status)

    def _parse_chunk(self, data: str) -> ChatChunk:
        chunk = parse_object(data)
        if "error" in chunk:
            raise self._engine_error(chunk, data, 200)
        choice = _first(chunk.get("choices"))
        return ChatChunk(
            model=chunk.get("model", ""),
            text=choice.get("delta", {}).get("content") or "",
            finish_reason=choice.get("finish_reason"),
            usage=chunk.get("usage"),
        )


def build_pool_chat(namespace: str, name: str) -> ChatFlows:
    """Conversations with a pool, through the API server's service proxy."""
    return ChatFlows(
        base=f"/api/v1/namespaces/{namespace}/services/{name}:http/proxy", title=f"InferencePool {namespace}/{name}"
    )


def require_replica(pools: ResourceFlows[InferencePool], namespace: str, name: str) -> Flow[InferencePool]:
    """The pool, if at least one of its replicas answers.

    Raises:
        NotReadyError: none does; reason and message are those of the pool.
    """
    pool = yield from pools.get(namespace, name)
    if pool.status.ready_replicas == 0:
        raise build_not_ready(pool)
    return pool


def guard_pool(pools: ResourceFlows[InferencePool], namespace: str, name: str, conversation: Flow[T]) -> Flow[T]:
    """Run a conversation with a pool, and say in the pool's terms why it cannot be reached."""
    pool = yield from require_replica(pools, namespace, name)
    try:
        return (yield from conversation)
    except ForbiddenError as error:
        raise ForbiddenError(
            error.cause,
            "Ask for `create` and `get` on services/proxy (in the role `edit`), or use: "
            f"kubectl port-forward -n {namespace} service/{name} 8000:http, and --url http://localhost:8000.",
        ) from error
    except (NotFoundError, OverloadedError) as error:
        # The Service has no endpoint, though the pool counted a replica: it went away just now.
        raise OverloadedError(
            f"InferencePool {pool.metadata.name} cannot be reached now: {error.cause}",
            "A replica may be starting or going away; look at llmos status and ask again.",
        ) from error


def _first(items: object) -> dict[str, Any]:
    return items[0] if isinstance(items, list) and items and isinstance(items[0], dict) else {}
