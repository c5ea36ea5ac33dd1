"""The HTTP face of the simulator: reads and checks requests, hands them to the engine, writes vLLM's answers."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Final, NoReturn, TypeVar

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from llmos_workers.serve.drain import DrainMiddleware
from llmos_workers.serve.guard import AdapterMiddleware
from llmos_workers.simulate.adapters import ALLOW_VARIABLE, Adapters, LoadRequest, UnloadRequest
from llmos_workers.simulate.engine import Engine, Event, Job, QueueFullError, Submission
from llmos_workers.simulate.generation import Generation, Planner, build_prompts, build_vector, encode_vector
from llmos_workers.simulate.metrics import Metrics
from llmos_workers.simulate.protocol import (
    ApiError,
    ApiRequest,
    ChatRequest,
    ChatShape,
    CompletionRequest,
    EmbeddingRequest,
    Json,
    Shape,
    TextShape,
    build_bad_request,
    build_usage,
)
from llmos_workers.simulate.settings import Settings
from llmos_workers.simulate.tokens import BLOCK_TOKENS, build_chat_tokens

_log: Final = logging.getLogger(__name__)
_COMPLETION_MAX_TOKENS: Final = 16
"""OpenAI's default for /v1/completions. A chat answer has no default limit but the context."""

_Body = TypeVar("_Body", bound=ApiRequest)
_Change = TypeVar("_Change", LoadRequest, UnloadRequest)


