"""Which replica of a pool, and what each attempt means for the load book, the routers and passive health.

The book's rule is that every arrival ends exactly once; `Call.is_counted` says whether it has.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from llmos.api.load import GatewayLoad
from llmos_gateway.catalog import Catalog, Endpoint, Pool
from llmos_gateway.load import LoadBook, Told, build_told, read_told
from llmos_gateway.load import Outcome as AttemptOutcome
from llmos_gateway.proxy.call import Call
from llmos_gateway.proxy.missing import Missing
from llmos_gateway.routing import Decision, IndexLimits, PromptBlocks, Router, Routers

SWEPT_BLOCKS: Final = 5_000
"""In one sweep: about 1 ms."""


class Sign(Enum):
    """What an attempt says about the health of its replica."""

    GOOD = auto()
    ERROR = auto()
    """It answered with an error of its own, which may be the request's fault."""
    BROKEN = auto()
    """It could not be reached, or broke off."""
    NONE = auto()


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try of one request on one replica."""

    pool_id: str
    router: Router
    choice: Decision[Endpoint]

    @property
    def address(self) -> str:
        """host:port of the replica's engine."""
        return self.choice.endpoint.address


class Accounts:
    """Chooses replicas and keeps count of what runs where.

    Args:
        catalog: which replicas there are.
        book: this gateway's own count.
        extra: requests on a replica beyond our own.
        clock: seconds that only grow.
        limits: how much may be remembered of prompts, in all.
        is_told: whether all other gateways tell which conversations they send where (`learn`).
    """

    def __init__(
        self,
        catalog: Catalog,
        book: LoadBook,
        *,
        extra: Callable[[str], int],
        clock: Callable[[], float],
        limits: IndexLimits | None = None,
        is_told: Callable[[], bool] = lambda: False,
    ) -> None:
        self._catalog = catalog
        self._book = book
        self._extra = extra
        self._clock = clock
        self._is_told = is_told
        self._routers = Routers(limits)
        self._missing = Missing()
        catalog.subscribe(self._on_change)
        self.gateways = 1
        """How many gateways route to the same replicas, this one included."""

    def choose(self, pool: Pool, prompt: PromptBlocks, exclude: Collection[str]) -> Attempt | None:
        """Return an attempt at the best replica, None if none is left."""
        router, now_s = self._routers.get(pool.id, pool.kv_cache_tokens), self._clock()
        for excluded in self._list_exclusions(pool, exclude, now_s):
            choice = router.choose(
                policy=pool.policy,
                endpoints=self._find_all(pool),
                load=self._read_load,
                prompt=prompt,
                now_s=now_s,
                exclude=excluded,
                gateways=self.gateways,
                is_told=self._is_told(),
            )
            if choice is not None:
                return Attempt(pool.id, router, choice)
        return None

    def lacks(self, pool: Pool, attempt: Attempt) -> None:
        """Note that a replica does not have the adapter that the pool is seen for."""
        self._missing.note(pool, attempt.address, self._clock())

    def arrived(self, call: Call, pool: Pool) -> None:
        """A request came that will be held or sent."""
        self._book.arrived(pool.id, call.prompt_tokens)

    def left(self, call: Call) -> None:
        """Nothing more is done for a request; if it ended nowhere else it ends here."""
        if call.pool is not None and not call.is_counted:
            call.is_counted = True
            self._book.dropped(call.pool.id)

    def started(self, call: Call, attempt: Attempt, prompt: PromptBlocks) -> None:
        """A request is being sent."""
        call.attempts += 1
        call.replica = attempt.choice.endpoint.replica
        self._book.started(attempt.pool_id, attempt.address, prompt.tokens)
        attempt.router.committed(attempt.choice, prompt)

    def first_token(self, call: Call, attempt: Attempt) -> None:
        """The first token of a stream came."""
        call.first_s = self._clock()
        self._book.first_token(attempt.pool_id, call.first_s - call.arrived_s)
        attempt.router.first_token(attempt.choice)
        attempt.router.served(attempt.address, _name_caller(call), call.first_s)

    def ended(self, call: Call, attempt: Attempt, outcome: AttemptOutcome) -> None:
        """A replica is done with a request, in whatever way."""
        is_last = outcome != "retried"
        usage = call.compute_usage() if is_last else None
        tpot_s = call.compute_tpot_s() if outcome == "finished" else None
        self._book.ended(attempt.pool_id, attempt.address, call.prompt_tokens, outcome, usage, tpot_s)
        call.is_counted = is_last
        attempt.router.finished(attempt.choice)

    def judge(self, call: Call, attempt: Attempt, sign: Sign) -> None:
        """Tell what an attempt says about the health of its replica."""
        router, now_s = attempt.router, self._clock()
        if sign is Sign.BROKEN:
            router.failed(attempt.address, now_s)
        elif call.prompt is not None and sign is not Sign.NONE:
            note = router.succeeded if sign is Sign.GOOD else router.erred
            note(attempt.address, _name_caller(call), call.prompt, now_s)

    def tell(self, within_s: float) -> Told:
        """Return which conversations this gateway sent where in so many last seconds."""
        now_s = self._clock()
        return build_told(self._routers.tell(now_s - within_s), now_s)

    def learn(self, load: GatewayLoad, asked_s: float) -> None:
        """Take what another gateway tells of conversations; `asked_s` is when it was asked."""
        pools = {pool_id: pool for pool_id in load.pools if (pool := self._catalog.get_pool(pool_id)) is not None}
        # The catalog's own strings: those of the answer would be kept a thousand times.
        known = {pool_id: {e.address: e.address for e in pool.endpoints} for pool_id, pool in pools.items()}
        # The newest last, for what is learned first is forgotten first.
        for pool_id, placement in sorted(read_told(load, asked_s), key=lambda word: word[1].at_s):
            address = known.get(pool_id, {}).get(placement.address)
            # A pool that nobody has asked for here takes no share of the memory from others.
            if address is not None and (router := self._routers.find(pool_id)) is not None:
                router.learn(placement._replace(address=address))

    def sweep(self) -> None:
        """Free some memory of prompts that are to be forgotten. To be called about once a second."""
        # Also of a pool that was gone already when the last of its requests looked for a replica.
        self._forget_pools()
        self._routers.sweep(SWEPT_BLOCKS)

    def _on_change(self, pool_id: str) -> None:
        pool = self._catalog.get_pool(pool_id)
        if pool is None:
            self._forget_pools()
        else:
            self._routers.refresh(pool_id, [endpoint.address for endpoint in pool.endpoints], pool.kv_cache_tokens)

    def _forget_pools(self) -> None:
        self._routers.retain({pool.id for pool in self._catalog.get_pools()})

    def _list_exclusions(self, pool: Pool, exclude: Collection[str], now_s: float) -> Iterator[Collection[str]]:
        """Yield whom to leave out, and whom if nobody was left."""
        if pool.adapter is None:
            yield exclude
            return
        usable = {endpoint.address for endpoint in pool.endpoints}
        others = {endpoint.address for endpoint in self._find_all(pool)} - usable
        if lacking := self._missing.find(pool, now_s):
            yield {*exclude, *others, *lacking}
        yield {*exclude, *others}

    def _find_all(self, pool: Pool) -> tuple[Endpoint, ...]:
        """Return all replicas of a pool: the router knows it as a whole, of which an adapter leaves out a part."""
        whole = self._catalog.get_pool(pool.id) if pool.adapter is not None else None
        return whole.endpoints if whole is not None else pool.endpoints

    def _read_load(self, address: str) -> int:
        return self._book.in_flight(address) + self._extra(address)


def _name_caller(call: Call) -> str:
    return call.key.identity if call.key is not None else ""
