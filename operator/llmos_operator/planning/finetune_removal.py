"""What becomes of a job's object store when the job is deleted, and when the job may go. Pure.

The rule is that of the claim: files are there as long as the job, or an LLMModel that reads them. A claim goes by its
owners; nobody collects objects, so a finalizer holds the job until they are removed, by a pod without accelerators
(`JOB-tidy-objects`):

    pods that still run       are asked to end, and waited for: they would put more
    no pod removes            one is made
    it has succeeded          the job may go
    it has failed             it said why, after its own retries: the job may go, and its last words name what is left
    its Secret is gone        the same, after `SECRET_WAIT_S`: no retry brings credentials back
    `LIMIT_S` after each step  the same, whatever kept it; the time of an operator that was away does not count

So a deletion ends, with or without its objects. `checkpoint.keepWhenDeleted` leaves all of them alone. Results that an
LLMModel of any namespace reads from there stay, and stay after that: what a model reads belongs to its owner.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from llmos.api import FineTuneJob, FineTuneJobStatus, Reason
from llmos.api.names import CONDITION_READY
from llmos_operator.planning.conditions import build_conditions, is_false
from llmos_operator.planning.failures import describe, failure_of_finished_pod, failure_of_waiting_pod, read_time
from llmos_operator.planning.finetune_places import compute_store_uri
from llmos_operator.planning.gangs import has_finished, is_deleted

Pod = Mapping[str, Any]

LIMIT_S: Final = 900.0
"""So long pods may take to end, and then the one that removes."""
SECRET_WAIT_S: Final = 60.0
LOOK_S: Final = 5.0
_SAID_NOTHING: Final = frozenset({Reason.EngineCrashed, Reason.ReplicaFailed})


@dataclass(frozen=True)
class RemovalPlan:
    """What to do, in this order: stop pods, make the one that removes, tell, let the job go."""

    stop: tuple[Pod, ...] = ()
    create: bool = False
    is_last: bool = False
    """If that is refused now, it is not tried again."""
    is_over: bool = False
    left: str = ""
    """Why not all objects were removed, or are not yet."""
    needed: tuple[str, ...] = ()
    """Folders and objects that models read: who removes what is left is to leave them."""


def removes_objects(job: FineTuneJob) -> bool:
    """Whether the deletion of a job is also that of its objects."""
    return bool(compute_store_uri(job)) and not job.spec.checkpoint.keep_when_deleted


def find_needed(job: FineTuneJob, models: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the folders and objects in a job's object store that models read which are to stay."""
    root = f"{compute_store_uri(job)}/"
    staying = (model for model in models if not is_deleted(model) or _is_in_use(model))
    uris = (str(((model.get("spec") or {}).get("source") or {}).get("uri", "")) for model in staying)
    return tuple(sorted({uri.removeprefix(root).strip("/") for uri in uris if uri.startswith(root)} - {""}))


def _is_in_use(model: Mapping[str, Any]) -> bool:
    """Whether a deleted model is held back for those who use it."""
    conditions = (model.get("status") or {}).get("conditions") or ()
    return any(each.get("type") == CONDITION_READY and each.get("reason") == Reason.InUse.value for each in conditions)


def plan_removal(job: FineTuneJob, pods: Sequence[Pod], remover: Pod | None, now: datetime) -> RemovalPlan:
    """Return what is to be done for a job that is deleted.

    Args:
        job: the job.
        pods: its own, but for the one that removes.
        remover: that one, if it is there.
        now: the current time.
    """
    running = tuple(pod for pod in pods if not has_finished(pod))
    if remover is not None and has_finished(remover):
        return _follow(remover, now)
    if running:
        waited_s = min(_since_s(pod, "deletionTimestamp", now) for pod in running)
        if waited_s >= LIMIT_S:
            return RemovalPlan(is_over=True, left=_say_why(running, remover))
        return RemovalPlan(stop=tuple(pod for pod in running if not is_deleted(pod)))
    if remover is None:
        return RemovalPlan(create=True, is_last=_is_late(job, now))
    if _since_s(remover, "creationTimestamp", now) >= LIMIT_S:
        return RemovalPlan(is_over=True, left=_say_why((), remover))
    return _follow(remover, now)


def build_removal_status(job: FineTuneJob, plan: RemovalPlan, now: datetime) -> FineTuneJobStatus:
    """Return the status of a job that is deleted; all but `Ready` stays as it was."""
    uri = compute_store_uri(job)
    if plan.is_over and plan.left:
        message = describe(Reason.ObjectsLeft, f"{plan.left} What is left is in {uri}.").replace(
            "URI", " ".join((uri, *(f"--exclude '{place}' --exclude '{place}/*'" for place in plan.needed)))
        )
        fact = is_false(CONDITION_READY, Reason.ObjectsLeft, message)
    else:
        words = f"What it put into {uri} is being removed."
        fact = is_false(CONDITION_READY, Reason.Deleting, f"{words} {plan.left}".strip())
    others = [condition for condition in job.status.conditions if condition.type != CONDITION_READY]
    ready = build_conditions((fact,), job.status.conditions, job.metadata.generation, now)
    return job.status.model_copy(
        update={"observed_generation": job.metadata.generation, "conditions": (*others, *ready)}
    )


def _follow(remover: Pod, now: datetime) -> RemovalPlan:
    if has_finished(remover):
        is_done = remover["status"]["phase"] == "Succeeded"
        return RemovalPlan(is_over=True, left="" if is_done else _say_why((), remover))
    waiting = failure_of_waiting_pod(remover)
    if waiting is None:
        return RemovalPlan()
    is_hopeless = (
        waiting.reason is Reason.SecretNotFound and _since_s(remover, "creationTimestamp", now) >= SECRET_WAIT_S
    )
    return RemovalPlan(is_over=is_hopeless, left=waiting.message)


def _is_late(job: FineTuneJob, now: datetime) -> bool:
    saving_s = job.spec.checkpoint.on_preempt.deadline_seconds
    deleted_at = job.metadata.deletion_timestamp
    return deleted_at is not None and now - deleted_at >= timedelta(seconds=saving_s + LIMIT_S)


def _since_s(pod: Pod, event: str, now: datetime) -> float:
    at = read_time(pod["metadata"].get(event))
    return (now - at).total_seconds() if at is not None else 0.0


def _say_why(running: Sequence[Pod], remover: Pod | None) -> str:
    if running:
        names = ", ".join(sorted(pod["metadata"]["name"] for pod in running))
        return f"These pods have not ended, and may still have put something: {names}."
    if remover is None:
        return "No pod could be made that removes them."
    name = remover["metadata"]["name"]
    failure = failure_of_finished_pod(remover) if has_finished(remover) else failure_of_waiting_pod(remover)
    if failure is None:
        return f"Pod {name} did not get done in time."
    return f"Pod {name} ended without saying why." if failure.reason in _SAID_NOTHING else failure.message
