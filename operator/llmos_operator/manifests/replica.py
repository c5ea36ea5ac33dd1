"""The pods of one replica, and the Service in front of all of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from llmos.api import AcceleratorClass, InferencePool, LLMModel, PoolPlan
from llmos.api.names import (
    ADAPTER_DIR,
    ANNOTATION_ACCELERATOR_CLASS,
    ANNOTATION_ACCELERATOR_CLASSES,
    ANNOTATION_ATTEMPT,
    COMPONENT_REPLICA,
    COMPONENT_SERVICE,
    CONTAINER_ENGINE,
    CONTROL_PORT,
    ENGINE_PORT,
    GATE_QUOTA,
    KUEUE_GATE,
    LABEL_COMPONENT,
    LABEL_FETCHES,
    LABEL_GANG_SIZE,
    LABEL_MODEL,
    LABEL_POOL,
    LABEL_RANK,
    LABEL_REPLICA,
    LABEL_REVISION,
    LABEL_SERVING,
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
from llmos_operator.manifests.engines import build_engine_command
from llmos_operator.manifests.engines.base import EngineCommand
from llmos_operator.manifests.gang import build_member_args, build_member_env, build_member_placement
from llmos_operator.manifests.steps import build_model_files
from llmos_operator.planning.lora_memory import compute_files_bytes
from llmos_operator.planning.quota_record import QuotaRecord, build_record_annotation
from llmos_operator.planning.settings import Settings

ADAPTER_MARGIN_BYTES = 64 << 20
"""Folders, and the blocks of the file system: a pod whose volume exceeds its limit is evicted."""
ENGINE_STOP_S = 30
"""Time between the end of the drain and the kubelet's SIGKILL, for the engine to stop."""


@dataclass(frozen=True)
class ReplicaTemplate:
    """Everything that all replicas of a revision have in common."""

    pool: InferencePool
    model: LLMModel | None
    accelerator: AcceleratorClass | None
    plan: PoolPlan
    settings: Settings
    token_hash: str = ""
    """sha256 of the token that the operator bears when it tells which adapters to hold."""
    classes: tuple[str, ...] = ()
    """Accelerator classes that will do, the preferred one first, where the pool names several."""

    @property
    def image(self) -> str:
        """Image of the engine container."""
        if self.pool.spec.engine.image:
            return self.pool.spec.engine.image
        simulated = self.pool.spec.engine.name == "simulator"
        return self.settings.worker_lite_image if simulated else self.settings.worker_image


def compute_revision(template: ReplicaTemplate) -> str:
    """Return a hash of everything that makes a replica's pod; equal inputs give equal revisions in every process."""
    pods = build_replica_pods(template, revision="", ordinal=0, attempt=0)
    specs = [pod["spec"] for pod in pods]
    return hashlib.sha256(json.dumps(specs, sort_keys=True).encode()).hexdigest()[:8]


def build_pool_selector(pool: InferencePool) -> dict[str, str]:
    """Return the labels that all pods of a pool carry."""
    return {LABEL_POOL: pool.metadata.name, LABEL_COMPONENT: COMPONENT_REPLICA}


def build_replica_pods(
    template: ReplicaTemplate, *, revision: str, ordinal: int, attempt: int, record: QuotaRecord | None = None
) -> list[Manifest]:
    """Return the pods of one replica, leader first; with a record they wait behind a gate until they are admitted."""
    pods = [_build_pod(template, revision, ordinal, attempt, rank) for rank in range(template.plan.pods)]
    if record is not None:
        for pod in pods:
            pod["spec"]["schedulingGates"] = [{"name": GATE_QUOTA}]
        if record != QuotaRecord():
            pods[0]["metadata"]["annotations"] |= build_record_annotation(record)
    return pods


def build_held_pods(
    pods: Iterable[Manifest], labels: Mapping[str, str], annotations: Mapping[str, str]
) -> list[Manifest]:
    """Return pods that wait for Kueue's admission, with what Kueue reads of them."""
    return [
        {
            **pod,
            "metadata": {
                **pod["metadata"],
                "labels": {**pod["metadata"]["labels"], **labels},
                "annotations": {**pod["metadata"].get("annotations", {}), **annotations},
            },
            "spec": {**pod["spec"], "schedulingGates": [{"name": KUEUE_GATE}]},
        }
        for pod in pods
    ]


