"""A pool for tests of the autoscaler: a second of its life in words, and hypothesis strategies for any second."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hypothesis import strategies as st

from llmos_operator.planning.scaling import ScalingMemory, ScalingPlan, ScalingPolicy, plan_scaling
from llmos_operator.planning.scaling_inputs import GatewaySample, PoolSample, ReplicaSample, StartingReplica

QUEUE_POLICY = ScalingPolicy(
    min_replicas=1,
    max_replicas=8,
    queue_depth=4,
    utilization=None,
    ttft_s=None,
    tpot_s=None,
    scale_down_delay_s=60.0,
    scale_to_zero_after_s=300.0,
)
USE_POLICY = replace(QUEUE_POLICY, queue_depth=None, utilization=0.8)
SLO_POLICY = replace(QUEUE_POLICY, queue_depth=None, ttft_s=2.0, tpot_s=0.15)
POLICIES = (QUEUE_POLICY, USE_POLICY, SLO_POLICY)


@dataclass
class Pool:
    """Feeds samples a second apart and keeps every plan."""

    policy: ScalingPolicy = QUEUE_POLICY
    memory: ScalingMemory = field(default_factory=ScalingMemory)
    now_s: float = 0.0
    ready: int = 1
    plans: list[ScalingPlan] = field(default_factory=list)

    def second(self, load: int = 0, **changes: object) -> ScalingPlan:
        """One second with `load` requests in flight, spread over the ready replicas."""
        replicas = tuple(
            ReplicaSample(f"r{i}", running=load // self.ready + (i < load % self.ready)) for i in range(self.ready)
        )
        in_gateway = 0 if self.ready else load
        sample = PoolSample(
            now_s=self.now_s,
            interval_s=1.0,
            gateway=GatewaySample(queued=in_gateway, running=load - in_gateway),
            replicas=replicas,
        )
        return self.feed(replace(sample, **changes))  # type: ignore[arg-type]  # test data

    def feed(self, sample: PoolSample) -> ScalingPlan:
        plan = plan_scaling(self.policy, self.memory, sample)
        self.now_s += 1.0
        self.memory = plan.memory
        self.plans.append(plan)
        return plan

    def seconds(self, count: int, load: int = 0, **changes: object) -> list[int]:
        """The desired numbers of `count` seconds alike."""
        return [self.second(load, **changes).desired for _ in range(count)]

    def follow(self, count: int, load: int = 0, *, start_s: float = 0.0) -> list[int]:
        """The same in a cluster that does what is desired, after `start_s` for each new replica."""
        desired, orders = [], []
        for _ in range(count):
            wanted = self.second(load).desired
            desired.append(wanted)
            orders.append((self.now_s + start_s, wanted))
            self.ready = min(wanted, max(self.ready, *(n for at_s, n in orders if at_s <= self.now_s), 0))
        return desired


def engine_second(name: str, *, running: int, prompt_tokens: int = 0, waiting: int = 0) -> ReplicaSample:
    """A busy second of an engine whose step takes 10 ms + 0.2 ms a sequence + 0.05 ms a prompt token."""
    left_s = max(0.05, 1.0 - prompt_tokens * 5e-5)
    steps = round(left_s / (0.010 + 0.0002 * running)) if running else 0
    return ReplicaSample(
        name,
        running=running,
        waiting=waiting,
        prompt_tokens=prompt_tokens,
        generation_tokens=steps * running,
        steps=steps,
        kv_usage=min(1.0, running / 200),
    )


counts = st.integers(0, 10_000)
gateways = st.builds(
    GatewaySample,
    queued=counts,
    queued_prompt_tokens=counts,
    oldest_queued_s=st.floats(0, 1e4),
    running=counts,
    arrivals=counts,
    arrived_prompt_tokens=counts,
    finished=counts,
    completion_tokens=counts,
)
replica_names = st.sampled_from([f"r{i}" for i in range(12)])
replicas = st.builds(
    ReplicaSample,
    name=replica_names,
    running=counts,
    waiting=counts,
    prompt_tokens=counts,
    generation_tokens=counts,
    steps=counts,
    kv_usage=st.floats(0, 2) | st.sampled_from([float("nan"), float("inf")]),
)
starting = st.builds(
    StartingReplica,
    name=replica_names,
    age_s=st.floats(0, 1e4) | st.just(float("nan")),
    is_stuck=st.booleans(),
)


@st.composite
def samples(draw: st.DrawFn, *, is_complete: bool = False) -> PoolSample:
    """Any second; `now_s` is set by whoever feeds it."""
    stale = () if is_complete else draw(st.sampled_from([(), (), ("gateway-0",), tuple(f"x{i}" for i in range(40))]))
    return PoolSample(
        now_s=0.0,
        interval_s=draw(st.sampled_from([1.0, 1.0, 1.0, 0.0, 0.3, 7.0, 120.0, float("nan"), -1.0]))
        if not is_complete
        else 1.0,
        gateway=draw(gateways if is_complete else st.none() | gateways),
        replicas=tuple(draw(st.lists(replicas, max_size=6, unique_by=lambda replica: replica.name))),
        silent=0 if is_complete else draw(st.integers(0, 3)),
        starting=tuple(draw(st.lists(starting, max_size=4))),
        started_s=tuple(draw(st.lists(st.floats(0, 1e4) | st.just(float("nan")), max_size=2))),
        stale=stale,
    )


@st.composite
def policies(draw: st.DrawFn) -> ScalingPolicy:
    """Any policy that the API lets through."""
    lowest = draw(st.integers(0, 5))
    return replace(
        draw(st.sampled_from(POLICIES)),
        min_replicas=lowest,
        max_replicas=draw(st.integers(max(1, lowest), 100)),
        scale_down_delay_s=draw(st.sampled_from([0.0, 5.0, 60.0])),
        scale_to_zero_after_s=draw(st.sampled_from([0.0, 10.0])),
        limits_from=draw(st.sampled_from(["", "night"])),
    )
