"""The inspect and fetch steps: containers that may hold credentials, and the Jobs and claims around them.

Only these containers see the model's Secret. They have no service account token: results go to the termination message,
progress to the log, and the operator reads both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from llmos.api import LLMModel, ModelSource, ResolvedModel
from llmos.api.names import (
    ANNOTATION_ATTEMPT,
    ANNOTATION_INPUTS,
    ANNOTATION_SOURCE_HASH,
    COMPONENT_FETCH,
    COMPONENT_INSPECT,
    COMPONENT_STORAGE,
    CONTAINER_FETCH,
    CONTAINER_INSPECT,
    LABEL_COMPONENT,
    LABEL_MODEL,
    MODEL_DIR,
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
from llmos_operator.planning.models import compute_inputs_hash
from llmos_operator.planning.quantities import parse_quantity_bytes
from llmos_operator.planning.settings import Settings

SOURCE_DIR = "/source"
CA_DIR = "/etc/llmos/ca"
SECRET_DIR = "/etc/llmos/credentials"  # noqa: S105 - a mount path
INSPECT_DEADLINE_S = 900
FETCH_DEADLINE_S = 24 * 3600
ATTEMPTS_IN_NAMES = 1000
"""Three digits fit into the 63 characters of a Job's name, and of a thousand attempts only two Jobs are left."""


def compute_source_claim(model: LLMModel) -> tuple[str, str] | None:
    """Return claim and path of a `pvc://claim/path` source, None for other sources."""
    return read_claim_uri(model.spec.source.uri)


def read_claim_uri(uri: str) -> tuple[str, str] | None:
    """Return claim and path of a `pvc://claim/path` URI, None for other URIs."""
    scheme, _, rest = uri.partition("://")
    if scheme != "pvc":
        return None
    claim, _, path = rest.partition("/")
    return claim, path.strip("/")


def needs_fetch(model: LLMModel, resolved: ResolvedModel) -> bool:
    """Whether the files must be copied: not if they lie in a claim already in a form that the engine reads."""
    return compute_source_claim(model) is None or resolved.format == "gguf"


def compute_claim_name(model: LLMModel, source_hash: str) -> str:
    """Return the name of the claim that holds the model's files."""
    return f"{model.metadata.name}-{source_hash}"


def _step_args(step: Literal["inspect", "fetch"], model: LLMModel) -> list[str]:
    args = [
        "python",
        "-m",
        "llmos_workers.fetch",
        step,
        "--source",
        model.spec.source.uri,
        "--format",
        model.spec.format,
    ]
    if compute_source_claim(model) is not None:
        args += ["--pvc-mount", SOURCE_DIR]
    if model.spec.adapter is not None:
        args.append("--adapter")
    if model.spec.trust_remote_code is not None:
        args += ["--trust-remote-code-revision", model.spec.trust_remote_code.revision]
    return args


def build_step_volumes(model: LLMModel, settings: Settings, prefix: str = "") -> list[Manifest]:
    """Return the volumes that a step container mounts, except the model's own."""
    of_source = build_source_volumes(model.spec.source, prefix)
    # The order is part of a replica's revision: another one would have all pools roll out anew.
    claims = [volume for volume in of_source if "persistentVolumeClaim" in volume]
    return [
        {"name": "tmp", "emptyDir": {}},
        *claims,
        *build_ca_volumes(settings),
        *(volume for volume in of_source if volume not in claims),
    ]


def build_ca_volumes(settings: Settings) -> list[Manifest]:
    """Return the volume of authorities to trust instead of the image's, if there is one."""
    if not settings.ca_bundle_config_map:
        return []
    return [{"name": "ca", "configMap": {"name": settings.ca_bundle_config_map, "optional": True}}]


def build_source_volumes(source: ModelSource, prefix: str = "") -> list[Manifest]:
    """Return the volumes of one source: the claim that it is, and its credentials. A prefix tells several apart."""
    volumes: list[Manifest] = []
    if (claim := read_claim_uri(source.uri)) is not None:
        volumes.append({"name": f"{prefix}source", "persistentVolumeClaim": {"claimName": claim[0], "readOnly": True}})
    if source.secret_ref is not None:
        # Optional here, required as environment: a kubelet tells a missing Secret of a volume in Events only.
        secret = {"secretName": source.secret_ref.name, "optional": True}
        volumes.append({"name": f"{prefix}credentials", "secret": secret})
    return volumes


