"""Which replicas to create, drain and delete: stateless, from what is observed now.

A replica is a gang of one or more pods. The plan is recomputed from the observed replicas at every reconcile, so a
killed
operator goes on where it stopped. Invariants (tests/operator/planning/test_replicas.py proves them over random
histories):

- replicas that hold accelerators never exceed `desired + max_surge`, except that a scale-down starts from what is
  there;
- no replica that answers is taken away while fewer than `desired - max_unavailable` others would answer;
- a replica that answers is drained before it is deleted; one that never answered is deleted at once;
- a failed replica holds no accelerator once all its pods have ended; it stays as the record of its failure until its
  next attempt is due, or for ever if only a change can help, and it takes the place of a replica meanwhile, so nothing
  is retried in a tight loop.

Back-off of attempt n (n >= 1): min(10 s x 2^(n-1), 300 s) after the failure, as kubelet does for crashing containers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum

from llmos_operator.planning.failures import Failure
from llmos_operator.planning.quota_record import QuotaRecord

BACKOFF_FIRST_S = 10.0
BACKOFF_LIMIT_S = 300.0
STABLE_S = 60.0
"""A replica that answered for so long is replaced at once when it fails, and the count of its attempts begins anew."""


class ReplicaState(Enum):
    """Where a replica is in its life."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    TERMINATING = "terminating"
    LOST = "lost"
    """Terminating beyond its grace period: its node is gone, so it holds nothing that we can still use."""
    FAILED = "failed"


HOLDING = frozenset({ReplicaState.STARTING, ReplicaState.READY, ReplicaState.DRAINING, ReplicaState.TERMINATING})


@dataclass(frozen=True)
class Replica:
    """One observed replica.

    `in_flight` is the number of requests running and waiting, None if unknown. `stuck` says why a starting replica
    cannot go on. `ready_at` is since when a ready one has been so.
    `retry_at` is when a failed replica may be tried again, None for never. `lost_at` is when a terminating one counts
    as lost.
    """

    name: str
    ordinal: int
    revision: str
    state: ReplicaState
    created: datetime
    was_ready: bool = False
    ready_at: datetime | None = None
    in_flight: int | None = None
    attempt: int = 0
    drain_started: datetime | None = None
    failure: Failure | None = None
    stuck: Failure | None = None
    retry_at: datetime | None = None
    lost_at: datetime | None = None
    incomplete: bool = False
    """Not all of its pods were made."""
    is_torn: bool = False
    """Some of its pods are being deleted, others not yet."""
    is_ending: bool = False
    """It has failed, and pods of it that still run hold accelerators until they have ended."""
    is_gated: bool = False
    """It waits until the quota admits it, and holds nothing."""
    admitted: datetime | None = None
    """When the quota admitted it."""
    withdrawn: QuotaRecord | None = None
    """What the quota says of a replica that was not bound in time: another one takes its place and goes on from it. The
    same of one that was admitted to another class than it was made for."""
    class_name: str = ""
    """The accelerator class that it says it was made for."""
    succeeds: str = ""
    """Uid of the leader of the moved replica in whose place it was made."""

    @property
    def is_moved(self) -> bool:
        """Whether it was admitted to another class than it was made for, and keeps the room."""
        return bool(self.moved_uid)

    @property
    def moved_uid(self) -> str:
        """Uid of the leader of one that moved; empty for another one."""
        return self.withdrawn.succeeds if self.withdrawn is not None else ""

    @property
    def began(self) -> datetime:
        """Since when it can start."""
        return max(self.created, self.admitted) if self.admitted else self.created


@dataclass(frozen=True)
class NewReplica:
    """A replica to create."""

    ordinal: int
    attempt: int = 0
    record: QuotaRecord | None = None
    """What the quota knows of the one in whose place it comes."""


@dataclass(frozen=True)
class ReplicaPlan:
    """What to do now."""

    create: tuple[NewReplica, ...] = ()
    complete: tuple[Replica, ...] = ()
    drain: tuple[Replica, ...] = ()
    delete: tuple[Replica, ...] = ()
    succeeded: frozenset[str] = frozenset()
    """Leaders, by uid, of replicas that moved and whose successors are there."""
    requeue_after_s: float | None = None

    @property
    def why(self) -> tuple[str, ...]:
        """One line per decision, for people."""
        tries = {new.ordinal: f" (attempt {new.attempt + 1})" for new in self.create if new.attempt}
        create = (f"create replica {new.ordinal}{tries.get(new.ordinal, '')}" for new in self.create)
        drain = (f"drain {replica.name}" for replica in self.drain)
        return *create, *drain, *(f"delete {replica.name} ({replica.state.value})" for replica in self.delete)


