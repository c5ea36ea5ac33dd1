"""How many replicas a pool should have, decided anew each second from what gateways and engines tell. Pure.

The decision, in order:

1. Learn: what a replica can do (`scaling_capacity`), what comes in (`scaling_traffic`), how it bursts
   (`scaling_forecast`), what there is room for (`scaling_room`).
2. Demand: what each target asks for (`scaling_demand`); the greatest is `raw`, rounded up it is wanted.
3. Delay: up at once. Down only to the most that was wanted at any moment of the last `scale_down_delay_s` (the
   stabilisation of Kubernetes' HorizontalPodAutoscaler); to zero only after `scale_to_zero_after_s` without any work.
4. Bound: no more than there is room for, under a quota no more than one beyond those admitted, then within the limits.

Only complete samples move the clocks of step 3: a sample with figures missing may raise the number and never lowers it,
and a delay is never spent while nobody looks. Nothing multiplies the present number of replicas, so replicas that are
still starting cannot be ordered twice, and cannot hold a decision back either.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from llmos.api.scaling import BoundedBy, ReplicaCapacity, ScalingDemand, ScalingInputs
from llmos_operator.planning.scaling_capacity import Learned, build_capacity, learn, restore_learned
from llmos_operator.planning.scaling_demand import (
    Goal,
    Situation,
    build_promise,
    compute_concurrency,
    compute_demands,
)
from llmos_operator.planning.scaling_forecast import (
    BUCKET_S,
    HOLD_BUCKETS,
    NOTHING_AHEAD,
    Hindsight,
    compute_needed,
    look_ahead,
    look_back,
)
from llmos_operator.planning.scaling_inputs import GatewaySample, PoolSample, StartingReplica
from llmos_operator.planning.scaling_room import Room, compute_quota_limit, count_serving, observe_room, reopen_room
from llmos_operator.planning.scaling_traffic import Load, Traffic, build_load, observe
from llmos_operator.planning.scaling_words import Circumstances, describe_decision

SLACK: Final = 0.02
"""Replicas by which a demand may exceed a whole number without another replica: estimates are not that exact."""
LONGEST_GAP_S: Final = 5.0
"""What one sample moves the clocks at most."""
STALE_SHOWN: Final = 16
NOTHING_LEARNED: Final = Learned()
NO_TRAFFIC: Final = Traffic()
NO_HINDSIGHT: Final = Hindsight()
OPEN_ROOM: Final = Room()


@dataclass(frozen=True, slots=True)
class ScalingPolicy:
    """What the pool asks for at this moment, schedules applied."""

    min_replicas: int
    max_replicas: int
    queue_depth: int | None
    utilization: float | None
    ttft_s: float | None
    tpot_s: float | None
    scale_down_delay_s: float
    scale_to_zero_after_s: float
    limits_from: str = ""
    """Schedule window that sets the limits; empty if the pool's own limits hold."""
    unschedulable_after_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """A number that was wanted, and when, by the clock of complete samples."""

    clock_s: float
    replicas: int


@dataclass(frozen=True, slots=True)
class ScalingMemory:
    """What the autoscaler remembers from one second to the next. Bounded; opaque to its caller."""

    learned: Learned = NOTHING_LEARNED
    traffic: Traffic = NO_TRAFFIC
    hindsight: Hindsight = NO_HINDSIGHT
    room: Room = OPEN_ROOM
    clock_s: float = 0.0
    """Time for which complete samples came."""
    idle_s: float = 0.0
    """How long, by that clock, there has been nothing to do."""
    wanted: tuple[Wanted, ...] = ()
    """What was wanted within the delay, only those that no later one exceeds: falling numbers, the oldest first."""
    desired: int | None = None
    now_s: float = -math.inf
    revision: str = ""
    concurrency: float = 0.0

    @staticmethod
    def restore(capacity: ReplicaCapacity, desired: int, now_s: float) -> ScalingMemory:
        """Return the memory of an autoscaler that begins anew with what status kept of the one before.

        The number of then is held for the delay of scaling down, as if it had just been wanted.
        """
        return ScalingMemory(
            learned=restore_learned(capacity),
            wanted=(Wanted(0.0, desired),),
            desired=desired,
            now_s=now_s,
            revision=capacity.revision,
        )

    @property
    def capacity(self) -> ReplicaCapacity:
        """What a replica was measured to do, for status."""
        return build_capacity(self.learned, self.revision, self.concurrency)


@dataclass(frozen=True, slots=True)
class ScalingPlan:
    """How many replicas there should be, and why."""

    desired: int
    raw: float
    bounded_by: BoundedBy
    message: str
    demands: tuple[ScalingDemand, ...]
    inputs: ScalingInputs
    memory: ScalingMemory


