"""Who may be asked to go, and in which order.

A tenant's guarantee covers its most important gangs: replicas up to minReplicas first, then by priority, then those
admitted first, as far as the guarantee reaches. What it does not cover is borrowed, and only what is borrowed can be
reclaimed by another tenant; so the replicas that a guarantee pays for are never below minReplicas because of others.
If every tenant held only what is covered, all tenants together would hold no more than was guaranteed; so whatever was
promised can be had by taking back what is borrowed.

Within one tenant a gang gives way to a more important one: a replica up to minReplicas is worth more than anything
else; otherwise the other one must have the higher priority and, waiting counted in, come first in the queue, or waiting
would be worth nothing once a gang runs. This is a strict order, so two gangs never take turns.

Among those who may be asked, the one whose going costs least is first: gangs that do not run yet, burst replicas (which
drain), jobs that saved their work a short time ago, other jobs, replicas up to minReplicas; then lower priority, the
tenant with the higher share, fewer GPU-seconds of work lost, and the newest.
"""

from __future__ import annotations

from collections.abc import Iterable

from llmos_operator.planning.quota.queues import compute_key
from llmos_operator.planning.quota.values import Gang, GangKind, GangState


def is_less_important(gang: Gang, other: Gang, aging_s: float) -> bool:
    """Whether a gang gives way to another one of its tenant."""
    is_replica, may_be = gang.kind is GangKind.REPLICA, other.kind is GangKind.REPLICA
    if is_replica != may_be:
        return may_be
    return gang.priority < other.priority and compute_key(gang, aging_s) > compute_key(other, aging_s)


def compute_covered(gangs: Iterable[Gang], guaranteed: int) -> frozenset[str]:
    """Return the gangs of one tenant and class that its guarantee covers."""
    covered = []
    left = guaranteed
    for gang in sorted(gangs, key=_importance):
        if gang.accelerators <= left:
            covered.append(gang.id)
            left -= gang.accelerators
    return frozenset(covered)


def compute_lost_gpu_seconds(gang: Gang, now_s: float) -> float:
    """Return the work that is lost if the gang is ended now: that of a job since it was saved."""
    if gang.kind is not GangKind.JOB:
        return 0.0
    since_s = gang.admitted_s if gang.saved_s is None else max(gang.saved_s, gang.admitted_s)
    return gang.accelerators * max(0.0, now_s - since_s)


def compute_victim_key(
    gang: Gang, share: float, now_s: float, fresh_save_s: float
) -> tuple[int, int, float, float, float, str]:
    """Return the place of a gang among those that may be asked to go; the smallest is asked first."""
    return (
        _loss_class(gang, now_s, fresh_save_s),
        gang.priority,
        -share,
        compute_lost_gpu_seconds(gang, now_s),
        -gang.admitted_s,
        gang.id,
    )


def _importance(gang: Gang) -> tuple[bool, int, float, str]:
    return gang.kind is not GangKind.REPLICA, -gang.priority, gang.admitted_s, gang.id


def _loss_class(gang: Gang, now_s: float, fresh_save_s: float) -> int:
    if gang.state is not GangState.RUNNING:
        return 0
    if gang.kind is GangKind.BURST:
        return 1
    if gang.kind is GangKind.REPLICA:
        return 4
    return 2 if gang.saved_s is not None and now_s - gang.saved_s <= fresh_save_s else 3
