"""A scaling decision in words that a stranger understands. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from llmos.api.scaling import BoundedBy, ScalingDemand
from llmos_operator.planning.scaling_inputs import PoolSample
from llmos_operator.planning.scaling_room import Room


@dataclass(frozen=True, slots=True)
class Circumstances:
    """A decision and what led to it."""

    wanted: int
    desired: int
    bounded_by: BoundedBy
    demands: tuple[ScalingDemand, ...]
    limits_from: str
    scale_down_delay_s: float
    scale_to_zero_after_s: float
    wanted_ago_s: float
    """How long ago `desired` was wanted, by the clock of complete samples."""
    idle_s: float
    room: Room
    sample: PoolSample


def describe_decision(it: Circumstances) -> str:
    """Return the demand that counts and what kept the decision from following it."""
    greatest = max(it.demands, key=lambda demand: demand.replicas, default=None)
    if it.wanted == 0:
        need = "Nothing is to be done, so no replica is needed"
    elif greatest is None or greatest.replicas <= 0:
        need = "There is work, so one replica is needed"
    else:
        verb = "replica is" if it.wanted == 1 else "replicas are"
        need = f"{it.wanted} {verb} needed: {greatest.message} ({greatest.name})"
    return f"{need}. {_BOUNDS[it.bounded_by](it)}"[:1024].strip()


def _describe_delay(it: Circumstances) -> str:
    return (
        f"{it.desired} are kept: that many were needed {it.wanted_ago_s:.0f} s ago, and fewer must have sufficed for "
        f"{it.scale_down_delay_s:.0f} s."
    )


def _describe_sleep(it: Circumstances) -> str:
    if it.sample.gateway is None:
        return "One is kept: no gateway answers that could wake the pool again."
    return (
        f"One is kept until there has been nothing to do for {it.scale_to_zero_after_s:.0f} s; it has been "
        f"{it.idle_s:.0f} s."
    )


def _describe_stale(it: Circumstances) -> str:
    names = ", ".join(it.sample.stale[:3]) or f"{it.sample.silent} of the replicas"
    return f"{it.desired} are kept: figures are missing of {names}, and nothing is taken away on a guess."


def _describe_room(it: Circumstances) -> str:
    if it.room.is_retrying:
        return f"{it.desired} instead: the others found no place, and one more is tried now."
    wait_s = max(0.0, it.room.retry_at_s - it.sample.now_s)
    return (
        f"{it.desired} instead: the others found no place. Add accelerators or lower scaling.maxReplicas; one more is "
        f"tried in {wait_s:.0f} s, or when a replica goes."
    )


def _describe_quota(it: Circumstances) -> str:
    waiting = sum(replica.is_gated for replica in it.sample.starting)
    waits = f"{waiting} of them {'waits' if waiting == 1 else 'wait'}" if waiting else "the next one is asked for"
    return f"{it.desired} instead: the quota admits one after the other, and {waits}. Condition Admitted says why."


def _describe_limit(it: Circumstances) -> str:
    limits = f"schedule window {it.limits_from}" if it.limits_from else "spec.scaling"
    bound = "at least" if it.desired > it.wanted else "at most"
    return f"{it.desired} instead: {limits} says {bound} {it.desired}."


_BOUNDS = {
    "": lambda it: "",
    "scaleDownDelay": _describe_delay,
    "scaleToZeroDelay": _describe_sleep,
    "staleInputs": _describe_stale,
    "unschedulable": _describe_room,
    "quota": _describe_quota,
    "minReplicas": _describe_limit,
    "maxReplicas": _describe_limit,
    "schedule": _describe_limit,
}
