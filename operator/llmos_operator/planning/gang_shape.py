"""Over how many pods a replica is spread, and what can be known to be impossible about it before a pod exists.

A replica that asks for more accelerators than its class has on one node becomes a gang of N = ceil(count / per node)
pods with the same number of accelerators each: an engine divides its work evenly, so one pod with less would hold the
others back. Pure.
"""

from __future__ import annotations

from llmos.api import AcceleratorClass, InferencePool, LLMModel, Reason
from llmos_operator.planning.failures import Failure, build_failure
from llmos_operator.planning.memory_estimate import Accelerators


def refuse_shape(wanted: Accelerators, accelerator: AcceleratorClass | None) -> Failure | None:
    """Return why the accelerators of a replica cannot be had; None if they can, or if nobody knows yet."""
    if accelerator is None:
        return None
    if not wanted.is_even:
        return _refuse_uneven(wanted, accelerator.metadata.name)
    status = accelerator.status
    if accelerator.spec.autoprovisioned or status.observed_generation == 0:
        return None
    if status.largest_node >= wanted.per_pod and status.capacity >= wanted.count:
        return None
    return _refuse_size(wanted, accelerator)


def refuse_claim(pool: InferencePool, model: LLMModel | None, wanted: Accelerators) -> Failure | None:
    """Return that the pods of a gang, each on a node of its own, cannot share a claim for one node."""
    if wanted.pods == 1 or model is None or pool.spec.engine.name == "simulator":
        return None
    storage = model.spec.storage
    if storage.mode != "claim" or storage.access_mode == "ReadWriteMany":
        return None
    detail = (
        f"A replica has {wanted.pods} pods on several nodes, and LLMModel {model.metadata.name} lies in a claim of "
        f"access mode {storage.access_mode}. Set its storage.accessMode to ReadWriteMany (a new LLMModel, for a claim "
        "that exists keeps its mode), or storage.mode to ephemeral: then each pod fetches for itself."
    )
    return build_failure(Reason.InvalidSpec, detail)


def _refuse_uneven(wanted: Accelerators, name: str) -> Failure:
    less = wanted.count - wanted.count % wanted.pods
    more = less + wanted.pods
    counts = f"{less} or {more}" if less > wanted.per_node * (wanted.pods - 1) else f"{more}"
    detail = (
        f"A replica of {wanted.count} x {name} needs {wanted.pods} nodes of {wanted.per_node}, and its pods must have "
        f"the same number each. Set spec.accelerator.count to {counts}."
    )
    return build_failure(Reason.InvalidSpec, detail)


def _refuse_size(wanted: Accelerators, accelerator: AcceleratorClass) -> Failure:
    status, name = accelerator.status, accelerator.metadata.name
    has = f"{status.capacity} on {status.nodes} nodes in all"
    if wanted.pods == 1:
        need = f"A replica needs {wanted.count} x {name} on one node"
    else:
        need = f"A replica of {wanted.count} x {name} needs {wanted.pods} nodes with {wanted.per_pod} each"
    remedy = ""
    if 0 < status.largest_node < wanted.per_pod <= status.capacity:
        remedy = (
            f" To spread it over more nodes, set spec.countPerNode of the class to {status.largest_node}: it says "
            f"{accelerator.spec.count_per_node}."
        )
    detail = f"{need}; the largest node has {status.largest_node} ({has}).{remedy}"
    return build_failure(Reason.NoNodeHasAccelerator, detail)
