"""What other gateways and the engines report of the replicas that this gateway sends requests to.

A router that knows its own requests only would send them where others already queue. About once a second, for pools
with recent traffic, this asks every other gateway and every replica for its load. Of what runs on a replica beyond our
own requests there are then two accounts: the sum of what the other gateways have there, and what the engine has less
what is ours. Neither sees all (a gateway may not answer; the engine does not see what is still under way), so the
larger one counts. What is older than `STALE_S` says nothing: routing by old numbers is worse than by none.

With the same question gateways tell each other which conversations they sent to which replica since the last one: a
turn should follow the one before it, whichever gateway had that. Whether all of them tell is known, too: one of an
older version does not.

What a replica says is told to who listens: how many requests go at once depends on it. Bounded: at most `MAX_TARGETS`
replicas a round (more take turns), `CONCURRENCY` requests at once, `TIMEOUT_S` and `MAX_BYTES` for each. A report that
fails is asked for again in the next round, a second later.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import aiohttp
from pydantic import ValidationError

from llmos.api.load import EngineLoad, GatewayLoad
from llmos_gateway.catalog import Catalog, Endpoint
from llmos_gateway.load.book import LoadBook

INTERVAL_S: Final = 1.0
STALE_S: Final = 3.0
ACTIVE_S: Final = 30.0
"""A pool whose last request is older needs no reports."""
TIMEOUT_S: Final = 1.0
CONCURRENCY: Final = 32
MAX_TARGETS: Final = 500
MAX_BYTES: Final = 8 * 1024 * 1024
AWAITED_TIMES: Final = 4
"""How often in an interval replicas are asked for which requests wait."""
HISTORY_S: Final = 3600.0
"""A gateway that was never asked, or not lately, tells the conversations of this time, as many as fit in an answer."""
MAX_AWAITED: Final = 64
"""Of them, how many are asked more often than all others."""

_logger = logging.getLogger(__name__)


TellLoad = Callable[[str, EngineLoad | None], None]
Learn = Callable[[GatewayLoad, float], None]
"""Takes what another gateway says, and when it was asked."""


class Fetch(Protocol):
    """Gets the body of a URL within `TIMEOUT_S`; raises `ReportError`."""

    async def __call__(self, url: str) -> bytes: ...


class ReportError(Exception):
    """A report could not be had."""


class HttpFetch:
    """`Fetch` over an aiohttp session, which belongs to the caller."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)

    async def __call__(self, url: str) -> bytes:
        try:
            async with self._session.get(url, timeout=self._timeout, allow_redirects=False) as response:
                if response.status != 200:
                    raise ReportError(f"{url} answered {response.status}")
                body = await response.content.read(MAX_BYTES + 1)
                while len(body) <= MAX_BYTES and (more := await response.content.read(MAX_BYTES)):
                    body += more
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise ReportError(f"{url} did not answer: {error or type(error).__name__}") from error
        if len(body) > MAX_BYTES:
            raise ReportError(f"{url} answered more than {MAX_BYTES} bytes")
        return body


@dataclass(frozen=True, slots=True)
class _Report:
    at_s: float
    requests: int


