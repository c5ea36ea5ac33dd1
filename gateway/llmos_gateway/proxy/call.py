"""One request while it is on the road: what is known of it so far, and how it can be ended from outside."""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web

from llmos_gateway.catalog import ApiKey, Pool
from llmos_gateway.protocol.errors import ApiError
from llmos_gateway.protocol.fields import SPEECHLESS, ApiPart
from llmos_gateway.protocol.usage import Usage
from llmos_gateway.proxy.purse import Purse
from llmos_gateway.proxy.tracing import Span
from llmos_gateway.routing import PromptBlocks
from llmos_gateway.routing.blocks import BYTES_PER_TOKEN

CALLER_GONE_STATUS: Final = 499
"""nginx's number for a caller that went away; only in logs and metrics."""


class Call:
    """Fields are filled in from step to step; what a step has not reached keeps its default."""

    __slots__ = (
        "account",
        "arrived_s",
        "asked",
        "attempts",
        "body_bytes",
        "budget_headers",
        "caller",
        "code",
        "events",
        "first_s",
        "http",
        "interruption",
        "is_counted",
        "is_stream",
        "key",
        "last_s",
        "part",
        "pool",
        "prompt",
        "purse",
        "queue_s",
        "replica",
        "request_id",
        "span",
        "status",
        "task",
        "usage",
        "waits",
    )

    def __init__(self, http: web.BaseRequest, part: ApiPart | None, request_id: str, arrived_s: float) -> None:
        self.http = http
        self.part = part
        """None for anything that is not about one model."""
        self.request_id = request_id
        self.arrived_s = arrived_s
        self.task: asyncio.Task[object] | None = asyncio.current_task()
        self.key: ApiKey | None = None
        self.account = ""
        """Under which the tokens of the key's tenant are counted; empty without one."""
        self.caller = ""
        """As whose it counts; empty as nobody's."""
        self.is_stream = False
        self.body_bytes = 0
        self.asked: Pool | None = None
        """What the caller named."""
        self.pool: Pool | None = None
        """What answers: the same, or an adapter that has a share of the name."""
        self.prompt: PromptBlocks | None = None
        self.purse: Purse | None = None
        """What it has reserved of its tenant's tokens."""
        self.budget_headers: dict[str, str] = {}
        """What its caller is told of them."""
        self.queue_s = 0.0
        """Time that it was held."""
        self.waits = False
        """Whether it is held, or waits for its turn, now."""
        self.attempts = 0
        self.replica = ""
        self.first_s: float | None = None
        """When the first event of a stream came."""
        self.last_s: float | None = None
        self.events = 0
        self.usage: Usage | None = None
        self.status = 0
        self.code = ""
        self.is_counted = False
        """Whether the book knows how it ended."""
        self.interruption: ApiError | None = None
        self.span: Span | None = None

    @property
    def prompt_tokens(self) -> int:
        """Estimated tokens of the prompt."""
        return self.prompt.tokens if self.prompt is not None else 0

    def interrupt(self, reason: ApiError) -> None:
        """End it from outside; the caller is told `reason` if it is still there."""
        if self.interruption is None and self.task is not None and not self.task.done():
            self.interruption = reason
            self.task.cancel()

    def take_interruption(self) -> ApiError:
        """Return why it was ended from outside, so that the caller can be told.

        Raises:
            CancelledError: nobody interrupted it, or the caller is gone: there is nobody to tell.
        """
        reason, task, transport = self.interruption, self.task, self.http.transport
        if reason is None or task is None or transport is None or transport.is_closing():
            raise asyncio.CancelledError
        self.interruption = None
        task.uncancel()
        return reason

    def compute_usage(self) -> Usage:
        """Return the engine's count, or what the gateway saw pass: one token an event, and its own estimate.

        A chat begins with an event that has a role and no token.
        """
        return self.usage if self.usage is not None else self.estimate_usage(self.events)

    def estimate_usage(self, events: int) -> Usage:
        """Return what so many events of an answer hold, as the gateway sees it."""
        tokens = max(0, events - (self.part is ApiPart.CHAT))
        return Usage(self.prompt_tokens if events else 0, tokens, 0, is_exact=False)

    def estimate_part(self, size: int) -> Usage:
        """Return what so many bytes of an answer that is no stream hold, as the gateway sees it."""
        tokens = 0 if self.part in SPEECHLESS else size // BYTES_PER_TOKEN
        return Usage(self.prompt_tokens, tokens, 0, is_exact=False)

    def compute_ttft_s(self) -> float | None:
        """Return the time to the first token, queueing included; None if there was none, or no stream."""
        return None if self.first_s is None else self.first_s - self.arrived_s

    def compute_tpot_s(self) -> float | None:
        """Return the mean time for each further token."""
        tokens = self.compute_usage().completion_tokens
        if self.first_s is None or self.last_s is None or tokens < 2:
            return None
        return (self.last_s - self.first_s) / (tokens - 1)
