"""Part of a pass over a FineTuneJob with a search: the files of trials that did not win."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from llmos.api.names import COMPONENT_TIDY, LABEL_COMPONENT, LABEL_TRIAL
from llmos_operator.kube.client import Object
from llmos_operator.kube.errors import Forbidden, Invalid
from llmos_operator.kube.resources import PODS
from llmos_operator.manifests.finetune_tidy import build_tidy_pod
from llmos_operator.planning.failures import read_time
from llmos_operator.planning.finetune import JobPlan, Sight
from llmos_operator.planning.finetune_search import SearchPlan
from llmos_operator.planning.finetune_tidy import WAIT_S, TidyPlan, TidyPod, plan_tidy
from llmos_operator.planning.gangs import has_finished, is_deleted, is_lost
from llmos_operator.reconcilers.base import Context

RETRY_S: Final = 60.0
_LONGEST: Final = 400


@dataclass(frozen=True)
class Tidying:
    """What is to be done in this pass, and the pod that is there."""

    plan: TidyPlan
    pod: Object | None = None


async def tend_files(
    context: Context, sight: Sight, plan: JobPlan, search: SearchPlan, pods: Sequence[Object]
) -> tuple[JobPlan, SearchPlan, Tidying]:
    """Make the pod that removes files, where it is due; return the plans of a job and its trials as that changes them.

    Args:
        context: what makes it.
        sight: of the job.
        plan: of the job.
        search: of its trials.
        pods: all of the job.
    """
    if sight.job.spec.search is None:
        return plan, search, Tidying(TidyPlan())
    pod = next((each for each in pods if each["metadata"]["labels"].get(LABEL_COMPONENT) == COMPONENT_TIDY), None)
    is_quiet = all(has_finished(each) for each in pods if LABEL_TRIAL in each["metadata"]["labels"])
    seen = _read(context, pod) if pod is not None else None
    tidy = plan_tidy(sight.job, plan, search, seen, is_quiet=is_quiet, is_work_lost=sight.is_work_lost)
    if tidy.create:
        tidy = await _make(context, sight, tidy)
    if tidy.waits:
        # It is registered in a later pass: for now it is what it was before.
        record = replace(plan.record, is_registered=False)
        plan = replace(plan, record=record, phase="Evaluating", register=False, look_again_s=WAIT_S)
    elif tidy.create:
        plan = replace(plan, look_again_s=min(plan.look_again_s or RETRY_S, RETRY_S))
    warnings = (*plan.warnings, tidy.warning) if tidy.warning else plan.warnings
    return replace(plan, warnings=warnings), replace(search, trials=tidy.trials), Tidying(tidy, pod)


async def _make(context: Context, sight: Sight, tidy: TidyPlan) -> TidyPlan:
    try:
        await context.kube.apply(build_tidy_pod(sight.job, tidy.keep, context.settings))
    except (Forbidden, Invalid) as error:
        # The result is worth more than the room: it waits for nobody who is refused.
        words = f"The files of other trials than {tidy.keep} stay in the claim: {error.message}"
        return replace(tidy, waits=False, warning=words[:_LONGEST])
    return tidy


def _read(context: Context, pod: Object) -> TidyPod:
    made = read_time(pod["metadata"].get("creationTimestamp"))
    age_s = (context.now() - made).total_seconds() if made is not None else None
    return TidyPod(pod.get("status", {}).get("phase", ""), age_s, is_deleted(pod) and not is_lost(pod, context.now()))


async def delete_tidy_pod(context: Context, tidying: Tidying) -> None:
    """Delete the pod, where it has done its work."""
    pod = tidying.pod
    if pod is None or not tidying.plan.delete:
        return
    metadata = pod["metadata"]
    grace_period_s = 0 if is_lost(pod, context.now()) else None
    await context.kube.delete(
        PODS, metadata["name"], metadata["namespace"], uid=metadata["uid"], grace_period_s=grace_period_s
    )
