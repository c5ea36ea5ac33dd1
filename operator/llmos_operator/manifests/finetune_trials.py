"""The pod of a trial: a train pod with a name, a label and a folder of its own. Everything else is the job's."""

from __future__ import annotations

from llmos.api.names import COMPONENT_TRAIN, LABEL_REPLICA, LABEL_TRIAL
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
    (main,) = spec["containers"]
    told = {**main, "command": [*main["command"], "--trial", str(trial)]}
    return {**pod, "metadata": {**metadata, "name": name, "labels": labels}, "spec": {**spec, "containers": [told]}}


def compute_trial_pod_name(job_name: str, trial: int, number: int) -> str:
    """Return the name of the pod of a trial's attempt."""
    return f"{job_name}-{COMPONENT_TRAIN}-{trial}-{number}"
