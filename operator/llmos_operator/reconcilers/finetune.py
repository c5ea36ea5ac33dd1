"""One pass over a FineTuneJob: observe, plan, make, tell, and only then delete.

Whatever the plan rests on is in the status before a pod goes that held it, so that an operator that is killed anywhere
is followed by one that goes on. Pods, ConfigMap and claim have the job as owner, the train pod saves its work within
its grace period, and the claim stays as long as an LLMModel owns it, too. So deletion needs a finalizer for objects in
an object store only (`reconcilers.removal`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from pydantic import ValidationError

from llmos.api import AcceleratorClass, FineTuneJob, InferencePool, LLMModel, Reason
from llmos.api.names import (
    ANNOTATION_JUDGED_BY,
    COMPONENT_TRAIN,
    CPU_CLASS,
    LABEL_COMPONENT,
    LABEL_JOB,
    LABEL_REPLICA,
)
from llmos_operator.kube.client import Object
from llmos_operator.kube.errors import Conflict, Forbidden, Invalid
from llmos_operator.kube.resources import (
    ACCELERATOR_CLASSES,
    CONFIG_MAPS,
    FINE_TUNE_JOBS,
    INFERENCE_POOLS,
    LLM_MODELS,
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    PODS,
    SERVICES,
)
from llmos_operator.manifests.finetune import (
    JobTemplate,
    build_job_config,
    build_prepare_pod,
    build_train_pod,
    build_work_claim,
    compute_config_name,
    compute_gang_revision,
    compute_work_claim_name,
    read_node_labels,
)
from llmos_operator.manifests.finetune_gang import build_peers_service, compute_peers_name
from llmos_operator.manifests.finetune_output import build_bare_model, build_output_model, keep_origin
from llmos_operator.manifests.finetune_trials import build_trial_pod
from llmos_operator.manifests.replica import build_held_pods
from llmos_operator.manifests.steps import build_claim_change
from llmos_operator.planning.failures import Failure, build_failure
from llmos_operator.planning.finetune import (
    JobPlan,
    NewPod,
    Ownership,
    Sight,
    choose_classes_of,
    find_class,
    keep_moved,
    plan_job,
    with_rollout,
)
from llmos_operator.planning.finetune_canary import NOTHING
from llmos_operator.planning.finetune_pods import JobPod, build_job_pods
from llmos_operator.planning.finetune_proposals import read_values
from llmos_operator.planning.finetune_search import SearchPlan, TrialPod
from llmos_operator.planning.finetune_stall import end_stalled, get_patience
from llmos_operator.planning.finetune_status import build_job_status
from llmos_operator.planning.gangs import PodTimes
from llmos_operator.planning.isolation import build_refusal
from llmos_operator.planning.kueue import choose_queue, find_superseded
from llmos_operator.planning.quota_view import needs_gate
from llmos_operator.reconcilers.base import DONE, Context, Key, Result
from llmos_operator.reconcilers.canary import end_canaries, look_at_canaries
from llmos_operator.reconcilers.classes import parse_named, tend_classes
from llmos_operator.reconcilers.finetune_log import look_at_log
from llmos_operator.reconcilers.invalid import apply_invalid_status
from llmos_operator.reconcilers.isolation import look_at_pool
from llmos_operator.reconcilers.kueue import KueueLook, build_kueue_metadata, look_at_kueue, tend_pods
from llmos_operator.reconcilers.orphans import remove_lost_pods, tend_orphans
from llmos_operator.reconcilers.removal import apply_finalizer, reconcile_removal
from llmos_operator.reconcilers.search import look_at_search, read_trial
from llmos_operator.reconcilers.tenant import observe_tenants
from llmos_operator.reconcilers.tidy import delete_tidy_pod, tend_files
from llmos_operator.reconcilers.writing import apply_if_needed, apply_status_if_changed, is_applied

REFUSED_RETRY_S: Final = 15.0


@dataclass(frozen=True)
class _Observed:
    current: Object
    job: FineTuneJob
    sight: Sight
    pods: list[Object]
    """Pods of the job itself,"""
    built: tuple[JobPod, ...]
    """the same,"""
    foreign: list[Object]
    """and pods of an earlier one of its name."""
    claim: Object | None
    config: Object | None
    service: Object | None
    """By which the pods of an attempt find each other."""
    output: Object | None
    has_quota: bool
    queue: str
    kueue: KueueLook
    look_again_s: float | None


async def reconcile_finetune(context: Context, key: Key) -> Result:
    """Bring one FineTuneJob closer to what its spec says."""
    current = await context.kube.get(FINE_TUNE_JOBS, key.name, key.namespace)
    if current is None or "deletionTimestamp" in current["metadata"]:
        context.canaries.forget(key)
        await end_canaries(context, key)
        looks = [await tend_orphans(context, LABEL_JOB, key)]
        if current is not None:
            looks.append(await reconcile_removal(context, current))
        return _look_first(*(look.requeue_after_s for look in looks))
    try:
        job = FineTuneJob.model_validate(current)
    except ValidationError as error:
        await apply_invalid_status(context, current, error)
        return DONE
    await apply_finalizer(context, job)
    observed = await _observe(context, key, current, job)
    observed, plan = _plan(context, observed)
    plan, search = await look_at_search(
        observed.sight,
        plan,
        observed.pods,
        observed.built,
        lambda pods: look_at_log(context, pods, key.namespace),
    )
    plan, search, tidying = await tend_files(context, observed.sight, plan, search, observed.pods)
    plan = with_rollout(plan, await look_at_canaries(context, key, job, plan, observed.sight.output, observed.output))
    refused = await _apply(context, observed, plan, search)
    wants_claim = job.spec.checkpoint.storage.has_claim
    has_claim = observed.claim is not None or (wants_claim and plan.needs_files and refused is None)
    # Of a lost result the status keeps saying where it was: nothing is ever registered in its place.
    is_result_lost = observed.sight.is_work_lost and plan.record.is_trained and not plan.record.is_registered
    claim_name = compute_work_claim_name(job) if has_claim or is_result_lost else ""
    status = build_job_status(job, plan, claim_name=claim_name, refused=refused, now=context.now(), search=search)
    await apply_status_if_changed(context.kube, current, status, context.now())
    await _delete(context, observed, keep_moved(plan) if refused else plan)
    await delete_tidy_pod(context, tidying)
    train = [pod for pod in observed.pods if _is_train(pod)]
    if observed.sight.chooser == "ledger":
        await tend_classes(context, train, choose_classes_of(observed.sight).names)
    await tend_pods(context, job, observed.queue, train, has_quota=observed.has_quota)
    return _look_first(
        plan.look_again_s,
        await remove_lost_pods(context, observed.foreign),
        observed.look_again_s,
        observed.kueue.look_again_s,
        REFUSED_RETRY_S if refused else None,
    )


def _look_first(*looks: float | None) -> Result:
    return Result(requeue_after_s=min((look for look in looks if look is not None), default=None))


async def _observe(context: Context, key: Key, current: Object, job: FineTuneJob) -> _Observed:
    kube, namespace, spec = context.kube, key.namespace, job.spec
    wanted = spec.trainer.accelerator
    pods, claim, config, base, accelerators, output = await asyncio.gather(
        kube.list(PODS, namespace=namespace, label_selector=f"{LABEL_JOB}={key.name}"),
        _observe_claim(context, job, namespace),
        kube.get(CONFIG_MAPS, compute_config_name(job), namespace),
        kube.get(LLM_MODELS, spec.base_model_ref.name, namespace),
        _observe_classes(context, job),
        kube.get(LLM_MODELS, spec.output.name, namespace),
    )
    classes, unreadable = parse_named(context, AcceleratorClass, accelerators)
    service = await _observe_service(context, job, namespace)
    teacher = await _observe_teacher(context, job, namespace)
    models, unreadable_models = parse_named(context, LLMModel, (base, teacher))
    tenants = await observe_tenants(context)
    own = [pod for pod in pods if _is_owned(pod, job)]
    queue = choose_queue(job, tenants.all, context.settings)
    has_quota = bool(queue) or needs_gate(wanted.class_name, tenants.all or tuple(tenants.unreadable))
    kueue = await look_at_kueue(context, queue, [pod for pod in own if _is_train(pod)])
    isolation = look_at_pool(context, job, (), tenants)
    built = _build_pods(context, own, has_quota=has_quota)
    of_trials = {pod["metadata"]["name"] for pod in own if read_trial(pod)}
    of_job = tuple(pod for pod in built if pod.name not in of_trials)
    log = await look_at_log(context, of_job, namespace)
    sight = Sight(
        job=job,
        now=context.now(),
        pods=end_stalled(of_job, log.heard, after=get_patience(job), now=context.now()),
        base=models.get(spec.base_model_ref.name),
        teacher=models.get(spec.method.distill.teacher_ref.name) if spec.method.distill is not None else None,
        classes=tuple(classes.values()),
        unreadable=unreadable,
        unreadable_models=unreadable_models,
        chooser="kueue" if queue else "ledger" if has_quota else "nobody",
        live=log.report,
        unheard=log.trouble,
        pools=await _observe_pools(context, job),
        output=_whose(output, job),
        obstacle=isolation.refusal,
        foreign=_find_foreign(job, pods, claim, config, service),
        waits=kueue.waits or _waits(context, key),
        is_work_lost=claim is None and bool(job.status.claim_name),
    )
    foreign = [pod for pod in pods if not _is_owned(pod, job)]
    look_again_s = isolation.look_again_s
    return _Observed(
        current, job, sight, own, built, foreign, claim, config, service, output, has_quota, queue, kueue, look_again_s
    )


def _plan(context: Context, observed: _Observed) -> tuple[_Observed, JobPlan]:
    """Plan; a gang is completed with pods like those that it has, or begun anew."""
    plan = plan_job(observed.sight)
    rest, live = plan.create, plan.live
    if rest is None or live is None or not live.missing:
        return observed, plan
    revision = _compute_revision(_build_template(context, observed, plan, rest), rest)
    if all(member.revision == revision for member in live.members):
        return observed, plan
    observed = replace(observed, sight=replace(observed.sight, outdated=live.number))
    return observed, plan_job(observed.sight)


async def _observe_pools(context: Context, job: FineTuneJob) -> tuple[InferencePool, ...]:
    """Return the pools that are to load the adapter, as far as they are there."""
    namespace = job.metadata.namespace or ""
    found = [await context.kube.get(INFERENCE_POOLS, each.pool, namespace) for each in job.spec.output.attach_to]
    return context.shared.parse_readable(InferencePool, (body for body in found if body is not None))


async def _observe_classes(context: Context, job: FineTuneJob) -> list[Object]:
    """Return the classes that the job names, as far as they exist, the preferred one first."""
    names = [name for name in job.spec.trainer.accelerator.class_names if name != CPU_CLASS]
    found = [await context.kube.get(ACCELERATOR_CLASSES, name) for name in names]
    return [each for each in found if each is not None]


async def _observe_claim(context: Context, job: FineTuneJob, namespace: str) -> Object | None:
    # One of that name may be there all the same, of an earlier job, and is no business of a job without a claim.
    is_wanted = job.spec.checkpoint.storage.has_claim
    return (
        await context.kube.get(PERSISTENT_VOLUME_CLAIMS, compute_work_claim_name(job), namespace) if is_wanted else None
    )


async def _observe_teacher(context: Context, job: FineTuneJob, namespace: str) -> Object | None:
    distill = job.spec.method.distill
    return await context.kube.get(LLM_MODELS, distill.teacher_ref.name, namespace) if distill is not None else None


async def _observe_service(context: Context, job: FineTuneJob, namespace: str) -> Object | None:
    is_wanted = job.spec.trainer.nodes > 1
    return await context.kube.get(SERVICES, compute_peers_name(job), namespace) if is_wanted else None


def _build_pods(context: Context, pods: Sequence[Object], *, has_quota: bool) -> tuple[JobPod, ...]:
    settings = context.settings
    times = PodTimes(settings.unschedulable_after_s, settings.start_timeout_s, settings.image_pull_timeout_s)
    train = [pod for pod in pods if _is_train(pod)]
    superseded = find_superseded(train, settings.admission, has_quota=has_quota)
    names = {pod["metadata"]["name"] for pod in superseded}
    return build_job_pods(pods, times=times, now=context.now(), superseded=names)


def _is_train(pod: Object) -> bool:
    return bool(pod["metadata"]["labels"].get(LABEL_COMPONENT) == COMPONENT_TRAIN)


def _is_owned(item: Object, job: FineTuneJob) -> bool:
    owners = item["metadata"].get("ownerReferences", ())
    return any(owner.get("uid") == job.metadata.uid for owner in owners)


def _whose(output: Object | None, job: FineTuneJob) -> Ownership:
    if output is None:
        return "absent"
    label = (output["metadata"].get("labels") or {}).get(LABEL_JOB)
    uri = (output.get("spec") or {}).get("source", {}).get("uri", "")
    is_ours = label == job.metadata.name and uri == build_output_model(job)["spec"]["source"]["uri"]
    return "ours" if is_ours else "taken"


def _find_foreign(job: FineTuneJob, pods: Sequence[Object], *others: Object | None) -> Failure | None:
    """Return that something of an earlier job of the same name, or of somebody else, is in the way."""
    for item in (*others, *pods):
        if item is not None and not _is_owned(item, job):
            what = f"{item.get('kind', 'Pod')} {item['metadata']['name']}"
            detail = (
                f"{what} is there already and is not of this job, but perhaps of an earlier one of its name, whose "
                "LLMModel may still need it. Delete it, or give the job another name."
            )
            return Failure(Reason.OutputNameTaken, detail)
    return None


def _waits(context: Context, key: Key) -> Failure | None:
    news = context.quota.job(key)
    return Failure(news.first.reason, news.first.message) if news is not None else None


async def _apply(context: Context, observed: _Observed, plan: JobPlan, search: SearchPlan) -> Failure | None:
    """Make what the plan says; return what the API server refused."""
    try:
        model = await _register(context, observed, plan) if plan.register or plan.rollout.must_apply else None
    except Conflict:
        words = f"LLMModel {observed.job.spec.output.name} was written by somebody else at the same moment."
        return build_failure(Reason.OutputNameTaken, words)
    except (Forbidden, Invalid) as error:
        return build_refusal(error.message)
    try:
        if plan.needs_files:
            if observed.job.spec.checkpoint.storage.has_claim:
                await _apply_claim(context, observed, model)
            await apply_if_needed(context.kube, build_job_config(observed.job), observed.config)
        if plan.create is not None:
            await _make(context, observed, plan, plan.create)
        for trial in search.create:
            await _make(context, observed, plan, trial.new, trial)
    except (Forbidden, Invalid) as error:
        return build_refusal(error.message)
    return None


async def _register(context: Context, observed: _Observed, plan: JobPlan) -> Object:
    """Make the LLMModel, or mend it if it is ours.

    Raises:
        Conflict: somebody else made or replaced it since we looked.
    """
    desired = build_output_model(observed.job, plan.rollout.canaries if plan.rollout != NOTHING else None)
    existing = observed.output
    if existing is None:
        # What a creation sets no apply ever removes, and a pool that was left must not come back.
        existing = await context.kube.create(build_bare_model(desired))
    desired = keep_origin(desired, existing)
    # That nobody judges it any more is said by what is no longer there.
    if is_applied(desired, existing) and _is_judged(desired) == _is_judged(existing):
        return existing
    desired["metadata"]["uid"] = existing["metadata"]["uid"]
    return await context.kube.apply(desired)


def _is_judged(model: Object) -> bool:
    return ANNOTATION_JUDGED_BY in (model["metadata"].get("annotations") or {})


async def _apply_claim(context: Context, observed: _Observed, model: Object | None) -> None:
    claim = build_work_claim(observed.job, model["metadata"] if model else None)
    if observed.claim is None:
        await context.kube.apply(claim)
    elif model is not None:
        await apply_if_needed(context.kube, build_claim_change(claim, observed.claim, is_filled=True), observed.claim)


async def _make(
    context: Context, observed: _Observed, plan: JobPlan, new: NewPod, trial: TrialPod | None = None
) -> None:
    """Make pods, of a gang the leader last, as the ledger and whoever goes on after a kill expect."""
    if new.size > 1:
        await apply_if_needed(context.kube, build_peers_service(observed.job), observed.service)
    for pod in await _build_new_pods(context, observed, plan, new, trial):
        await context.kube.apply(pod)


async def _build_new_pods(
    context: Context, observed: _Observed, plan: JobPlan, new: NewPod, trial: TrialPod | None
) -> list[Object]:
    template = _build_template(context, observed, plan, new, trial)
    if new.component != COMPONENT_TRAIN:
        return [build_prepare_pod(template, new.number)]
    is_ours = observed.has_quota and not observed.queue
    labels = await _observe_node_labels(context, observed) if is_ours else {}
    revision = _compute_revision(template, new)
    pods = [
        build_train_pod(
            template,
            new.number,
            has_quota=is_ours,
            node_labels=labels,
            rank=rank,
            size=new.size,
            is_sharded=new.is_sharded,
            target=new.target,
            revision=revision,
        )
        for rank in sorted(new.ranks, reverse=True)
    ]
    if trial is not None:
        values = read_values(trial.trial)
        pods = [
            build_trial_pod(pod, template.job.metadata.name, trial.trial.number, new.number, values) for pod in pods
        ]
    if not observed.queue:
        return pods
    attempt = pods[0]["metadata"]["labels"][LABEL_REPLICA]
    held = build_kueue_metadata(context, template.job, observed.queue, attempt, new.size, observed.pods)
    return build_held_pods(pods, *held)


def _build_template(
    context: Context, observed: _Observed, plan: JobPlan, new: NewPod, trial: TrialPod | None = None
) -> JobTemplate:
    sight, job = observed.sight, trial.job if trial is not None else observed.job
    if sight.base is None:
        raise LookupError(f"a pod of FineTuneJob {job.metadata.name} was planned without its base model")
    choice = choose_classes_of(sight)
    return JobTemplate(
        job,
        sight.base,
        find_class(sight, new.target),
        plan.record.base_digest,
        context.settings,
        sight.teacher,
        teacher_digest=plan.record.teacher_digest,
        classes=choice.usable if sight.chooser == "ledger" else choice.usable[:1],
    )


def _compute_revision(template: JobTemplate, new: NewPod) -> str:
    """Return what the gang that pods are made for is made with; empty for a pod that is none."""
    is_gang = new.component == COMPONENT_TRAIN and new.size > 1
    return compute_gang_revision(template, new.number, new.size, is_sharded=new.is_sharded) if is_gang else ""


async def _observe_node_labels(context: Context, observed: _Observed) -> dict[str, str]:
    """Return which nodes reach the claim: the ledger chooses among them."""
    name = ((observed.claim or {}).get("spec") or {}).get("volumeName", "")
    return read_node_labels(await context.kube.get(PERSISTENT_VOLUMES, name)) if name else {}


async def _delete(context: Context, observed: _Observed, plan: JobPlan) -> None:
    namespace = observed.job.metadata.namespace or ""
    for pod in plan.delete:
        # A pod whose node is gone would keep its name for ever.
        grace_period_s = 0 if pod.is_lost else None
        await context.kube.delete(PODS, pod.name, namespace, uid=pod.uid, grace_period_s=grace_period_s)
