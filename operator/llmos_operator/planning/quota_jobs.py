"""Attempts of FineTuneJobs as gangs of the ledger, read from their train pods alone. Pure.

Everything that the ledger must know stands on the pod: its class in an annotation, its accelerators in what it asks
for, the longest time to save its work in its grace period. So an attempt whose job is gone holds what it holds until
its pod has ended, and so does one whose class is gone, or cannot be read: it counts under the name of that class, with
what its pods ask for. Only when a job last saved its work is the job's to say.

A job may be asked to go for others like a burst replica, and after those; one that saved its work a short time ago
before others (`quota/victims.py`). The owner of a gang is told apart from a pool of the same name by `job:`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from llmos.api import AcceleratorClass, FineTuneJob, Tenant
from llmos.api.names import COMPONENT_TRAIN, CPU_CLASS, LABEL_COMPONENT, LABEL_JOB, LABEL_REPLICA
from llmos.api.tenancy import Owners
from llmos_operator.planning.quota import Gang, GangKind, GangState, Placement
from llmos_operator.planning.quota_pods import (
    clamp_priority,
    count_requested,
    has_ended,
    has_gate,
    read_class,
    read_classes,
    read_created_s,
    read_labels,
    read_node,
    read_size,
    read_state,
)
from llmos_operator.planning.quota_record import read_record

JsonObject = Mapping[str, Any]

_MARK: Final = "job:"
_USUAL_GRACE_S: Final = 30.0


def build_job_owner(namespace: str, name: str) -> str:
    """Return how the ledger calls a job."""
    return f"{namespace}/{_MARK}{name}"


def read_job_owner(owner: str) -> tuple[str, str] | None:
    """Return namespace and name of the job that an owner of gangs is; None if it is a pool."""
    namespace, _, name = owner.partition("/")
    return (namespace, name.removeprefix(_MARK)) if name.startswith(_MARK) else None


def is_train_pod(pod: JsonObject) -> bool:
    """Whether a pod is of an attempt of a job."""
    labels = read_labels(pod)
    return LABEL_JOB in labels and LABEL_REPLICA in labels and labels.get(LABEL_COMPONENT) == COMPONENT_TRAIN


def build_job_gangs(
    attempts: Iterable[tuple[tuple[str, str], Sequence[JsonObject]]],
    classes: Iterable[AcceleratorClass],
    jobs: Iterable[FineTuneJob],
    owners: Owners,
    tenants: Mapping[str, Tenant],
) -> list[Gang]:
    """Return the attempts that wait for accelerators or hold some.

    Args:
        attempts: their pods, leaders first, with namespace and name of each.
        classes: all that can be read.
        jobs: all that can be read.
        owners: whose each namespace is.
        tenants: all that can be read, by name.
    """
    attempts = tuple(attempts)
    known = {each.metadata.name: each for each in classes}
    saved = {_owner_of_job(job): _saved_s(job) for job in jobs}
    succeeded = _find_succeeded(members for _, members in attempts)
    gangs = []
    for (namespace, name), members in attempts:
        if members[0]["metadata"].get("uid", "") in succeeded:
            continue
        class_name = read_class(members[0])
        if class_name in ("", CPU_CLASS) or all(map(has_ended, members)):
            continue
        tenant = owners.by_namespace.get(namespace, "")
        will_do = tuple(each for each in read_classes(members[0]) if each in known)
        gang = _build_gang(name, members, known.get(class_name), will_do, tenant, tenants.get(tenant), saved)
        is_known, is_whole = class_name in known, len(members) >= read_size(members)
        # What waits for a class that is not there waits for nothing.
        if gang.placement is not None or (is_known and (gang.state is not GangState.WAITING or is_whole)):
            gangs.append(gang)
    return gangs


def _find_succeeded(gangs: Iterable[Sequence[JsonObject]]) -> frozenset[str]:
    """Return the leaders, by uid, whose gang's room another one holds now, which is whole and was made in its place."""
    holding = (members for members in gangs if len(members) >= read_size(members) and not all(map(has_ended, members)))
    whole = (read_record(members[0]["metadata"]).succeeds for members in holding)
    return frozenset(uid for uid in whole if uid)


def _build_gang(
    name: str,
    pods: Sequence[JsonObject],
    accelerator: AcceleratorClass | None,
    classes: tuple[str, ...],
    owner: str,
    tenant: Tenant | None,
    saved: Mapping[str, float | None],
) -> Gang:
    leader, class_name = pods[0], read_class(pods[0])
    record = read_record(leader["metadata"])
    state = read_state(pods, record)
    holds_nothing = state is GangState.WAITING or (record.placement is None and all(map(has_gate, pods)))
    bound = tuple(node for pod in pods if (node := read_node(pod)))
    created_s = read_created_s(leader)
    admitted_s = record.admitted_s or created_s
    namespace = leader["metadata"]["namespace"]
    job = build_job_owner(namespace, read_labels(leader)[LABEL_JOB])
    return Gang(
        id=f"{namespace}/{name}",
        tenant=owner,
        owner=job,
        kind=GangKind.JOB,
        classes=classes or (class_name,),
        pods=len(record.placement.nodes) if record.placement else max(len(pods), read_size(pods)),
        accelerators_per_pod=_count_accelerators(leader, accelerator),
        priority=clamp_priority(leader, tenant),
        created_s=created_s,
        node_selector=_extra_selector(leader, accelerator) if accelerator is not None else frozenset(),
        grace_s=float(leader["spec"].get("terminationGracePeriodSeconds") or _USUAL_GRACE_S),
        state=state,
        since_s=admitted_s,
        placement=None if holds_nothing else record.placement or Placement(class_name, bound),
        admitted_s=admitted_s,
        saved_s=saved.get(job),
        stop=record.stop,
        reservation=record.reservation if state is GangState.WAITING else None,
        attempts=record.attempts,
        retry_at_s=record.retry_at_s,
    )


def _count_accelerators(pod: JsonObject, accelerator: AcceleratorClass | None) -> int:
    """Return the accelerators that a pod asks for; of a class that is gone, whatever it asks for beside processors and
    memory: only what a device plugin offers has the name of a domain before it."""
    containers = pod["spec"]["containers"]
    if accelerator is not None:
        return sum(count_requested(container, accelerator.spec.resource_name) for container in containers)
    limits = ((container, (container.get("resources") or {}).get("limits") or {}) for container in containers)
    return sum(count_requested(container, name) for container, named in limits for name in named if "/" in name)


def _extra_selector(pod: JsonObject, accelerator: AcceleratorClass) -> frozenset[tuple[str, str]]:
    """Return what else the nodes must have: the job's claim may be reachable from some nodes only."""
    wanted = pod["spec"].get("nodeSelector") or {}
    return frozenset(item for item in wanted.items() if item not in accelerator.spec.node_selector.items())


def _owner_of_job(job: FineTuneJob) -> str:
    return build_job_owner(job.metadata.namespace or "", job.metadata.name)


def _saved_s(job: FineTuneJob) -> float | None:
    checkpoint = job.status.last_checkpoint
    return checkpoint.time.timestamp() if checkpoint is not None else None