def _build_pod(template: ReplicaTemplate, revision: str, ordinal: int, attempt: int, rank: int) -> Manifest:
    pool = template.pool
    replica = f"{pool.metadata.name}-{revision}-{ordinal}"
    labels = {
        **build_pool_selector(pool),
        LABEL_MODEL: pool.spec.model_ref.name,
        LABEL_REPLICA: replica,
        LABEL_RANK: str(rank),
        LABEL_REVISION: revision,
        LABEL_SERVING: "true",
    }
    if template.plan.pods > 1:
        labels[LABEL_GANG_SIZE] = str(template.plan.pods)
    spec = _build_pod_spec(template, replica, rank)
    if "initContainers" in spec:
        labels[LABEL_FETCHES] = "true"
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": build_metadata(
            replica if rank == 0 else f"{replica}-{rank}",
            pool.metadata.namespace or "",
            labels=labels,
            annotations={ANNOTATION_ATTEMPT: str(attempt), **_build_class_annotations(template)},
            owner=build_owner(pool.kind, pool.metadata),
        ),
        "spec": spec,
    }


def _build_class_annotations(template: ReplicaTemplate) -> dict[str, str]:
    if template.accelerator is None or not template.classes:
        return {}
    made_for = template.accelerator.metadata.name
    return {ANNOTATION_ACCELERATOR_CLASS: made_for, ANNOTATION_ACCELERATOR_CLASSES: ",".join(template.classes)}


def _build_pod_spec(template: ReplicaTemplate, replica: str, rank: int) -> Manifest:
    pool, settings, size = template.pool, template.settings, template.plan.pods
    command = build_engine_command(
        pool.spec.engine,
        template.model,
        template.plan,
        on_cpu=template.accelerator is None,
        adapters=pool.spec.adapters,
    )
    model_dir, volumes, mounts, init = _model_files(template, command)
    if pool.spec.adapters is not None:
        room = {"sizeLimit": str(_compute_adapter_bytes(template) + ADAPTER_MARGIN_BYTES)}
        volumes = [*volumes, {"name": "adapters", "emptyDir": room}]
        mounts = [*mounts, {"name": "adapters", "mountPath": ADAPTER_DIR}]
    spec: Manifest = {
        # The operator replaces a failed replica after a pause; a pod that restarts by itself would hold its
        # accelerators.
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": pool.spec.drain.timeout_seconds + settings.drain_settle_s + ENGINE_STOP_S,
        "securityContext": build_pod_security(),
        "containers": [_build_engine(template, command, model_dir, mounts, replica, rank)],
        "volumes": [*volumes, {"name": "shm", "emptyDir": {"medium": "Memory"}}],
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": build_pool_selector(pool)},
            }
        ],
    }
    if init:
        spec["initContainers"] = init
    if settings.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    if pool.spec.priority_class_name:
        spec["priorityClassName"] = pool.spec.priority_class_name
    if template.accelerator is not None:
        spec |= build_placement(template.accelerator)
    return spec | build_member_placement(pool, replica, size=size, rank=rank)


def build_placement(accelerator: AcceleratorClass) -> Manifest:
    """Return which nodes a pod on accelerators of a class goes to."""
    placement: Manifest = {}
    if accelerator.spec.node_selector:
        placement["nodeSelector"] = dict(accelerator.spec.node_selector)
    if accelerator.spec.tolerations:
        placement["tolerations"] = [
            {key: value for key, value in toleration.to_manifest().items() if value}
            for toleration in accelerator.spec.tolerations
        ]
    return placement


def _model_files(
    template: ReplicaTemplate, command: EngineCommand
) -> tuple[str, list[Manifest], list[Manifest], list[Manifest]]:
    """Return where the engine finds the model, with the volumes, mounts and init containers that bring it there."""
    tmp: Manifest = {"name": "tmp", "emptyDir": {}}
    model = template.model
    if not command.needs_files or model is None or model.status.resolved is None:
        return "none", [tmp], [], []
    return build_model_files(model, model.status.resolved, template.image, template.settings)


