"""From a checked request to an answer: hold, queue, route, forward, and again while the caller has seen nothing.

Two kinds of answer share one loop. A stream passes event by event. Any other answer is read to its end before it is
sent, so that it can be had from another replica if this one dies over it; beyond `max_buffered_bytes` it passes as it
comes. In both cases the first byte of an answer that the caller sees is the point of no return.

The `model` of an answer stays as the engine says it: the LLMModel that answered, whatever name it was asked by, as
OpenAI answers with the version behind an alias.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Final

from aiohttp import web

from llmos_gateway.catalog import Pool
from llmos_gateway.holding import HoldRefused
from llmos_gateway.load import Outcome as AttemptOutcome
from llmos_gateway.protocol.answers import MAX_ERROR_BYTES, build_engine_error, is_unknown_model
from llmos_gateway.protocol.errors import ApiError, BadGatewayError, build_refusal
from llmos_gateway.protocol.events import EventFilter, split_events
from llmos_gateway.protocol.headers import build_caller_headers, build_upstream_headers
from llmos_gateway.protocol.requests import ApiPart
from llmos_gateway.protocol.usage import MAX_USAGE_BYTES, find_usage
from llmos_gateway.proxy.accounts import Attempt, Sign
from llmos_gateway.proxy.call import Call
from llmos_gateway.proxy.event_stream import EventStream
from llmos_gateway.proxy.order import Order, Tools
from llmos_gateway.proxy.retries import Retries, build_failure
from llmos_gateway.proxy.upstream import (
    Answer,
    DeclinedError,
    LostError,
    MissingError,
    ReplicaError,
    is_declined,
    is_refused,
    read_up_to,
)
from llmos_gateway.proxy.whole_answer import WholeAnswer
from llmos_gateway.queueing import Place

WAITING_FOR_REPLICA: Final = "waiting for a replica (pool wakes up)"
WAITING_FOR_CONNECTION: Final = "waiting for a replica (none can be reached)"
WAITING_FOR_ADAPTER: Final = "waiting for a replica (adapter is being loaded)"
WAITING_FOR_TURN: Final = "waiting for its turn (pool is busy)"
WAITING_FOR_ENGINE: Final = "waiting for the first token"
_NOT_FOUND: Final = 404
_END_WITH_DONE: Final = frozenset({ApiPart.CHAT, ApiPart.COMPLETIONS})


class Delivery:
    """Brings one answer to one caller."""

    def __init__(
        self, tools: Tools, call: Call, order: Order, *, on_answer: Callable[[Call], None], closes: bool
    ) -> None:
        self._tools = tools
        self._call = call
        self._order = order
        self._on_answer = on_answer
        self._place: Place | None = None
        self._was_served = False
        """Whether a replica may have worked on it."""
        self._was_let_in = False
        """Whether it has waited, in whichever queue: it is not asked to leave when it changes the queue."""
        self._stream: EventStream | None = None
        if order.is_stream:
            budget = call.budget_headers
            self._stream = EventStream(call.http, call.request_id, tools.limits, closes=closes, budget=budget)

    async def run(self) -> web.StreamResponse:
        """Return the answer, begun or to be sent.

        Raises:
            ApiError: there is none, and the caller has seen nothing yet.
        """
        call, stream = self._call, self._stream
        try:
            return await self._try_replicas()
        except ApiError as error:
            failure = error
        except asyncio.CancelledError:
            failure = call.take_interruption()
        finally:
            self._end_turn()
        try:
            if stream is None or not stream.has_begun:
                raise failure
            call.status, call.code = failure.status, failure.code
            return await stream.fail(failure)
        finally:
            # Its traceback holds this frame, and so the body, until the collector comes.
            del failure

    async def _try_replicas(self) -> web.StreamResponse:
        retries = Retries(self._tools.limits)
        waits_since_s = self._call.arrived_s
        while True:
            pool = await self._hold(retries, waits_since_s)
            if not await self._take_turn(pool):
                continue
            attempt = self._tools.accounts.choose(pool, self._order.prompt, retries.tried)
            if attempt is None:
                retries.start_over()
                continue
            try:
                return await self._forward(attempt, is_for_others=bool(retries.avoided))
            except ReplicaError as error:
                present = [endpoint.address for endpoint in pool.endpoints]
                goes_on = retries.may_go_on(attempt.address, error, present)
                series = self._tools.metrics.find_series(pool.id, pool.model, self._order.key.tenant)
                series.count_upstream_error(error.kind, is_retried=goes_on)
                if not goes_on:
                    return await self._give_up(error)
                if isinstance(error, MissingError):
                    self._tools.accounts.lacks(pool, attempt)
                elif isinstance(error, LostError):
                    # A replica had it until now; that was no waiting.
                    waits_since_s = self._tools.clock()

    async def _hold(self, retries: Retries, waits_since_s: float) -> Pool:
        """Return the pool as it is now, once it has a replica that may be tried."""
        wanted = self._order.pool
        pool = self._tools.catalog.get_pool(wanted.id, wanted.adapter_name)
        if pool is not None and any(endpoint.address not in retries.avoided for endpoint in pool.endpoints):
            return pool
        if wanted.adapter is not None:
            # Others have replicas while this one waits for its own: its turn is theirs.
            self._end_turn()
        call = self._call
        try:
            with self._waiting(self._find_comment(pool)):
                return await self._tools.holding.wait(
                    wanted.id,
                    self._order.key.identity,
                    call.prompt_tokens,
                    adapter=wanted.adapter_name,
                    arrived_s=waits_since_s,
                    was_let_in=self._was_let_in,
                    avoided=retries.avoided,
                    pause_s=retries.pause_s,
                )
        except HoldRefused as refusal:
            raise self._refuse(refusal) from None
        except asyncio.CancelledError:
            call.is_counted = True
            raise
        finally:
            self._was_let_in = True

    @contextmanager
    def _waiting(self, comment: str) -> Iterator[None]:
        """Count the request as one that waits, and keep its stream alive."""
        call, began_s = self._call, self._tools.clock()
        call.waits = True
        try:
            with self._stream.kept_alive(comment) if self._stream else nullcontext():
                yield
        finally:
            call.waits = False
            call.queue_s += self._tools.clock() - began_s

    def _find_comment(self, pool: Pool | None) -> str:
        if pool is not None and pool.endpoints:
            return WAITING_FOR_CONNECTION
        whole = self._tools.catalog.get_pool(self._order.pool.id)
        return WAITING_FOR_ADAPTER if whole is not None and whole.endpoints else WAITING_FOR_REPLICA

    def _refuse(self, refusal: HoldRefused) -> ApiError:
        # Whoever refused it has told the book.
        self._call.is_counted = True
        return build_refusal(refusal.status, refusal.message, refusal.reason, refusal.retry_after_s)

    async def _take_turn(self, pool: Pool) -> bool:
        """Return True if the request may be sent now; False once it has waited, for the pool may have changed."""
        if self._place is not None:
            return True
        call = self._call
        try:
            place = self._tools.queueing.enter(
                pool,
                self._order.key,
                prompt_tokens=call.prompt_tokens,
                is_whole=self._stream is None,
                was_let_in=self._was_let_in,
            )
            self._was_let_in = True
            if not place.may_go:
                with self._waiting(WAITING_FOR_TURN):
                    if await place.wait(call.prompt_tokens, arrived_s=call.arrived_s):
                        self._place = place
                return False
        except HoldRefused as refusal:
            raise self._refuse(refusal) from None
        self._place = place
        return True

    def _end_turn(self) -> None:
        if self._place is not None:
            self._place.leave(self._call.usage, was_served=self._was_served)
            self._place = None

    async def _forward(self, attempt: Attempt, *, is_for_others: bool) -> web.StreamResponse:
        """Try one replica; tell those who are held, `is_for_others`, that it can be reached.

        Raises:
            ReplicaError: it failed, and the caller has seen nothing of it.
            ApiError: it failed over an answer that the caller has seen a part of.
        """
        tools, call = self._tools, self._call
        headers = build_upstream_headers(call.http.headers, f"{call.request_id}-{secrets.token_hex(6)}")
        span = tools.tracer.begin_attempt(call.span, headers) if tools.tracer and call.span else None
        tools.accounts.started(call, attempt, self._order.prompt)
        if self._place is not None:
            self._place.send(attempt.address)
        outcome: AttemptOutcome = "failed"
        sign = Sign.NONE
        answer: Answer | None = None
        try:
            tell = self._build_tell(attempt) if is_for_others else None
            on_connected = tell if self._order.pool.adapter is None else None
            body = self._order.body
            answer = await tools.upstream.send(attempt.address, self._order.path, body, headers, on_connected)
            self._was_served |= not is_refused(answer.status)
            if tell is not None and answer.status != _NOT_FOUND:
                tell()
            response = await self._pass(answer, attempt)
            outcome, sign = ("finished", Sign.GOOD) if call.status < 500 else ("failed", Sign.ERROR)
            return response
        except ReplicaError as error:
            self._was_served |= isinstance(error, LostError)
            outcome, sign = "retried", _find_sign(error)
            raise
        except BadGatewayError:
            sign = Sign.BROKEN
            raise
        except (asyncio.CancelledError, ConnectionError):
            # Of a request that no answer came to yet it is not known whether it was worked on.
            self._was_served |= answer is None
            outcome = "cancelled"
            raise
        finally:
            if answer is not None:
                answer.close()
            tools.accounts.ended(call, attempt, outcome)
            tools.accounts.judge(call, attempt, sign)
            if span is not None:
                span.end(
                    {"llmos.replica": call.replica, "llmos.outcome": outcome}, "" if call.status < 500 else outcome
                )

    def _build_tell(self, attempt: Attempt) -> Callable[[], None]:
        """Return what to call once the replica can be reached; or has the adapter, which only its answer tells."""
        return partial(self._tools.holding.reached, attempt.pool_id, self._order.pool.adapter_name)

    async def _pass(self, answer: Answer, attempt: Attempt) -> web.StreamResponse:
        if answer.status == 200:
            if self._stream is not None and answer.headers.get("Content-Type", "").startswith("text/event-stream"):
                return await self._pass_stream(answer, attempt, self._stream)
            return await self._pass_whole(answer)
        body, _ = await read_up_to(answer, MAX_ERROR_BYTES)
        if is_declined(answer.status):
            raise DeclinedError(answer.status, body, answer.headers.get("Retry-After"))
        if answer.status == _NOT_FOUND and self._order.pool.adapter is not None and is_unknown_model(body):
            raise MissingError("the replica does not have the adapter")
        return await self._pass_error(answer.status, body, answer.headers.get("Retry-After"))

    async def _pass_stream(self, answer: Answer, attempt: Attempt, stream: EventStream) -> web.StreamResponse:
        call, order = self._call, self._order
        events = EventFilter(hides_usage=order.hides_usage, hides_counts=order.hides_counts, choices=order.choices)
        try:
            with stream.kept_alive(WAITING_FOR_ENGINE):
                data = await answer.read()
            if not data:
                raise LostError("the answer is empty")
            self._begin(attempt)
            while data:
                await self._pass_events(events, data, stream)
                self._progress(events)
                data = await answer.read()
            if passed := events.finish():
                await stream.send(passed)
            if call.part in _END_WITH_DONE and not events.is_done and not events.has_error:
                raise LostError("the answer ended before [DONE]")
        except LostError as error:
            if not stream.has_events:
                raise
            raise BadGatewayError(
                f"The replica of {attempt.pool_id} was lost while it answered. Ask again for a whole answer.",
                "replica_lost",
            ) from error
        finally:
            call.events, call.usage = events.events, events.usage
        call.status = 200
        if events.has_error:
            call.status, call.code = 500, "engine_error"
        return await stream.finish()

    def _begin(self, attempt: Attempt) -> None:
        """Note the first token of a stream."""
        self._tools.accounts.first_token(self._call, attempt)
        if self._place is not None:
            self._place.begin(attempt.address)

    def _progress(self, events: EventFilter) -> None:
        """Note what has passed of a stream."""
        self._call.last_s = self._tools.clock()
        if self._place is not None:
            self._place.progress(events.events)

    async def _pass_events(self, events: EventFilter, data: bytes, stream: EventStream) -> None:
        """Send on what may be, and reserve for what comes. What is paid for goes before anything waits for the store.

        Raises:
            TooManyRequestsError: what comes now is more than the tenant has left; the caller does not get it.
        """
        purse, call = self._call.purse, self._call
        if purse is None:
            await self._send(stream, events.feed(data))
            return
        passed: list[bytes] = []
        # Much comes at once after a wait, and the tenant may have enough for a part of it.
        for piece in split_events(data) if purse.is_open else (data,):
            fed = events.feed(piece)
            if not purse.covers(usage := events.usage or call.estimate_usage(events.events)):
                await self._send(stream, b"".join(passed))
                passed.clear()
                await purse.advance(usage)
            passed.append(fed)
        await self._send(stream, b"".join(passed))

    async def _send(self, stream: EventStream, passed: bytes) -> None:
        if passed:
            if not stream.has_events:
                self._forget_body()
            await stream.send(passed)

    async def _pass_whole(self, answer: Answer) -> web.StreamResponse:
        call = self._call
        body, is_whole = await read_up_to(answer, self._tools.limits.max_buffered_bytes)
        headers = build_caller_headers(answer.headers, call.request_id, call.budget_headers)
        if not is_whole:
            return await self._pass_large(answer, web.StreamResponse(headers=headers), body)
        call.usage = find_usage(body)
        call.status = 200
        return WholeAnswer(200, body, headers)

    async def _pass_large(self, answer: Answer, response: web.StreamResponse, data: bytes) -> web.StreamResponse:
        call, tail, passed = self._call, b"", 0
        if answer.content_length is not None:
            response.content_length = answer.content_length
        await response.prepare(call.http)
        try:
            while data:
                passed += len(data)
                await call.http.writer.write(data)
                # The count stands near the end; the vectors before it are not searched again and again.
                tail = (tail + data)[-2 * MAX_USAGE_BYTES :]
                data = await answer.read()
        except LostError as error:
            raise BadGatewayError("The replica was lost while it answered.", "replica_lost") from error
        finally:
            # Or whoever leaves before the count, which stands at the end, would have nearly all of it for nothing.
            call.usage = find_usage(tail) or call.estimate_part(passed)
        call.status = 200
        await response.write_eof()
        return response

    def _forget_body(self) -> None:
        """The answer has begun, so that the body is not needed any more; an answer may take long."""
        self._order = replace(self._order, body=b"")
        self._on_answer(self._call)

    async def _give_up(self, error: ReplicaError) -> web.StreamResponse:
        if isinstance(error, DeclinedError):
            return await self._pass_error(error.status, error.body, error.retry_after)
        raise build_failure(self._order.pool.id) from error

    async def _pass_error(self, status: int, body: bytes, retry_after: str | None) -> web.StreamResponse:
        call = self._call
        call.status, body = build_engine_error(status, body, self._order.pool.id)
        call.code = "engine_error"
        if self._stream is not None and self._stream.has_begun:
            return await self._stream.fail_with(body)
        headers = {"Content-Type": "application/json"}
        if retry_after is not None or call.status == 503:
            headers["Retry-After"] = retry_after or "1"
        built = build_caller_headers(headers, call.request_id, call.budget_headers)
        return WholeAnswer(call.status, body, built)


def _find_sign(error: ReplicaError) -> Sign:
    if isinstance(error, MissingError):
        # It is as healthy as before, and may serve the adapter again in a moment.
        return Sign.NONE
    return Sign.ERROR if isinstance(error, DeclinedError) else Sign.BROKEN
