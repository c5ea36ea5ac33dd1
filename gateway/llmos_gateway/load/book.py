"""The gateway's own count of requests, for each pool and each replica.

Every arrival ends exactly once: answered in full (finished), refused for want of room or time (rejected), or in any
other way (failed). So at any time

    arrivals = finished + failed + rejected + open,     open = queued + running + on the way between the two,

and a reader that takes differences of the totals loses and invents nothing. A request that is tried on a second replica
leaves the first with the outcome `retried`, which ends nothing.

The book holds a bounded number of pools: beyond it, the one that was idle for longest is forgotten.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from llmos.api.load import GatewayLoad, PoolLoad
from llmos_gateway.load.histogram import Histogram

MAX_POOLS: Final = 10_000

Outcome = Literal["finished", "failed", "cancelled", "retried"]
"""How a request left a replica."""


class Usage(Protocol):
    """Tokens of one answer, as the engine counted them."""

    @property
    def prompt_tokens(self) -> int: ...
    @property
    def cached_tokens(self) -> int: ...
    @property
    def completion_tokens(self) -> int: ...


@dataclass(slots=True)
class _Account:
    """One pool's numbers."""

    last_arrival_s: float
    held: dict[int, tuple[float, int]] = field(default_factory=dict)
    """Since when and how many prompt tokens, by ticket, in order of arrival."""
    held_prompt_tokens: int = 0
    running: int = 0
    running_prompt_tokens: int = 0
    endpoints: dict[str, int] = field(default_factory=dict)
    arrivals: int = 0
    arrived_prompt_tokens: int = 0
    finished: int = 0
    failed: int = 0
    rejected: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    ttft: Histogram = field(default_factory=Histogram)
    tpot: Histogram = field(default_factory=Histogram)

    @property
    def open(self) -> int:
        return self.arrivals - self.finished - self.failed - self.rejected

    def build(self, now_s: float) -> PoolLoad:
        oldest_s = next(iter(self.held.values()))[0] if self.held else now_s
        return PoolLoad.model_construct(
            queued=len(self.held),
            queued_prompt_tokens=self.held_prompt_tokens,
            oldest_queued_s=max(0.0, now_s - oldest_s),
            running=self.running,
            running_prompt_tokens=self.running_prompt_tokens,
            arrivals_total=self.arrivals,
            arrived_prompt_tokens_total=self.arrived_prompt_tokens,
            finished_total=self.finished,
            failed_total=self.failed,
            rejected_total=self.rejected,
            prompt_tokens_total=self.prompt_tokens,
            cached_tokens_total=self.cached_tokens,
            completion_tokens_total=self.completion_tokens,
            ttft=self.ttft.build(),
            tpot=self.tpot.build(),
            endpoints=dict(self.endpoints),
        )