@dataclass(frozen=True)
class RolloutLimits:
    """How far the number of replicas may leave the desired one."""

    max_surge: int = 1
    max_unavailable: int = 0


def compute_backoff_s(attempt: int) -> float:
    """Return the pause before attempt number `attempt` (1 is the first retry) in seconds."""
    doublings = min(max(attempt - 1, 0), 16)  # far beyond the limit already, and no overflow
    return min(BACKOFF_FIRST_S * 2.0**doublings, BACKOFF_LIMIT_S)


def plan_replicas(
    *,
    desired: int,
    revision: str,
    replicas: Sequence[Replica],
    limits: RolloutLimits,
    now: datetime,
    settle_s: float,
) -> ReplicaPlan:
    """Return the next step towards `desired` replicas of `revision`.

    Args:
        desired: replicas that there should be.
        revision: hash of the template that new replicas are made from.
        replicas: all observed replicas, also draining, terminating and failed ones.
        limits: surge and unavailable limits.
        now: the current time.
        settle_s: seconds that a draining replica waits before it is deleted, so that the Service forgets it.
    """
    succeeded = _find_succeeded(replicas)
    finished = tuple(r for r in replicas if r.state is ReplicaState.DRAINING and _drain_left_s(r, now, settle_s) <= 0)
    removable, drain = _plan_removal(desired, revision, replicas, limits, now)
    create, retried = _plan_creation(desired, revision, replicas, limits, now)
    # One pod that is deleted takes its gang along.
    torn = tuple(r for r in replicas if r.is_torn)
    delete = _unique((*finished, *torn, *succeeded, *removable, *retried))
    gone = {replica.name for replica in (*drain, *delete)}
    return ReplicaPlan(
        create=create,
        complete=tuple(r for r in replicas if r.incomplete and r.revision == revision and r.name not in gone),
        drain=drain,
        delete=delete,
        succeeded=frozenset(r.moved_uid for r in succeeded),
        requeue_after_s=_next_look_s(replicas, drain, now, settle_s),
    )


def _is_alive(replica: Replica) -> bool:
    return replica.state in {ReplicaState.STARTING, ReplicaState.READY}


def _is_due(replica: Replica, now: datetime) -> bool:
    return replica.retry_at is not None and replica.retry_at <= now and not replica.is_ending


def _drain_left_s(replica: Replica, now: datetime, settle_s: float) -> float:
    if replica.drain_started is None:
        return 0.0
    return settle_s - (now - replica.drain_started).total_seconds()


def _plan_creation(
    desired: int, revision: str, replicas: Sequence[Replica], limits: RolloutLimits, now: datetime
) -> tuple[tuple[NewReplica, ...], tuple[Replica, ...]]:
    """Return the replicas to create and the failed ones that they replace."""
    newest = [r for r in replicas if r.revision == revision]
    succeeded = _find_succeeded(replicas)
    failed = [r for r in newest if r.state is ReplicaState.FAILED and r not in succeeded]
    due = sorted((r for r in failed if _is_due(r, now)), key=lambda r: r.ordinal)
    waiting = len(failed) - len(due)
    alive = sum(1 for r in newest if _is_alive(r))
    # One of the newest revision that is ending keeps its place as a failed one.
    holding = sum(1 for r in replicas if r.state in HOLDING or (r.is_ending and r.revision != revision))
    # A failed replica keeps its place in the surge, so that a bad revision fails once and not `desired` times.
    room = desired + limits.max_surge - holding - waiting
    count = max(0, min(desired - alive - waiting, room))
    retried = due[:count]
    ordinals = _free_ordinals({r.ordinal for r in newest}, count)
    again = [_try_again(failed, ordinal) for failed, ordinal in zip(retried, ordinals, strict=False)]
    return (*again, *(NewReplica(ordinal) for ordinal in ordinals[len(again) :])), tuple(retried)


def _find_succeeded(replicas: Iterable[Replica]) -> tuple[Replica, ...]:
    """Return the moved replicas whose successor is there, but which are not deleted yet: they get no other one."""
    known = tuple(replicas)
    taken = {r.succeeds for r in known if r.succeeds}
    return tuple(r for r in known if r.moved_uid in taken)


def keep_moved(plan: ReplicaPlan) -> ReplicaPlan:
    """Return the plan of a pool that could not make all that it planned: what moved keeps the room for its successor,
    unless that is there."""
    kept = tuple(r for r in plan.delete if not r.is_moved or r.moved_uid in plan.succeeded)
    return replace(plan, delete=kept)


