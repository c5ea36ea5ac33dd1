"""The status of a pool, in conditions and numbers, from its plan and its observed replicas. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from llmos.api import InferencePool, InferencePoolStatus, PoolPlan, Reason, Scaling
from llmos.api.names import (
    CONDITION_AVAILABLE,
    CONDITION_PLANNED,
    CONDITION_PROGRESSING,
    CONDITION_READY,
    CPU_CLASS,
)
from llmos_operator.planning.conditions import Fact, build_conditions, is_false, is_true, last_failure
from llmos_operator.planning.failures import Failure, describe
from llmos_operator.planning.replicas import HOLDING, Replica, ReplicaState


@dataclass(frozen=True)
class Layout:
    """How a replica is to be made: a plan, or the reason why there is none."""

    plan: PoolPlan | None = None
    refusal: Failure | None = None


def build_pool_status(
    pool: InferencePool,
    *,
    layout: Layout,
    revision: str,
    selector: str,
    url: str,
    replicas: Sequence[Replica],
    refused: Failure | None,
    now: datetime,
) -> InferencePoolStatus:
    """Return the status of `pool`.

    Args:
        pool: the object as it was read.
        layout: plan or refusal.
        revision: newest revision, empty if there is no plan.
        selector: label selector of the pool's pods.
        url: base URL of the pool's Service.
        replicas: replicas observed before this reconcile's writes.
        refused: what the API server refused in this reconcile, if anything.
        now: the current time.
    """
    count = _count(pool, replicas, revision)
    failure = layout.refusal or refused or _first_failure(pool, replicas, revision)
    facts = (
        _planned(layout),
        _available(count, failure),
        _progressing(count, failure),
        _ready(count, failure),
    )
    holding = sum(1 for replica in replicas if replica.state in HOLDING)
    per_replica = 0 if pool.spec.accelerator.class_name == CPU_CLASS else pool.spec.accelerator.count
    return InferencePoolStatus(
        observed_generation=pool.metadata.generation,
        replicas=count.alive,
        ready_replicas=count.ready,
        updated_replicas=count.updated,
        draining_replicas=count.draining,
        desired_replicas=count.desired,
        accelerators=holding * per_replica,
        selector=selector,
        url=url,
        revision=revision,
        plan=layout.plan,
        conditions=build_conditions(facts, pool.status.conditions, pool.metadata.generation, now),
    )


def compute_desired(pool: InferencePool) -> int:
    """Return how many replicas there should be: what the user says, else the autoscaler's last decision in limits."""
    if pool.spec.replicas is not None:
        return pool.spec.replicas
    scaling = pool.spec.scaling or Scaling()
    return min(max(pool.status.desired_replicas, scaling.min_replicas), scaling.max_replicas)


@dataclass(frozen=True)
class _Count:
    desired: int
    alive: int
    ready: int
    updated: int
    updated_ready: int
    draining: int

    @property
    def is_settled(self) -> bool:
        return self.alive == self.updated == self.updated_ready == self.desired and self.draining == 0


def _count(pool: InferencePool, replicas: Sequence[Replica], revision: str) -> _Count:
    alive = [r for r in replicas if r.state in {ReplicaState.STARTING, ReplicaState.READY}]
    updated = [r for r in alive if r.revision == revision]
    return _Count(
        desired=compute_desired(pool),
        alive=len(alive),
        ready=sum(1 for r in alive if r.state is ReplicaState.READY),
        updated=len(updated),
        updated_ready=sum(1 for r in updated if r.state is ReplicaState.READY),
        draining=sum(1 for r in replicas if r.state in {ReplicaState.DRAINING, ReplicaState.TERMINATING}),
    )


def _first_failure(pool: InferencePool, replicas: Sequence[Replica], revision: str) -> Failure | None:
    """Return what is wrong with the newest revision: a failed replica, one that cannot start, one that is tried
    again."""
    newest = [r for r in replicas if r.revision == revision]
    failed = [r.failure for r in newest if r.failure is not None]
    stuck = [r.stuck for r in newest if r.stuck is not None]
    if any(r.attempt > 0 and r.state is ReplicaState.STARTING for r in newest):
        earlier = last_failure(CONDITION_PROGRESSING, pool.status.conditions)
    else:
        earlier = None
    return next(iter([*failed, *stuck]), earlier)


def _planned(layout: Layout) -> Fact:
    if layout.refusal is not None:
        return is_false(CONDITION_PLANNED, layout.refusal.reason, layout.refusal.message)
    return is_true(CONDITION_PLANNED, Reason.Fits, layout.plan.message if layout.plan else "")


def _available(count: _Count, failure: Failure | None) -> Fact:
    if count.desired == 0:
        return is_true(CONDITION_AVAILABLE, Reason.ScaledToZero)
    if count.ready > 0:
        message = f"{count.ready} of {count.desired} replicas answer."
        return is_true(CONDITION_AVAILABLE, Reason.Available, message)
    if failure is not None:
        return is_false(CONDITION_AVAILABLE, failure.reason, failure.message)
    return is_false(
        CONDITION_AVAILABLE, Reason.Starting, f"0 of {count.desired} replicas answer; replicas are starting."
    )


def _progressing(count: _Count, failure: Failure | None) -> Fact:
    if count.is_settled:
        return is_false(CONDITION_PROGRESSING, Reason.Complete)
    if failure is not None:
        return is_false(CONDITION_PROGRESSING, failure.reason, failure.message)
    if count.alive > count.updated:
        message = f"{count.updated_ready} of {count.desired} replicas of the new revision answer."
        return is_true(CONDITION_PROGRESSING, Reason.RollingOut, message)
    if count.draining and count.alive == count.desired:
        return is_true(CONDITION_PROGRESSING, Reason.Draining, f"{count.draining} replicas finish their requests.")
    message = f"{count.alive} replicas exist, {count.desired} are desired."
    return is_true(CONDITION_PROGRESSING, Reason.Scaling, message)


def _ready(count: _Count, failure: Failure | None) -> Fact:
    if failure is not None and (count.desired > 0 or count.updated < count.desired):
        serving = f" Meanwhile {count.ready} replicas answer." if count.ready else ""
        return is_false(CONDITION_READY, failure.reason, failure.message + serving)
    if count.desired == 0:
        return is_true(CONDITION_READY, Reason.ScaledToZero)
    if count.ready >= count.desired and count.updated_ready >= count.desired:
        return is_true(CONDITION_READY, Reason.Ready, f"{count.ready} of {count.desired} replicas answer.")
    reason = Reason.RollingOut if count.alive > count.updated else Reason.Starting
    message = describe(reason, f"{count.updated_ready} of {count.desired} replicas of the newest revision answer.")
    return is_false(CONDITION_READY, reason, message)
