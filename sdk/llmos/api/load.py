"""What gateways and replicas say of their load: the words that operator and gateways share over HTTP.

A gateway answers `GET /load` on its admin port with a `GatewayLoad`, a replica `GET /load` on its control port with an
`EngineLoad`. Numbers that end in `total` only grow while the process lives; `boot` changes when it starts anew, so that
a reader takes differences only within one life. Unknown fields are ignored: programs of two versions may meet.

A gateway holds the answer back for up to `wait_s` seconds while its `sequence` is still the one of the query's `seen`.
The sequence grows when a pool has requests that no replica can take, so that a pool at zero wakes at once; a reader
that asks again each second needs no other signal.

A gateway that asks another one adds `conversations_s`: it wants to know which conversations went where in that many
last seconds. The answer has the newest `MAX_CONVERSATIONS` of them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

LATENCY_BUCKETS_S = (
    0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75,
    1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 30.0, 60.0, 120.0,
)  # fmt: skip
"""Upper bounds of the latency histograms in seconds; one more bucket holds what is beyond."""

MAX_CONVERSATIONS = 4096
"""Conversations that one answer tells at most, of all pools together."""

MAX_AGE_MS = 86_400_000

Count = Annotated[int, Field(ge=0, le=2**63 - 1)]

Conversation = tuple[Annotated[int, Field(ge=0, lt=2**48)], Annotated[int, Field(ge=0, le=MAX_AGE_MS)]]
"""A hash that stands for a conversation, and how many milliseconds ago its newest turn was sent."""


class _Wire(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)


class Latencies(_Wire):
    """A histogram over `LATENCY_BUCKETS_S`: counts for each bucket (not cumulative), and the sum in seconds."""

    counts: tuple[Count, ...] = (0,) * (len(LATENCY_BUCKETS_S) + 1)
    sum_s: Annotated[float, Field(ge=0)] = 0.0


class ArmLoad(_Wire):
    """Requests for a name that one of two adapters was chosen for."""

    requests_total: Count = 0
    """Requests that were sent to a replica and ended; cancelled ones are not counted."""
    failed_total: Count = 0
    """Of these, requests that ended with a status of 500 or above."""
    given_up_total: Count = 0
    """Requests that were sent to a replica and whose caller left before anything came; of no other count a part."""
    ttft: Latencies = Latencies()
    """As of a pool."""
    tpot: Latencies = Latencies()
    """As of a pool."""


class CanaryLoad(_Wire):
    """An adapter that answers a part of the requests for another one's name, beside the one that answers most of the
    rest. All of it begins anew when the share changes, or the files of the adapter do."""

    replaces: str = ""
    """The name that callers ask."""
    weight: Annotated[int, Field(ge=0, le=100)] = 0
    """Per cent that it is chosen for."""
    result: ArmLoad = ArmLoad()
    """The adapter itself."""
    incumbent: ArmLoad = ArmLoad()
    """The one beside it."""


class PoolLoad(_Wire):
    """One pool as one gateway sees it, traffic of its adapters included."""

    queued: Count = 0
    """Requests held because no replica can take them."""
    queued_prompt_tokens: Count = 0
    """Their prompt tokens, estimated."""
    oldest_queued_s: Annotated[float, Field(ge=0)] = 0.0
    """How long the first of them has waited."""
    running: Count = 0
    """Requests that were sent to a replica and are not answered in full."""
    running_prompt_tokens: Count = 0
    """Their prompt tokens, estimated."""
    arrivals_total: Count = 0
    """Requests that came, also those that were refused for want of room."""
    arrived_prompt_tokens_total: Count = 0
    """Their prompt tokens, estimated."""
    finished_total: Count = 0
    """Requests that were answered in full."""
    failed_total: Count = 0
    """Requests that ended in any other way, cancelled ones included."""
    rejected_total: Count = 0
    """Requests that were refused for want of room or time in the queue."""
    prompt_tokens_total: Count = 0
    """Prompt tokens of answers, as engines counted them."""
    cached_tokens_total: Count = 0
    """Of these, tokens that an engine had in its prefix cache."""
    completion_tokens_total: Count = 0
    """Tokens that engines generated."""
    ttft: Latencies = Latencies()
    """Time from a request's arrival to its first token, queueing included."""
    tpot: Latencies = Latencies()
    """Mean time for each further token, one value a request."""
    endpoints: dict[str, Count] = Field(default_factory=dict)
    """Requests in flight by replica address (host:port)."""
    conversations: dict[str, Annotated[tuple[Conversation, ...], Field(max_length=MAX_CONVERSATIONS)]] = Field(
        default_factory=dict
    )
    """Those that this gateway sent lately, by replica address (host:port); only for a gateway that asks."""
    canaries: dict[str, CanaryLoad] = Field(default_factory=dict)
    """By the name of the adapter that takes another one's requests."""


class TokenUse(_Wire):
    """What a tenant has used in one window, as one gateway knows it."""

    window: Literal["minute", "day", "month"]
    start_s: Count
    """When the window began, in unix time."""
    used: Count
    """Tokens, weighted by cost, used or reserved by running requests."""


class MonthTokens(_Wire):
    """What the keys of a tenant used in a calendar month (UTC), as one gateway counted since its process began."""

    month: Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}$")]
    """For example 2026-11. With the next one the counts begin anew."""
    input_tokens: Count = 0
    """Prompt tokens computed."""
    cached_tokens: Count = 0
    """Prompt tokens found in a cache."""
    output_tokens: Count = 0
    """Tokens generated."""


class GatewayLoad(_Wire):
    """The whole answer of a gateway."""

    gateway: str
    """Its name: that of its pod."""
    boot: str
    """Changes with each start of the process."""
    sequence: Count = 0
    """Grows when a pool begins to have requests that no replica can take."""
    pools: dict[str, PoolLoad] = Field(default_factory=dict)
    """By `namespace/name`."""
    tenants: dict[str, tuple[TokenUse, ...]] = Field(default_factory=dict)
    """Those with limits of which this gateway knows something, by account (`llmos.api.tenancy.build_account`)."""
    months: dict[str, MonthTokens] = Field(default_factory=dict)
    """Tenants that used any tokens this month, by account."""
    tells_conversations: bool = False
    """Whether `conversations` are told to whom asks for them; older versions do not."""
    shares_budgets: bool = False
    """Whether `tenants` is the account of all gateways, or of this one alone."""


class EngineLoad(_Wire):
    """The whole answer of a replica."""

    running: Count = 0
    """Requests that the engine works on."""
    waiting: Count = 0
    """Requests in the engine's own queue."""
    ready: bool = False
    draining: bool = False
    boot: str = ""
    """Changes with each start of the engine."""
    age_s: Annotated[float, Field(ge=0)] = 0.0
    """How old these figures are."""
    prompt_tokens_total: Count = 0
    """Prompt tokens prefilled, cached ones not counted where the engine tells them apart."""
    generation_tokens_total: Count = 0
    """Tokens generated."""
    cached_tokens_total: Count = 0
    """Prompt tokens found in the prefix cache."""
    steps_total: Count = 0
    """Engine steps."""
    preemptions_total: Count = 0
    """Requests that lost their KV cache blocks and were computed again."""
    kv_usage: Annotated[float, Field(ge=0)] = 0.0
    """Share of the KV cache that is in use."""
