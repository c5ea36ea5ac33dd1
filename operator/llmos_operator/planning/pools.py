"""The status of a pool, in conditions and numbers, from its plan and its observed replicas. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from llmos.api import InferencePool, InferencePoolStatus, PoolClassStatus, PoolPlan, Reason
from llmos.api.inferencepool import AdapterStatus
from llmos.api.job_reasons import name_model_fields
from llmos.api.names import (
    CONDITION_ADMITTED,
    CONDITION_AVAILABLE,
    CONDITION_PLANNED,
    CONDITION_PROGRESSING,
    CONDITION_READY,
    CPU_CLASS,
)
from llmos.api.scaling import ScalingStatus
from llmos_operator.planning.conditions import (
    Announcement,
    Fact,
    build_conditions,
    is_false,
    is_true,
    is_unknown,
    last_failure,
)
from llmos_operator.planning.failures import Failure, build_failure, describe
from llmos_operator.planning.quota_news import PoolNews
from llmos_operator.planning.replicas import HOLDING, Replica, ReplicaState
from llmos_operator.planning.schedule import ReplicaLimits, find_limits, find_schedule_problem

_MEANWHILE = " Meanwhile "


@dataclass(frozen=True)
class Layout:
    """How a replica is to be made: a plan, or the reason why there is none."""

    plan: PoolPlan | None = None
    refusal: Failure | None = None


@dataclass(frozen=True)
class PoolSize:
    """How many replicas there should be, and who says so."""

    desired: int
    scaling: ScalingStatus | None = None
    """The autoscaler's decision; None for a fixed number."""
    is_scaled: bool = False
    """Whether the decision is acted on."""
    limits: ReplicaLimits | None = None
    """Limits that hold now; None for a fixed number."""
    problem: Failure | None = None
    """What is wrong with the spec."""

    @property
    def zero_message(self) -> str:
        """Why there is no replica, for a pool with none."""
        if not self.is_scaled or self.limits is None:
            return ""
        if self.limits.max_replicas == 0:
            return f"Window {self.limits.window} of scaling.schedule asks for no replicas."
        return "The pool sleeps at zero replicas; the first request through the gateway wakes it."


@dataclass(frozen=True)
class Admission:
    """What the quota says of a pool whose replicas wait for it."""

    news: PoolNews | None = None
    """Why replicas wait; None if the ledger has not told, or none waits."""
    elsewhere: Failure | None = None
    """Why replicas wait where somebody else than the ledger admits them."""
    stopped: str = ""
    """What somebody else took back, in one sentence."""


def build_pool_status(
    pool: InferencePool,
    *,
    layout: Layout,
    size: PoolSize,
    revision: str,
    selector: str,
    url: str,
    replicas: Sequence[Replica],
    refused: Failure | None,
    isolation: Sequence[Fact] = (),
    adapters: Sequence[AdapterStatus] = (),
    adapters_fact: Fact | None = None,
    now: datetime,
    admission: Admission | None = None,
    classes: Sequence[PoolClassStatus] = (),
) -> InferencePoolStatus:
    """Return the status of `pool`.

    Args:
        pool: the object as it was read.
        layout: plan or refusal.
        size: how many replicas there should be.
        revision: newest revision, empty if there is no plan.
        selector: label selector of the pool's pods.
        url: base URL of the pool's Service.
        replicas: replicas observed before this reconcile's writes.
        refused: what the API server refused in this reconcile, if anything.
        isolation: the condition IsolationReady, of a pool in a tenant's namespace.
        adapters: what is true of adapters.
        adapters_fact: the condition AdaptersReady, of a pool that can load adapters.
        now: the current time.
        admission: what the quota says; None if it does not concern the pool.
        classes: what is true of each accelerator class, if the pool names several.
    """
    layout, refused = replace(layout, refusal=_in_words_of_pools(layout.refusal)), _in_words_of_pools(refused)
    count = _count(size, replicas, revision)
    gated = sum(replica.is_gated for replica in replicas)
    not_admitted = _not_admitted(admission, gated, stands_still=_stands_still(pool, size, replicas, revision))
    failure = (
        layout.refusal
        or refused
        or _first_failure(pool, replicas, revision)
        or not_admitted
        or _no_room(pool, size, layout.plan.pods if layout.plan else 1)
    )
    facts = (
        _planned(layout),
        *(() if admission is None else (_admitted(admission, gated, not_admitted),)),
        _available(count, failure, size),
        _progressing(count, failure),
        *isolation,
        *(() if adapters_fact is None else (adapters_fact,)),
        _ready(count, failure, size),
    )
    holding = sum(1 for replica in replicas if replica.state in HOLDING and not replica.is_gated)
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
        accelerator_classes=tuple(classes),
        scaling=size.scaling,
        adapters=tuple(adapters),
        conditions=build_conditions(facts, pool.status.conditions, pool.metadata.generation, now),
    )


