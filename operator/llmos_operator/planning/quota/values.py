"""What the ledger reckons with: tenants, nodes and gangs as they are observed, all of it values.

A gang is what is admitted as a whole: a replica of a pool, or an attempt of a job. Its pods are released together, and
it holds its accelerators from then on until the last of its pods is gone. Everything that must outlive the operator
stands in the gangs themselves (the glue keeps it in annotations), so that a ledger built anew from what is observed
decides as the one before would have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum


class GangKind(IntEnum):
    """What a gang is, from what its owner misses least to what it misses most."""

    BURST = 0
    """A replica above its pool's minReplicas."""
    JOB = 1
    """An attempt of a job."""
    REPLICA = 2
    """A replica up to its pool's minReplicas."""


class GangState(Enum):
    """Where a gang is in its life."""

    WAITING = "waiting"
    """Its pods are held by scheduling gates."""
    STARTING = "starting"
    """Admitted; not all of its pods have a node."""
    RUNNING = "running"
    STOPPING = "stopping"
    """It was asked to drain or to save its work."""
    ENDING = "ending"
    """Its pods were deleted and are not gone yet."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the pods of a gang go: one node for each pod that has one."""

    class_name: str
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reservation:
    """Room that is kept for a waiting gang until it is free. Nobody else gets it; the gang may still go elsewhere."""

    placement: Placement
    since_s: float
    of: tuple[str, ...] = ()
    """Gangs that have to go for it."""


@dataclass(frozen=True, slots=True)
class Stop:
    """A request to give accelerators back."""

    for_id: str
    """Gang that gets them."""
    asked_s: float
    deadline_s: float
    """When the gang is ended whether it answered or not."""
    is_answered: bool = False
    """Nothing is in flight any more, or the work is saved."""


@dataclass(frozen=True, slots=True)
class Gang:
    """Pods that are admitted together, and end together."""

    id: str
    tenant: str
    """Empty if the namespace belongs to no tenant."""
    owner: str
    """The pool or job: replicas of one owner are spread, and swaps are counted by owner."""
    kind: GangKind
    classes: tuple[str, ...]
    """Accelerator classes that will do, the preferred one first."""
    pods: int
    accelerators_per_pod: int
    priority: int
    created_s: float
    node_selector: frozenset[tuple[str, str]] = frozenset()
    min_runtime_s: float = 0.0
    """A gang that was admitted so shortly ago is not asked to stop."""
    grace_s: float = 120.0
    """Longest time to drain or to save the work."""
    state: GangState = GangState.WAITING
    since_s: float = 0.0
    """When it came into its state."""
    placement: Placement | None = None
    """Of an admitted gang."""
    admitted_s: float = 0.0
    saved_s: float | None = None
    """When a job last saved its work."""
    stop: Stop | None = None
    reservation: Reservation | None = None
    attempts: int = 0
    """How often it was withdrawn because it did not bind in time."""
    retry_at_s: float = 0.0

    @property
    def accelerators(self) -> int:
        """Accelerators of all its pods."""
        return self.pods * self.accelerators_per_pod


@dataclass(frozen=True, slots=True)
class Node:
    """Accelerators of one class on one node that takes new pods."""

    name: str
    class_name: str
    accelerators: int
    """That may be allocated."""
    taken: int = 0
    """Held by pods that are none of ours."""
    domain: str = ""
    """Nodes of the same domain are connected by a fast network; empty if no label tells."""
    labels: frozenset[tuple[str, str]] = frozenset()


@dataclass(frozen=True, slots=True)
class Quota:
    """Accelerators of one class for one tenant. None means no limit."""

    guaranteed: int = 0
    borrow_limit: int | None = None
    lend_limit: int | None = None

    @property
    def lendable(self) -> int:
        """Accelerators of the guarantee that others may hold."""
        return self.guaranteed if self.lend_limit is None else min(self.lend_limit, self.guaranteed)

    @property
    def limit(self) -> int | None:
        """Most accelerators held at a time."""
        return None if self.borrow_limit is None else self.guaranteed + self.borrow_limit


@dataclass(frozen=True, slots=True)
class TenantQuota:
    """What a tenant may hold. A class that it has no quota of it cannot use."""

    name: str
    cohort: str = ""
    """Tenants of one cohort lend to each other; empty means alone."""
    weight: float = 1.0
    quotas: Mapping[str, Quota] = field(default_factory=dict)
    closed: str = ""
    """Why it gets nothing more, in words; empty if it may."""

    @property
    def cohort_key(self) -> str:
        """The cohort, or one of its own that no cohort can have the name of."""
        return self.cohort or f"/{self.name}"


@dataclass(frozen=True, slots=True)
class Swap:
    """One gang was asked to stop for another: the two may not change places again within the window."""

    winner_id: str
    winner_owner: str
    loser_id: str
    loser_owner: str
    at_s: float


@dataclass(frozen=True, slots=True)
class QuotaRules:
    """Times of the ledger, in seconds, and their meaning."""

    aging_s: float = 30.0
    """Waiting for so long is worth one point of priority."""
    bind_deadline_s: float = 120.0
    """An admitted gang whose pods have not all found a node after this time is withdrawn."""
    patience_s: float = 300.0
    """After waiting for so long, room is kept free for the first gang that cannot be placed."""
    reservation_s: float = 600.0
    """Room that is kept but does not come free in this time is chosen anew."""
    settle_s: float = 1.0
    """Nobody is asked to go sooner than this after its admission, whatever its own minimum run time."""
    swap_window_s: float = 300.0
    """Two gangs that changed places do not change back within this time."""
    fresh_save_s: float = 300.0
    """Work saved so recently counts as safe."""
    backoff_first_s: float = 10.0
    backoff_limit_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that a decision rests on, at one moment."""

    now_s: float
    tenants: tuple[TenantQuota, ...]
    nodes: tuple[Node, ...]
    gangs: tuple[Gang, ...]
    costs: Mapping[str, float] = field(default_factory=dict)
    """Price of one accelerator of a class relative to others; 1 where none is given."""
    swaps: tuple[Swap, ...] = ()
    rules: QuotaRules = QuotaRules()
