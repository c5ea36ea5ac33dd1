"""The pod of a trial: a train pod with name, label, values and folder of its own. Everything else is the job's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from llmos.api.names import COMPONENT_TRAIN, CONTAINER_RESTORE, CONTAINER_TRAIN, LABEL_REPLICA, LABEL_TRIAL
from llmos_operator.manifests.common import Manifest

_VALUES = "--parameters"


def build_trial_pod(pod: Manifest, job_name: str, trial: int, number: int, values: Mapping[str, float]) -> Manifest:
    """Return the train pod of a job as that of a trial.

    Args:
        pod: a train pod, as of a job that trains once.
        job_name: name of the job.
        trial: number of the trial.
        number: of the trial's attempt.
        values: what it trains with.
    """
    metadata, spec = pod["metadata"], pod["spec"]
    name = compute_trial_pod_name(job_name, trial, number)
    labels = {**metadata["labels"], LABEL_TRIAL: str(trial), LABEL_REPLICA: name}
    changed = {
        key: [_tell(each, trial, values) for each in spec[key]]
        for key in ("initContainers", "containers")
        if key in spec
    }
    return {**pod, "metadata": {**metadata, "name": name, "labels": labels}, "spec": {**spec, **changed}}


def _tell(container: Manifest, trial: int, values: Mapping[str, float]) -> Manifest:
    """Return a container that knows of the trial, if it has to, and with which values, if it trains."""
    if container["name"] not in {CONTAINER_TRAIN, CONTAINER_RESTORE}:
        return container
    told = ["--trial", str(trial)]
    if container["name"] == CONTAINER_TRAIN:
        told += [_VALUES, json.dumps(dict(values))]
    return {**container, "command": [*container["command"], *told]}


def read_trial_values(pod: Mapping[str, Any]) -> dict[str, float]:
    """Return what a pod was told to train with; nothing if it says nothing that can be read."""
    command = [*pod["spec"]["containers"][0].get("command", ())]
    try:
        values = json.loads(command[command.index(_VALUES) + 1])
        return {str(name): float(value) for name, value in values.items()}
    except (ValueError, IndexError, AttributeError, TypeError):
        return {}


def compute_trial_pod_name(job_name: str, trial: int, number: int) -> str:
    """Return the name of the pod of a trial's attempt."""
    return f"{job_name}-{COMPONENT_TRAIN}-{trial}-{number}"