class Server:
    """Routes of one simulated engine. `crash` ends the process when the crash fault strikes."""

    def __init__(self, settings: Settings, crash: Callable[[], NoReturn]) -> None:
        self._settings = settings
        self._metrics = Metrics(settings.served_model_name, BLOCK_TOKENS, settings.limits.kv_blocks)
        self._planner = Planner(settings.seed, settings.mean_output_tokens, settings.limits.max_model_len)
        self._engine = Engine(
            settings.limits,
            settings.timing,
            self._metrics,
            faults=settings.faults,
            max_queued=settings.max_num_queued_reqs,
            crash=crash,
        )
        self._adapters = Adapters(settings.adapters, settings.served_model_name) if settings.adapters else None
        self._engine_task: asyncio.Task[NoReturn] | None = None
        self._requests = 0
        self._created_s = int(time.time())

    def build_app(self) -> Starlette:
        """The ASGI application."""
        generate = [
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/v1/completions", self._complete, methods=["POST"]),
        ]
        return Starlette(
            routes=[
                Route("/health", self._health),
                Route("/metrics", self._scrape),
                Route("/v1/models", self._models),
                Route("/v1/embeddings", self._embed, methods=["POST"]),
                *(generate if self._settings.runner == "generate" else ()),
                *self._build_adapter_routes(),
            ],
            middleware=[Middleware(DrainMiddleware), *((Middleware(AdapterMiddleware),) if self._adapters else ())],
            exception_handlers={ApiError: _answer_error},
            lifespan=self._lifespan,
        )

    def _build_adapter_routes(self) -> list[Route]:
        """As of vLLM: only where it is allowed to change adapters while it runs."""
        if self._adapters is None or os.environ.get(ALLOW_VARIABLE, "0").lower() not in {"1", "true"}:
            return []
        return [
            Route("/v1/load_lora_adapter", self._load_adapter, methods=["POST"]),
            Route("/v1/unload_lora_adapter", self._unload_adapter, methods=["POST"]),
        ]

    async def _load_adapter(self, http: Request) -> Response:
        return await self._change_adapters(http, LoadRequest, lambda adapters, request: adapters.load(request))

    async def _unload_adapter(self, http: Request) -> Response:
        return await self._change_adapters(http, UnloadRequest, lambda adapters, request: adapters.unload(request))

    async def _change_adapters(
        self, http: Request, kind: type[_Change], change: Callable[[Adapters, _Change], str]
    ) -> Response:
        try:
            request = kind.model_validate_json(await http.body())
        except ValidationError as error:
            raise _build_validation_error(error) from error
        if self._adapters is None:
            raise ApiError(404, "NotFoundError", "LoRA is not enabled.")
        return Response(change(self._adapters, request))

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self._engine_task = asyncio.create_task(self._engine.run())
        self._engine_task.add_done_callback(_log_death)
        yield
        self._engine_task.cancel()
        with suppress(asyncio.CancelledError):
            await self._engine_task

    async def _health(self, _: Request) -> Response:
        is_alive = self._engine_task is not None and not self._engine_task.done()
        return Response(status_code=200 if is_alive else 503)

    async def _scrape(self, _: Request) -> Response:
        if self._adapters is not None:
            self._metrics.tell_adapters(self._adapters.used)
        return Response(generate_latest(self._metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def _models(self, _: Request) -> Response:
        name = self._settings.served_model_name
        card: Json = {"id": name, "object": "model", "created": self._created_s, "owned_by": "llmos"}
        card |= {"root": name, "parent": None, "max_model_len": self._settings.limits.max_model_len}
        adapters = self._adapters.build_cards() if self._adapters else []
        return JSONResponse({"object": "list", "data": [card, *adapters]})

    async def _chat(self, http: Request) -> Response:
        request = await self._read(http, ChatRequest)
        prompt = build_chat_tokens((message.role, message.text) for message in request.messages)
        generation = self._choose_planner(request).plan_generation(
            ChatShape, request, [prompt], head=self._build_head(ChatShape, request), default_max_tokens=None
        )
        return await self._generate(http, generation)

    async def _complete(self, http: Request) -> Response:
        request = await self._read(http, CompletionRequest)
        generation = self._choose_planner(request).plan_generation(
            TextShape,
            request,
            build_prompts(request.prompts),
            head=self._build_head(TextShape, request),
            default_max_tokens=_COMPLETION_MAX_TOKENS,
        )
        return await self._generate(http, generation)

    async def _embed(self, http: Request) -> Response:
        request = await self._read(http, EmbeddingRequest)
        inputs = build_prompts(request.inputs)
        await self._collect(http, self._submit(self._planner.plan_embedding(inputs)))
        size = min(request.dimensions or self._settings.embedding_size, self._settings.embedding_size)
        vectors = [build_vector(tokens, self._settings.seed, size) for tokens in inputs]
        data = [
            {"index": index, "object": "embedding", "embedding": encode_vector(vector, request.encoding_format)}
            for index, vector in enumerate(vectors)
        ]
        usage = build_usage(sum(map(len, inputs)), 0)
        model = self._settings.served_model_name
        return JSONResponse({"object": "list", "model": model, "data": data, "usage": usage})

    async def _generate(self, http: Request, generation: Generation) -> Response:
        submission = self._submit(generation.jobs)
        name = generation.request.model or ""
        end = self._adapters.use(name) if self._adapters and self._adapters.find(name) else _end_nothing
        if generation.request.stream:
            return _EventStream(_write_stream(generation, submission), submission, end)
        try:
            events = await self._collect(http, submission)
        finally:
            end()
        texts = [""] * len(generation.jobs)
        reasons = [""] * len(generation.jobs)
        for event in events:
            texts[event.index] += event.piece
            reasons[event.index] = event.finish_reason or ""
        return JSONResponse(generation.build_body(texts, reasons, len(events)))

    async def _read(self, http: Request, kind: type[_Body]) -> _Body:
        body = await http.body()
        self._requests += 1
        number, faults = self._requests, self._settings.faults
        if not faults.adapter:
            await self._suffer(number)
        try:
            request = kind.model_validate_json(body)
        except ValidationError as error:
            raise _build_validation_error(error) from error
        if faults.adapter and faults.adapter == request.model:
            await self._suffer(number)
        name = self._settings.served_model_name
        if request.model not in (None, name) and not self._find_adapter(request):
            message = f"The model `{request.model}` does not exist. Valid aliases: {name}."
            raise ApiError(404, "NotFoundError", message, "model")
        return request

    async def _suffer(self, number: int) -> None:
        """Delay a request, or fail it, as was asked for."""
        faults = self._settings.faults
        if faults.delay_s:
            await asyncio.sleep(faults.delay_s)
        if _is_chosen(self._settings.seed, number, faults.error_rate):
            raise ApiError(500, "InternalServerError", "Internal server error")

    def _find_adapter(self, request: ApiRequest) -> str:
        """Return the folder of the adapter that a request names; empty if it asks the model itself."""
        return (self._adapters.find(request.model) or "") if self._adapters and request.model else ""

    def _choose_planner(self, request: ApiRequest) -> Planner:
        """An adapter changes what the model says of the same prompt, and shares no cache with it."""
        folder = self._find_adapter(request)
        if not folder:
            return self._planner
        digest = hashlib.blake2b(f"{self._settings.seed}:{folder}".encode(), digest_size=4).digest()
        return replace(self._planner, seed=int.from_bytes(digest), salt=folder)

    def _submit(self, jobs: Sequence[Job]) -> Submission:
        try:
            return self._engine.submit(jobs)
        except QueueFullError as error:
            message = "The engine is currently busy and cannot accept new requests. Please try again later."
            raise ApiError(503, "ServiceUnavailableError", message) from error

    async def _collect(self, http: Request, submission: Submission) -> list[Event]:
        """All tokens of a request, or as many as came before its client went away."""
        events: list[Event] = []

        async def read() -> None:
            events.extend([event async for event in submission.tokens()])

        reading = asyncio.create_task(read())
        leaving = asyncio.create_task(_wait_for_disconnect(http))
        try:
            await asyncio.wait((reading, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            reading.cancel()
            leaving.cancel()
            submission.close()
        return events

    def _build_head(self, shape: Shape, request: ApiRequest) -> Json:
        identity = f"{shape.prefix}-{uuid.uuid4().hex[:16]}"
        model = request.model or self._settings.served_model_name
        return {"id": identity, "created": int(time.time()), "model": model}


class _EventStream(StreamingResponse):
    """A stream of server-sent events that frees the engine however it ends, also when it never began."""

    def __init__(self, lines: AsyncIterator[bytes], submission: Submission, end: Callable[[], None]) -> None:
        super().__init__(lines, media_type="text/event-stream")
        self._end = end
        self._submission = submission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._submission.close()
            self._end()


def _end_nothing() -> None:
    """The request used no adapter."""


async def _write_stream(generation: Generation, submission: Submission) -> AsyncIterator[bytes]:
    # As in vLLM the opening comes with the first token: until then nothing is answered, and a caller may ask elsewhere.
    tokens: Counter[int] = Counter()
    async for event in submission.tokens():
        opening = b"" if tokens else generation.build_opening()
        tokens[event.index] += 1
        yield opening + generation.build_line(event, tokens[event.index])
    yield generation.build_ending(tokens.total())


def _build_validation_error(error: ValidationError) -> ApiError:
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, ("body", *first["loc"])))
    return build_bad_request(f"{error.error_count()} validation error: {place}: {first['msg']}", place)


async def _wait_for_disconnect(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


async def _answer_error(_: Request, error: Exception) -> Response:
    if not isinstance(error, ApiError):
        raise error
    return JSONResponse(error.body, status_code=error.status)


def _is_chosen(seed: int, number: int, share: float) -> bool:
    """Whether request `number` is one of the `share` that fail; the same ones for the same seed."""
    digest = hashlib.blake2b(f"{seed}:{number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) < share * 2**64


def _log_death(task: asyncio.Task[NoReturn]) -> None:
    if not task.cancelled() and (error := task.exception()):
        _log.error("EngineCore encountered an issue. See stack trace.", exc_info=error)
