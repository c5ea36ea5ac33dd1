"""Who may write: one of several replicas of the operator, by a Lease that it renews.

Nobody's wall clock is trusted. A candidate measures, on its own monotonic clock, for how long the Lease has not
changed, and takes it over after `lease_s`. The holder may write until `renew_deadline_s` after it *began* its last
successful renewal. The renewal reached the API server after it began and was seen by others later still, so

    fence = begin + renew_deadline_s  <  begin + lease_s  <=  seen + lease_s = takeover

and two replicas can never both write, as long as their clocks run at rates that differ by less than
`lease_s / renew_deadline_s` (50 %), and nobody deletes the Lease by hand. A holder that cannot renew stops by itself;
whoever is told so cancels what is running, so that no request in flight outlives the fence.

The time between fence and takeover is lost on purpose. A holder that ends in order releases the Lease instead, and the
next candidate takes it at its next look.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Self

from llmos_operator.kube.client import Kube, Object
from llmos_operator.kube.errors import Conflict, KubeError
from llmos_operator.kube.resources import LEASES

FIELD_MANAGER: Final = "llmos-leader-election"
_NEVER_S: Final = float("-inf")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LeaseTiming:
    """How long things take; the defaults are those of Kubernetes' own controllers."""

    lease_s: float = 15.0
    """A Lease that has not changed for so long may be taken over."""
    renew_deadline_s: float = 10.0
    """A holder that could not renew for so long stops writing."""
    retry_s: float = 2.0
    """Time between two looks at the Lease."""

    def __post_init__(self) -> None:
        if not self.retry_s < self.renew_deadline_s < self.lease_s:
            raise ValueError(f"it must be retry < renew deadline < lease, not {self}")


@dataclass(frozen=True)
class LeaseRecord:
    """What a Lease says."""

    holder: str
    duration_s: float
    transitions: int
    acquired: str
    resource_version: str

    @classmethod
    def parse(cls, lease: Mapping[str, Any]) -> Self:
        """Return what a Lease object says; absent fields are those of a Lease that nobody holds."""
        spec = lease.get("spec") or {}
        return cls(
            holder=spec.get("holderIdentity") or "",
            duration_s=float(spec.get("leaseDurationSeconds") or 0),
            transitions=int(spec.get("leaseTransitions") or 0),
            acquired=spec.get("acquireTime") or "",
            resource_version=lease["metadata"]["resourceVersion"],
        )


