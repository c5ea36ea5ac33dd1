"""Part of a pass over an InferencePool: tell its replicas which adapters to hold, and note what they say.

Nothing in the cluster is written for that: attaching and detaching leaves pods as they are. A replica that loads is
asked again soon; one that has everything, now and then.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from llmos.api import InferencePool, LLMModel
from llmos.api.adapters import WantedAdapter, WantedAdapters, compute_token_hash
from llmos.api.inferencepool import AdapterStatus
from llmos.api.names import (
    COMPONENT_SHARE,
    CONDITION_ADAPTERS_READY,
    LABEL_COMPONENT,
    LABEL_MODEL,
    LABEL_REPLICA,
)
from llmos_operator.kube.client import Object
from llmos_operator.kube.resources import LLM_MODELS, PODS
from llmos_operator.manifests.share import compute_share_url
from llmos_operator.planning.adapter_tokens import compute_pool_token, compute_share_token
from llmos_operator.planning.adapters import (
    LOADED,
    LOADING,
    AdapterPlan,
    build_adapter_statuses,
    build_adapters_fact,
    plan_adapters,
)
from llmos_operator.planning.conditions import Fact, is_false
from llmos_operator.planning.failures import Failure
from llmos_operator.planning.gangs import has_finished, is_deleted
from llmos_operator.planning.quota_pods import read_rank
from llmos_operator.planning.replicas import Replica, ReplicaState
from llmos_operator.planning.shares import failure_of_share
from llmos_operator.reconcilers.adapter_key import KeyUnreadableError
from llmos_operator.reconcilers.base import Context

LOADING_LOOK_S: Final = 2.0
FAILED_LOOK_S: Final = 10.0
LOADED_LOOK_S: Final = 60.0


@dataclass(frozen=True)
class AdapterView:
    """What stands in the pool's status about adapters."""

    statuses: tuple[AdapterStatus, ...] = ()
    fact: Fact | None = None
    look_again_s: float | None = None


async def look_at_adapters(
    context: Context, pool: InferencePool, pods: Sequence[Object], replicas: Sequence[Replica]
) -> AdapterView:
    """Tell the replicas, and return what they say."""
    if pool.spec.adapters is None:
        return AdapterView()
    plan = plan_adapters(pool, await _observe_models(context, pool))
    try:
        key = await context.adapter_keys.read(context.kube, context.settings.namespace)
    except KeyUnreadableError as error:
        # Whoever routes by the status goes on: replicas still serve what they were told.
        fact = is_false(CONDITION_ADAPTERS_READY, error.failure.reason, error.failure.message)
        return AdapterView(pool.status.adapters, fact, FAILED_LOOK_S)
    addresses = _find_addresses(pods, replicas)
    wanted = _build_wanted(key, plan)
    held = dict(await context.tell_adapters(addresses, wanted, compute_pool_token(key, pool))) if addresses else {}
    told = {name: held.get(name) for name in addresses}
    statuses = build_adapter_statuses(pool, plan, told, {})
    if _is_incomplete(plan, statuses) and (troubles := await _observe_troubles(context, pool, plan)):
        statuses = build_adapter_statuses(pool, plan, told, troubles)
    return AdapterView(statuses, build_adapters_fact(pool, statuses), _next_look_s(plan, statuses, told))


async def read_token_hash(context: Context, pool: InferencePool) -> str:
    """Return what the replicas of a pool know of the operator's token; nothing where no adapters can be loaded.

    Raises:
        KeyUnreadableError: nobody knows it now.
    """
    if pool.spec.adapters is None:
        return ""
    key = await context.adapter_keys.read(context.kube, context.settings.namespace)
    return compute_token_hash(compute_pool_token(key, pool))


async def _observe_models(context: Context, pool: InferencePool) -> tuple[LLMModel, ...]:
    named = {reference.name for reference in pool.spec.adapters.models} if pool.spec.adapters else set()
    named.add(pool.spec.model_ref.name)
    found = [
        body
        for body in await context.kube.list(LLM_MODELS)
        if body["metadata"].get("namespace") == pool.metadata.namespace
        and (body["metadata"]["name"] in named or (body.get("spec") or {}).get("adapter"))
    ]
    return context.shared.parse_readable(LLMModel, found)


def _find_addresses(pods: Sequence[Object], replicas: Sequence[Replica]) -> dict[str, str]:
    """Return the addresses of the pods that serve or will, by their name."""
    alive = {r.name for r in replicas if r.state in {ReplicaState.STARTING, ReplicaState.READY}}
    return {
        pod["metadata"]["name"]: pod["status"]["podIP"]
        for pod in pods
        if read_rank(pod) == 0
        and pod["metadata"]["labels"].get(LABEL_REPLICA) in alive
        and pod.get("status", {}).get("podIP")
        and pod["status"].get("phase") == "Running"
        and not is_deleted(pod)
        and not has_finished(pod)
    }


def _build_wanted(key: str, plan: AdapterPlan) -> WantedAdapters:
    return WantedAdapters(
        adapters=tuple(
            WantedAdapter(
                name=wanted.name,
                digest=wanted.digest,
                url=compute_share_url(wanted.model),
                token=compute_share_token(key, wanted.model),
            )
            for wanted in plan.load
        )
    )


def _is_incomplete(plan: AdapterPlan, statuses: Sequence[AdapterStatus]) -> bool:
    loading = {wanted.name for wanted in plan.load}
    return any(status.name in loading and status.reason != LOADED for status in statuses)


async def _observe_troubles(context: Context, pool: InferencePool, plan: AdapterPlan) -> dict[str, Failure]:
    """Return why files are not shared, by the name of the adapter."""
    names, namespace = ",".join(sorted(wanted.name for wanted in plan.load)), pool.metadata.namespace or ""
    selector = f"{LABEL_COMPONENT}={COMPONENT_SHARE},{LABEL_MODEL} in ({names})"
    shares = defaultdict(list)
    for pod in await context.kube.list(PODS, namespace=namespace, label_selector=selector):
        shares[pod["metadata"]["labels"][LABEL_MODEL]].append(pod)
    patience_s = context.settings.unschedulable_after_s
    failures = {wanted.name: context.share_troubles.find(namespace, wanted.name) for wanted in plan.load}
    for name, pods in shares.items():
        failures[name] = failures.get(name) or failure_of_share(pods, context.now(), patience_s)
    return {name: failure for name, failure in failures.items() if failure is not None}


def _next_look_s(plan: AdapterPlan, statuses: Sequence[AdapterStatus], told: Mapping[str, object]) -> float | None:
    if any(said is None for said in told.values()) or any(status.reason == LOADING for status in statuses):
        return LOADING_LOOK_S
    if _is_incomplete(plan, statuses):
        return FAILED_LOOK_S
    return LOADED_LOOK_S if told else None
