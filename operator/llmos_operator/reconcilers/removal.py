"""The end of a FineTuneJob with an object store: what it put there is removed, then the job may go.

Whatever is cut off in between is done again: removing what is gone is no error. The pod that removes has no owner, for
a deletion in the foreground would take it away from a job that still waits for it; it goes before the finalizer does.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from pydantic import ValidationError

from llmos.api import FineTuneJob
from llmos.api.names import FINALIZER_OBJECTS, LABEL_JOB
from llmos_operator.kube.client import Object
from llmos_operator.kube.errors import Forbidden, Invalid
from llmos_operator.kube.resources import FINE_TUNE_JOBS, LLM_MODELS, PODS
from llmos_operator.manifests.finetune_tidy import build_removal_pod, compute_removal_name
from llmos_operator.planning.finetune_places import compute_store_uri
from llmos_operator.planning.finetune_removal import (
    LOOK_S,
    RemovalPlan,
    build_removal_status,
    find_needed,
    plan_removal,
    removes_objects,
)
from llmos_operator.reconcilers.base import DONE, Context, Result
from llmos_operator.reconcilers.writing import apply_status_if_changed

log = logging.getLogger(__name__)

SOON_S = 0.1
_ENDING_NAMESPACE = "being terminated"


async def apply_finalizer(context: Context, job: FineTuneJob) -> None:
    """Hold a job back from now on if its objects are to go with it, and no longer if they are to stay."""
    finalizers = job.metadata.finalizers
    is_held = FINALIZER_OBJECTS in finalizers
    if removes_objects(job) == is_held:
        return
    others = [each for each in finalizers if each != FINALIZER_OBJECTS]
    await _write_finalizers(context, job, others if is_held else [*others, FINALIZER_OBJECTS])


async def reconcile_removal(context: Context, current: Object) -> Result:
    """Remove what a job that is deleted has put into its object store, and let it go."""
    metadata = current["metadata"]
    if FINALIZER_OBJECTS not in metadata.get("finalizers", ()):
        return DONE
    try:
        job = FineTuneJob.model_validate(current)
    except ValidationError:
        # What cannot be read, after a rollback for example, must not keep its namespace from going.
        log.warning("job %s/%s cannot be read: its objects stay", metadata["namespace"], metadata["name"])
        await _let_go(context, metadata)
        return DONE
    namespace, name = metadata["namespace"], compute_removal_name(job)
    pods = await context.kube.list(PODS, namespace=namespace, label_selector=f"{LABEL_JOB}={metadata['name']}")
    remover = next((pod for pod in pods if pod["metadata"]["name"] == name), None)
    plan = RemovalPlan(is_over=True)
    if removes_objects(job):
        others = [pod for pod in pods if pod is not remover]
        plan = await _apply(context, job, plan_removal(job, others, remover, context.now()))
    if plan.left and plan.is_over:
        plan = replace(plan, needed=find_needed(job, await context.kube.list(LLM_MODELS)))
    if plan.left or not plan.is_over:
        status = build_removal_status(job, plan, context.now())
        is_news = status.to_manifest() != current.get("status")
        await apply_status_if_changed(context.kube, current, status, context.now())
        if not plan.is_over or is_news:
            # Who goes with words left says them first: the Event outlives the job.
            return Result(requeue_after_s=SOON_S if plan.is_over else LOOK_S)
        # In a namespace that is going no Event is taken.
        log.warning("objects of job %s are left in %s: %s", job.metadata.name, compute_store_uri(job), plan.left)
    if remover is not None:
        await context.kube.delete(PODS, name, namespace, uid=remover["metadata"]["uid"], grace_period_s=0)
    await _let_go(context, metadata)
    return DONE


async def _apply(context: Context, job: FineTuneJob, plan: RemovalPlan) -> RemovalPlan:
    for pod in plan.stop:
        metadata = pod["metadata"]
        await context.kube.delete(PODS, metadata["name"], metadata["namespace"], uid=metadata["uid"])
    if not plan.create:
        return plan
    needed = find_needed(job, await context.kube.list(LLM_MODELS))
    try:
        await context.kube.apply(build_removal_pod(job, needed, context.settings))
    except (Forbidden, Invalid) as error:
        return RemovalPlan(is_over=plan.is_last or _ENDING_NAMESPACE in error.message, left=error.message)
    return plan


async def _let_go(context: Context, metadata: Object) -> None:
    await context.kube.patch_metadata(
        FINE_TUNE_JOBS,
        metadata["name"],
        metadata["namespace"],
        finalizers=[each for each in metadata["finalizers"] if each != FINALIZER_OBJECTS],
        resource_version=metadata["resourceVersion"],
    )


async def _write_finalizers(context: Context, job: FineTuneJob, finalizers: list[str]) -> None:
    await context.kube.patch_metadata(
        FINE_TUNE_JOBS,
        job.metadata.name,
        job.metadata.namespace or "",
        finalizers=finalizers,
        resource_version=job.metadata.resource_version,
    )
