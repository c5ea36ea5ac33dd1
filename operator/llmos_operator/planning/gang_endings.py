"""Which pods have to end because they cannot start, or because their gang cannot go on without one that is gone. Pure.

An image that cannot be pulled and an engine that never answers would hold accelerators for ever: such a pod is ended
(by a deadline of one second) and stays as the record of its failure, without accelerators, until the next attempt. The
other pods of its gang are ended in the same way and carry the same cause; those that have no node are deleted, for they
could still be given one.

Where no quota ledger places gangs, kube-scheduler binds their pods one by one, and two gangs may each keep what the
other one lacks. So a gang of which a part has had no node for `PodTimes.bind_after_s` gives back all, and is tried
again after a pause.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from llmos_operator.planning.failures import (
    Failure,
    failure_of_unscheduled_pod,
    failure_of_waiting_pod,
    read_time,
)
from llmos_operator.planning.gangs import (
    Pod,
    PodTimes,
    failure_of_gang,
    failure_of_slow_start,
    group_by_replica,
    has_finished,
    is_going,
    is_holding,
    was_just_admitted,
)
from llmos_operator.planning.kueue import waits_for_admission
from llmos_operator.planning.quota_pods import read_rank
from llmos_operator.planning.quota_record import read_record


def pods_to_retire(pods: Sequence[Pod], times: PodTimes, now: datetime) -> list[tuple[str, Failure]]:
    """Return pods that hold accelerators although they cannot start or their gang cannot go on, with the reason."""
    retired: list[tuple[str, Failure]] = []
    for gang in group_by_replica(pods).values():
        holding = [pod for pod in gang if is_holding(pod) and not is_going(pod)]
        if not holding:
            continue
        of_gang = failure_of_gang(gang, now)[0] or _failure_to_bind(gang, times, now)
        failures = ((pod, _failure_to_start(pod, times, now) or of_gang) for pod in holding)
        retired += [(pod["metadata"]["name"], failure) for pod, failure in failures if failure is not None]
    return retired


def pods_to_remove(pods: Sequence[Pod], now: datetime) -> list[Pod]:
    """Return pods without a node whose gang has failed: nothing is to become of them."""
    return [
        pod
        for gang in group_by_replica(pods).values()
        if failure_of_gang(gang, now)[0] is not None
        for pod in gang
        if not is_holding(pod) and not has_finished(pod) and not is_going(pod)
    ]


def _failure_to_start(pod: Pod, times: PodTimes, now: datetime) -> Failure | None:
    waiting = failure_of_waiting_pod(pod)
    age_s = (now - (read_time(pod.get("status", {}).get("startTime")) or now)).total_seconds()
    if waiting is not None and age_s >= times.image_pull_timeout_s:
        return waiting
    return failure_of_slow_start(pod, times, now)


def _failure_to_bind(gang: Sequence[Pod], times: PodTimes, now: datetime) -> Failure | None:
    """Return why a gang that nobody admitted is bound in part only; None if it is not, or not for long."""
    is_placed = read_record(min(gang, key=read_rank)["metadata"]).placement is not None
    if is_placed or any(map(waits_for_admission, gang)) or not any(map(is_holding, gang)):
        return None
    if was_just_admitted(gang, now, times.bind_after_s):
        return None
    waiting = (failure_of_unscheduled_pod(pod, now, times.bind_after_s) for pod in gang if not is_holding(pod))
    return next((failure for failure in waiting if failure is not None), None)