def build_source_container(
    name: str, image: str, command: list[str], source: ModelSource, settings: Settings, prefix: str = ""
) -> Manifest:
    """Return a container that may see one source and its Secret."""
    mounts: list[Manifest] = [{"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108 - an emptyDir of the pod
    env = settings.fetch_env
    if read_claim_uri(source.uri) is not None:
        mounts.append({"name": f"{prefix}source", "mountPath": SOURCE_DIR, "readOnly": True})
    if settings.ca_bundle_config_map:
        mounts.append({"name": "ca", "mountPath": CA_DIR, "readOnly": True})
        env = (*env, ("LLMOS_CA_BUNDLE", f"{CA_DIR}/ca.crt"))
    container: Manifest = {
        "name": name,
        "image": image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": build_command(*command),
        "env": build_env(env),
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}},
        "securityContext": build_container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    }
    if source.secret_ref is not None:
        container["envFrom"] = [{"secretRef": {"name": source.secret_ref.name}}]
        mounts.append({"name": f"{prefix}credentials", "mountPath": SECRET_DIR, "readOnly": True})
    return container


def build_fetch_container(
    model: LLMModel, resolved: ResolvedModel, image: str, settings: Settings, prefix: str = ""
) -> Manifest:
    """Return the container that fetches the model into the volume named `model`; a prefix tells several apart."""
    # An emptyDir's limit, and that of many local volumes, does not show in the file system's free space.
    capacity = str(parse_quantity_bytes(model.spec.storage.size))
    command = [
        *_step_args("fetch", model),
        *("--revision", resolved.revision),
        *("--dest", MODEL_DIR),
        *("--capacity-bytes", capacity),
    ]
    name = f"{CONTAINER_FETCH}-{prefix}".rstrip("-")
    container = build_source_container(name, image, command, model.spec.source, settings, prefix)
    container["volumeMounts"].append({"name": f"{prefix}model", "mountPath": MODEL_DIR})
    return container


def build_model_files(
    model: LLMModel, resolved: ResolvedModel, image: str, settings: Settings, prefix: str = "", root: str = MODEL_DIR
) -> tuple[str, list[Manifest], list[Manifest], list[Manifest]]:
    """Return where a pod finds a model, with the volumes, mounts and init containers that bring it there. `image` is
    that of the container that uses it. The volumes have `tmp` among them. Of several models of a pod all but one have a
    prefix and a root of their own."""
    tmp: Manifest = {"name": "tmp", "emptyDir": {}}
    if not needs_fetch(model, resolved):
        claim, path = compute_source_claim(model) or ("", "")
        folder = f"{root}-source" if prefix else SOURCE_DIR
        claimed = {"claimName": claim, "readOnly": True}
        volume: Manifest = {"name": f"{prefix}source", "persistentVolumeClaim": claimed}
        mount = {"name": f"{prefix}source", "mountPath": folder, "readOnly": True}
        return f"{folder}/{path}".rstrip("/"), [tmp, volume], [mount], []
    mount = {"name": f"{prefix}model", "mountPath": root, "readOnly": True}
    directory = f"{root}/model"
    if model.spec.storage.mode == "claim":
        claim_name = compute_claim_name(model, model.status.source_hash)
        volume = {"name": f"{prefix}model", "persistentVolumeClaim": {"claimName": claim_name, "readOnly": True}}
        return directory, [tmp, volume], [mount], []
    volume = {"name": f"{prefix}model", "emptyDir": {"sizeLimit": model.spec.storage.size}}
    fetch = build_fetch_container(model, resolved, image, settings, prefix)
    return directory, [*build_step_volumes(model, settings, prefix), volume], [mount], [fetch]


def compute_fetch_image(resolved: ResolvedModel, settings: Settings) -> str:
    """Return the image of the fetch step: converting GGUF needs torch, everything else does not."""
    return settings.worker_image if resolved.format == "gguf" else settings.worker_lite_image


