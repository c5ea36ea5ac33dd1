"""Part of a pass over an LLMModel that is an adapter: have its files shared while a pool wants them, and only then."""

from __future__ import annotations

from typing import Final

from llmos.api import LLMModel, LLMModelStatus, Reason
from llmos.api.adapters import compute_token_hash
from llmos.api.names import COMPONENT_SHARE, CONDITION_READY, LABEL_COMPONENT, LABEL_MODEL
from llmos_operator.kube.errors import Forbidden, Invalid
from llmos_operator.kube.resources import INFERENCE_POOLS, PODS, SERVICES
from llmos_operator.manifests.share import build_share_pod, build_share_service
from llmos_operator.planning.adapter_tokens import compute_share_token
from llmos_operator.planning.failures import Failure, build_failure
from llmos_operator.planning.shares import is_wanted_by, plan_share
from llmos_operator.reconcilers.adapter_key import KeyUnreadableError
from llmos_operator.reconcilers.base import Context
from llmos_operator.reconcilers.writing import apply_if_needed

REFUSED_RETRY_S: Final = 15.0


async def reconcile_share(context: Context, model: LLMModel, status: LLMModelStatus) -> float | None:
    """Make, replace or delete the share pod and its Service; return when to look again, in seconds.

    What the API server refuses is said in the status of the pools that wait for the adapter.
    """
    was_adapter = model.status.resolved is not None and model.status.resolved.adapter is not None
    if model.spec.adapter is None and not was_adapter:
        return None
    refused: Failure | None = None
    try:
        await _reconcile(context, model, status)
    except KeyUnreadableError as error:
        refused = error.failure
    except (Forbidden, Invalid) as error:
        refused = build_failure(Reason.ForbiddenByPolicy, f"The API server says: {error.message}")
    context.share_troubles.note(model.metadata.namespace or "", model.metadata.name, refused)
    return REFUSED_RETRY_S if refused else None


async def _reconcile(context: Context, model: LLMModel, status: LLMModelStatus) -> None:
    namespace = model.metadata.namespace or ""
    selector = f"{LABEL_MODEL}={model.metadata.name},{LABEL_COMPONENT}={COMPONENT_SHARE}"
    pods = await context.kube.list(PODS, namespace=namespace, label_selector=selector)
    resolved = status.resolved
    is_ready = any(c.type == CONDITION_READY and c.status == "True" for c in status.conditions)
    is_wanted = any(is_wanted_by(pool, model) for pool in await context.kube.list(INFERENCE_POOLS))
    if is_wanted and (resolved is None or not is_ready):
        # Its next version is being looked at: who needs the one before still gets it.
        return
    token = await _read_token(context, model) if is_wanted else ""
    plan = plan_share(
        pods,
        digest=resolved.digest if resolved else "",
        is_wanted=is_wanted,
        now=context.now(),
        token_hash=compute_token_hash(token) if token else "",
    )
    await _reconcile_service(context, model, is_wanted=is_wanted, had_pods=bool(pods))
    if plan.create_attempt is not None and resolved is not None:
        # The claim's name is made from what was inspected now.
        known = model.model_copy(update={"status": status})
        await context.kube.apply(
            build_share_pod(known, resolved, attempt=plan.create_attempt, token=token, settings=context.settings)
        )
    for removal in plan.delete:
        metadata = removal.pod["metadata"]
        grace_period_s = 0 if removal.is_lost else None
        await context.kube.delete(PODS, metadata["name"], namespace, uid=metadata["uid"], grace_period_s=grace_period_s)


async def _read_token(context: Context, model: LLMModel) -> str:
    return compute_share_token(await context.adapter_keys.read(context.kube, context.settings.namespace), model)


async def _reconcile_service(context: Context, model: LLMModel, *, is_wanted: bool, had_pods: bool) -> None:
    if not is_wanted and not had_pods:
        return
    service = build_share_service(model)
    name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
    existing = await context.kube.get(SERVICES, name, namespace)
    is_ours = existing is None or existing["metadata"].get("labels", {}).get(LABEL_MODEL) == model.metadata.name
    if not is_ours:
        raise Invalid(f"Service {name} exists already and is not LLMOS's: rename the LLMModel or the Service.")
    if is_wanted:
        await apply_if_needed(context.kube, service, existing)
    elif existing is not None and "deletionTimestamp" not in existing["metadata"]:
        await context.kube.delete(SERVICES, name, namespace, uid=existing["metadata"]["uid"])