def compute_size(pool: InferencePool, decided: ScalingStatus | None, now: datetime) -> PoolSize:
    """Return how many replicas there should be: what the user says, else the autoscaler's decision in limits.

    Args:
        pool: the object as it was read. Until there is a decision in this life of the operator, its status holds the
            last one of the life before.
        decided: the autoscaler's decision, if there is one.
        now: the current time, for the schedule.
    """
    scaling = pool.spec.scaling
    if scaling is None:
        return PoolSize(pool.spec.replicas or 0)
    limits = find_limits(scaling, now)
    is_active = scaling.mode == "active"
    last = decided.desired if decided is not None and is_active else pool.status.desired_replicas
    problem = find_schedule_problem(scaling)
    return PoolSize(
        desired=limits.clamp(last) if pool.spec.replicas is None else pool.spec.replicas,
        scaling=decided or pool.status.scaling,
        is_scaled=is_active,
        limits=limits,
        problem=Failure(Reason.InvalidSpec, problem) if problem else None,
    )


def plan_scaling_announcement(pool: InferencePool, size: PoolSize) -> Announcement | None:
    """Return the Event for a new desired number, with the reason in words; None if it is as it was, or nobody acts."""
    before = pool.status.desired_replicas
    if not size.is_scaled or size.scaling is None or not pool.status.observed_generation or before == size.desired:
        return None
    why = size.scaling.message
    if size.desired != size.scaling.desired and size.limits is not None:
        source = f"window {size.limits.window} of scaling.schedule" if size.limits.window else "spec.scaling"
        bound = "at least" if size.desired > size.scaling.desired else "at most"
        why = f"{source} says {bound} {size.desired}."
    return Announcement(Reason.Scaling, f"Scaled {before} -> {size.desired}: {why}", warning=False)


DETAILS: Final = frozenset({"replicas", "readyReplicas", "updatedReplicas", "drainingReplicas", "accelerators"})


