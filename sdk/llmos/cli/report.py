"""Decides what is wrong in a cluster, and what to do about it, from the Ready conditions. Pure.

Three answers for an object: it is ready, LLMOS works on it, or there is a problem. A pool or a job that only waits for
its model is not a second problem: the model's own line says what there is to know.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from llmos.api import REASONS, AcceleratorClass, FineTuneJob, InferencePool, LLMModel, Reason
from llmos.client.readiness import NO_STATUS, AnyKind, build_not_ready, find_remedy, ready_condition

_PATIENCE: Final = timedelta(seconds=30)
"""How long an object may be without a status before that is a problem."""

_IN_LINE: Final = frozenset({Reason.QuotaExceeded, Reason.WaitsForRoom, Reason.WaitsForKueue})

_HOLDING: Final = frozenset({"Training", "Evaluating"})
"""Phases in which a job holds accelerators."""


class State(StrEnum):
    """How an object is."""

    READY = "ready"
    WORKING = "working"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Health:
    """How an object is, why, and what to do."""

    kind: str
    namespace: str | None
    name: str
    state: State
    reason: str
    message: str = ""
    remedy: str = ""

    @property
    def title(self) -> str:
        """Kind and name."""
        return f"{self.kind} {f'{self.namespace}/' if self.namespace else ''}{self.name}"


@dataclass(frozen=True)
class Snapshot:
    """All objects at one time. `jobs` and `accelerators` are None where the user may not see them."""

    models: tuple[LLMModel, ...]
    pools: tuple[InferencePool, ...]
    jobs: tuple[FineTuneJob, ...] | None
    accelerators: tuple[AcceleratorClass, ...] | None


def compute_health(thing: AnyKind, now: datetime) -> Health:
    """How one object is, by itself."""
    condition = ready_condition(thing)
    if condition is None:
        return _without_status(thing, now)
    is_bad = _is_bad(condition.reason) and not _is_queued_again(thing, condition.reason)
    state = State.READY if condition.status == "True" else State.PROBLEM if is_bad else State.WORKING
    remedy = find_remedy(condition, thing.kind) if state is State.PROBLEM else ""
    return _health(thing, state, condition.reason, condition.message, remedy)


def _is_bad(reason: str) -> bool:
    """Whether a reason not to be ready is a problem. One that this program does not know is."""
    return REASONS[Reason(reason)].problem if reason in Reason.__members__ else True


def _is_queued_again(thing: AnyKind, reason: str) -> bool:
    """Whether a job that has trained before waits in line: what was lent to it was wanted back, and that is no
    problem. Whether a job that never ran can ever run is worth a look."""
    if not isinstance(thing, FineTuneJob) or reason not in _IN_LINE:
        return False
    return thing.status.phase == "Queued" and thing.status.attempts.preemptions > 0


def _without_status(thing: AnyKind, now: datetime) -> Health:
    born = thing.metadata.creation_timestamp
    changed = max((condition.last_transition_time for condition in thing.status.conditions), default=born)
    if changed is None or now - changed < _PATIENCE:
        return _health(thing, State.WORKING, NO_STATUS, "The operator has not looked at it yet.")
    error = build_not_ready(thing)
    return _health(thing, State.PROBLEM, NO_STATUS, error.cause, error.remedy)


def _health(thing: AnyKind, state: State, reason: str, message: str = "", remedy: str = "") -> Health:
    return Health(thing.kind, thing.metadata.namespace, thing.metadata.name, state, reason, message, remedy)


def compute_all_health(snapshot: Snapshot, now: datetime) -> tuple[Health, ...]:
    """How all objects are: models, pools, jobs, accelerators."""
    models = tuple(compute_health(model, now) for model in snapshot.models)
    working = {(model.namespace, model.name) for model in models if model.state is State.WORKING}
    pools = (_excuse(pool, pool.spec.model_ref.name, compute_health(pool, now), working) for pool in snapshot.pools)
    jobs = (
        _excuse(job, job.spec.base_model_ref.name, compute_health(job, now), working) for job in snapshot.jobs or ()
    )
    return (*models, *pools, *jobs, *(compute_health(each, now) for each in snapshot.accelerators or ()))


def _excuse(thing: AnyKind, model: str, health: Health, working: set[tuple[str | None, str]]) -> Health:
    """What needs a model that is still being prepared waits; that is no problem."""
    waits = health.reason == Reason.ModelNotReady and (health.namespace, model) in working
    return _health(thing, State.WORKING, health.reason, health.message) if waits else health


def find_problems(healths: Iterable[Health]) -> tuple[Health, ...]:
    """What needs somebody's attention."""
    return tuple(health for health in healths if health.state is State.PROBLEM)


def count_accelerators_in_use(snapshot: Snapshot, class_name: str) -> int:
    """Accelerators of a class that the pools and jobs of the snapshot hold."""
    by_pools = (_count_of_pool(pool, class_name) for pool in snapshot.pools)
    training = [job for job in snapshot.jobs or () if job.status.phase in _HOLDING]
    there = (job.spec.trainer for job in training if _class_of(job) == class_name)
    by_jobs = (trainer.nodes * trainer.accelerators_per_node for trainer in there)
    return sum(by_pools) + sum(by_jobs)


def _count_of_pool(pool: InferencePool, class_name: str) -> int:
    status = pool.status
    if status.accelerator_classes:
        return sum(each.accelerators for each in status.accelerator_classes if each.class_name == class_name)
    return status.accelerators if pool.spec.accelerator.class_name == class_name else 0


def _class_of(job: FineTuneJob) -> str:
    return job.status.accelerator_class or job.spec.trainer.accelerator.class_name


def build_status_json(snapshot: Snapshot, healths: tuple[Health, ...]) -> dict[str, Any]:
    """The whole screen for programs."""
    return {
        "models": [model.to_manifest() for model in snapshot.models],
        "pools": [pool.to_manifest() for pool in snapshot.pools],
        "jobs": [job.to_manifest() for job in snapshot.jobs or ()],
        "accelerators": [each.to_manifest() for each in snapshot.accelerators or ()],
        "health": [
            {
                "kind": health.kind,
                "namespace": health.namespace,
                "name": health.name,
                "state": health.state.value,
                "reason": health.reason,
                "message": health.message,
                "remedy": health.remedy,
            }
            for health in healths
        ],
    }
