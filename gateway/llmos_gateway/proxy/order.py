"""What a delivery is given: the order, which is one request's, and the tools, which all share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llmos_gateway.catalog import ApiKey, Catalog, Pool
from llmos_gateway.holding import Holding
from llmos_gateway.load import CanaryBook
from llmos_gateway.metrics import Metrics
from llmos_gateway.proxy.accounts import Accounts
from llmos_gateway.proxy.limits import Limits
from llmos_gateway.proxy.tracing import Tracer
from llmos_gateway.proxy.upstream import Upstream
from llmos_gateway.queueing import Queueing
from llmos_gateway.routing import PromptBlocks


@dataclass(frozen=True, slots=True)
class Tools:
    """What deliveries share."""

    catalog: Catalog
    holding: Holding
    queueing: Queueing
    accounts: Accounts
    canaries: CanaryBook
    upstream: Upstream
    limits: Limits
    metrics: Metrics
    clock: Callable[[], float]
    tracer: Tracer | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be delivered, to whom."""

    key: ApiKey
    pool: Pool
    path: str
    prompt: PromptBlocks
    body: bytes
    """For the engine."""
    is_stream: bool
    hides_usage: bool
    """Whether usage is kept from the caller, who did not ask for it."""
    hides_counts: bool
    """Whether the same is true of the counts in every event."""
    choices: int
    """Answers for each prompt."""
