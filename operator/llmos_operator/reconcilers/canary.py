"""Part of a pass over a FineTuneJob: where its result takes the place of other adapters, and how it does there."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

from llmos.api import FineTuneJob, InferencePool, LLMModel
from llmos.api.load import CanaryLoad
from llmos.api.names import ANNOTATION_JUDGED_BY, LABEL_JOB
from llmos_operator.kube.client import Object
from llmos_operator.kube.errors import Conflict, NotFound
from llmos_operator.kube.resources import INFERENCE_POOLS, LLM_MODELS
from llmos_operator.planning.finetune import JobPlan, Ownership
from llmos_operator.planning.finetune_canary import (
    NOTHING,
    CanaryPlan,
    CanarySight,
    find_incumbent,
    is_settled,
    keep_canaries,
    plan_canaries,
    take_shares_back,
)
from llmos_operator.planning.finetune_gates import judge_gates
from llmos_operator.reconcilers.base import Context, Key
from llmos_operator.reconcilers.classes import parse_named


async def look_at_canaries(
    context: Context, key: Key, job: FineTuneJob, plan: JobPlan, ownership: Ownership, output: Object | None
) -> CanaryPlan:
    """Return where the canaries of a job stand; nothing for one whose result is not registered."""
    replaces = any(target.replaces is not None for target in job.spec.output.attach_to)
    if not plan.record.is_registered or not (replaces or job.status.canaries):
        context.canaries.forget(key)
        return NOTHING
    known, unreadable = parse_named(context, LLMModel, [output] if ownership == "ours" else [])
    if unreadable:
        return keep_canaries(job)
    model = known.get(job.spec.output.name)
    gates = judge_gates(job.spec.evaluate.gates, plan.record.metrics)
    sight = CanarySight(job, context.now(), is_registered=True, gates=gates, model=model)
    if is_settled(job):
        context.canaries.forget(key)
        return plan_canaries(sight)
    pools = await _observe_pools(context, job)
    loads = _read_loads(context, key, job, pools)
    gone = await _find_gone(context, job, pools)
    rollout = plan_canaries(replace(sight, pools=pools, loads=loads, gone=gone))
    if rollout.is_over:
        context.canaries.forget(key)
    return rollout


async def end_canaries(context: Context, job: Key) -> None:
    """Take back the shares of results whose job is gone before it had decided about them."""
    models = await context.kube.list(LLM_MODELS, namespace=job.namespace, label_selector=f"{LABEL_JOB}={job.name}")
    for model in models:
        metadata, adapter = model["metadata"], model["spec"].get("adapter") or {}
        if (metadata.get("annotations") or {}).get(ANNOTATION_JUDGED_BY) != job.name:
            continue
        patch = {
            "metadata": {"uid": metadata["uid"], "annotations": {ANNOTATION_JUDGED_BY: None}},
            "spec": {"adapter": {"replaces": take_shares_back(adapter.get("replaces") or ())}},
        }
        # Who deleted or replaced it meanwhile has decided.
        with contextlib.suppress(NotFound, Conflict):
            await context.kube.merge(LLM_MODELS, metadata["name"], job.namespace, patch)


async def _observe_pools(context: Context, job: FineTuneJob) -> dict[str, InferencePool]:
    names = [target.pool for target in job.spec.output.attach_to if target.replaces is not None]
    namespace = job.metadata.namespace or ""
    found = await asyncio.gather(*(context.kube.get(INFERENCE_POOLS, name, namespace) for name in names))
    pools = context.shared.parse_readable(InferencePool, [body for body in found if body is not None])
    return {pool.metadata.name: pool for pool in pools}


def _read_loads(context: Context, key: Key, job: FineTuneJob, pools: dict[str, InferencePool]) -> dict[str, CanaryLoad]:
    result, namespace = job.spec.output.name, job.metadata.namespace
    context.canaries.follow(key, ((f"{namespace}/{name}", result) for name in pools))
    shares = {
        name: (entry.replaces or "", entry.weight or 0)
        for name, pool in pools.items()
        for entry in pool.status.adapters
        if entry.name == result
    }
    return {name: context.canaries.read(f"{namespace}/{name}", result, *share) for name, share in shares.items()}


async def _find_gone(context: Context, job: FineTuneJob, pools: dict[str, InferencePool]) -> frozenset[str]:
    """Return the incumbents that no LLMModel stands for any more."""
    result, namespace = job.spec.output.name, job.metadata.namespace or ""
    known = {each.pool: each.incumbent.name for each in job.status.canaries if each.incumbent is not None}
    now = {
        each.pool: incumbent.name
        for each in job.status.canaries
        if (incumbent := find_incumbent(pools.get(each.pool), each.replaces, result)) is not None
    }
    names = sorted({*(known | now).values()} - {""})
    found = await asyncio.gather(*(context.kube.get(LLM_MODELS, name, namespace) for name in names))
    return frozenset(name for name, body in zip(names, found, strict=True) if body is None)
