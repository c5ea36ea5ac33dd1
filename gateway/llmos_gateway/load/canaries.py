"""What this gateway sees of canaries: each beside the adapter that answers most of the name's other requests.

Both are counted from the moment on when the canary has its share, and begin anew when the share or the files change:
then the two always saw the same time and the same traffic. What never reached a replica says nothing of either and is
not counted. What its caller gave up before anything came is counted apart: it is no failure, and yet an adapter that
never answers has nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from llmos.api.load import ArmLoad, CanaryLoad
from llmos_gateway.catalog import Catalog, Pool
from llmos_gateway.load.histogram import Histogram
from llmos_gateway.splits import Arm, Split


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request ended that was sent to a replica."""

    is_failed: bool
    ttft_s: float | None = None
    tpot_s: float | None = None
    is_given_up: bool = False
    """Its caller left before anything came."""


@dataclass(slots=True)
class _Account:
    """One adapter's numbers."""

    requests: int = 0
    failed: int = 0
    given_up: int = 0
    ttft: Histogram = field(default_factory=Histogram)
    tpot: Histogram = field(default_factory=Histogram)

    def add(self, outcome: Outcome) -> None:
        if outcome.is_given_up:
            self.given_up += 1
            return
        self.requests += 1
        self.failed += outcome.is_failed
        if outcome.ttft_s is not None and not outcome.is_failed:
            self.ttft.observe(outcome.ttft_s)
        if outcome.tpot_s is not None and not outcome.is_failed:
            self.tpot.observe(outcome.tpot_s)

    def build(self) -> ArmLoad:
        return ArmLoad.model_construct(
            requests_total=self.requests,
            failed_total=self.failed,
            given_up_total=self.given_up,
            ttft=self.ttft.build(),
            tpot=self.tpot.build(),
        )


@dataclass(slots=True)
class _Canary:
    replaces: str
    weight: int
    identity: str
    result: _Account = field(default_factory=_Account)
    incumbent: _Account = field(default_factory=_Account)

    def build(self) -> CanaryLoad:
        return CanaryLoad.model_construct(
            replaces=self.replaces,
            weight=self.weight,
            result=self.result.build(),
            incumbent=self.incumbent.build(),
        )


class CanaryBook:
    """Canaries of all pools, for as long as they have a share.

    Args:
        catalog: who has which share.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._canaries: dict[str, dict[str, _Canary]] = {}
        """By pool id and adapter."""
        catalog.subscribe(self._on_change)

    def ended(self, asked: Pool, served: Pool, outcome: Outcome) -> None:
        """Count a request for `asked` that `served` was chosen for."""
        split = self._catalog.get_split(asked)
        for arm in split:
            canary = self._find(arm)
            if canary is None:
                continue
            if served.adapter_name == arm.view.adapter_name:
                canary.result.add(outcome)
            elif served.adapter_name == _find_incumbent(split, arm):
                canary.incumbent.add(outcome)

    def read(self, pool_id: str) -> dict[str, CanaryLoad]:
        """Return the canaries of a pool, by adapter."""
        return {name: canary.build() for name, canary in self._canaries.get(pool_id, {}).items()}

    def _find(self, arm: Arm) -> _Canary | None:
        return self._canaries.get(arm.view.id, {}).get(arm.view.adapter_name)

    def _on_change(self, pool_id: str) -> None:
        before = self._canaries.pop(pool_id, {})
        pool = self._catalog.get_pool(pool_id)
        now = {
            adapter.name: _keep(before.get(adapter.name), _Canary(adapter.replaces, adapter.weight, adapter.identity))
            for adapter in (pool.adapters if pool is not None else ())
            if adapter.replaces and 0 < adapter.weight < 100
        }
        if now:
            self._canaries[pool_id] = now


def _keep(before: _Canary | None, now: _Canary) -> _Canary:
    if before is None or (before.replaces, before.weight, before.identity) != (now.replaces, now.weight, now.identity):
        return now
    return before


def _find_incumbent(split: Split, of: Arm) -> str:
    """Return the adapter that answers most of the requests which this arm does not."""
    others = [arm for arm in split if arm is not of]
    return max(others, key=lambda arm: arm.weight).view.adapter_name if others else ""