def plan_scaling(policy: ScalingPolicy, memory: ScalingMemory, sample: PoolSample) -> ScalingPlan:
    """Decide from one more sample.

    Args:
        policy: what the pool asks for now.
        memory: that of the plan before, `ScalingMemory()` or one that was restored.
        sample: what happened since the sample before.
    """
    sample = _sanitize(sample, memory)
    memory = _observe(policy, memory, sample)
    load = build_load(memory.traffic, sample)
    goal = _build_goal(policy)
    demands = compute_demands(goal, _build_situation(memory, load, sample))
    raw = max((demand.replicas for demand in demands), default=0.0)
    memory = replace(memory, concurrency=compute_concurrency(goal, memory.learned, load))
    decision = _decide(policy, memory, sample, load, raw)
    return ScalingPlan(
        desired=decision.desired,
        raw=raw,
        bounded_by=decision.bounded_by,
        message=_describe(decision, demands, policy, sample),
        demands=demands,
        inputs=_build_inputs(load, sample),
        memory=decision.memory,
    )


@dataclass(frozen=True, slots=True)
class _Decision:
    desired: int
    wanted: int
    bounded_by: BoundedBy
    memory: ScalingMemory


def _build_goal(policy: ScalingPolicy) -> Goal:
    return Goal(policy.queue_depth, policy.utilization, policy.ttft_s, policy.tpot_s)


def _sanitize(sample: PoolSample, memory: ScalingMemory) -> PoolSample:
    """Take figures that are no numbers for missing ones, and a clock that jumps back for one that stands."""
    is_bad = not math.isfinite(sample.interval_s) or sample.interval_s < 0 or not math.isfinite(sample.now_s)
    now_s = sample.now_s if math.isfinite(sample.now_s) else memory.now_s
    now_s = max(now_s, memory.now_s)
    return replace(
        sample,
        now_s=now_s if math.isfinite(now_s) else 0.0,
        interval_s=0.0 if is_bad else sample.interval_s,
        replicas=tuple(
            replica if math.isfinite(replica.kv_usage) else replace(replica, kv_usage=0.0)
            for replica in sample.replicas
        ),
        starting=tuple(
            replica if math.isfinite(replica.age_s) else replace(replica, age_s=0.0) for replica in sample.starting
        ),
        started_s=tuple(start for start in sample.started_s if math.isfinite(start)),
        stale=(*sample.stale, "the time of this sample") if is_bad else sample.stale,
    )


def is_complete(sample: PoolSample) -> bool:
    """Whether everybody who should tell of the load did."""
    return not sample.stale and sample.silent == 0


def has_work(sample: PoolSample) -> bool:
    """Whether anything is to be done, or was done in this interval."""
    gateway = sample.gateway or GatewaySample()
    return bool(
        gateway.queued
        or gateway.running
        or gateway.arrivals
        or any(replica.running or replica.waiting or replica.generation_tokens for replica in sample.replicas)
    )


def _observe(policy: ScalingPolicy, memory: ScalingMemory, sample: PoolSample) -> ScalingMemory:
    """Return the memory after one more sample, all but the decision."""
    seen_s = min(sample.interval_s, LONGEST_GAP_S) if is_complete(sample) else 0.0
    learned = learn(memory.learned, sample)
    traffic = observe(memory.traffic, sample)
    return replace(
        memory,
        learned=learned,
        traffic=traffic,
        hindsight=_look_back(policy, memory.hindsight, learned, traffic, sample),
        room=observe_room(memory.room, sample, policy.unschedulable_after_s),
        clock_s=memory.clock_s + seen_s,
        idle_s=0.0 if has_work(sample) else memory.idle_s + seen_s,
        now_s=sample.now_s,
    )


def _look_back(
    policy: ScalingPolicy, hindsight: Hindsight, learned: Learned, traffic: Traffic, sample: PoolSample
) -> Hindsight:
    if policy.queue_depth is not None or sample.gateway is None or sample.interval_s <= 0 or not learned.is_known:
        return hindsight
    model, load = learned.model, build_load(traffic, sample)
    per_prompt_s = model.per_prompt_token_s * traffic.prompt_ratio
    decode_load = model.per_sequence_s * load.needed_generated_per_s
    return look_back(
        hindsight,
        interval_s=sample.interval_s,
        work_s=per_prompt_s * sample.gateway.arrived_prompt_tokens + decode_load * sample.interval_s,
        needed=compute_needed(
            [per_prompt_s * second.prompt_tokens for second in traffic.seconds],
            decode_load,
            learned.base_share,
            build_promise(
                _build_goal(policy),
                model,
                traffic.mean_prompt_tokens * traffic.prompt_ratio,
                load.mean_generated_tokens,
            ),
        ),
        arrivals=float(sample.gateway.arrivals),
        lag_s=learned.start_s,
    )


def has_stopped(memory: ScalingMemory) -> bool:
    """Whether nothing has come for longer than a forecast looks back; such traffic is not taken to recur."""
    return memory.idle_s > HOLD_BUCKETS * BUCKET_S


