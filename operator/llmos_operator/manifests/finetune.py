"""What a FineTuneJob is made of: a claim, a ConfigMap, a prepare pod, and a train pod for each attempt.

    claim JOB-work         dataset, checkpoints and result; owned by the job, and by the LLMModel once there is one
    ConfigMap JOB-job      the job as its pods read it (`JOB_FILE`)
    pod JOB-prepare-N      init containers fetch dataset, suites and base model, each with its own Secret only; the
                           container that reads strangers' data sees none of them
    pod JOB-train-N        fetches base model and teacher, if they are not in claims, and trains; with more of them
                           (`JOB-train-N-1` ...) where a job trains on several nodes (`finetune_gang`)

With `checkpoint.storage.uri` there is an object store beside the claim, or in its place (`finetune_store`). The result
is an LLMModel (`finetune_output`).

The prepare pod goes to the nodes of the training's class, though it asks for no accelerator: where a volume is bound
when its first pod comes, it is then bound where training can reach it. What the volume says about its nodes the train
pod's selector repeats, for the quota ledger chooses nodes by it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from llmos.api import AcceleratorClass, FineTuneJob, LLMModel, ModelSource, ResolvedModel
from llmos.api.names import (
    ANNOTATION_ATTEMPT,
    API_VERSION,
    COMPONENT_PREPARE,
    COMPONENT_STORAGE,
    COMPONENT_TRAIN,
    CONTAINER_PREPARE,
    CONTAINER_TRAIN,
    GATE_QUOTA,
    JOB_FILE,
    LABEL_COMPONENT,
    LABEL_FETCHES,
    LABEL_JOB,
    LABEL_REVISION,
    TEACHER_DIR,
    WORK_DIR,
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
from llmos_operator.manifests.finetune_classes import build_class_annotations, build_shared_placement
from llmos_operator.manifests.finetune_gang import (
    Member,
    build_member_args,
    build_member_labels,
    build_member_placement,
)
from llmos_operator.manifests.finetune_store import (
    build_keep_container,
    build_restore_container,
    build_store_volumes,
    build_work_volume,
    give_store,
)
from llmos_operator.manifests.replica import build_placement
from llmos_operator.manifests.steps import (
    SOURCE_DIR,
    build_ca_volumes,
    build_model_files,
    build_source_container,
    build_source_volumes,
    read_claim_uri,
)
from llmos_operator.planning.finetune_classes import Target
from llmos_operator.planning.finetune_cpu import count_threads, plan_cpu_request
from llmos_operator.planning.finetune_memory import plan_container_memory
from llmos_operator.planning.finetune_places import compute_store_uri
from llmos_operator.planning.finetune_pods import SHARDED
from llmos_operator.planning.quantities import parse_quantity_bytes
from llmos_operator.planning.settings import Settings

PREPARE_MEMORY: Final = {"requests": "1Gi", "limits": "4Gi"}
PREPARE_STOP_S: Final = 30
_ENV: Final = (("HOME", "/tmp"), ("HF_HUB_OFFLINE", "1"), ("TOKENIZERS_PARALLELISM", "false"))  # noqa: S108


@dataclass(frozen=True)
class JobTemplate:
    """Everything that all pods of a job have in common."""

    job: FineTuneJob
    base: LLMModel
    accelerator: AcceleratorClass | None
    base_digest: str
    settings: Settings
    teacher: LLMModel | None = None
    teacher_digest: str = ""
    classes: tuple[AcceleratorClass, ...] = ()
    """Those that will do, where the quota chooses among several: the volume of the job is bound for all of them."""

    @property
    def image(self) -> str:
        """Image of the containers that need torch."""
        return self.job.spec.trainer.image or self.settings.worker_image


def compute_work_claim_name(job: FineTuneJob) -> str:
    """Return the name of a job's claim."""
    return f"{job.metadata.name}-work"


def compute_config_name(job: FineTuneJob) -> str:
    """Return the name of the ConfigMap that a job's pods read."""
    return f"{job.metadata.name}-job"


def compute_pod_name(job: FineTuneJob, component: str, number: int) -> str:
    """Return the name of the pod of an attempt."""
    return f"{job.metadata.name}-{component}-{number}"


