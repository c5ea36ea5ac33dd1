"""One pass over an InferencePool: observe, plan, write, tell."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from pydantic import ValidationError

from llmos.api import InferencePool, InferencePoolStatus
from llmos.api.names import (
    ANNOTATION_DRAIN_STARTED,
    ANNOTATION_FAILURE,
    CONTROL_PORT,
    LABEL_POOL,
    LABEL_REPLICA,
    LABEL_SERVING,
    RETIRE_FIELD_MANAGER,
)
from llmos_operator.kube.client import Object
from llmos_operator.kube.errors import Forbidden, Invalid, NotFound
from llmos_operator.kube.resources import INFERENCE_POOLS, PODS, SERVICES
from llmos_operator.manifests.gang import build_leaders_service
from llmos_operator.manifests.replica import (
    build_held_pods,
    build_replica_pods,
    build_service,
    compute_url,
)
from llmos_operator.planning.conditions import Announcement
from llmos_operator.planning.failures import Failure
from llmos_operator.planning.gang_endings import pods_to_remove, pods_to_retire
from llmos_operator.planning.gangs import PodTimes, build_replicas, is_deleted, is_lost
from llmos_operator.planning.isolation import build_refusal
from llmos_operator.planning.pool_classes import (
    build_class_statuses,
    find_classes,
    unite_revisions,
)
from llmos_operator.planning.pools import (
    Admission,
    PoolSize,
    build_pool_status,
    compute_size,
    differs_in_details_only,
    plan_scaling_announcement,
)
from llmos_operator.planning.quota_pods import read_rank
from llmos_operator.planning.quota_record import QuotaRecord
from llmos_operator.planning.replicas import (
    NewReplica,
    Replica,
    ReplicaPlan,
    ReplicaState,
    RolloutLimits,
    find_kept,
    keep_moved,
    plan_replicas,
)
from llmos_operator.planning.sampling import ScaledPool
from llmos_operator.reconcilers.adapters import look_at_adapters
from llmos_operator.reconcilers.base import DONE, Context, Key, Result
from llmos_operator.reconcilers.classes import tend_classes
from llmos_operator.reconcilers.invalid import apply_invalid_status
from llmos_operator.reconcilers.isolation import look_at_pool
from llmos_operator.reconcilers.kueue import build_kueue_metadata, look_at_kueue, tend_pods
from llmos_operator.reconcilers.orphans import tend_orphans
from llmos_operator.reconcilers.pool_observed import Observed, build_selector, choose_admission, observe_pool, withhold
from llmos_operator.reconcilers.tenant import observe_tenants
from llmos_operator.reconcilers.writing import Manifest, apply_if_needed, apply_status_if_changed

POD_REST_S = 0.01
"""A look reads all pods of the pool: one with a hundred, each of which changes, is looked at once a second."""
REFUSED_RETRY_S = 15.0
STARTING_FIRST_LOOK_S = 10.0
STARTING_LAST_LOOK_S = 300.0


async def reconcile_pool(context: Context, key: Key) -> Result:
    """Bring one InferencePool closer to what its spec says."""
    current = await context.kube.get(INFERENCE_POOLS, key.name, key.namespace)
    if current is None or "deletionTimestamp" in current["metadata"]:
        # Pods and Service have the pool as owner: garbage collection ends them, and each pod drains itself.
        context.board.forget(key)
        context.status_pace.forget(key)
        return await tend_orphans(context, LABEL_POOL, key)
    try:
        observed = await observe_pool(context, current, InferencePool.model_validate(current))
    except ValidationError as error:
        context.board.forget(key)
        await apply_invalid_status(context, current, error)
        return DONE
    tenants = await observe_tenants(context)
    observed = choose_admission(context, observed, tenants)
    isolation = look_at_pool(context, observed.pool, observed.pods, tenants)
    if isolation.refusal is not None:
        observed = withhold(observed, isolation.refusal)
    size = compute_size(observed.pool, context.board.decision(key), context.now())
    replicas, plan = await _plan(context, observed, size)
    _publish(context, key, observed, replicas)
    refused = await _apply_plan(context, observed, plan)
    if observed.templates and observed.pool.spec.accelerator.alternatives and observed.is_chosen_among:
        await tend_classes(context, observed.pods, tuple(observed.templates), find_classes(observed.revisions))
    await tend_pods(context, observed.pool, observed.queue, observed.pods, has_quota=observed.has_quota)
    kueue = await look_at_kueue(context, observed.queue, observed.pods)
    adapters = await look_at_adapters(context, observed.pool, observed.pods, replicas)
    status = build_pool_status(
        observed.pool,
        layout=observed.layout,
        size=size,
        revision=observed.revision,
        selector=build_selector(observed.pool),
        url=compute_url(observed.pool),
        replicas=replicas,
        refused=refused,
        isolation=isolation.facts,
        adapters=adapters.statuses,
        adapters_fact=adapters.fact,
        now=context.now(),
        admission=Admission(context.quota.pool(key), kueue.waits, kueue.stopped)
        if observed.has_quota or kueue.waits
        else None,
        classes=build_class_statuses(
            observed.pool,
            observed.layouts,
            observed.revisions,
            replicas,
            is_chosen_among=observed.is_chosen_among,
        ),
    )
    announcement = plan_scaling_announcement(observed.pool, size)
    has_trouble = any(replica.failure is not None or replica.stuck is not None for replica in replicas)
    details_wait_s = await _tell(context, key, current, status, announcement, may_wait=not has_trouble)
    looks = (
        *(details_wait_s, isolation.look_again_s, kueue.look_again_s, adapters.look_again_s),
        _next_look_s(replicas, plan, refused, context.now()),
    )
    return Result(
        requeue_after_s=min((look for look in looks if look is not None), default=None),
        rest_s=POD_REST_S * len(observed.pods),
    )


async def _tell(
    context: Context,
    key: Key,
    current: Object,
    status: InferencePoolStatus,
    announcement: Announcement | None,
    *,
    may_wait: bool,
) -> float | None:
    """Write the status if it changed. Details alone `may_wait` for a while after a write; return until when.

    They may not where a replica is in trouble: when it is gone, what it said stands in its pool's status alone.
    """
    now = context.now()
    if may_wait and differs_in_details_only(current.get("status") or {}, status.to_manifest()):
        wait_s = context.status_pace.wait_s(key, now)
        if wait_s > 0:
            return wait_s
    if await apply_status_if_changed(context.kube, current, status, now, announcement):
        context.status_pace.note(key, now)
    return None


def _publish(context: Context, key: Key, observed: Observed, replicas: tuple[Replica, ...]) -> None:
    """Tell the autoscaler about a pool that scales, and about no other."""
    scaling, status = observed.pool.spec.scaling, observed.pool.status
    if scaling is None:
        context.board.forget(key)
        return
    context.board.publish(
        key,
        ScaledPool(
            scaling=scaling,
            revision=observed.revision,
            desired=status.scaling.desired
            if status.scaling and scaling.mode == "advisory"
            else status.desired_replicas,
            decided=status.scaling,
            replicas=replicas,
            has_quota=observed.has_quota,
            addresses={name: _join(ip, CONTROL_PORT) for name, ip in _leader_ips(observed).items()},
        ),
    )


def _join(ip: str, port: int) -> str:
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def _leader_ips(observed: Observed) -> dict[str, str]:
    """Return the addresses of the pods that serve, by the name of their replica."""
    return {
        pod["metadata"]["labels"][LABEL_REPLICA]: pod["status"]["podIP"]
        for pod in observed.pods
        if read_rank(pod) == 0 and pod["metadata"]["labels"].get(LABEL_REPLICA) and pod.get("status", {}).get("podIP")
    }


def _times(context: Context) -> PodTimes:
    settings = context.settings
    # The worker gives up first and says why; the operator's own limit is the net below it.
    return PodTimes(settings.unschedulable_after_s, settings.start_timeout_s + 60, settings.image_pull_timeout_s)


async def _plan(context: Context, observed: Observed, size: PoolSize) -> tuple[tuple[Replica, ...], ReplicaPlan]:
    """Plan; where victims must be chosen among replicas that answer, ask them first how busy they are."""
    replicas, plan = _plan_with(context, observed, size, {})
    answering = [r for r in replicas if r.state is ReplicaState.READY]
    if plan.drain and len(plan.drain) < len(answering):
        addresses = {
            pod["metadata"]["name"]: pod["status"]["podIP"]
            for pod in observed.pods
            if read_rank(pod) == 0
            and pod["metadata"]["labels"].get(LABEL_REPLICA) in {r.name for r in answering}
            and pod.get("status", {}).get("podIP")
        }
        return _plan_with(context, observed, size, dict(await context.observe_in_flight(addresses)))
    return replicas, plan


def _plan_with(
    context: Context, observed: Observed, size: PoolSize, in_flight: dict[str, int]
) -> tuple[tuple[Replica, ...], ReplicaPlan]:
    now = context.now()
    spec = observed.pool.spec
    built = build_replicas(observed.pods, times=_times(context), now=now, in_flight=in_flight)
    # Without a plan everything stays as it is.
    usable = tuple(observed.templates) or None
    replicas = unite_revisions(built, observed.revisions, observed.revision, usable)
    plan = plan_replicas(
        desired=size.desired,
        revision=observed.revision,
        replicas=replicas,
        limits=RolloutLimits(spec.rollout.max_surge, spec.rollout.max_unavailable),
        now=now,
        settle_s=context.settings.drain_settle_s,
    )
    if observed.template is None:
        retried = [r for r in plan.delete if r.state is ReplicaState.FAILED and r.withdrawn is None]
        plan = replace(plan, create=(), complete=(), delete=tuple(r for r in plan.delete if r not in retried))
    return replicas, plan


async def _apply_plan(context: Context, observed: Observed, plan: ReplicaPlan) -> Failure | None:
    """Write what the plan says; return what the API server refused."""
    refused = observed.withheld
    try:
        if observed.pods or plan.create:
            await _apply_services(context, observed)
        for new in plan.create:
            await _apply_replica(context, observed, new)
        for replica in plan.complete:
            await _complete_replica(context, observed, replica, plan)
    except (Forbidden, Invalid) as error:
        refused = build_refusal(error.message)
    if refused is not None:
        plan = keep_moved(plan)
    await _drain(context, observed, plan)
    await _delete(context, observed, plan)
    await _retire(context, observed)
    return refused


async def _apply_services(context: Context, observed: Observed) -> None:
    """Have the Service before the first replica; without replicas there is nothing that it could lead to."""
    await _apply_service(context, observed.pool, build_service(observed.pool))
    if observed.template is not None and observed.template.plan.pods > 1:
        await _apply_service(context, observed.pool, build_leaders_service(observed.pool))


async def _apply_service(context: Context, pool: InferencePool, service: Manifest) -> None:
    name = service["metadata"]["name"]
    existing = await context.kube.get(SERVICES, name, pool.metadata.namespace or "")
    owned = existing is None or existing["metadata"].get("labels", {}).get(LABEL_POOL) == pool.metadata.name
    if not owned:
        raise Invalid(f"Service {name} exists already and is not LLMOS's: rename the pool or the Service.")
    await apply_if_needed(context.kube, service, existing)


async def _complete_replica(context: Context, observed: Observed, replica: Replica, plan: ReplicaPlan) -> None:
    """Make the pods that a replica lacks, for the class of the others."""
    name = replica.class_name or next(iter(observed.templates), "")
    if name in observed.templates:
        same = replace(observed, templates={name: observed.templates[name]})
        record = find_kept(plan, replica) if replica.class_name else None
        await _apply_replica(context, same, NewReplica(replica.ordinal, replica.attempt, record))


async def _apply_replica(context: Context, observed: Observed, new: NewReplica) -> None:
    if observed.template is None:
        return
    name, record = _choose_class(observed, new)
    pods = build_replica_pods(
        observed.templates[name],
        revision=observed.revisions[name],
        ordinal=new.ordinal,
        attempt=new.attempt,
        record=record if observed.is_chosen_among else None,
    )
    if observed.queue:
        pods = _hold_for_kueue(context, observed, pods)
    existing = {pod["metadata"]["name"] for pod in observed.pods}
    # The leader comes last: whoever finds it knows that all the others were made.
    for pod in reversed(pods):
        if pod["metadata"]["name"] not in existing:
            await context.kube.apply(pod)


def _choose_class(observed: Observed, new: NewReplica) -> tuple[str, QuotaRecord]:
    """Return what a replica is made for, and what it goes on from."""
    record = new.record or QuotaRecord()
    first = next(iter(observed.templates))
    if record.placement is not None and record.placement.class_name in observed.templates:
        return record.placement.class_name, record
    # The room that was kept for it is of a class that will not do any more.
    return first, record.for_successor()


def _hold_for_kueue(context: Context, observed: Observed, pods: list[Object]) -> list[Object]:
    replica = pods[0]["metadata"]["labels"][LABEL_REPLICA]
    labels, annotations = build_kueue_metadata(
        context, observed.pool, observed.queue, replica, len(pods), observed.pods
    )
    return build_held_pods(pods, labels, annotations)


def _pods_of(observed: Observed, replica: Replica) -> list[Object]:
    return [pod for pod in observed.pods if pod["metadata"]["labels"].get(LABEL_REPLICA) == replica.name]


async def _drain(context: Context, observed: Observed, plan: ReplicaPlan) -> None:
    """Take replicas out of the Service; the time stamp tells the next pass when they may be deleted."""
    started = context.now().isoformat()
    for replica in plan.drain:
        for pod in _pods_of(observed, replica):
            try:
                await context.kube.patch_metadata(
                    PODS,
                    pod["metadata"]["name"],
                    pod["metadata"]["namespace"],
                    labels={LABEL_SERVING: "false"},
                    annotations={ANNOTATION_DRAIN_STARTED: started},
                )
            except NotFound:
                continue


async def _delete(context: Context, observed: Observed, plan: ReplicaPlan) -> None:
    for replica in plan.delete:
        for pod in _pods_of(observed, replica):
            metadata = pod["metadata"]
            has_gone = is_lost(pod, context.now())
            if is_deleted(pod) and not has_gone:
                continue
            # A pod whose node is gone would keep its name for ever.
            grace_period_s = 0 if has_gone else None
            await context.kube.delete(
                PODS, metadata["name"], metadata["namespace"], uid=metadata["uid"], grace_period_s=grace_period_s
            )


async def _retire(context: Context, observed: Observed) -> None:
    """End pods that hold accelerators but cannot start; they stay as the record of their failure."""
    for name, failure in pods_to_retire(observed.pods, _times(context), context.now()):
        pod = next(p for p in observed.pods if p["metadata"]["name"] == name)
        if ANNOTATION_FAILURE in pod["metadata"].get("annotations", {}):
            continue
        await context.kube.apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": name,
                    "namespace": pod["metadata"]["namespace"],
                    "uid": pod["metadata"]["uid"],
                    "annotations": {ANNOTATION_FAILURE: failure.to_json()},
                },
                "spec": {"activeDeadlineSeconds": 1},
            },
            field_manager=RETIRE_FIELD_MANAGER,
        )
    for left in pods_to_remove(observed.pods, context.now()):
        metadata = left["metadata"]
        await context.kube.delete(PODS, metadata["name"], metadata["namespace"], uid=metadata["uid"])


def _next_look_s(
    replicas: tuple[Replica, ...], plan: ReplicaPlan, refused: Failure | None, now: datetime
) -> float | None:
    waits = [] if plan.requeue_after_s is None else [plan.requeue_after_s]
    if refused is not None:
        waits.append(REFUSED_RETRY_S)
    if plan.create:
        waits.append(STARTING_FIRST_LOOK_S)
    waits += [_starting_look_s(replica, now) for replica in replicas if replica.state is ReplicaState.STARTING]
    return min(waits, default=None)


def _starting_look_s(replica: Replica, now: datetime) -> float:
    """Look again after as long as it starts already: its changes come as events, only its time limits do not."""
    return min(max((now - replica.created).total_seconds(), STARTING_FIRST_LOOK_S), STARTING_LAST_LOOK_S)
