"""Ours: the very function that the operator runs, fed with samples built from the simulation."""

from __future__ import annotations

from bench.autoscale.simulation import EngineView, View
from llmos.api.scaling import ReplicaCapacity
from llmos_operator.planning.scaling import ScalingMemory, ScalingPlan, ScalingPolicy, plan_scaling
from llmos_operator.planning.scaling_inputs import GatewaySample, PoolSample, ReplicaSample, StartingReplica


class Llmos:
    """Keeps the memory between seconds and takes differences of the engines' totals, as `runtime/load.py` does."""

    def __init__(self, policy: ScalingPolicy, initial: int) -> None:
        self._policy = policy
        self._memory = ScalingMemory.restore(ReplicaCapacity(), initial, 0.0)
        self._before: dict[str, EngineView] = {}
        self.plan: ScalingPlan | None = None

    def decide(self, view: View) -> int | None:
        self.plan = plan_scaling(self._policy, self._memory, self._build_sample(view))
        self._memory = self.plan.memory
        return self.plan.desired

    def _build_sample(self, view: View) -> PoolSample:
        replicas = tuple(_difference(engine, self._before.get(engine.name)) for engine in view.engines)
        self._before = {engine.name: engine for engine in view.engines}
        return PoolSample(
            now_s=view.now_s,
            interval_s=1.0,
            gateway=GatewaySample(
                queued=view.held,
                queued_prompt_tokens=view.held_prompt_tokens,
                oldest_queued_s=view.oldest_held_s,
                running=view.in_flight,
                arrivals=view.arrivals,
                arrived_prompt_tokens=view.arrived_prompt_tokens,
                finished=len(view.finished),
                completion_tokens=sum(request.output_tokens for request in view.finished),
            ),
            replicas=replicas,
            starting=tuple(StartingReplica(f"s{i}", age_s) for i, age_s in enumerate(view.starting_ages_s)),
            draining=view.draining,
            started_s=view.became_ready_s,
        )


def _difference(now: EngineView, before: EngineView | None) -> ReplicaSample:
    return ReplicaSample(
        name=now.name,
        running=now.running,
        waiting=now.waiting,
        prompt_tokens=now.prompt_tokens_total - (before.prompt_tokens_total if before else 0),
        generation_tokens=now.generation_tokens_total - (before.generation_tokens_total if before else 0),
        steps=now.steps_total - (before.steps_total if before else 0),
        preemptions=now.preemptions_total - (before.preemptions_total if before else 0),
        kv_usage=now.kv_usage,
    )
