"""What the ledger decides: values that say what to do, for whom, and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from llmos.api.reasons import Reason
from llmos_operator.planning.quota.values import Placement, Reservation, Swap

How = Literal["drain", "save"]
"""What a gang does before it goes."""


@dataclass(frozen=True, slots=True)
class Admit:
    """Release all pods of a gang, each to its node."""

    gang_id: str
    placement: Placement
    is_borrowed: bool
    """The tenant now holds more than its guarantee."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask a gang to drain or to save its work, and end it when it answers or at the deadline."""

    gang_id: str
    for_id: str
    how: How
    deadline_s: float
    why: str


@dataclass(frozen=True, slots=True)
class End:
    """Delete the pods of a gang now."""

    gang_id: str
    for_id: str
    why: str


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Delete the pods of a gang that did not bind in time; it waits again, from `retry_at_s` on."""

    gang_id: str
    attempts: int
    retry_at_s: float
    why: str


@dataclass(frozen=True, slots=True)
class Reserve:
    """Reserve room for a waiting gang."""

    gang_id: str
    reservation: Reservation
    why: str


@dataclass(frozen=True, slots=True)
class Unreserve:
    """Reserve room for a gang no more; it goes on waiting."""

    gang_id: str
    why: str


@dataclass(frozen=True, slots=True)
class Overcommitted:
    """More accelerators of a class are guaranteed than there are."""

    class_name: str
    guaranteed: int
    capacity: int


@dataclass(frozen=True, slots=True)
class QuotaPlan:
    """All decisions of one moment. They hold together: whoever carries them out may stop anywhere and plan anew."""

    admit: tuple[Admit, ...] = ()
    ask: tuple[Ask, ...] = ()
    end: tuple[End, ...] = ()
    withdraw: tuple[Withdraw, ...] = ()
    reserve: tuple[Reserve, ...] = ()
    unreserve: tuple[Unreserve, ...] = ()
    swaps: tuple[Swap, ...] = ()
    """To be remembered for the window of the rules."""
    overcommitted: tuple[Overcommitted, ...] = ()
    next_s: float | None = None
    """When to look again even if nothing happens."""

    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.admit or self.ask or self.end or self.withdraw or self.reserve or self.unreserve)


@dataclass(slots=True)
class Decisions:
    """A plan in the making."""

    admit: list[Admit] = field(default_factory=list)
    ask: list[Ask] = field(default_factory=list)
    end: list[End] = field(default_factory=list)
    withdraw: list[Withdraw] = field(default_factory=list)
    reserve: list[Reserve] = field(default_factory=list)
    unreserve: list[Unreserve] = field(default_factory=list)
    swaps: list[Swap] = field(default_factory=list)

    def as_plan(self, overcommitted: tuple[Overcommitted, ...], next_s: float | None) -> QuotaPlan:
        """Return the plan."""
        return QuotaPlan(
            admit=tuple(self.admit),
            ask=tuple(self.ask),
            end=tuple(self.end),
            withdraw=tuple(self.withdraw),
            reserve=tuple(self.reserve),
            unreserve=tuple(self.unreserve),
            swaps=tuple(self.swaps),
            overcommitted=overcommitted,
            next_s=next_s,
        )


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why a gang waits."""

    gang_id: str
    reason: Reason
    position: int
    """Its place among all gangs that wait for one of its classes, 1 is next."""
    of: int
    message: str
    """What it waits for, and what would help."""
    is_held_by_owner: bool = False
    """Other gangs of its owner hold accelerators of a class that it waits for."""


@dataclass(frozen=True, slots=True)
class TenantClassUsage:
    """Accelerators of one class for one tenant."""

    tenant: str
    class_name: str
    guaranteed: int
    used: int
    borrowed: int
    lent: int
    waiting: int


@dataclass(frozen=True, slots=True)
class ClassUsage:
    """Accelerators of one class."""

    class_name: str
    capacity: int
    guaranteed: int
    used: int
    fragmentation: float
    """Part of the free accelerators that lie on nodes in use."""


@dataclass(frozen=True, slots=True)
class QuotaReport:
    """How things stand, for status and metrics."""

    tenants: tuple[TenantClassUsage, ...]
    classes: tuple[ClassUsage, ...]
    shares: tuple[tuple[str, float], ...]
    """By tenant: borrowed part of the cluster in units of cost, divided by weight."""
    waiting: tuple[Waiting, ...]
