"""Which pods belong to an object, and which of them somebody means who asks for its logs. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from llmos.api import FineTuneJob, InferencePool, LLMModel
from llmos.api.names import (
    COMPONENT_FETCH,
    COMPONENT_INSPECT,
    COMPONENT_PREPARE,
    COMPONENT_REPLICA,
    COMPONENT_TRAIN,
    LABEL_COMPONENT,
    LABEL_JOB,
    LABEL_MODEL,
    LABEL_POOL,
    LABEL_RANK,
)

MOST_PODS: Final = 32
"""Pods whose logs are read at once."""
LABELS: Final[Mapping[type[Any], tuple[str, tuple[str, ...]]]] = {
    LLMModel: (LABEL_MODEL, (COMPONENT_INSPECT, COMPONENT_FETCH)),
    InferencePool: (LABEL_POOL, (COMPONENT_REPLICA,)),
    FineTuneJob: (LABEL_JOB, (COMPONENT_PREPARE, COMPONENT_TRAIN)),
}
"""The label that names the object, and the components of its pods."""


@dataclass(frozen=True)
class Container:
    """A container that has, or had, a log."""

    name: str
    is_running: bool


@dataclass(frozen=True)
class Pod:
    """What of a pod decides about its logs."""

    name: str
    born: str
    component: str
    rank: str
    phase: str
    containers: tuple[Container, ...]
    """Those that started, in the order in which they start."""
    waits_for: str
    """Why it has not started, as far as the pod says it."""

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will be said."""
        return self.phase in ("Succeeded", "Failed")

    def find_container(self, wanted: str | None) -> Container | None:
        """The wanted one, or the last that started; None if there is no log."""
        if wanted is None:
            return self.containers[-1] if self.containers else None
        return next((each for each in self.containers if each.name == wanted), None)


def parse_pod(body: Mapping[str, Any]) -> Pod:
    """Read a Pod of the API."""
    metadata, spec, status = body["metadata"], body.get("spec", {}), body.get("status", {})
    labels = metadata.get("labels", {})
    told = [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]
    states: dict[str, Mapping[str, Any]] = {each["name"]: each.get("state", {}) for each in told}
    names = [each["name"] for each in (*spec.get("initContainers", ()), *spec.get("containers", ()))]
    return Pod(
        name=metadata["name"],
        born=metadata.get("creationTimestamp", ""),
        component=labels.get(LABEL_COMPONENT, ""),
        rank=labels.get(LABEL_RANK, "0"),
        phase=status.get("phase", ""),
        containers=tuple(
            Container(name, "running" in states[name])
            for name in names
            if states.get(name, {}).keys() & {"running", "terminated"}
        ),
        waits_for=_find_wait(status, states.values()),
    )


def _find_wait(status: Mapping[str, Any], states: Iterable[Mapping[str, Any]]) -> str:
    scheduled: Mapping[str, Any] = next(
        (each for each in status.get("conditions", ()) if each["type"] == "PodScheduled"), {}
    )
    waiting = [state["waiting"] for state in states if "waiting" in state]
    told = scheduled if scheduled.get("status") == "False" else waiting[0] if waiting else {}
    return ": ".join(part for part in (told.get("reason", ""), told.get("message", "")) if part)


def choose_pods(pods: tuple[Pod, ...], *, are_replicas: bool, previous: bool = False) -> tuple[Pod, ...]:
    """The pods that somebody who asks for the logs means, the oldest first.

    Replicas of a pool live side by side: all that have not ended, or else the last one; of a gang its leader, for the
    other ranks only say that they wait for it. The pods of jobs and models come one after the other: the last one that
    has a log. `previous` goes one back: replicas that have ended, or the attempt before the last at the same work.
    """
    ordered = sorted((pod for pod in pods if pod.rank == "0"), key=lambda pod: (pod.born, pod.name))
    if are_replicas:
        live = tuple(pod for pod in ordered if not pod.has_ended)
        ended = tuple(pod for pod in ordered if pod.has_ended)
        return (ended if previous else live or ended[-1:])[-MOST_PODS:]
    started = [pod for pod in ordered if pod.containers]
    if previous:
        return tuple(pod for pod in started[:-1] if pod.component == started[-1].component)[-1:]
    return tuple(started[-1:])