class Elector:
    """One candidate. `may_write()` is the fence that every write asks.

    Args:
        kube: a client without a fence of its own, with a request time-out well below `renew_deadline_s`.
        identity: unique for this process.
        on_change: told True when this candidate became the leader, and False when it is no longer.
        clock: monotonic seconds.
        wall: what people read in the Lease; decides nothing.
    """

    def __init__(
        self,
        kube: Kube,
        *,
        name: str,
        namespace: str,
        identity: str,
        on_change: Callable[[bool], None],
        clock: Callable[[], float],
        timing: LeaseTiming = LeaseTiming(),
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._kube = kube
        self._name, self._namespace, self._identity = name, namespace, identity
        self._on_change = on_change
        self._clock, self._wall, self._sleep, self._chance = clock, wall, sleep, chance
        self._timing = timing
        self._fence_s = _NEVER_S
        self._is_leading = False
        self._seen: LeaseRecord | None = None
        self._seen_since_s = _NEVER_S

    def may_write(self) -> bool:
        """Whether a write that starts now is this candidate's to make."""
        return self._clock() < self._fence_s

    @property
    def is_leading(self) -> bool:
        """Whether this candidate holds the Lease, as far as it knows."""
        return self._is_leading

    @property
    def holder(self) -> str:
        """Who holds the Lease as it was last seen; empty for nobody."""
        return self._seen.holder if self._seen else ""

    async def run(self) -> None:
        """Campaign, and renew while leading, until cancelled."""
        while True:
            await self._step()
            await self._sleep(self._compute_pause_s())

    async def release(self) -> None:
        """Stop writing now and give the Lease back, so that another candidate need not wait for it to expire."""
        was_leading = self._is_leading
        self._lose()
        if not was_leading or self._seen is None:
            return
        try:
            async with asyncio.timeout(self._timing.retry_s):
                await self._kube.apply(self._build_lease(self._seen, holder=""), field_manager=FIELD_MANAGER)
        except (KubeError, TimeoutError) as error:
            _logger.warning("The lease was not released, it expires by itself: %s", error)
        else:
            _logger.info("The lease is released.")

    def _compute_pause_s(self) -> float:
        if self._is_leading:
            return max(0.0, min(self._timing.retry_s, self._fence_s - self._clock()))
        # Candidates that wait for the same Lease should not all ask at the same moment.
        return self._timing.retry_s * (0.8 + 0.4 * self._chance())

    async def _step(self) -> None:
        limit_s = self._timing.renew_deadline_s
        if self._is_leading:
            # The step ends at the fence, so that losing the lease is noticed when it happens.
            limit_s = max(0.0, min(limit_s, self._fence_s - self._clock()))
        try:
            async with asyncio.timeout(limit_s):
                await self._look_and_write()
        except Conflict:
            _logger.debug("Another candidate wrote the lease first.")
            self._seen = None
        except (KubeError, TimeoutError) as error:
            _logger.warning("The lease could not be read or written: %s", error or "no answer in time")
            self._seen = None if self._is_leading else self._seen
        if self._is_leading and not self.may_write():
            _logger.error("The lease was lost: it could not be renewed in %g s.", self._timing.renew_deadline_s)
            self._lose()

    async def _look_and_write(self) -> None:
        # A leader that knows what it wrote last renews without reading first.
        if not (self._is_leading and self._seen):
            self._note(await self._kube.get(LEASES, self._name, self._namespace))
        if self._is_leading and self._seen and self._seen.holder != self._identity:
            _logger.error("The lease was taken by %s.", self._seen.holder or "nobody")
            self._lose()
        if not self._is_free():
            return
        began_s = self._clock()
        manifest = self._build_lease(self._seen, holder=self._identity)
        if self._seen is None:
            written = await self._kube.create(manifest)
        else:
            written = await self._kube.apply(manifest, field_manager=FIELD_MANAGER)
        self._note(written)
        self._win(began_s)

    def _note(self, lease: Object | None) -> None:
        record = LeaseRecord.parse(lease) if lease else None
        if record != self._seen:
            self._seen, self._seen_since_s = record, self._clock()

    def _is_free(self) -> bool:
        if self._seen is None or self._seen.holder in {"", self._identity}:
            return True
        return self._clock() - self._seen_since_s > max(self._seen.duration_s, self._timing.lease_s)

    def _win(self, began_s: float) -> None:
        self._fence_s = began_s + self._timing.renew_deadline_s
        if not self._is_leading and self.may_write():
            self._is_leading = True
            _logger.info("This replica is the leader now: %s.", self._identity)
            self._on_change(True)

    def _lose(self) -> None:
        self._fence_s = _NEVER_S
        if self._is_leading:
            self._is_leading = False
            self._on_change(False)

    def _build_lease(self, seen: LeaseRecord | None, *, holder: str) -> Object:
        now = self._wall().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        is_same = seen is not None and seen.holder == holder
        transitions = seen.transitions if seen else 0
        metadata = {"name": self._name, "namespace": self._namespace}
        if seen:
            metadata["resourceVersion"] = seen.resource_version
        return {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": metadata,
            "spec": {
                "holderIdentity": holder,
                "leaseDurationSeconds": round(self._timing.lease_s),
                "acquireTime": seen.acquired if seen and is_same and seen.acquired else now,
                "renewTime": now,
                "leaseTransitions": transitions if is_same or seen is None or not holder else transitions + 1,
            },
        }
