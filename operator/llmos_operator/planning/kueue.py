"""Kueue in place of the quota ledger: which queue a pool's replicas wait in, and what is told of them. Pure.

With `quota.admission: kueue` this operator admits nothing. It makes the pods of pools on accelerators with Kueue's
queue label and with Kueue's own scheduling gate. Kueue's webhook would put that gate on as well; a pod that has it from
the beginning cannot start where there is no webhook. Kueue looks for the gate before it adds it, and leaves gates out
of what it compares pods by (its pkg/util/pod: `gateSpec`, `SpecShape`).

- A replica of one pod is a plain pod to Kueue, with a Workload of its own.
- Several pods are a pod group. A group that Kueue stopped is not mended: the replica that takes its place is another
  group with another name, so that it never meets the Workload of the one before. `retriable-in-group: false` says so,
  and lets Kueue give back the quota and the finalizers of a group whose pods have ended.
- A pod that Kueue stops gets the condition TerminationTarget and is then deleted. It has not failed: it ends within its
  grace period like every replica that goes, and the next one waits in the queue.
- What waits behind the gate of whoever is not in charge any more would wait for ever: it holds nothing, and is made
  anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from llmos.api import FineTuneJob, InferencePool, Reason, Tenant
from llmos.api.names import (
    CONDITION_GUARANTEED,
    CPU_CLASS,
    KUEUE_GATE,
    KUEUE_GROUP,
    KUEUE_GROUP_RETRIABLE,
    KUEUE_GROUP_SIZE,
    KUEUE_JOB_UID,
    KUEUE_MANAGED,
    KUEUE_PRIORITY,
    KUEUE_QUEUE,
    KUEUE_STOPPED,
    LABEL_REPLICA,
)
from llmos.api.tenancy import find_owners
from llmos_operator.planning.conditions import Fact, is_false, is_unknown
from llmos_operator.planning.failures import Failure, build_failure, describe
from llmos_operator.planning.quota_pods import is_gated
from llmos_operator.planning.quota_record import QuotaRecord, build_record_annotation, read_record
from llmos_operator.planning.settings import Admitter, Settings

JsonObject = Mapping[str, Any]
Owner = InferencePool | FineTuneJob

GROUP_NAME_LIMIT: Final = 63
_VERSIONS: Final = ("v1beta2", "v1beta1")
"""Versions of Kueue's API that we can read, the best one first."""


@dataclass(frozen=True)
class Sight:
    """What was seen of Kueue, for one replica that waits."""

    is_installed: bool
    queue: JsonObject | None = None
    """The LocalQueue."""
    workload: JsonObject | None = None
    """What stands for the replica in Kueue."""


def read_class(owner: Owner) -> str:
    """Return the accelerator class that a pool or job asks for."""
    spec = owner.spec.trainer if isinstance(owner, FineTuneJob) else owner.spec
    return spec.accelerator.class_name


def choose_queue(pool: Owner, tenants: Iterable[Tenant], settings: Settings) -> str:
    """Return the LocalQueue of a pool or job; empty if Kueue has nothing to say about it."""
    if settings.admission is not Admitter.KUEUE or read_class(pool) == CPU_CLASS:
        return ""
    tenants = tuple(tenants)
    owner = find_owners(tenants).by_namespace.get(pool.metadata.namespace or "", "")
    named = next((each.spec.kueue.queue_name for each in tenants if each.metadata.name == owner), "")
    return pool.metadata.labels.get(KUEUE_QUEUE, "") or named or settings.kueue_queue


def build_queue_labels(pool: Owner, queue: str) -> dict[str, str]:
    """Return what Kueue reads of a pod. The priority of its PriorityClass counts unless the pool names another one."""
    priority = pool.metadata.labels.get(KUEUE_PRIORITY, "")
    return {KUEUE_QUEUE: queue} | ({KUEUE_PRIORITY: priority} if priority else {})


