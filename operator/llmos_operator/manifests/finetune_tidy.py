"""The pod that removes the files of trials from a job's claim."""

from __future__ import annotations

from llmos.api import FineTuneJob
from llmos.api.names import COMPONENT_TIDY, CONTAINER_TIDY, LABEL_COMPONENT, LABEL_JOB, WORK_DIR
from llmos_operator.manifests.common import (
    Manifest,
    build_command,
    build_container_security,
    build_metadata,
    build_owner,
    build_pod_security,
)
from llmos_operator.manifests.finetune import compute_work_claim_name
from llmos_operator.planning.finetune_tidy import DEADLINE_S
from llmos_operator.planning.settings import Settings


def compute_tidy_name(job: FineTuneJob) -> str:
    """Return the name of the pod."""
    return f"{job.metadata.name}-{COMPONENT_TIDY}"


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
    spec: Manifest = {
        # Nothing is held meanwhile, so the kubelet may try again, with its pauses, until the deadline.
        "restartPolicy": "OnFailure",
        "activeDeadlineSeconds": DEADLINE_S,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": build_pod_security(),
        "containers": [container],
        "volumes": [{"name": "work", "persistentVolumeClaim": {"claimName": compute_work_claim_name(job)}}],
    }
    if settings.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    metadata = build_metadata(
        compute_tidy_name(job),
        job.metadata.namespace or "",
        labels={LABEL_JOB: job.metadata.name, LABEL_COMPONENT: COMPONENT_TIDY},
        owner=build_owner(job.kind, job.metadata),
    )
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