def build_work_claim(job: FineTuneJob, model: Mapping[str, Any] | None) -> Manifest:
    """Return the job's claim; with the metadata of its LLMModel, that owns it, too, and it outlives the job."""
    storage = job.spec.checkpoint.storage
    spec: Manifest = {"accessModes": [storage.access_mode], "resources": {"requests": {"storage": storage.size}}}
    if storage.storage_class_name:
        spec["storageClassName"] = storage.storage_class_name
    labels = {LABEL_JOB: job.metadata.name, LABEL_COMPONENT: COMPONENT_STORAGE}
    metadata = build_metadata(
        compute_work_claim_name(job), job.metadata.namespace or "", labels=labels, owner=_owner(job)
    )
    if model is not None:
        second = {"apiVersion": API_VERSION, "kind": "LLMModel", "name": model["name"], "uid": model["uid"]}
        metadata["ownerReferences"].append(second)
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}


def build_job_config(job: FineTuneJob) -> Manifest:
    """Return the ConfigMap with the job as its pods read it."""
    metadata = {"name": job.metadata.name, "namespace": job.metadata.namespace}
    told = {"apiVersion": API_VERSION, "kind": job.kind, "metadata": metadata, "spec": job.spec.to_manifest()}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": build_metadata(
            compute_config_name(job),
            job.metadata.namespace or "",
            labels={LABEL_JOB: job.metadata.name},
            owner=_owner(job),
        ),
        "data": {JOB_FILE.rpartition("/")[2]: json.dumps(told, sort_keys=True)},
    }


def build_prepare_pod(template: JobTemplate, number: int) -> Manifest:
    """Return the pod that checks, cleans and splits the dataset."""
    job, settings = template.job, template.settings
    models = _model_files(template, template.image)
    sources = _sources(job)
    fetches = [_build_fetch(template, folder, source, index) for index, (folder, source) in enumerate(sources)]
    named = {volume["name"]: volume for volume in (*models.volumes, *build_ca_volumes(settings))}
    for index, (_, source) in enumerate(sources):
        named |= {volume["name"]: volume for volume in build_source_volumes(source, _prefix(index))}
    arguments = ("python", "-m", "llmos_workers.prepare", *_common_arguments(template, models))
    resources = {
        "requests": {"cpu": "500m", "memory": PREPARE_MEMORY["requests"]},
        "limits": {"memory": PREPARE_MEMORY["limits"]},
    }
    main = _build_main(template, CONTAINER_PREPARE, arguments, models.mounts, resources)
    init = [*fetches, *models.init]
    if not job.spec.checkpoint.storage.has_claim:
        # What is prepared goes with the pod's own space, unless somebody keeps it.
        named |= {volume["name"]: volume for volume in build_store_volumes(job, settings)}
        init, main = [*init, main], build_keep_container(job, settings)
    pod = _build_pod(template, COMPONENT_PREPARE, number, init, main, [*named.values()])
    pod["spec"]["terminationGracePeriodSeconds"] = PREPARE_STOP_S
    accelerator = (template.accelerator,) if template.accelerator is not None else ()
    pod["spec"] |= build_shared_placement(template.classes or accelerator)
    return pod


def compute_gang_revision(template: JobTemplate, number: int, size: int, *, is_sharded: bool) -> str:
    """Return a hash of everything that makes the pods of an attempt's gang, but for what is observed when they are
    made: whose gate they wait behind, and which nodes reach the volume.

    Args:
        template: what all pods of the job have in common.
        number: of the attempt.
        size: pods of the gang.
        is_sharded: whether each holds its share of the model.
    """
    pods = [
        build_train_pod(template, number, has_quota=False, rank=rank, size=size, is_sharded=is_sharded)
        for rank in range(size)
    ]
    return hashlib.sha256(json.dumps([pod["spec"] for pod in pods], sort_keys=True).encode()).hexdigest()[:8]


