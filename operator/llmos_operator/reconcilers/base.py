"""What a reconcile takes and gives: a key in, writes through `Kube`, a result out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from llmos.api.adapters import HeldAdapters, WantedAdapters
from llmos_operator.kube.client import Kube
from llmos_operator.planning.isolation import Doors
from llmos_operator.planning.settings import Settings
from llmos_operator.reconcilers.adapter_key import AdapterKeys
from llmos_operator.reconcilers.board import Board
from llmos_operator.reconcilers.budget_board import BudgetBoard
from llmos_operator.reconcilers.canary_board import CanaryBoard
from llmos_operator.reconcilers.keys import Key
from llmos_operator.reconcilers.looks import Looks
from llmos_operator.reconcilers.parsed import Parsed
from llmos_operator.reconcilers.quota_board import QuotaBoard
from llmos_operator.reconcilers.share_troubles import ShareTroubles
from llmos_operator.reconcilers.sightings import Sightings
from llmos_operator.reconcilers.status_pace import StatusPace

__all__ = ["DONE", "Context", "Key", "Result"]


@dataclass(frozen=True)
class Result:
    """How a reconcile ended."""

    requeue_after_s: float | None = None
    """Look again after a while even if nothing changes."""
    rest_s: float = 0.0
    """Do not look again sooner, however much changes: for what costs the more to look at, the larger it is."""


DONE = Result()


async def _observe_nothing(_replicas: Mapping[str, str]) -> Mapping[str, int]:
    return {}


async def _probe_nothing(_addresses: Mapping[str, str]) -> Mapping[str, Doors]:
    return {}


async def _tell_nobody(
    _addresses: Mapping[str, str], _wanted: WantedAdapters, _token: str
) -> Mapping[str, HeldAdapters | None]:
    return {}


@dataclass(frozen=True)
class Context:
    """The surroundings of a reconcile: everything that is neither the key nor the cluster."""

    kube: Kube
    settings: Settings
    now: Callable[[], datetime]
    shared: Parsed = field(default_factory=Parsed)
    """Models and accelerator classes, to which many pools refer."""
    observe_in_flight: Callable[[Mapping[str, str]], Awaitable[Mapping[str, int]]] = field(default=_observe_nothing)
    """Ask replicas (pod name -> pod IP) for their requests running and waiting; those that do not answer are left
    out."""
    tell_adapters: Callable[[Mapping[str, str], WantedAdapters, str], Awaitable[Mapping[str, HeldAdapters | None]]] = (
        field(default=_tell_nobody)
    )
    """Tell replicas (pod name -> pod IP) which adapters to hold, with the pool's token; what each says that it holds,
    None of those that do not answer."""
    probe_doors: Callable[[Mapping[str, str]], Awaitable[Mapping[str, Doors]]] = field(default=_probe_nothing)
    """Try which ports of replicas (pod name -> pod IP) open."""
    adapter_keys: AdapterKeys = field(default_factory=AdapterKeys)
    """The key from which tokens for adapters are made."""
    board: Board = field(default_factory=Board)
    """What this and the autoscaler tell each other."""
    quota: QuotaBoard = field(default_factory=QuotaBoard)
    """What the quota pass remembers, and tells pools and tenants."""
    budgets: BudgetBoard = field(default_factory=BudgetBoard)
    """What gateways told of tenants' tokens."""
    canaries: CanaryBoard = field(default_factory=CanaryBoard)
    """What gateways told of canaries."""
    looks: Looks = field(default_factory=Looks)
    """When logs were read last."""
    share_troubles: ShareTroubles = field(default_factory=ShareTroubles)
    """What was refused of share pods."""
    sightings: Sightings = field(default_factory=Sightings)
    """What was found in the namespaces of tenants."""
    status_pace: StatusPace = field(default_factory=StatusPace)
    """When statuses of pools were written."""