def differs_in_details_only(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether two statuses of a pool, as manifests, say the same but for counts and the words of conditions.

    What somebody may wait for or be alarmed by is no detail: a condition's status or reason, the desired number, the
    revision, the plan. Nor is the first replica that answers, or that none does any more.
    """
    is_same_news = bool(before.get("readyReplicas")) == bool(after.get("readyReplicas"))
    return before != after and is_same_news and _without_details(before) == _without_details(after)


def _without_details(status: Mapping[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in status.items() if key not in DETAILS}
    for key, details in (("acceleratorClasses", DETAILS), ("conditions", {"message"})):
        if key in rest:
            rest[key] = [{k: v for k, v in item.items() if k not in details} for item in rest[key]]
    return rest


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


def _count(size: PoolSize, replicas: Sequence[Replica], revision: str) -> _Count:
    alive = [r for r in replicas if r.state in {ReplicaState.STARTING, ReplicaState.READY}]
    updated = [r for r in alive if r.revision == revision]
    return _Count(
        desired=size.desired,
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
    return _in_words_of_pools(next(iter([*failed, *stuck]), earlier))


def _in_words_of_pools(failure: Failure | None) -> Failure | None:
    """Planner and fetch step speak of the model's fields, and a pool has no such fields."""
    return failure and replace(failure, message=name_model_fields(failure.message))


def _no_room(pool: InferencePool, size: PoolSize, pods: int) -> Failure | None:
    """Return that the pool wants more replicas than it found room for. Those that found none are gone, so what they
    said is taken from the condition."""
    if not size.is_scaled or size.scaling is None or size.scaling.bounded_by != "unschedulable":
        return None
    earlier = last_failure(CONDITION_READY, pool.status.conditions)
    if earlier is None or earlier.reason is Reason.InvalidSpec:
        return build_failure(Reason.Unschedulable, f"{size.scaling.message} {_describe_need(pool, pods)}")
    return Failure(earlier.reason, earlier.message.partition(_MEANWHILE)[0])


def _stands_still(pool: InferencePool, size: PoolSize, replicas: Sequence[Replica], revision: str) -> bool:
    """Whether nothing of an earlier revision may go before a replica answers that waits for its quota."""
    waiting = [r for r in replicas if r.is_gated and r.revision == revision]
    holding = [r for r in replicas if r.state in HOLDING and not r.is_gated]
    answering = [r for r in holding if r.state is ReplicaState.READY]
    is_old = any(r.revision != revision for r in answering)
    may_go = len(answering) > max(0, size.desired - pool.spec.rollout.max_unavailable)
    return bool(waiting) and is_old and len(answering) == len(holding) and not may_go


_STANDS_STILL = (
    " The rollout stands still: replicas of the earlier revision hold what the new one needs, and none of them "
    "goes before a new one answers. Set rollout.maxUnavailable: 1 to replace one at a time, or make room for one more."
)
_FULL = frozenset({Reason.QuotaExceeded, Reason.WaitsForRoom})


def _not_admitted(admission: Admission | None, gated: int, *, stands_still: bool) -> Failure | None:
    """Return why replicas wait for their quota. Until the ledger has told, they just start."""
    if admission is None or not gated:
        return None
    first = admission.elsewhere or (admission.news.first if admission.news else None)
    if first is None:
        return None
    who = "1 replica waits" if gated == 1 else f"{gated} replicas wait"
    is_own_doing = (
        stands_still and admission.news is not None and admission.news.first.is_held_by_owner and first.reason in _FULL
    )
    told = " ".join(part for part in (f"{who}.", admission.stopped, first.message) if part)
    return Failure(first.reason, f"{told}{_STANDS_STILL if is_own_doing else ''}")


def _admitted(admission: Admission, gated: int, waits: Failure | None) -> Fact:
    if not gated:
        return is_true(CONDITION_ADMITTED, Reason.Admitted, admission.stopped)
    if waits is None:
        return is_unknown(CONDITION_ADMITTED, Reason.Starting, "The quota ledger has not looked at it yet.")
    return is_false(CONDITION_ADMITTED, waits.reason, waits.message)


def _describe_need(pool: InferencePool, pods: int) -> str:
    wanted = pool.spec.accelerator
    if wanted.class_name == CPU_CLASS:
        return "Each replica asks for processors and memory, and no node has enough of them free."
    needs = f"Each replica asks for {wanted.count} x {wanted.class_name} (AcceleratorClass)"
    if pods > 1:
        return f"{needs}, {wanted.count // pods} for each of its {pods} pods, and there are not so many nodes free."
    return f"{needs}, and no node has that free."


def _planned(layout: Layout) -> Fact:
    if layout.refusal is not None:
        return is_false(CONDITION_PLANNED, layout.refusal.reason, layout.refusal.message)
    return is_true(CONDITION_PLANNED, Reason.Fits, layout.plan.message if layout.plan else "")


def _available(count: _Count, failure: Failure | None, size: PoolSize) -> Fact:
    if count.desired == 0:
        return is_true(CONDITION_AVAILABLE, Reason.ScaledToZero, size.zero_message)
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


def _ready(count: _Count, failure: Failure | None, size: PoolSize) -> Fact:
    failure = size.problem or (failure if count.desired > 0 else None)
    if failure is not None:
        serving = f"{_MEANWHILE}{count.ready} replicas answer." if count.ready else ""
        return is_false(CONDITION_READY, failure.reason, failure.message + serving)
    if count.desired == 0:
        return is_true(CONDITION_READY, Reason.ScaledToZero, size.zero_message)
    if count.ready >= count.desired and count.updated_ready >= count.desired:
        return is_true(CONDITION_READY, Reason.Ready, f"{count.ready} of {count.desired} replicas answer.")
    reason = Reason.RollingOut if count.alive > count.updated else Reason.Starting
    message = describe(reason, f"{count.updated_ready} of {count.desired} replicas of the newest revision answer.")
    return is_false(CONDITION_READY, reason, message)