def find_kept(plan: ReplicaPlan, replica: Replica) -> QuotaRecord | None:
    """Return what a replica whose making was cut off goes on from: the room that one that moved keeps for its class.

    That one is to be deleted, for the other one is made already. If several are, any will do.
    """
    taken = {new.record.succeeds for new in plan.create if new.record is not None} | plan.succeeded
    for each in plan.delete:
        placement = each.withdrawn.placement if each.withdrawn is not None else None
        if placement is not None and placement.class_name == replica.class_name and each.moved_uid not in taken:
            return each.withdrawn
    return None


def _try_again(failed: Replica, ordinal: int) -> NewReplica:
    # One that was withdrawn has not failed: the quota counts how often it was tried.
    if failed.withdrawn is not None:
        return NewReplica(ordinal, failed.attempt, failed.withdrawn)
    return NewReplica(ordinal, failed.attempt + 1)


def _free_ordinals(taken: set[int], count: int) -> list[int]:
    free: list[int] = []
    ordinal = 0
    while len(free) < count:
        if ordinal not in taken:
            free.append(ordinal)
        ordinal += 1
    return free


def _plan_removal(
    desired: int, revision: str, replicas: Sequence[Replica], limits: RolloutLimits, now: datetime
) -> tuple[tuple[Replica, ...], tuple[Replica, ...]]:
    """Return the replicas to delete at once and the ones to drain."""
    lost = [r for r in replicas if r.state is ReplicaState.LOST]
    succeeded = _find_succeeded(replicas)
    failed = [r for r in replicas if r.state is ReplicaState.FAILED and r not in succeeded]
    failed_new = [r for r in failed if r.revision == revision]
    alive_new = [r for r in replicas if _is_alive(r) and r.revision == revision]
    outdated = [
        r for r in replicas if r.revision != revision and r.state in {ReplicaState.FAILED, ReplicaState.STARTING}
    ]
    delete = [r for r in (*lost, *outdated) if not _must_drain(r)]

    surplus_failed = len(failed_new) + len(alive_new) - desired
    if surplus_failed > 0:
        delete += sorted(failed_new, key=lambda r: (not _is_due(r, now), -r.ordinal))[:surplus_failed]

    surplus = max(0, len(alive_new) - desired)
    victims = sorted(alive_new, key=_victim_order)[:surplus]
    starting = [r for r in victims if not _must_drain(r)]
    delete += starting

    old_ready = sorted((r for r in replicas if r.revision != revision and _must_drain(r)), key=_victim_order)
    answering = sum(1 for r in replicas if r.state is ReplicaState.READY)
    spare = max(0, answering - max(0, desired - limits.max_unavailable))
    drain: list[Replica] = []
    for candidate in (*old_ready, *(r for r in victims if _must_drain(r))):
        if candidate.state is ReplicaState.READY:
            if spare == 0:
                continue
            spare -= 1
        drain.append(candidate)
    return tuple(delete), tuple(drain)


def _must_drain(replica: Replica) -> bool:
    """Whether requests may be in flight: it answers now, or did before and is only unready for a moment."""
    return replica.state is ReplicaState.READY or (replica.state is ReplicaState.STARTING and replica.was_ready)


def _victim_order(replica: Replica) -> tuple[bool, bool, bool, bool, int, float]:
    """Sort the replica that is missed least first: one that never answered, and of these one that waits or cannot go
    on, then one that does not answer now, then the least busy, then the newest."""
    unknown = replica.in_flight is None
    busy = 0 if replica.in_flight is None else replica.in_flight
    is_ready = replica.state is ReplicaState.READY
    may_hold_requests = replica.was_ready and not is_ready
    goes_on = replica.stuck is None and not replica.is_gated
    return is_ready, may_hold_requests, goes_on, unknown, busy, -replica.created.timestamp()


def _next_look_s(replicas: Sequence[Replica], drain: Iterable[Replica], now: datetime, settle_s: float) -> float | None:
    waits = [_drain_left_s(r, now, settle_s) for r in replicas if r.state is ReplicaState.DRAINING]
    waits += [settle_s for _ in drain]
    waits += [(r.retry_at - now).total_seconds() for r in replicas if r.retry_at is not None]
    waits += [(r.lost_at - now).total_seconds() for r in replicas if r.lost_at is not None]
    later = [wait for wait in waits if wait > 0]
    return min(later) if later else None


def _unique(replicas: Iterable[Replica]) -> tuple[Replica, ...]:
    return tuple({replica.name: replica for replica in replicas}.values())