class LoadBook:
    """Requests of this gateway.

    Args:
        clock: seconds that only grow.
        max_pools: pools whose numbers are kept.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, max_pools: int = MAX_POOLS) -> None:
        self.sequence = 0
        """Grows when a pool begins to have requests that no replica can take."""
        self._clock = clock
        self._max_pools = max_pools
        self._accounts: dict[str, _Account] = {}
        self._in_flight: dict[str, int] = {}
        self._tickets = itertools.count()
        self._changed = asyncio.Event()

    def arrived(self, pool_id: str, prompt_tokens: int) -> None:
        """Count a new request. It must end once: by `refused`, `dropped`, or `ended` (except `retried`)."""
        account = self._accounts.get(pool_id) or self._open_account(pool_id)
        account.last_arrival_s = self._clock()
        account.arrivals += 1
        account.arrived_prompt_tokens += prompt_tokens

    def refused(self, pool_id: str) -> None:
        """End a request that is on no replica, for want of room or time in the queue."""
        self._accounts[pool_id].rejected += 1

    def dropped(self, pool_id: str) -> None:
        """End a request that is on no replica, for any other reason, for example because the client went away."""
        self._accounts[pool_id].failed += 1

    def held(self, pool_id: str, prompt_tokens: int, *, wakes: bool = True) -> int:
        """Count a request that waits; return its ticket for `released`.

        It `wakes` readers at once where no replica can take it; one that waits for its turn does not.
        """
        account, ticket = self._accounts[pool_id], next(self._tickets)
        if wakes and not account.held:
            self._tell()
        account.held[ticket] = (self._clock(), prompt_tokens)
        account.held_prompt_tokens += prompt_tokens
        return ticket

    def released(self, pool_id: str, ticket: int) -> None:
        """Say that a request waits no longer, however that came."""
        account = self._accounts[pool_id]
        account.held_prompt_tokens -= account.held.pop(ticket)[1]

    def started(self, pool_id: str, address: str, prompt_tokens: int) -> None:
        """Count a request that is being sent to a replica."""
        account = self._accounts[pool_id]
        account.running += 1
        account.running_prompt_tokens += prompt_tokens
        _add(account.endpoints, address, 1)
        _add(self._in_flight, address, 1)

    def first_token(self, pool_id: str, ttft_s: float) -> None:
        """Record the time from a request's arrival to its first token, queueing included."""
        self._accounts[pool_id].ttft.observe(ttft_s)

    def ended(
        self,
        pool_id: str,
        address: str,
        prompt_tokens: int,
        outcome: Outcome,
        usage: Usage | None = None,
        tpot_s: float | None = None,
    ) -> None:
        """Say that a replica is done with a request; `prompt_tokens` as in `started`."""
        account = self._accounts[pool_id]
        account.running -= 1
        account.running_prompt_tokens -= prompt_tokens
        _add(account.endpoints, address, -1)
        _add(self._in_flight, address, -1)
        account.finished += outcome == "finished"
        account.failed += outcome in {"failed", "cancelled"}
        if usage is not None:
            account.prompt_tokens += usage.prompt_tokens
            account.cached_tokens += usage.cached_tokens
            account.completion_tokens += usage.completion_tokens
        if tpot_s is not None:
            account.tpot.observe(tpot_s)

    def in_flight(self, address: str) -> int:
        """Return how many requests this gateway has on a replica."""
        return self._in_flight.get(address, 0)

    def open(self, pool_id: str) -> int:
        """Return how many requests came for a pool and have not ended."""
        account = self._accounts.get(pool_id)
        return account.open if account else 0

    def find_active(self, within_s: float) -> list[str]:
        """Return the ids of pools that had a request in this time, or have one now."""
        since_s = self._clock() - within_s
        return [pool_id for pool_id, a in self._accounts.items() if a.open or a.last_arrival_s >= since_s]

    def build(self, gateway: str, boot: str) -> GatewayLoad:
        """Return the answer to `GET /load`."""
        now_s = self._clock()
        pools = {pool_id: account.build(now_s) for pool_id, account in self._accounts.items()}
        return GatewayLoad.model_construct(gateway=gateway, boot=boot, sequence=self.sequence, pools=pools)

    async def wait_beyond(self, seen: int, wait_s: float) -> None:
        """Return when `sequence` is no longer `seen`, or after `wait_s`."""
        if self.sequence != seen or wait_s <= 0:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._changed.wait()

    def _tell(self) -> None:
        self.sequence += 1
        self._changed.set()
        self._changed = asyncio.Event()

    def _open_account(self, pool_id: str) -> _Account:
        if len(self._accounts) >= self._max_pools:
            idle = (p for p, a in self._accounts.items() if not a.open)
            oldest = min(idle, key=lambda p: self._accounts[p].last_arrival_s, default=None)
            if oldest is not None:
                del self._accounts[oldest]
        account = self._accounts[pool_id] = _Account(last_arrival_s=self._clock())
        return account


def _add(counts: dict[str, int], address: str, number: int) -> None:
    left = counts.get(address, 0) + number
    if left < 0:
        raise ValueError(f"more requests ended than started on {address}")
    if left:
        counts[address] = left
    else:
        counts.pop(address, None)
