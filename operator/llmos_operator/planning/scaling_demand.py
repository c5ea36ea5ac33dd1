"""What asks for replicas, how many, and the formula in words. Pure.

`rho` stands for the replicas' worth of work that arrives: b * generated tokens/s + c * prompt tokens/s, see
`scaling_capacity`. A pool with `queueDepth` asks for (queued + running) / depth and nothing else. Any other asks for
the greatest of

    traffic       forecast of rho + headroom that held the target in hindsight, see `scaling_forecast`; the target is
                  a share of a replica's time that is used: `utilization`, or 1 - a / TPOT, because a step grows to
                  a / (1 - rho / R); and a wait in front of a replica that leaves time for the prompt within TTFT
    work          rho / 0.95: with less, a queue grows without end
    concurrency   requests that run / requests that fit into a replica / 0.9
    backlog       rho + work that will still wait when a new replica is ready / time to work it off
    bypass        (queued + running) / `BOOTSTRAP_CONCURRENCY`, where requests come past the gateways: engines do not
                  tell what such requests need, only what was done. Instead of traffic and backlog

Before anything was measured it asks for one replica for each `BOOTSTRAP_CONCURRENCY` requests: a batch at which common
accelerators are well used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from llmos.api.scaling import ScalingDemand
from llmos_operator.planning.scaling_capacity import Learned, StepModel
from llmos_operator.planning.scaling_forecast import (
    BUCKET_S,
    HOLD_BUCKETS,
    LATE_SHARE,
    MEMORY_BUCKETS,
    WINDOW_BUCKETS,
    Outlook,
    Promise,
)
from llmos_operator.planning.scaling_traffic import Load

BOOTSTRAP_CONCURRENCY: Final = 32.0
DEFAULT_UTILIZATION: Final = 0.8
STABLE_SHARE: Final = 0.95
"""Above this share a queue grows without end at the first gust."""
LEAST_SHARE: Final = 0.05
FULL_SHARE: Final = 0.9
"""Of the requests that fit into a replica."""
PATIENCE_S: Final = 2.0
"""Wait that bursts may cause where no time to the first token is asked for."""
DRAIN_S: Final = 30.0
"""Time in which work that waits is to be worked off."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What a replica should bear."""

    queue_depth: int | None
    utilization: float | None
    ttft_s: float | None
    tpot_s: float | None

    @property
    def has_objective(self) -> bool:
        """Whether latencies are to be held."""
        return self.ttft_s is not None or self.tpot_s is not None


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything that the demands are computed from."""

    load: Load
    learned: Learned
    outlook: Outlook
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
    if load.bypasses:
        return (_demand_work(goal, situation, rho), _demand_concurrency(situation), _demand_bypass(load))
    return (
        _demand_traffic(situation),
        _demand_work(goal, situation, rho),
        _demand_concurrency(situation),
        _demand_backlog(situation, rho),
    )


def compute_rho(situation: Situation) -> float:
    """Return the replicas' worth of work that arrives."""
    load = situation.load
    return situation.learned.model.compute_work(load.needed_prompt_per_s, load.needed_generated_per_s)


def compute_share(goal: Goal, base_s: float) -> float:
    """Return the share of a replica's time that may be used for work.

    A time per token that even an idle engine exceeds cannot be held by any number of replicas; then it does not count.
    """
    if goal.tpot_s is not None and goal.tpot_s > base_s / (1 - LEAST_SHARE):
        return min(STABLE_SHARE, 1.0 - base_s / goal.tpot_s)
    return STABLE_SHARE if goal.has_objective else goal.utilization or DEFAULT_UTILIZATION


def build_promise(goal: Goal, model: StepModel, mean_prompt_tokens: float, mean_generated_tokens: float) -> Promise:
    """Return what requests are to see.

    The time to the first token has to leave time for the prompt itself, and for one that is begun when it comes.
    """
    patience_s = goal.ttft_s if goal.ttft_s is not None else PATIENCE_S
    own_s = 2 * (model.base_s + model.per_prompt_token_s * mean_prompt_tokens)
    share = compute_share(goal, model.base_s)
    return Promise(
        patience_s=max(patience_s - own_s, patience_s / 10),
        share=share,
        life_s=mean_generated_tokens * model.base_s / max(LEAST_SHARE, 1 - share),
    )


def compute_concurrency(goal: Goal, learned: Learned, load: Load) -> float:
    """Return the requests at once at which the target still holds, 0 if unknown."""
    if goal.queue_depth is not None:
        return float(goal.queue_depth)
    model, limit = learned.model, learned.concurrency_limit
    if not learned.is_known or model.per_sequence_s <= 0:
        return limit
    work = model.compute_work(load.needed_prompt_per_s, load.needed_generated_per_s)
    share = compute_share(goal, model.base_s)
    step_s = model.base_s / max(0.05, 1.0 - share)
    if work <= 0 and step_s <= 0:
        # Nothing to do now, and steps that were learned to take no time: nothing follows from that.
        return limit
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


def _demand_bypass(load: Load) -> ScalingDemand:
    return _build(
        "bypass",
        load.outstanding / BOOTSTRAP_CONCURRENCY,
        f"{load.outstanding} requests wait or run in engines / {BOOTSTRAP_CONCURRENCY:.0f} for each replica; they came "
        "past the gateways, so what they need is not known",
    )


def _demand_work(goal: Goal, situation: Situation, rho: float) -> ScalingDemand:
    load, base_s = situation.load, situation.learned.model.base_s
    share = compute_share(goal, base_s) if load.bypasses else STABLE_SHARE
    message = (
        f"{load.needed_prompt_per_s:.0f} prompt and {load.needed_generated_per_s:.0f} generated tokens/s are the work "
        f"of {rho:.2f} replicas / {share:.2g}"
    )
    if goal.tpot_s is not None and goal.tpot_s <= base_s / (1 - LEAST_SHARE):
        message += f"; an engine step takes {base_s * 1000:.0f} ms even without load, so {goal.tpot_s * 1000:.0f} ms "
        message += "cannot be held by any number"
    return _build("work", rho / share, message)


def _demand_concurrency(situation: Situation) -> ScalingDemand:
    limit, running = situation.learned.concurrency_limit, situation.load.running
    if limit <= 0:
        return _build("concurrency", 0.0, "how many requests fit into a replica is not known yet")
    return _build(
        "concurrency",
        running / limit / FULL_SHARE,
        f"{running} requests run / {limit:.0f} that fit into a replica / {FULL_SHARE:g}",
    )


def _demand_traffic(situation: Situation) -> ScalingDemand:
    outlook = situation.outlook
    return _build(
        "traffic",
        outlook.replicas,
        f"the busiest {WINDOW_BUCKETS * BUCKET_S:.0f} s of the last {HOLD_BUCKETS * BUCKET_S / 60:.0f} minutes fill "
        f"{outlook.forecast:.2f} replicas; + {outlook.headroom:.2f}, with which {1 - LATE_SHARE:.0%} of the last "
        f"{MEMORY_BUCKETS * BUCKET_S / 60:.0f} minutes' requests would have been on time",
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


def _build(name: str, replicas: float, message: str) -> ScalingDemand:
    safe = replicas if math.isfinite(replicas) and replicas > 0 else 0.0
    return ScalingDemand(name=name, replicas=round(safe, 3), message=message[:256])