def build_train_pod(
    template: JobTemplate,
    number: int,
    *,
    has_quota: bool,
    node_labels: Mapping[str, str] | None = None,
    rank: int = 0,
    size: int = 1,
    is_sharded: bool = False,
    target: Target | None = None,
    revision: str = "",
) -> Manifest:
    """Return a pod of an attempt; with quota it waits behind a gate until the attempt is admitted.

    Args:
        template: what all pods of the job have in common.
        number: of the attempt.
        has_quota: whether the ledger gives out its accelerators.
        node_labels: labels of the nodes from which the job's volume can be reached.
        rank: which pod of the attempt it is.
        size: pods of the attempt.
        is_sharded: whether each holds its share of the model.
        target: what it is made for; None: the first class that the job names.
        revision: of the gang that it is of; empty for one that trains alone.
    """
    job, trainer = template.job, template.job.spec.trainer
    member = Member(compute_pod_name(job, COMPONENT_TRAIN, number), rank, size)
    models = _model_files(template, template.image)
    told_digest = ("--teacher-digest", template.teacher_digest) if template.teacher is not None else ()
    arguments = (
        *("python", "-m", "llmos_workers.train", *_common_arguments(template, models), *told_digest),
        *("--attempt", str(number)),
        *("--accelerators", str(size * trainer.accelerators_per_node)),
        *build_member_args(job, member, template.settings.start_timeout_s),
        *((SHARDED,) if is_sharded else ()),
    )
    shm: Manifest = {"name": "shm", "mountPath": "/dev/shm"}  # noqa: S108 - shared memory of the loader's processes
    main = _build_main(template, CONTAINER_TRAIN, arguments, [*models.mounts, shm], _build_resources(template))
    main["env"] += build_env((("OMP_NUM_THREADS", str(count_threads(trainer))),))
    named = {volume["name"]: volume for volume in (*models.volumes, {"name": "shm", "emptyDir": {"medium": "Memory"}})}
    init = [*models.init]
    if compute_store_uri(job) and rank == 0:
        give_store(main, job, template.settings)
        init = [*init, build_restore_container(job, number, template.settings)]
        named |= {volume["name"]: volume for volume in build_store_volumes(job, template.settings)}
    pod = _build_pod(template, COMPONENT_TRAIN, number, init, main, [*named.values()])
    metadata, spec = pod["metadata"], pod["spec"]
    if template.accelerator is not None:
        spec |= build_placement(template.accelerator)
    metadata["name"] = member.name
    metadata["labels"] |= build_member_labels(member) | ({LABEL_REVISION: revision} if revision else {})
    spec |= build_member_placement(job, member)
    target = target or Target(trainer.accelerator.class_name)
    metadata["annotations"] |= build_class_annotations(target, is_leader=rank == 0)
    spec["terminationGracePeriodSeconds"] = job.spec.checkpoint.on_preempt.deadline_seconds
    if node_labels:
        spec["nodeSelector"] = {**dict(node_labels), **spec.get("nodeSelector", {})}
    if trainer.priority_class_name:
        spec["priorityClassName"] = trainer.priority_class_name
    if has_quota:
        spec["schedulingGates"] = [{"name": GATE_QUOTA}]
    return pod


def read_node_labels(volume: Mapping[str, Any] | None) -> dict[str, str]:
    """Return the labels that a PersistentVolume demands of its nodes, as far as a node selector can say it."""
    terms = ((((volume or {}).get("spec") or {}).get("nodeAffinity") or {}).get("required") or {}).get(
        "nodeSelectorTerms", ()
    )
    if len(terms) != 1:
        return {}
    return {
        each["key"]: each["values"][0]
        for each in terms[0].get("matchExpressions", ())
        if each.get("operator") == "In" and len(each.get("values", ())) == 1
    }


def _owner(job: FineTuneJob) -> Manifest:
    return build_owner(job.kind, job.metadata)


def _prefix(index: int) -> str:
    return f"data-{index}-"


def _sources(job: FineTuneJob) -> list[tuple[str, ModelSource]]:
    """Return what is fetched into the claim, with its folder there."""
    suites = ((f"suite-{suite.name}", suite.source) for suite in job.spec.evaluate.suites)
    return [("dataset", job.spec.dataset.source), *((name, source) for name, source in suites if source is not None)]


