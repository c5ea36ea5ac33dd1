"""Every manifest is what Kubernetes' own types know, and passes the `restricted` Pod Security level."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from kubernetes.aio.client import V1Job, V1PersistentVolumeClaim, V1Pod, V1Service
from pydantic import ValidationError

from llmos.api import AcceleratorClass
from llmos_operator.manifests.accelerators import build_accelerator_class
from llmos_operator.manifests.common import Manifest
from llmos_operator.manifests.replica import build_replica_pods, build_service, compute_revision
from llmos_operator.manifests.steps import build_claim, build_fetch_job, build_inspect_job
from llmos_operator.planning.accelerators import DiscoveredClass
from llmos_operator.planning.models import compute_source_hash
from tests.operator.manifests.samples import MODELS, SETTINGS, TEMPLATES, pool

TYPES = {"Pod": V1Pod, "Job": V1Job, "Service": V1Service, "PersistentVolumeClaim": V1PersistentVolumeClaim}


def build_all() -> Iterator[tuple[str, Manifest]]:
    for name, template in TEMPLATES.items():
        pods = build_replica_pods(template, revision=compute_revision(template), ordinal=3, attempt=1)
        yield from ((f"{name}, pod {rank}", pod) for rank, pod in enumerate(pods))
    for name, model in MODELS.items():
        source_hash = compute_source_hash(model.spec)
        assert model.status.resolved is not None
        yield f"inspect {name}", build_inspect_job(model, source_hash, 0, SETTINGS)
        yield f"fetch {name}", build_fetch_job(model, model.status.resolved, source_hash, 2, SETTINGS)
        if claim := build_claim(model, source_hash):
            yield f"claim {name}", claim
    yield "service", build_service(pool())


ALL = dict(build_all())
POD_SPECS = {
    name: item["spec"]["template"]["spec"] if item["kind"] == "Job" else item["spec"]
    for name, item in ALL.items()
    if item["kind"] in {"Pod", "Job"}
}


@pytest.mark.parametrize("manifest", ALL.values(), ids=ALL.keys())
def test_a_manifest_survives_the_official_type_unchanged(manifest: Manifest) -> None:
    official = TYPES[manifest["kind"]].model_validate(manifest, strict=True)
    assert official.model_dump(mode="json", by_alias=True, exclude_none=True) == manifest


def test_the_official_type_would_refuse_a_misspelt_field() -> None:
    pod = ALL["the simulator, pod 0"]
    with pytest.raises(ValidationError):
        V1Pod.model_validate({**pod, "spec": {**pod["spec"], "restartPolcy": "Never"}})


@pytest.mark.parametrize("spec", POD_SPECS.values(), ids=POD_SPECS.keys())
def test_a_pod_passes_the_restricted_level(spec: dict[str, Any]) -> None:
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert {"hostNetwork", "hostPID", "hostIPC"}.isdisjoint(spec)
    allowed = {"emptyDir", "persistentVolumeClaim", "configMap", "secret"}
    assert all(set(volume) - {"name"} <= allowed for volume in spec["volumes"])
    for container in (*spec.get("initContainers", ()), *spec["containers"]):
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["readOnlyRootFilesystem"] is True
        assert all("hostPort" not in port for port in container.get("ports", ()))


@pytest.mark.parametrize("spec", POD_SPECS.values(), ids=POD_SPECS.keys())
def test_a_pod_holds_together(spec: dict[str, Any]) -> None:
    volumes = [volume["name"] for volume in spec["volumes"]]
    assert len(volumes) == len(set(volumes))
    assert spec["restartPolicy"] == "Never"
    assert spec["automountServiceAccountToken"] is False
    for container in (*spec.get("initContainers", ()), *spec["containers"]):
        mounts = container["volumeMounts"]
        assert {mount["name"] for mount in mounts} <= set(volumes)
        assert len({mount["mountPath"] for mount in mounts}) == len(mounts)
        assert len({variable["name"] for variable in container["env"]}) == len(container["env"])
        assert "/tmp" in {mount["mountPath"] for mount in mounts}
    used = {m["name"] for c in (*spec.get("initContainers", ()), *spec["containers"]) for m in c["volumeMounts"]}
    assert used == set(volumes), "a volume that nobody mounts only delays the pod"


@pytest.mark.parametrize("manifest", ALL.values(), ids=ALL.keys())
def test_names_and_labels_are_short_enough_for_the_longest_names(manifest: Manifest) -> None:
    metadata = manifest["metadata"]
    assert len(metadata["name"]) <= 63
    assert all(len(value) <= 63 for value in metadata["labels"].values())


def test_the_longest_names_of_pools_and_models_fit() -> None:
    name = "p" * 40
    for template in TEMPLATES.values():
        metadata = template.pool.metadata.model_copy(update={"name": name})
        long = replace(template, pool=template.pool.model_copy(update={"metadata": metadata}))
        *_, pod = build_replica_pods(long, revision=compute_revision(long), ordinal=999, attempt=10**6)
        assert len(pod["metadata"]["name"]) <= 63
        assert all(len(value) <= 63 for value in pod["metadata"]["labels"].values())
    for model in MODELS.values():
        long_model = model.model_copy(update={"metadata": model.metadata.model_copy(update={"name": name})})
        source_hash = compute_source_hash(model.spec)
        job = build_inspect_job(long_model, source_hash, 10**6, SETTINGS)
        assert len(job["metadata"]["name"]) <= 63


def test_a_discovered_class_is_one_that_the_operator_can_read() -> None:
    found = DiscoveredClass("nvidia-h100", "NVIDIA-H100", 81559, 8, (("gpu", "", "NoSchedule"),))
    read = AcceleratorClass.model_validate(build_accelerator_class(found))
    assert (read.spec.memory, read.spec.count_per_node) == ("81559Mi", 8)
    assert read.spec.node_selector == {"nvidia.com/gpu.product": "NVIDIA-H100"}
    assert [t.to_manifest() for t in read.spec.tolerations] == [
        {"key": "gpu", "operator": "Equal", "value": "", "effect": "NoSchedule"}
    ]
