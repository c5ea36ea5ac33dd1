"""What each target asks for, in replicas, with its formula in words. Pure.

`rho` stands for the replicas' worth of work that arrives: b * generated tokens/s + c * prompt tokens/s, see
`scaling_capacity`. The targets ask for

    queueDepth    (queued + running) / depth
    utilization   max(rho, requests at once / requests that fit into a replica) / share
    tpot          rho / (1 - a / TPOT), because the step grows to a / (1 - rho / R)
    ttft, bursts  the smallest pool in which few requests of the last minutes would have waited too long
    backlog       rho + work that will still wait when a new replica is ready / time to work it off

and the greatest counts. Before anything was measured, utilization and latency targets ask for one replica for each
`BOOTSTRAP_CONCURRENCY` requests: a batch at which common accelerators are well used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from llmos.api.scaling import ScalingDemand
from llmos_operator.planning.scaling_bursts import LATE_SHARE, MEMORY_S, Bursts, compute_burst_need
from llmos_operator.planning.scaling_capacity import Learned
from llmos_operator.planning.scaling_traffic import Load

BOOTSTRAP_CONCURRENCY: Final = 32.0
DEFAULT_UTILIZATION: Final = 0.8
STABLE_UTILIZATION: Final = 0.95
"""Above this share a queue grows without end at the first gust."""
PATIENCE_S: Final = 2.0
"""Wait that bursts may cause where no time to the first token is asked for."""
DRAIN_S: Final = 30.0
"""Time in which work that waits is to be worked off."""
MOST_GROWTH: Final = 1.0
"""Growth until a new replica is ready that is believed at most: twice the traffic."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What a replica should bear."""

    queue_depth: int | None
    utilization: float | None
    ttft_s: float | None
    tpot_s: float | None

    @property
    def patience_s(self) -> float:
        """Longest wait in front of a replica."""
        return self.ttft_s if self.ttft_s is not None else PATIENCE_S


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything that the demands are computed from."""

    load: Load
    learned: Learned
    bursts: Bursts
    serving: int
    started_ago_s: float
    """Age of the oldest replica that starts; 0 if none does."""


def compute_demands(goal: Goal, situation: Situation) -> tuple[ScalingDemand, ...]:
    """Return what each target asks for. An idle pool asks for nothing."""
    load = situation.load
    if goal.queue_depth is not None:
        return (_demand_queue_depth(goal.queue_depth, load),)
    if not situation.learned.is_known:
        return (_demand_bootstrap(load),)
    rho = compute_rho(situation)
    demands = [_demand_utilization(goal, situation, rho)]
    if goal.tpot_s is not None:
        demands.append(_demand_tpot(goal.tpot_s, situation, rho))
    return (*demands, _demand_bursts(goal, situation), _demand_backlog(situation, rho))


def compute_rho(situation: Situation) -> float:
    """Return the replicas' worth of work that arrives, grown until a new replica would be ready."""
    load, learned = situation.load, situation.learned
    rho = learned.model.compute_work(load.needed_prompt_per_s, load.needed_generated_per_s)
    return rho * (1.0 + min(MOST_GROWTH, load.growth_per_s * learned.start_s))


def compute_concurrency(goal: Goal, learned: Learned, load: Load) -> float:
    """Return the requests at once at which the target still holds, 0 if unknown."""
    if goal.queue_depth is not None:
        return float(goal.queue_depth)
    model, limit = learned.model, learned.concurrency_limit
    if not learned.is_known or model.per_sequence_s <= 0:
        return limit
    work = model.compute_work(load.needed_prompt_per_s, load.needed_generated_per_s)
    share = _compute_tpot_share(goal.tpot_s, model.base_s) if goal.tpot_s else goal.utilization or DEFAULT_UTILIZATION
    step_s = model.base_s / max(0.05, 1.0 - share)
    per_replica = (
        share * load.needed_generated_per_s / work
        if work > 0
        else (step_s - model.base_s) / model.per_sequence_s / step_s
    )
    held = per_replica * step_s
    return min(held, limit) if limit > 0 else held