def _build_fetch(template: JobTemplate, folder: str, source: ModelSource, index: int) -> Manifest:
    capacity = str(parse_quantity_bytes(template.job.spec.checkpoint.storage.size))
    command = [
        *("python", "-m", "llmos_workers.fetch", "dataset"),
        *("--source", source.uri),
        *("--dest", f"{WORK_DIR}/source/{folder}"),
        *("--capacity-bytes", capacity),
    ]
    if read_claim_uri(source.uri) is not None:
        command += ["--pvc-mount", SOURCE_DIR]
    # Names of containers have no underscores.
    name = f"fetch-{folder.replace('_', '-').rstrip('-')}"
    container = build_source_container(
        f"{name}-{index}" if index else name,
        template.settings.worker_lite_image,
        command,
        source,
        template.settings,
        _prefix(index),
    )
    container["volumeMounts"].append({"name": "work", "mountPath": WORK_DIR})
    return container


@dataclass(frozen=True)
class _ModelFiles:
    """Where a pod finds base model and teacher, and what brings them there."""

    base: str
    teacher: str
    volumes: list[Manifest]
    mounts: list[Manifest]
    init: list[Manifest]


def _model_files(template: JobTemplate, image: str) -> _ModelFiles:
    base = build_model_files(template.base, _resolved(template.base), image, template.settings)
    if template.teacher is None:
        return _ModelFiles(base[0], "", *base[1:])
    resolved = _resolved(template.teacher)
    teacher = build_model_files(template.teacher, resolved, image, template.settings, "teacher-", TEACHER_DIR)
    # Both have `tmp`, and the authorities to trust.
    volumes = {volume["name"]: volume for volume in (*base[1], *teacher[1])}
    return _ModelFiles(base[0], teacher[0], [*volumes.values()], base[2] + teacher[2], base[3] + teacher[3])


def _resolved(model: LLMModel) -> ResolvedModel:
    if model.status.resolved is None:
        raise ValueError(f"LLMModel {model.metadata.name} is not resolved: plan the job before its pods")
    return model.status.resolved


def _common_arguments(template: JobTemplate, models: _ModelFiles) -> tuple[str, ...]:
    return (
        *("--job", JOB_FILE),
        *("--model", models.base),
        *("--work", WORK_DIR),
        *("--base-digest", template.base_digest),
        *(("--teacher", models.teacher) if models.teacher else ()),
    )


def _build_main(
    template: JobTemplate, name: str, command: tuple[str, ...], mounts: list[Manifest], resources: Manifest
) -> Manifest:
    return {
        "name": name,
        "image": template.image,
        "imagePullPolicy": template.settings.image_pull_policy,
        "command": build_command(*command),
        "env": build_env(_ENV),
        "resources": resources,
        "securityContext": build_container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - an emptyDir of the pod
            {"name": "work", "mountPath": WORK_DIR},
            {"name": "job", "mountPath": JOB_FILE.rpartition("/")[0], "readOnly": True},
            *mounts,
        ],
    }


def _build_pod(
    template: JobTemplate,
    component: str,
    number: int,
    init: list[Manifest],
    main: Manifest,
    volumes: list[Manifest],
) -> Manifest:
    job, settings = template.job, template.settings
    labels = {LABEL_JOB: job.metadata.name, LABEL_COMPONENT: component}
    if init:
        labels[LABEL_FETCHES] = "true"
    work = build_work_volume(job, compute_work_claim_name(job))
    spec: Manifest = {
        # The operator makes the next attempt; a pod that restarts by itself would hold its accelerators.
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": build_pod_security(),
        "containers": [main],
        "volumes": [*volumes, work, {"name": "job", "configMap": {"name": compute_config_name(job)}}],
    }
    if init:
        spec["initContainers"] = init
    if settings.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": build_metadata(
            compute_pod_name(job, component, number),
            job.metadata.namespace or "",
            labels=labels,
            annotations={ANNOTATION_ATTEMPT: str(number)},
            owner=_owner(job),
        ),
        "spec": spec,
    }


def _build_resources(template: JobTemplate) -> Manifest:
    memory = plan_container_memory(template.job.spec, template.base, template.accelerator, template.teacher)
    requests = {"cpu": plan_cpu_request(template.job.spec.trainer), "memory": memory}
    if template.accelerator is None:
        return {"requests": requests, "limits": {"memory": memory}}
    count = str(template.job.spec.trainer.accelerators_per_node)
    return {
        "requests": requests,
        "limits": {template.accelerator.spec.resource_name: count},
    }
