"""What a reconcile takes and gives: a key in, writes through `Kube`, a result out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from llmos_operator.kube.client import Kube
from llmos_operator.planning.settings import Settings
from llmos_operator.reconcilers.parsed import Parsed


class Key(NamedTuple):
    """The identity of one unit of work: at most one worker reconciles a key at a time."""

    kind: str
    namespace: str
    """Empty for cluster-scoped kinds."""
    name: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.namespace}/{self.name}" if self.namespace else f"{self.kind}/{self.name}"


@dataclass(frozen=True)
class Result:
    """How a reconcile ended: done, or look again after a while even if nothing changes."""

    requeue_after_s: float | None = None


DONE = Result()


async def _observe_nothing(_replicas: Mapping[str, str]) -> Mapping[str, int]:
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
