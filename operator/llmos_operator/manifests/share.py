"""The pod that gives the files of an adapter to replicas, and its Service.

The pod has the model's Secret only in its init container, as a replica that fetches for itself would. It gives what it
shares to whoever bears a token, of which it knows the sha256. Files that lie in a volume are mounted read-only.
"""

from __future__ import annotations

from llmos.api import LLMModel, ResolvedModel
from llmos.api.adapters import compute_token_hash
from llmos.api.names import (
    ANNOTATION_ATTEMPT,
    COMPONENT_SHARE,
    CONTAINER_SHARE,
    LABEL_COMPONENT,
    LABEL_MODEL,
    LABEL_REVISION,
    MODEL_DIR,
    SHARE_PORT,
    TOKEN_HASH_VARIABLE,
)
from llmos_operator.manifests.common import (
    Manifest,
    build_command,
    build_container_security,
    build_env,
    build_metadata,
    build_owner,
    build_pod_security,
)
from llmos_operator.manifests.steps import (
    ATTEMPTS_IN_NAMES,
    SOURCE_DIR,
    build_fetch_container,
    build_step_volumes,
    compute_claim_name,
    compute_source_claim,
    needs_fetch,
)
from llmos_operator.planning.settings import Settings
from llmos_operator.planning.shares import compute_share_version


def compute_share_url(model: LLMModel) -> str:
    """Return where replicas get the files."""
    return f"http://{_compute_service_name(model)}.{model.metadata.namespace}.svc:{SHARE_PORT}"


def _compute_service_name(model: LLMModel) -> str:
    return f"{model.metadata.name}-share"


def build_share_service(model: LLMModel) -> Manifest:
    """Return the Service in front of the share pod."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": build_metadata(
            _compute_service_name(model),
            model.metadata.namespace or "",
            labels=_build_labels(model),
            owner=build_owner(model.kind, model.metadata),
        ),
        "spec": {
            "selector": _build_labels(model),
            "ports": [{"name": "share", "port": SHARE_PORT, "targetPort": "share", "protocol": "TCP"}],
        },
    }


def build_share_pod(
    model: LLMModel, resolved: ResolvedModel, *, attempt: int, token: str, settings: Settings
) -> Manifest:
    """Return the pod that fetches, or mounts, the adapter and shares it."""
    version = compute_share_version(resolved.digest)
    folder, volumes, mount, init = _build_files(model, resolved, settings)
    spec: Manifest = {
        "restartPolicy": "Always",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 10,
        "securityContext": build_pod_security(),
        "containers": [_build_container(folder, mount, token, settings)],
        "volumes": volumes,
    }
    if init:
        spec["initContainers"] = init
    if settings.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": build_metadata(
            f"{_compute_service_name(model)}-{version}-{attempt % ATTEMPTS_IN_NAMES}",
            model.metadata.namespace or "",
            labels={**_build_labels(model), LABEL_REVISION: version},
            annotations={ANNOTATION_ATTEMPT: str(attempt)},
            owner=build_owner(model.kind, model.metadata),
        ),
        "spec": spec,
    }


def _build_labels(model: LLMModel) -> dict[str, str]:
    return {LABEL_MODEL: model.metadata.name, LABEL_COMPONENT: COMPONENT_SHARE}


def _build_files(
    model: LLMModel, resolved: ResolvedModel, settings: Settings
) -> tuple[str, list[Manifest], Manifest, list[Manifest]]:
    """Return where the files are, with the volumes, the mount and the init containers that bring them there."""
    tmp: Manifest = {"name": "tmp", "emptyDir": {}}
    if not needs_fetch(model, resolved):
        claim, path = compute_source_claim(model) or ("", "")
        volume = {"name": "source", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}
        mount = {"name": "source", "mountPath": SOURCE_DIR, "readOnly": True}
        return f"{SOURCE_DIR}/{path}".rstrip("/"), [tmp, volume], mount, []
    mount = {"name": "model", "mountPath": MODEL_DIR, "readOnly": True}
    folder = f"{MODEL_DIR}/model"
    if model.spec.storage.mode == "claim":
        claim_name = compute_claim_name(model, model.status.source_hash)
        volume = {"name": "model", "persistentVolumeClaim": {"claimName": claim_name, "readOnly": True}}
        return folder, [tmp, volume], mount, []
    volume = {"name": "model", "emptyDir": {"sizeLimit": model.spec.storage.size}}
    fetch = build_fetch_container(model, resolved, settings.worker_lite_image, settings)
    return folder, [*build_step_volumes(model, settings), volume], mount, [fetch]


def _build_container(folder: str, mount: Manifest, token: str, settings: Settings) -> Manifest:
    return {
        "name": CONTAINER_SHARE,
        "image": settings.worker_lite_image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": build_command("python", "-m", "llmos_workers.share", "--dir", folder),
        "env": build_env(((TOKEN_HASH_VARIABLE, compute_token_hash(token)),)),
        "ports": [{"name": "share", "containerPort": SHARE_PORT}],
        "readinessProbe": {
            "httpGet": {"path": "/healthz", "port": "share"},
            "periodSeconds": 2,
            "timeoutSeconds": 2,
        },
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": build_container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, mount],  # noqa: S108 - an emptyDir of the pod
    }
