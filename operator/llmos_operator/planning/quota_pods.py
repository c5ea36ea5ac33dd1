"""What the ledger reads from the pods of a gang, whoever its owner is. Pure.

It looks at all pods many times a second, so it is shown of each only what it reads (`show_pod`): a whole pod is ten
times as large.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import is_
from typing import Any, Final

from llmos.api import AcceleratorClass, Tenant
from llmos.api.names import (
    ANNOTATION_ACCELERATOR_CLASS,
    ANNOTATION_ACCELERATOR_CLASSES,
    ANNOTATION_QUOTA,
    GATE_QUOTA,
    LABEL_GANG_SIZE,
    LABEL_RANK,
)
from llmos_operator.planning.failures import read_time
from llmos_operator.planning.quantities import parse_quantity_bytes
from llmos_operator.planning.quota import GangState
from llmos_operator.planning.quota_record import QuotaRecord

JsonObject = Mapping[str, Any]

_METADATA: Final = ("name", "namespace", "uid", "labels", "creationTimestamp", "deletionTimestamp")
_ANNOTATIONS: Final = (ANNOTATION_QUOTA, ANNOTATION_ACCELERATOR_CLASS, ANNOTATION_ACCELERATOR_CLASSES)
_SPEC: Final = ("schedulingGates", "nodeName", "nodeSelector", "affinity", "priority", "terminationGracePeriodSeconds")

FINISHED: Final = frozenset({"Succeeded", "Failed"})
_LONGEST_NUMBER: Final = 4


def show_pod(pod: JsonObject) -> dict[str, Any]:
    """Return what the ledger reads of a pod, and what its writes to a pod are made from."""
    metadata, spec = pod["metadata"], pod["spec"]
    annotations = metadata.get("annotations") or {}
    return {
        "metadata": {key: metadata[key] for key in _METADATA if key in metadata}
        | {"annotations": {key: annotations[key] for key in _ANNOTATIONS if key in annotations}},
        "spec": {key: spec[key] for key in _SPEC if key in spec}
        | {"containers": [{"resources": each.get("resources") or {}} for each in spec["containers"]]},
        "status": {"phase": (pod.get("status") or {}).get("phase", "")},
    }


def are_same(before: Sequence[object], now: Sequence[object]) -> bool:
    """Whether these are the very same objects: what did not change stays the same one from look to look."""
    return len(before) == len(now) and all(map(is_, before, now))


def is_gated(pod: JsonObject) -> bool:
    """Whether a pod waits for the ledger."""
    return any(gate.get("name") == GATE_QUOTA for gate in pod["spec"].get("schedulingGates", ()))


def has_gate(pod: JsonObject) -> bool:
    """Whether a pod waits for anybody: it holds nothing."""
    return bool(pod["spec"].get("schedulingGates"))


def has_ended(pod: JsonObject) -> bool:
    """Whether a pod holds nothing any more and never will: it has run, or it is being deleted and has no node.

    The API server binds no pod that is being deleted, so there is no need to wait until it is gone.
    """
    return read_phase(pod) in FINISHED or ("deletionTimestamp" in pod["metadata"] and not read_node(pod))


def read_rank(pod: JsonObject) -> int:
    """Return the place of a pod in its gang; the leader has 0."""
    return _read_number(pod, LABEL_RANK, 0)


def read_order(pod: JsonObject) -> tuple[int, str]:
    """Return by what the pods of a gang are sorted: the leader is first."""
    return read_rank(pod), pod["metadata"]["name"]


def read_size(pods: Iterable[JsonObject]) -> int:
    """Return how many pods the gang has when it is whole."""
    return max(_read_number(pod, LABEL_GANG_SIZE, 1) for pod in pods)


def _read_number(pod: JsonObject, label: str, otherwise: int) -> int:
    text = read_labels(pod).get(label, "")
    return int(text) if text.isdecimal() and len(text) <= _LONGEST_NUMBER else otherwise


def requests_accelerators(pod: JsonObject, classes: Iterable[AcceleratorClass]) -> bool:
    """Whether a pod holds accelerators of any of these classes, or will."""
    resources = {accelerator.spec.resource_name for accelerator in classes}
    return any(count_requested(container, name) for container in pod["spec"]["containers"] for name in resources)


def read_class(pod: JsonObject) -> str:
    """Return the class that a pod says it was made for; empty if it does not."""
    return str((pod["metadata"].get("annotations") or {}).get(ANNOTATION_ACCELERATOR_CLASS, ""))


def read_classes(pod: JsonObject) -> tuple[str, ...]:
    """Return the classes that will do for a pod's gang, the preferred one first: the one of the pod is among them."""
    named = str((pod["metadata"].get("annotations") or {}).get(ANNOTATION_ACCELERATOR_CLASSES, ""))
    made_for, names = read_class(pod), tuple(name for name in named.split(",") if name)
    return names if made_for in names else (made_for,)


def read_state(pods: Sequence[JsonObject], record: QuotaRecord) -> GangState:
    """Return where a gang is in its life."""
    if record.is_withdrawn or any("deletionTimestamp" in pod["metadata"] for pod in pods):
        return GangState.ENDING
    if record.stop is not None:
        return GangState.STOPPING
    if record.placement is not None and all(map(is_gated, pods)):
        # It holds its room already: its pods are released when all of them are there, or others are made for its class.
        return GangState.STARTING
    if all(map(is_gated, pods)) or (record.placement is None and all(map(has_gate, pods))):
        return GangState.WAITING
    return GangState.RUNNING if all(read_node(pod) for pod in pods) else GangState.STARTING


def count_requested(container: JsonObject, resource: str) -> int:
    """Return how many of an extended resource a container asks for."""
    # For extended resources requests equal limits, and the API server fills in the requests.
    resources = container.get("resources", {})
    wanted = (resources.get("requests") or {}).get(resource) or (resources.get("limits") or {}).get(resource, "0")
    return parse_quantity_bytes(str(wanted))


def read_node(pod: JsonObject) -> str:
    """Return the node that a pod stands on; empty if it has none."""
    return str(pod["spec"].get("nodeName") or "")


def read_phase(pod: JsonObject) -> str:
    """Return a pod's phase."""
    return str(pod.get("status", {}).get("phase", ""))


def read_labels(manifest: JsonObject) -> Mapping[str, str]:
    """Return an object's labels."""
    labels: Mapping[str, str] = manifest["metadata"].get("labels") or {}
    return labels


def read_created_s(pod: JsonObject) -> float:
    """Return when a pod was made, in seconds since 1970."""
    created = read_time(pod["metadata"].get("creationTimestamp"))
    return created.timestamp() if created is not None else 0.0


def clamp_priority(pod: JsonObject, tenant: Tenant | None) -> int:
    """Return a pod's priority within what its tenant may have."""
    priority = int(pod["spec"].get("priority") or 0)
    if tenant is None:
        return priority
    return min(max(priority, tenant.spec.priority_range.min), tenant.spec.priority_range.max)