def build_group(replica: str, size: int, others: Iterable[JsonObject], now: datetime) -> tuple[JsonObject, JsonObject]:
    """Return labels and annotations that make the pods of a replica one pod group; nothing for a single pod.

    Args:
        replica: name of the replica.
        size: its pods.
        others: pods of the replica that are there already, of which it keeps the name.
        now: the current time, which makes a new name.
    """
    if size == 1:
        return {}, {}
    known = next((name for pod in others if (name := _labels(pod).get(KUEUE_GROUP))), "")
    suffix = f"-{int(now.timestamp()):x}"
    name = known or replica[: GROUP_NAME_LIMIT - len(suffix)].rstrip("-") + suffix
    return {KUEUE_GROUP: name}, {KUEUE_GROUP_SIZE: str(size), KUEUE_GROUP_RETRIABLE: "false"}


def is_gated_by_kueue(pod: JsonObject) -> bool:
    """Whether a pod waits for Kueue."""
    return any(gate.get("name") == KUEUE_GATE for gate in pod["spec"].get("schedulingGates", ()))


def waits_for_admission(pod: JsonObject) -> bool:
    """Whether a pod waits for its accelerators, whoever gives them out."""
    return is_gated(pod) or is_gated_by_kueue(pod)


def is_stopped(pod: JsonObject) -> bool:
    """Whether Kueue has taken back the admission of a pod, which it deletes next."""
    return _stop_of(pod) is not None


def find_superseded(pods: Sequence[JsonObject], admission: Admitter, *, has_quota: bool) -> list[JsonObject]:
    """Return pods of replicas that wait behind the gate of whoever is not in charge.

    Where the ledger is in charge, Kueue's gate alone is wrong only before the ledger has admitted the pod, for Kueue's
    webhook may add it to every pod; without quota it is somebody else's wish, and stays.
    """
    replicas: dict[str, list[JsonObject]] = {}
    for pod in pods:
        replicas.setdefault(_labels(pod).get(LABEL_REPLICA, ""), []).append(pod)
    return [
        pod
        for members in replicas.values()
        if all(_is_behind_wrong_gate(each, admission, has_quota=has_quota) for each in members)
        for pod in members
    ]


def _is_behind_wrong_gate(pod: JsonObject, admission: Admitter, *, has_quota: bool) -> bool:
    if "deletionTimestamp" in pod["metadata"]:
        return False
    if admission is Admitter.KUEUE:
        return is_gated(pod)
    is_admitted = read_record(pod["metadata"]).admitted_s > 0
    return has_quota and is_gated_by_kueue(pod) and not is_gated(pod) and not is_admitted


def find_admitted(pods: Iterable[JsonObject], now: datetime) -> list[tuple[JsonObject, Mapping[str, str]]]:
    """Return pods that Kueue has admitted since the last look, with the annotation that notes when.

    Without the note, a replica that waited for an hour would count as one that cannot start for an hour.
    """
    noted = build_record_annotation(QuotaRecord(admitted_s=float(int(now.timestamp()))))
    return [
        (pod, noted)
        for pod in pods
        if _labels(pod).get(KUEUE_QUEUE)
        and not waits_for_admission(pod)
        and "deletionTimestamp" not in pod["metadata"]
        and not read_record(pod["metadata"]).admitted_s
    ]


def find_misplaced(pods: Iterable[JsonObject], labels: Mapping[str, str]) -> list[JsonObject]:
    """Return pods that wait in another queue, or with another priority, than their pool says by now.

    A priority that the pool does not name is Kueue's default, and stays.
    """
    return [
        pod
        for pod in pods
        if is_gated_by_kueue(pod)
        and not is_gated(pod)
        and "deletionTimestamp" not in pod["metadata"]
        and any(_labels(pod).get(key) != value for key, value in labels.items())
    ]


