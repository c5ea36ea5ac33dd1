"""The pod of a trial: a train pod with a name, a label and a folder of its own. Everything else is the job's."""

from __future__ import annotations

from llmos.api.names import COMPONENT_TRAIN, CONTAINER_RESTORE, CONTAINER_TRAIN, LABEL_REPLICA, LABEL_TRIAL
from llmos_operator.manifests.common import Manifest


def build_trial_pod(pod: Manifest, job_name: str, trial: int, number: int) -> Manifest:
    """Return the train pod of a job as that of a trial.

    Args:
        pod: a train pod, as of a job that trains once.
        job_name: name of the job.
        trial: number of the trial.
        number: of the trial's attempt.
    """
    metadata, spec = pod["metadata"], pod["spec"]
    name = compute_trial_pod_name(job_name, trial, number)
    labels = {**metadata["labels"], LABEL_TRIAL: str(trial), LABEL_REPLICA: name}
    changed = {
        key: [_tell(each, trial) for each in spec[key]] for key in ("initContainers", "containers") if key in spec
    }
    return {**pod, "metadata": {**metadata, "name": name, "labels": labels}, "spec": {**spec, **changed}}


def _tell(container: Manifest, trial: int) -> Manifest:
    """Return a container that knows of the trial, if it has to."""
    if container["name"] not in {CONTAINER_TRAIN, CONTAINER_RESTORE}:
        return container
    return {**container, "command": [*container["command"], "--trial", str(trial)]}


def compute_trial_pod_name(job_name: str, trial: int, number: int) -> str:
    """Return the name of the pod of a trial's attempt."""
    return f"{job_name}-{COMPONENT_TRAIN}-{trial}-{number}"
