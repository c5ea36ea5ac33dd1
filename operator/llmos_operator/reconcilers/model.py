"""One pass over an LLMModel: inspect, store, tell; hold back its deletion while pools and jobs use it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pydantic import ValidationError

from llmos.api import FetchProgress, LLMModel, ResolvedModel
from llmos.api.names import (
    ANNOTATION_SOURCE_HASH,
    COMPONENT_FETCH,
    CONDITION_STORED,
    CONTAINER_FETCH,
    FINALIZER_IN_USE,
    LABEL_COMPONENT,
    LABEL_MODEL,
)
from llmos_operator.kube.client import Object
from llmos_operator.kube.errors import Forbidden, Invalid
from llmos_operator.kube.resources import (
    FINE_TUNE_JOBS,
    INFERENCE_POOLS,
    JOBS,
    LLM_MODELS,
    PERSISTENT_VOLUME_CLAIMS,
    PODS,
)
from llmos_operator.manifests.steps import (
    build_claim,
    build_claim_change,
    build_fetch_job,
    build_inspect_job,
    needs_fetch,
)
from llmos_operator.planning.failures import read_attempt
from llmos_operator.planning.isolation import build_refusal
from llmos_operator.planning.model_users import Users, find_users
from llmos_operator.planning.models import (
    ModelFacts,
    Step,
    StepName,
    build_model_status,
    compute_source_hash,
    observe_step,
    read_progress,
)
from llmos_operator.reconcilers.base import DONE, Context, Key, Result
from llmos_operator.reconcilers.invalid import apply_invalid_status
from llmos_operator.reconcilers.share import reconcile_share
from llmos_operator.reconcilers.writing import apply_if_needed, apply_status_if_changed

IN_USE_RETRY_S = 5.0
PROGRESS_INTERVAL_S = 3.0
STUCK_INTERVAL_S = 10.0
REFUSED_RETRY_S = 15.0


@dataclass(frozen=True)
class _Children:
    jobs: list[Object]
    pods: list[Object]
    claims: list[Object]


async def reconcile_model(context: Context, key: Key) -> Result:
    """Bring one LLMModel closer to what its spec says."""
    current = await context.kube.get(LLM_MODELS, key.name, key.namespace)
    if current is None:
        return DONE
    try:
        model = LLMModel.model_validate(current)
    except ValidationError as error:
        if "deletionTimestamp" in current["metadata"]:
            # What cannot be read, after a rollback for example, must not keep its namespace from going.
            return await _let_go_unless_used(context, current)
        await apply_invalid_status(context, current, error)
        return DONE
    if model.metadata.deletion_timestamp is not None:
        return await _reconcile_deletion(context, current, model)
    if FINALIZER_IN_USE not in model.metadata.finalizers:
        finalizers = [*model.metadata.finalizers, FINALIZER_IN_USE]
        await context.kube.patch_metadata(
            LLM_MODELS, key.name, key.namespace, finalizers=finalizers, resource_version=model.metadata.resource_version
        )
    children = await _observe_children(context, model)
    facts, result = await _reconcile_steps(context, model, children)
    status = build_model_status(model, facts, context.now())
    await apply_status_if_changed(context.kube, current, status, context.now())
    await _prune(context, model, facts, children)
    looks = (result.requeue_after_s, await reconcile_share(context, model, status))
    return Result(requeue_after_s=min((look for look in looks if look is not None), default=None))


async def _reconcile_deletion(context: Context, current: Object, model: LLMModel) -> Result:
    if FINALIZER_IN_USE not in model.metadata.finalizers:
        return DONE
    users = await _observe_users(context, current)
    if users.is_any:
        stored = any(c.type == CONDITION_STORED and c.status == "True" for c in model.status.conditions)
        facts = ModelFacts(
            source_hash=model.status.source_hash,
            resolved=model.status.resolved,
            claim_name=model.status.claim_name,
            fetch=Step("succeeded") if stored else None,
            used_by=users,
        )
        await apply_status_if_changed(
            context.kube, current, build_model_status(model, facts, context.now()), context.now()
        )
    return await _let_go_unless_used(context, current, users)


async def _observe_users(context: Context, model: Object) -> Users:
    metadata = model["metadata"]
    pools = await context.kube.list(INFERENCE_POOLS, namespace=metadata["namespace"])
    jobs = await context.kube.list(FINE_TUNE_JOBS, namespace=metadata["namespace"])
    return find_users(metadata["name"], pools, jobs)


async def _let_go_unless_used(context: Context, model: Object, users: Users | None = None) -> Result:
    """Take our finalizer away if nobody uses the model, else look again soon."""
    metadata = model["metadata"]
    if FINALIZER_IN_USE not in metadata.get("finalizers", ()):
        return DONE
    if users is None:
        users = await _observe_users(context, model)
    if users.is_any:
        return Result(requeue_after_s=IN_USE_RETRY_S)
    await context.kube.patch_metadata(
        LLM_MODELS,
        metadata["name"],
        metadata["namespace"],
        finalizers=[finalizer for finalizer in metadata["finalizers"] if finalizer != FINALIZER_IN_USE],
        resource_version=metadata["resourceVersion"],
    )
    return DONE


async def _observe_children(context: Context, model: LLMModel) -> _Children:
    namespace = model.metadata.namespace or ""
    selector = f"{LABEL_MODEL}={model.metadata.name}"
    jobs = await context.kube.list(JOBS, namespace=namespace, label_selector=selector)
    steps = f"{selector},{LABEL_COMPONENT} in (inspect,fetch)"
    pods = await context.kube.list(PODS, namespace=namespace, label_selector=steps) if jobs else []
    wants_claim = model.spec.storage.mode == "claim" or model.status.claim_name
    claims = (
        await context.kube.list(PERSISTENT_VOLUME_CLAIMS, namespace=namespace, label_selector=selector)
        if wants_claim
        else []
    )
    return _Children(jobs, pods, claims)


async def _reconcile_steps(context: Context, model: LLMModel, children: _Children) -> tuple[ModelFacts, Result]:
    """Go through inspect and fetch in order; stop at the first that is not done."""
    facts = ModelFacts(source_hash=compute_source_hash(model.spec))
    try:
        facts = await _reconcile_inspect(context, model, children, facts)
        if facts.resolved is None or model.spec.storage.mode != "claim" or not needs_fetch(model, facts.resolved):
            return _without_fetch(model, facts), _look_again(facts.inspect)
        facts = await _reconcile_fetch(context, model, children, facts, facts.resolved)
    except (Forbidden, Invalid) as error:
        return replace(facts, refused=build_refusal(error.message)), Result(requeue_after_s=REFUSED_RETRY_S)
    return facts, _look_again(facts.fetch)


def _without_fetch(model: LLMModel, facts: ModelFacts) -> ModelFacts:
    """A source that already is a claim counts as stored there."""
    if facts.resolved is None or model.spec.storage.mode != "claim":
        return facts
    claim = model.spec.source.uri.removeprefix("pvc://").partition("/")[0]
    return replace(facts, claim_name=claim, fetch=Step("succeeded"))


def _look_again(step: Step | None) -> Result:
    if step is None or step.state == "succeeded":
        return DONE
    if step.state == "failed":
        return Result(requeue_after_s=step.retry_after_s) if step.retry_after_s else DONE
    return Result(requeue_after_s=PROGRESS_INTERVAL_S if step.stuck is None else STUCK_INTERVAL_S)


def _observe(name: StepName, context: Context, model: LLMModel, children: _Children) -> Step:
    patience_s = context.settings.unschedulable_after_s
    return observe_step(name, model, children.jobs, children.pods, context.now(), patience_s)


async def _reconcile_inspect(context: Context, model: LLMModel, children: _Children, facts: ModelFacts) -> ModelFacts:
    if model.status.resolved is not None and model.status.source_hash == facts.source_hash:
        return replace(facts, resolved=model.status.resolved)
    step = _observe("inspect", context, model, children)
    if step.resolved is not None:
        return replace(facts, inspect=step, resolved=step.resolved)
    if step.start_attempt is not None:
        await context.kube.apply(build_inspect_job(model, facts.source_hash, step.start_attempt, context.settings))
        step = _started(step)
    return replace(facts, inspect=step)


def _started(step: Step) -> Step:
    """The step runs now; what the last attempt failed of stays visible until this one says more."""
    return replace(step, state="running", attempt=step.start_attempt or 0, start_attempt=None)


async def _reconcile_fetch(
    context: Context, model: LLMModel, children: _Children, facts: ModelFacts, resolved: ResolvedModel
) -> ModelFacts:
    claim = build_claim(model, facts.source_hash)
    if claim is None:
        return facts
    name = claim["metadata"]["name"]
    facts = replace(facts, claim_name=name)
    step = _observe("fetch", context, model, children)
    existing = next((c for c in children.claims if c["metadata"]["name"] == name), None)
    await _apply_claim(context, claim, existing, is_filled=step.state == "succeeded")
    if existing is None and step.state in {"succeeded", "failed"}:
        step = Step("absent", start_attempt=step.attempt + 1)  # Its files are gone with the claim.
    if step.start_attempt is not None:
        job = build_fetch_job(model, resolved, facts.source_hash, step.start_attempt, context.settings)
        await context.kube.apply(job)
        step = _started(step)
    return replace(facts, fetch=step, progress=await _observe_progress(context, model, step))


async def _apply_claim(context: Context, claim: Object, existing: Object | None, *, is_filled: bool) -> None:
    if existing is None:
        await context.kube.apply(claim)
        return
    change = build_claim_change(claim, existing, is_filled=is_filled)
    if _has_model_as_owner(existing) and not _has_model_as_owner(claim):
        await context.kube.apply(change)  # It is to be kept from now on.
    else:
        await apply_if_needed(context.kube, change, existing)


def _has_model_as_owner(claim: Object) -> bool:
    owners = claim["metadata"].get("ownerReferences", ())
    return any(owner["kind"] == LLM_MODELS.kind for owner in owners)


async def _observe_progress(context: Context, model: LLMModel, step: Step) -> FetchProgress | None:
    if step.state != "running" or not step.pod_name:
        return None
    log = await context.kube.tail_log(step.pod_name, model.metadata.namespace or "", CONTAINER_FETCH, lines=20)
    return read_progress(log) or model.status.fetch


async def _prune(context: Context, model: LLMModel, facts: ModelFacts, children: _Children) -> None:
    """Delete Jobs that said all they had to say, and claims that the model needs no more and that are not kept."""
    namespace = model.metadata.namespace or ""
    fetched = facts.fetch is not None and facts.fetch.state == "succeeded"
    stored = fetched or (facts.resolved is not None and model.spec.storage.mode == "ephemeral")
    newest = {
        "inspect": facts.inspect.attempt if facts.inspect else None,
        "fetch": facts.fetch.attempt if facts.fetch else None,
    }
    for job in children.jobs:
        metadata = job["metadata"]
        if "deletionTimestamp" in metadata or _is_needed(metadata, model, facts, newest):
            continue
        await context.kube.delete(JOBS, metadata["name"], namespace, uid=metadata["uid"])
    for claim in children.claims:
        metadata = claim["metadata"]
        is_obsolete = metadata["name"] != facts.claim_name and stored and _has_model_as_owner(claim)
        if is_obsolete and "deletionTimestamp" not in metadata:
            await context.kube.delete(PERSISTENT_VOLUME_CLAIMS, metadata["name"], namespace, uid=metadata["uid"])


def _is_needed(metadata: Object, model: LLMModel, facts: ModelFacts, newest: dict[str, int | None]) -> bool:
    annotations = metadata.get("annotations", {})
    if annotations.get(ANNOTATION_SOURCE_HASH) != facts.source_hash:
        return False
    component = metadata["labels"].get(LABEL_COMPONENT, "")
    if component == "inspect" and facts.resolved is not None:
        # Its facts stand in the status that this or an earlier pass wrote.
        return False
    if component == COMPONENT_FETCH and model.spec.storage.mode != "claim":
        # Kubernetes lets no claim go while a pod names it, though that pod has long ended.
        return False
    attempt = newest.get(component)
    return attempt is None or read_attempt(metadata) >= attempt