class Reports:
    """The load beyond our own.

    Args:
        catalog: which replicas there are.
        book: which pools have traffic, and what is ours.
        peers: the admin addresses (host:port) of the other gateways, asked anew each round.
        fetch: how a report is got.
        gateway: our own name, so that we never count ourselves as another.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        catalog: Catalog,
        book: LoadBook,
        *,
        peers: Callable[[], Iterable[str]],
        fetch: Fetch,
        gateway: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._catalog = catalog
        self._book = book
        self._peers = peers
        self._fetch = fetch
        self._gateway = gateway
        self._clock = clock
        self._by_engine: dict[str, _Report] = {}
        self._by_peers: dict[str, _Report] = {}
        self._heard_s: dict[str, float] = {}
        self._told_s = float("-inf")
        self._turn = 0
        self._slots = asyncio.Semaphore(CONCURRENCY)
        self._peer_slots = asyncio.Semaphore(CONCURRENCY)
        """Theirs, for replicas that do not answer must not hold up what gateways tell."""
        self._tell: TellLoad = lambda _, __: None
        self._find_awaited: Callable[[], Iterable[str]] = tuple
        self._learn: Learn = lambda _, __: None

    def listen(self, tell: TellLoad, find_awaited: Callable[[], Iterable[str]]) -> None:
        """Have `tell` told what each replica says, or None for one that cannot be asked.

        Replicas of the pools that `find_awaited` names, for which requests wait, are asked more often.
        """
        self._tell, self._find_awaited = tell, find_awaited

    def listen_to_peers(self, learn: Learn) -> None:
        """Have `learn` told what each other gateway says."""
        self._learn = learn

    def is_told(self) -> bool:
        """Whether all other gateways told lately which conversations they sent where."""
        return self._clock() - self._told_s <= STALE_S

    def extra(self, address: str) -> int:
        """Return the requests on a replica beyond our own, 0 if nothing recent is known."""
        engine, peers = self._by_engine.get(address), self._by_peers.get(address)
        if engine is None and peers is None:
            return 0
        since_s = self._clock() - STALE_S
        return max((r.requests for r in (engine, peers) if r is not None and r.at_s >= since_s), default=0)

    async def run(self) -> None:
        """Ask again and again until cancelled."""
        while True:
            await self.ask_all()
            for _ in range(AWAITED_TIMES - 1):
                await self._pause()
                await self.ask_awaited()
            await self._pause()

    async def _pause(self) -> None:
        # Gateways that started together must not ask together for ever.
        spread = random.uniform(0.8, 1.2)  # noqa: S311 - spreads load, hides nothing
        await asyncio.sleep(INTERVAL_S / AWAITED_TIMES * spread)

    async def ask_awaited(self) -> None:
        """Ask the replicas of pools for which requests wait."""
        pools = (self._catalog.get_pool(pool_id) for pool_id in self._find_awaited())
        endpoints = [endpoint for pool in pools if pool is not None for endpoint in pool.endpoints]
        await asyncio.gather(*(self._ask_engine(endpoint) for endpoint in endpoints[:MAX_AWAITED]))

    async def ask_all(self) -> None:
        """Ask everybody once."""
        endpoints = self._choose(self._find_endpoints())
        if not endpoints:
            self._by_engine, self._by_peers = {}, {}
            return
        engines = asyncio.gather(*(self._ask_engine(endpoint) for endpoint in endpoints))
        asked = list(self._peers())
        peers = asyncio.gather(*(self._ask_peer(peer) for peer in asked))
        _, answers = await asyncio.gather(engines, peers)
        others = [load for load in answers if load is None or load.gateway != self._gateway]
        self._by_peers = _sum(others, self._clock())
        self._heard_s = {peer: heard_s for peer, heard_s in self._heard_s.items() if peer in asked}
        is_told = all(load is not None and load.tells_conversations for load in others)
        self._told_s = self._clock() if is_told else float("-inf")
        self._forget_stale()

    def _find_endpoints(self) -> list[Endpoint]:
        pools = (self._catalog.get_pool(pool_id) for pool_id in self._book.find_active(ACTIVE_S))
        return [e for pool in pools if pool is not None for e in pool.endpoints]

    def _choose(self, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
        if len(endpoints) <= MAX_TARGETS:
            return endpoints
        first = self._turn % len(endpoints)
        self._turn = first + MAX_TARGETS
        return [*endpoints[first:], *endpoints[:first]][:MAX_TARGETS]

    async def _ask_engine(self, endpoint: Endpoint) -> None:
        async with self._slots:
            ours = self._book.in_flight(endpoint.address)
            try:
                load = EngineLoad.model_validate_json(await self._fetch(f"http://{endpoint.control}/load"))
            except (ReportError, ValidationError) as error:
                _logger.debug("No load from replica %s: %s", endpoint.replica, error)
                self._tell(endpoint.address, None)
                return
        # The engine counted at some time between the question and the answer: what was ours then is at most this.
        ours = max(ours, self._book.in_flight(endpoint.address))
        requests = max(0, load.running + load.waiting - ours)
        self._by_engine[endpoint.address] = _Report(self._clock() - load.age_s, requests)
        self._tell(endpoint.address, load)

    async def _ask_peer(self, peer: str) -> GatewayLoad | None:
        async with self._peer_slots:
            asked_s = self._clock()
            # The last answer was built after its question, this one is built at most `TIMEOUT_S` after this one.
            within_s = min(asked_s - self._heard_s.get(peer, float("-inf")) + TIMEOUT_S, HISTORY_S)
            try:
                body = await self._fetch(f"http://{peer}/load?conversations_s={within_s:.3f}")
                load = GatewayLoad.model_validate_json(body)
            except (ReportError, ValidationError) as error:
                _logger.debug("No load from gateway %s: %s", peer, error)
                return None
        if load.gateway != self._gateway:
            self._heard_s[peer] = asked_s
            self._learn(load, asked_s)
        return load

    def _forget_stale(self) -> None:
        since_s = self._clock() - STALE_S
        self._by_engine = {a: r for a, r in self._by_engine.items() if r.at_s >= since_s}


def _sum(answers: Iterable[GatewayLoad | None], now_s: float) -> dict[str, _Report]:
    sums: dict[str, int] = {}
    for load in answers:
        for pool in load.pools.values() if load is not None else ():
            for address, requests in pool.endpoints.items():
                sums[address] = sums.get(address, 0) + requests
    return {address: _Report(now_s, requests) for address, requests in sums.items()}
