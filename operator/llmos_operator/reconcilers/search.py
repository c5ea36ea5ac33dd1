"""Part of a pass over a FineTuneJob with a search: its trials, each with its own pods."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from llmos.api import FineTuneJob
from llmos.api.names import COMPONENT_TRAIN, CONTAINER_TRAIN, LABEL_COMPONENT, LABEL_TRIAL
from llmos_operator.kube.client import Object
from llmos_operator.manifests.finetune_trials import read_trial_values
from llmos_operator.planning.failures import read_attempt, read_time
from llmos_operator.planning.finetune import JobPlan, Sight
from llmos_operator.planning.finetune_budget import TrialPods
from llmos_operator.planning.finetune_pods import JobPod
from llmos_operator.planning.finetune_proposals import LIBRARY
from llmos_operator.planning.finetune_search import (
    SearchPlan,
    keep_trials,
    needs_trials,
    plan_search,
)
from llmos_operator.planning.finetune_stall import end_stalled, get_patience
from llmos_operator.planning.gangs import has_finished
from llmos_operator.reconcilers.finetune_log import LogLook

ReadLog = Callable[[Sequence[JobPod]], Awaitable[LogLook]]
"""Reads the end of the log of the one pod that runs."""


def read_trial(pod: Object) -> int:
    """Return the number of the trial whose pod it is; 0 if it is none."""
    said = str(pod["metadata"].get("labels", {}).get(LABEL_TRIAL, ""))
    return int(said) if said.isdecimal() else 0


async def look_at_search(
    sight: Sight, plan: JobPlan, pods: Sequence[Object], built: Sequence[JobPod], read_log: ReadLog
) -> tuple[JobPlan, SearchPlan]:
    """Return the plan of a job and that of its trials; both as they were for a job without a search.

    Args:
        sight: of the job, without the pods of trials.
        plan: of the job, as it would be without a search.
        pods: of the job, those of trials included.
        built: the same.
        read_log: asks for the progress of a trial.
    """
    trials = {pod["metadata"]["name"]: read_trial(pod) for pod in pods}
    if not needs_trials(sight.job, plan):
        left = [pod for pod in built if trials.get(pod.name) and (pod.is_lost or not pod.is_deleted)]
        is_over = plan.record.is_registered
        return replace(plan, delete=(*plan.delete, *left)) if is_over else plan, keep_trials(sight.job, plan)
    seen: dict[int, TrialPods] = {}
    for number in sorted(set(trials.values()) - {0}):
        own = tuple(pod for pod in built if trials.get(pod.name) == number)
        raw = [pod for pod in pods if read_trial(pod) == number]
        log = await read_log(own)
        own = end_stalled(own, log.heard, after=get_patience(sight.job), now=sight.now)
        seconds = compute_seconds(raw, sight.job, sight.now)
        seen[number] = TrialPods(own, log.report, seconds, log.trouble, read_trial_values(raw[-1]))
    if sight.job.spec.search is not None and sight.job.spec.search.algorithm == "tpe":
        # Beside the loop, which has a lease to renew; the plan imports it again for nothing.
        await asyncio.to_thread(importlib.import_module, LIBRARY)
    return plan_search(sight, plan, seen)


def compute_seconds(pods: Sequence[Object], job: FineTuneJob, now: datetime) -> dict[int, float]:
    """Return the accelerator seconds that pods have held so far, by number of the attempt."""
    held: dict[int, float] = {}
    for pod in pods:
        if pod["metadata"]["labels"].get(LABEL_COMPONENT) == COMPONENT_TRAIN:
            number = read_attempt(pod["metadata"])
            held[number] = held.get(number, 0.0) + _compute_held_s(pod, now) * job.spec.trainer.accelerators_per_node
    return held


def _compute_held_s(pod: Object, now: datetime) -> float:
    """Return for how long a pod has held its node; a pod behind a gate holds none."""
    status: Mapping[str, object] = pod.get("status", {})
    began = read_time(str(status.get("startTime") or "") or None)
    if began is None:
        return 0.0
    return max(0.0, ((_find_end(pod, began) or now) - began).total_seconds())


def _find_end(pod: Object, began: datetime) -> datetime | None:
    """Return when a pod gave its node back, as far as it says so; None if it has not."""
    status = pod["status"]
    ends = {
        each.get("name"): end
        for each in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ()))
        if (end := read_time((each.get("state", {}).get("terminated") or {}).get("finishedAt"))) is not None
    }
    if CONTAINER_TRAIN in ends or not has_finished(pod):
        return ends.get(CONTAINER_TRAIN)
    # It ended before it trained: nothing was fetched, or its node was taken.
    changes = (read_time(each.get("lastTransitionTime")) for each in status.get("conditions", ()))
    return max((*ends.values(), *(change for change in changes if change is not None)), default=began)