def choose_version(crd: JsonObject | None) -> str:
    """Return the version of Kueue's API to read, from the CRD of LocalQueues; empty if there is none that we know."""
    served = {each["name"] for each in (crd or {}).get("spec", {}).get("versions", ()) if each.get("served")}
    return next((version for version in _VERSIONS if version in served), "")


def workload_selector(pod: JsonObject) -> tuple[str, str]:
    """Return name and label selector of the Workload that stands for a pod; one of the two is empty."""
    group = _labels(pod).get(KUEUE_GROUP, "")
    return (group, "") if group else ("", f"{KUEUE_JOB_UID}={pod['metadata']['uid']}")


def explain_waiting(queue: str, pod: JsonObject, sight: Sight) -> Failure:
    """Say why a replica waits.

    Args:
        queue: name of the LocalQueue.
        pod: the leader of the replica that waits longest.
        sight: what was seen of Kueue.
    """
    namespace = pod["metadata"]["namespace"]
    if not sight.is_installed:
        return build_failure(Reason.KueueNotInstalled)
    if sight.queue is None:
        return build_failure(Reason.QueueNotFound, f"Namespace {namespace} has no LocalQueue {queue}.")
    active = _condition(sight.queue, "Active")
    if active.get("status") == "False":
        return build_failure(Reason.QueueInactive, f"LocalQueue {queue}: {active.get('message') or 'inactive'}.")
    if _labels(pod).get(KUEUE_MANAGED) != "true":
        name = pod["metadata"]["name"]
        return build_failure(Reason.NotManagedByKueue, f"Pod {name} lacks the label {KUEUE_MANAGED}: true.")
    # How many others wait is left out: whenever it changed, the status of every pool that waits would be written.
    said = _condition(sight.workload or {}, "QuotaReserved").get("message", "")
    says = f" Kueue says: {said.rstrip('. ')}." if said else ""
    return build_failure(Reason.WaitsForKueue, f"It waits for Kueue's admission in queue {queue}.{says}")


def build_decides_fact(*, is_installed: bool) -> Fact:
    """Say on a Tenant that its guarantee has no effect, or that nobody admits anything."""
    if is_installed:
        return is_unknown(CONDITION_GUARANTEED, Reason.KueueDecides)
    return is_false(CONDITION_GUARANTEED, Reason.KueueNotInstalled, describe(Reason.KueueNotInstalled))


def explain_foreign_gate(pods: Iterable[JsonObject], settings: Settings) -> Failure | None:
    """Say that pods wait for Kueue alone although this installation does not follow it; None if none does."""
    held = any(is_gated_by_kueue(pod) and not is_gated(pod) for pod in pods)
    if settings.admission is Admitter.KUEUE or not held:
        return None
    detail = "Kueue's webhook holds this pod, and this installation does not follow Kueue (quota.admission: llmos)."
    return build_failure(Reason.WaitsForKueue, detail)


def explain_stops(pods: Iterable[JsonObject]) -> str:
    """Say in one sentence what Kueue stopped; empty if nothing."""
    stops = [(pod["metadata"]["name"], stop) for pod in pods if (stop := _stop_of(pod)) is not None]
    if not stops:
        return ""
    name, stop = stops[0]
    more = f" and {len(stops) - 1} more" if len(stops) > 1 else ""
    return f"Kueue stopped pod {name}{more} ({stop.get('reason', '')}: {stop.get('message', '')})."


def _stop_of(pod: JsonObject) -> JsonObject | None:
    stop = _condition(pod, KUEUE_STOPPED)
    return stop if stop.get("status") == "True" else None


def _condition(item: JsonObject, kind: str) -> JsonObject:
    conditions = item.get("status", {}).get("conditions", ())
    return next((each for each in conditions if each.get("type") == kind), {})


def _labels(pod: JsonObject) -> Mapping[str, str]:
    labels: Mapping[str, str] = pod["metadata"].get("labels") or {}
    return labels
