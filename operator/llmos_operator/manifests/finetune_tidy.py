"""Pods that remove files: of trials from a job's claim, and of a job that is deleted from its object store."""

from __future__ import annotations

from collections.abc import Sequence

from llmos.api import FineTuneJob
from llmos.api.names import COMPONENT_TIDY, CONTAINER_TIDY, LABEL_COMPONENT, LABEL_FETCHES, LABEL_JOB, WORK_DIR
from llmos_operator.manifests.common import (
    Manifest,
    build_command,
    build_container_security,
    build_metadata,
    build_owner,
    build_pod_security,
)
from llmos_operator.manifests.finetune import compute_work_claim_name
from llmos_operator.manifests.finetune_store import build_remove_container, build_store_volumes
from llmos_operator.planning.finetune_tidy import DEADLINE_S
from llmos_operator.planning.settings import Settings


def compute_tidy_name(job: FineTuneJob) -> str:
    """Return the name of the pod that removes the files of trials."""
    return f"{job.metadata.name}-{COMPONENT_TIDY}"


def compute_removal_name(job: FineTuneJob) -> str:
    """Return the name of the pod that removes objects."""
    return f"{job.metadata.name}-{COMPONENT_TIDY}-objects"


def build_tidy_pod(job: FineTuneJob, keep: int, settings: Settings) -> Manifest:
    """Return the pod that removes the files of all trials but one."""
    command = build_command("python", "-m", "llmos_workers.tidy", "--work", WORK_DIR, "--keep", str(keep))
    container: Manifest = {
        "name": CONTAINER_TIDY,
        "image": settings.worker_lite_image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": command,
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": build_container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": "work", "mountPath": WORK_DIR}],
    }
    work = {"name": "work", "persistentVolumeClaim": {"claimName": compute_work_claim_name(job)}}
    # Nothing is held meanwhile, so the kubelet may try again, with its pauses, until the deadline.
    pod = _build_pod(job, compute_tidy_name(job), container, [work], settings, restart="OnFailure")
    pod["metadata"]["ownerReferences"] = [build_owner(job.kind, job.metadata)]
    return pod


def build_removal_pod(job: FineTuneJob, needed: Sequence[str], settings: Settings) -> Manifest:
    """Return the pod that removes what a job put into its object store, but for the folders that are `needed`. It tries
    again by itself, so that it ends with the words of its last error."""
    container = build_remove_container(job, needed, settings)
    volumes: list[Manifest] = [{"name": "tmp", "emptyDir": {}}, *build_store_volumes(job, settings)]
    pod = _build_pod(job, compute_removal_name(job), container, volumes, settings, restart="Never")
    pod["metadata"]["labels"][LABEL_FETCHES] = "true"
    return pod


def _build_pod(
    job: FineTuneJob, name: str, container: Manifest, volumes: list[Manifest], settings: Settings, *, restart: str
) -> Manifest:
    spec: Manifest = {
        "restartPolicy": restart,
        "activeDeadlineSeconds": DEADLINE_S,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": build_pod_security(),
        "containers": [container],
        "volumes": volumes,
    }
    if settings.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    labels = {LABEL_JOB: job.metadata.name, LABEL_COMPONENT: COMPONENT_TIDY}
    metadata = build_metadata(name, job.metadata.namespace or "", labels=labels)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