def _build_situation(memory: ScalingMemory, load: Load, sample: PoolSample) -> Situation:
    oldest_s = max((replica.age_s for replica in sample.starting if _is_coming(replica)), default=0.0)
    outlook = NOTHING_AHEAD if has_stopped(memory) else look_ahead(memory.hindsight)
    return Situation(load, memory.learned, outlook, count_serving(sample), oldest_s)


def _is_coming(replica: StartingReplica) -> bool:
    return not (replica.is_stuck or replica.is_gated)


def _decide(policy: ScalingPolicy, memory: ScalingMemory, sample: PoolSample, load: Load, raw: float) -> _Decision:
    """Apply delays, room and limits to what is wanted."""
    wanted = max(math.ceil(raw - SLACK), 1 if load.outstanding or has_work(sample) else 0)
    existing = count_serving(sample) + len(sample.starting)
    before = existing if memory.desired is None else memory.desired
    kept = memory.wanted or (Wanted(memory.clock_s, before),)
    is_learning = policy.queue_depth is None and memory.hindsight.is_learning and not has_stopped(memory)
    kept = _remember(kept, Wanted(memory.clock_s, wanted), math.inf if is_learning else policy.scale_down_delay_s)
    memory = replace(memory, wanted=kept, room=reopen_room(memory.room, wanted, sample.now_s))
    target, bounded_by = _delay(policy, memory, sample, wanted, before, kept[0].replicas)
    target, bounded_by = _bound(policy, memory.room, sample, target, bounded_by)
    return _Decision(
        desired=target,
        wanted=wanted,
        bounded_by="" if target == wanted else bounded_by,
        memory=replace(memory, desired=target),
    )


def _remember(kept: tuple[Wanted, ...], new: Wanted, delay_s: float) -> tuple[Wanted, ...]:
    """Return the falling maxima of the delay, so that the first is the greatest."""
    return (
        *(old for old in kept if old.replicas > new.replicas and old.clock_s >= new.clock_s - delay_s),
        new,
    )


def _delay(
    policy: ScalingPolicy, memory: ScalingMemory, sample: PoolSample, wanted: int, before: int, greatest: int
) -> tuple[int, BoundedBy]:
    target: int = wanted
    bounded_by: BoundedBy = ""
    if greatest > target:
        target, bounded_by = greatest, "scaleDownDelay"
    if not is_complete(sample) and before > wanted and before >= target:
        target, bounded_by = before, "staleInputs"
    # Without a gateway nothing would wake a pool that sleeps.
    may_sleep = memory.idle_s >= policy.scale_to_zero_after_s and sample.gateway is not None
    if target == 0 and before > 0 and policy.min_replicas == 0 and not may_sleep:
        target, bounded_by = 1, "scaleToZeroDelay"
    return target, bounded_by


def _bound(
    policy: ScalingPolicy, room: Room, sample: PoolSample, target: int, bounded_by: BoundedBy
) -> tuple[int, BoundedBy]:
    if room.limit is not None and target > max(room.limit, 1):
        # One may always wait for a place, so that a pool with work and no replica takes the first that frees.
        target, bounded_by = max(room.limit, 1), "unschedulable"
    quota_limit = compute_quota_limit(sample)
    if quota_limit is not None and target > quota_limit:
        target, bounded_by = quota_limit, "quota"
    lowest, highest = policy.min_replicas, max(policy.min_replicas, policy.max_replicas)
    if target < lowest:
        return lowest, "schedule" if policy.limits_from else "minReplicas"
    if target > highest:
        return highest, "schedule" if policy.limits_from else "maxReplicas"
    return target, bounded_by


def _build_inputs(load: Load, sample: PoolSample) -> ScalingInputs:
    return ScalingInputs(
        queued=load.queued,
        running=load.running,
        arrivals_per_second=round(load.arrivals_per_s, 2),
        prompt_tokens_per_second=round(load.prompt_tokens_per_s, 1),
        generation_tokens_per_second=round(load.generated_tokens_per_s, 1),
        ready=count_serving(sample),
        starting=sum(_is_coming(replica) for replica in sample.starting),
        stale=tuple(name[:253] for name in sample.stale[:STALE_SHOWN]),
    )


def _describe(
    decision: _Decision, demands: tuple[ScalingDemand, ...], policy: ScalingPolicy, sample: PoolSample
) -> str:
    memory = decision.memory
    return describe_decision(
        Circumstances(
            wanted=decision.wanted,
            desired=decision.desired,
            bounded_by=decision.bounded_by,
            demands=demands,
            limits_from=policy.limits_from,
            scale_down_delay_s=policy.scale_down_delay_s,
            scale_to_zero_after_s=policy.scale_to_zero_after_s,
            wanted_ago_s=memory.clock_s - memory.wanted[0].clock_s,
            idle_s=memory.idle_s,
            room=memory.room,
            sample=sample,
        )
    )