def build_inspect_job(model: LLMModel, source_hash: str, attempt: int, settings: Settings) -> Manifest:
    """Return the Job that reads the model's configuration."""
    container = build_source_container(
        CONTAINER_INSPECT, settings.worker_lite_image, _step_args("inspect", model), model.spec.source, settings
    )
    return _step_job(model, COMPONENT_INSPECT, source_hash, attempt, INSPECT_DEADLINE_S, container, [], settings)


def build_fetch_job(
    model: LLMModel, resolved: ResolvedModel, source_hash: str, attempt: int, settings: Settings
) -> Manifest:
    """Return the Job that fetches the model into its claim."""
    container = build_fetch_container(model, resolved, compute_fetch_image(resolved, settings), settings)
    volume = {"name": "model", "persistentVolumeClaim": {"claimName": compute_claim_name(model, source_hash)}}
    return _step_job(model, COMPONENT_FETCH, source_hash, attempt, FETCH_DEADLINE_S, container, [volume], settings)


def _step_job(
    model: LLMModel,
    step: str,
    source_hash: str,
    attempt: int,
    deadline_s: int,
    container: Manifest,
    volumes: list[Manifest],
    settings: Settings,
) -> Manifest:
    metadata = model.metadata
    labels = {LABEL_MODEL: metadata.name, LABEL_COMPONENT: step}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": build_metadata(
            f"{metadata.name}-{step}-{source_hash}-{attempt % ATTEMPTS_IN_NAMES}",
            metadata.namespace or "",
            labels=labels,
            annotations={
                ANNOTATION_SOURCE_HASH: source_hash,
                ANNOTATION_INPUTS: compute_inputs_hash(model.spec),
                ANNOTATION_ATTEMPT: str(attempt),
            },
            owner=build_owner(model.kind, metadata),
        ),
        "spec": {
            # One try a Job: the operator decides by the reason whether another try can help, and when.
            "backoffLimit": 0,
            "activeDeadlineSeconds": deadline_s,
            "template": {
                "metadata": {"labels": {"app.kubernetes.io/managed-by": "llmos", **labels}},
                "spec": {
                    "restartPolicy": "Never",
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    "imagePullSecrets": [{"name": name} for name in settings.image_pull_secrets],
                    "securityContext": build_pod_security(),
                    "containers": [container],
                    "volumes": [*build_step_volumes(model, settings), *volumes],
                },
            },
        },
    }


def build_claim(model: LLMModel, source_hash: str) -> Manifest | None:
    """Return the claim for the model's files, None for ephemeral storage. A kept claim has no owner, so it outlives
    the model."""
    storage = model.spec.storage
    if storage.mode != "claim":
        return None
    spec: Manifest = {"accessModes": [storage.access_mode], "resources": {"requests": {"storage": storage.size}}}
    if storage.storage_class_name:
        spec["storageClassName"] = storage.storage_class_name
    metadata = model.metadata
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": build_metadata(
            compute_claim_name(model, source_hash),
            metadata.namespace or "",
            labels={LABEL_MODEL: metadata.name, LABEL_COMPONENT: COMPONENT_STORAGE},
            annotations={ANNOTATION_SOURCE_HASH: source_hash},
            owner=None if storage.keep else build_owner(model.kind, metadata),
        ),
        "spec": spec,
    }


def build_claim_change(claim: Manifest, existing: Mapping[str, Any], *, is_filled: bool) -> Manifest:
    """Return `claim` as it may be applied to the existing one.

    The API server lets a claim's spec do nothing but grow, and some classes not even that: so only a claim that still
    lacks files asks for it, and one that is filled stays as it is.
    """
    has, wants = (item["spec"]["resources"]["requests"]["storage"] for item in (existing, claim))
    grows = not is_filled and parse_quantity_bytes(wants) > parse_quantity_bytes(has)
    fixed = {key: existing["spec"][key] for key in ("accessModes", "storageClassName") if key in existing["spec"]}
    return {**claim, "spec": {**fixed, "resources": {"requests": {"storage": wants if grows else has}}}}