def _compute_adapter_bytes(template: ReplicaTemplate) -> int:
    """Return the room for files of adapters; 0 if none can be loaded."""
    adapters, model = template.pool.spec.adapters, template.model
    resolved = model.status.resolved if model is not None else None
    return compute_files_bytes(adapters, resolved.config if resolved else None) if adapters is not None else 0


def _build_engine(
    template: ReplicaTemplate, command: EngineCommand, model_dir: str, mounts: list[Manifest], replica: str, rank: int
) -> Manifest:
    pool, settings, size = template.pool, template.settings, template.plan.pods
    adapter_bytes = _compute_adapter_bytes(template)
    adapter_args = ("--adapters-bytes", str(adapter_bytes)) if adapter_bytes else ()
    token = ((TOKEN_HASH_VARIABLE, template.token_hash),) if adapter_bytes else ()
    env = (*command.env, *((variable.name, variable.value) for variable in pool.spec.engine.env), *token)
    return {
        "name": CONTAINER_ENGINE,
        "image": template.image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": build_command(
            *("python", "-m", "llmos_workers.serve"),
            *("--engine", pool.spec.engine.name),
            *("--model-dir", model_dir),
            *("--served-model-name", pool.spec.model_ref.name),
            *("--port", str(ENGINE_PORT)),
            *("--control-port", str(CONTROL_PORT)),
            *("--drain-timeout-s", str(pool.spec.drain.timeout_seconds)),
            *("--settle-s", str(settings.drain_settle_s)),
            *("--start-timeout-s", str(settings.start_timeout_s)),
            *adapter_args,
            *build_member_args(pool, replica, size=size, rank=rank),
            "--",
            *command.args,
        ),
        "env": [*build_env(env), *build_member_env(size)],
        "ports": [
            # Of a gang only the leader takes requests.
            *([{"name": "http", "containerPort": ENGINE_PORT}] if rank == 0 else []),
            {"name": "control", "containerPort": CONTROL_PORT},
        ],
        "readinessProbe": {
            "httpGet": {"path": "/readyz", "port": "control"},
            "periodSeconds": 2,
            "timeoutSeconds": 2,
            "failureThreshold": 2,
        },
        "livenessProbe": {
            "httpGet": {"path": "/healthz", "port": "control"},
            "initialDelaySeconds": 30,
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 3,
            # A worker that hangs cannot drain: the long grace period of the pod would only hold its accelerators.
            "terminationGracePeriodSeconds": ENGINE_STOP_S,
        },
        "resources": _build_resources(template),
        "securityContext": build_container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - an emptyDir of the pod
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - shared memory of the engine's processes
            *mounts,
        ],
    }


def _build_resources(template: ReplicaTemplate) -> Manifest:
    resources: Manifest
    if template.pool.spec.engine.name == "simulator":
        resources = {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}}
    elif template.accelerator is None:
        memory = f"{max(1, round(template.plan.container_memory_gib * 1024))}Mi"
        # A small request lets a rollout surge on a small machine; without a limit the engine uses what is idle.
        resources = {"requests": {"cpu": "500m", "memory": memory}, "limits": {"memory": memory}}
    else:
        resources = {"requests": {"cpu": "1", "memory": "4Gi"}, "limits": {}}
    if template.accelerator is not None:
        count = str(template.pool.spec.accelerator.count // template.plan.pods)
        resources["limits"][template.accelerator.spec.resource_name] = count
    return resources


def build_service(pool: InferencePool) -> Manifest:
    """Return the Service of a pool: leaders of replicas that are not draining."""
    metadata = pool.metadata
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": build_metadata(
            metadata.name,
            metadata.namespace or "",
            labels={LABEL_POOL: metadata.name, LABEL_COMPONENT: COMPONENT_SERVICE},
            owner=build_owner(pool.kind, metadata),
        ),
        "spec": {
            "selector": {**build_pool_selector(pool), LABEL_SERVING: "true", LABEL_RANK: "0"},
            "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}],
        },
    }


def compute_url(pool: InferencePool) -> str:
    """Return the base URL of the pool's OpenAI-compatible API inside the cluster."""
    return f"http://{pool.metadata.name}.{pool.metadata.namespace}.svc/v1"