def _demand_queue_depth(depth: int, load: Load) -> ScalingDemand:
    replicas = load.outstanding / depth
    return _build("queueDepth", replicas, f"{load.outstanding} requests queued or running / {depth} for each replica")


def _demand_bootstrap(load: Load) -> ScalingDemand:
    replicas = load.outstanding / BOOTSTRAP_CONCURRENCY
    return _build(
        "bootstrap",
        replicas,
        f"{load.outstanding} requests queued or running / {BOOTSTRAP_CONCURRENCY:.0f} for each replica, until enough "
        "is measured to know better",
    )


def _demand_utilization(goal: Goal, situation: Situation, rho: float) -> ScalingDemand:
    has_slo = goal.ttft_s is not None or goal.tpot_s is not None
    share = STABLE_UTILIZATION if has_slo else goal.utilization or DEFAULT_UTILIZATION
    limit = situation.learned.concurrency_limit
    by_room = situation.load.running / limit if limit > 0 else 0.0
    if by_room > rho:
        return _build(
            "utilization",
            by_room / share,
            f"{situation.load.running} requests run / {limit:.0f} that fit into a replica / {share:g}",
        )
    return _build("utilization", rho / share, f"{_describe_rho(situation, rho)} / {share:g}")


def _compute_tpot_share(tpot_s: float, base_s: float) -> float:
    return 1.0 - base_s / tpot_s


def _demand_tpot(tpot_s: float, situation: Situation, rho: float) -> ScalingDemand:
    base_s = situation.learned.model.base_s
    share = _compute_tpot_share(tpot_s, base_s)
    if share < 0.05:
        return _build(
            "tpot",
            rho / DEFAULT_UTILIZATION,
            f"an engine step takes {base_s * 1000:.0f} ms even without load, so no number of replicas holds "
            f"{tpot_s * 1000:.0f} ms; sized for {DEFAULT_UTILIZATION:g} of the capacity",
        )
    return _build(
        "tpot",
        rho / share,
        f"{_describe_rho(situation, rho)} / (1 - {base_s * 1000:.1f} ms / {tpot_s * 1000:.0f} ms)",
    )


def _demand_bursts(goal: Goal, situation: Situation) -> ScalingDemand:
    replicas = compute_burst_need(situation.bursts)
    name = "ttft" if goal.ttft_s is not None else "bursts"
    return _build(
        name,
        float(replicas),
        f"with fewer, over {LATE_SHARE:.0%} of the requests of the last {MEMORY_S / 60:.0f} minutes would have waited "
        f"more than {goal.patience_s:g} s",
    )


def _demand_backlog(situation: Situation, rho: float) -> ScalingDemand:
    load, learned = situation.load, situation.learned
    work_s = learned.model.compute_work(load.waiting_prompt_tokens, load.waiting_generated_tokens)
    until_ready_s = max(0.0, learned.start_s - situation.started_ago_s)
    left_s = max(0.0, work_s + (rho - situation.serving) * until_ready_s)
    if load.queued == 0 or left_s == 0:
        return _build("backlog", 0.0, "nothing waits longer than a new replica takes to start")
    return _build(
        "backlog",
        rho + left_s / DRAIN_S,
        f"{load.queued} requests wait; {left_s:.0f} replica-seconds of work are left when a new replica is ready in "
        f"{until_ready_s:.0f} s / {DRAIN_S:.0f} s + {rho:.2f} for what arrives",
    )


def _describe_rho(situation: Situation, rho: float) -> str:
    load = situation.load
    return (
        f"{load.needed_prompt_per_s:.0f} prompt and {load.needed_generated_per_s:.0f} generated tokens/s are the work "
        f"of {rho:.2f} replicas"
    )


def _build(name: str, replicas: float, message: str) -> ScalingDemand:
    safe = replicas if math.isfinite(replicas) and replicas > 0 else 0.0
    return ScalingDemand(name=name, replicas=round(safe, 3), message=message[:256])
