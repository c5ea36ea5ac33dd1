"""The chart's admission policies on a real kube-apiserver: who may make which pods in a tenant's namespace, and that a
namespace has one Tenant."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster.binaries import ensure_binaries
from e2e.cluster.controlplane import ControlPlane
from tests.chart.helm import CHART, REPOSITORY, TIMEOUT_S, run_helm

pytestmark = pytest.mark.apiserver
NAMESPACE = "llmos-system"
OPERATOR = f"system:serviceaccount:{NAMESPACE}:llmos"
TENANT, NOBODYS = "team-a", "nobodys"
DEVICES: dict[str, dict[str, Any]] = {
    "limits": {"containers": [{"resources": {"limits": {"nvidia.com/gpu": "1"}}}]},
    "another vendor's": {"containers": [{"resources": {"limits": {"amd.com/gpu": "1"}}}]},
    "a part of one": {"containers": [{"resources": {"limits": {"nvidia.com/mig-1g.10gb": "1"}}}]},
    "an init container's": {"initContainers": [{"resources": {"limits": {"nvidia.com/gpu": "1"}}}]},
    "a claim": {"resourceClaims": [{"name": "gpu", "resourceClaimName": "gpu"}]},
}


class Cluster:
    """kubectl as the administrator, or with the name of somebody else."""

    def __init__(self, kubeconfig: Path) -> None:
        self._kubeconfig = f"--kubeconfig={kubeconfig}"

    def helm(self, *arguments: str) -> None:
        run_helm(self._kubeconfig, f"--namespace={NAMESPACE}", *arguments)

    def kubectl(self, *arguments: str, stdin: str = "", user: str = "") -> str:
        """Return what was refused, empty for nothing."""
        kubectl = ensure_binaries("kubectl")["kubectl"]
        words = [f"--as={user}", "--as-group=system:masters"] if user else []
        command = [str(kubectl), self._kubeconfig, *words, *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        return done.stderr if done.returncode else ""

    def create(self, namespace: str, *, user: str = "", keep: bool = False, **changes: Any) -> str:
        words = ["create", "--filename=-"] + ([] if keep else ["--dry-run=server"])
        return self.kubectl(*words, stdin=json.dumps(build_pod(namespace, **changes)), user=user)

    def apply_tenant(self, name: str, *namespaces: str, takes_over: str = "", keep: bool = True) -> str:
        annotations = {"llmos.dev/takes-over": takes_over} if takes_over else {}
        tenant = {
            "apiVersion": "llmos.dev/v1alpha1",
            "kind": "Tenant",
            "metadata": {"name": name, "annotations": annotations},
            "spec": {"namespaces": list(namespaces)},
        }
        words = ["apply", "--server-side", "--filename=-"] + ([] if keep else ["--dry-run=server"])
        return self.kubectl(*words, stdin=json.dumps(tenant))


def build_pod(namespace: str, *, image: str = "registry.example.com/ai/app:1", **changes: Any) -> dict[str, Any]:
    base = {"name": "main", "image": image}
    containers = {"containers": [{}], **changes}
    for kind in ("containers", "initContainers"):
        if kind in containers:
            containers[kind] = [{**base, "name": f"{kind}-{i}".lower(), **c} for i, c in enumerate(containers[kind])]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "pod", "namespace": namespace},
        "spec": {"automountServiceAccountToken": False, **containers},
    }


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with ControlPlane.start(tmp_path_factory.mktemp("control-plane")) as running:
        cluster = Cluster(running.kubeconfig)
        for name in (NAMESPACE, TENANT, NOBODYS):
            assert not cluster.kubectl("create", "namespace", name)
            assert not cluster.kubectl("create", "serviceaccount", "default", f"--namespace={name}")
        assert not cluster.kubectl("label", "namespace", TENANT, "llmos.dev/tenant=a")
        definition = REPOSITORY / "crds" / "llmos.dev_tenants.yaml"
        assert not cluster.kubectl("create", f"--filename={definition}")
        registries = "--set=isolation.imageRegistries={registry.example.com/ai}"
        cluster.helm("install", "llmos", str(CHART), "--set=crds.install=false", registries)
        wait_until_bound(cluster)
        yield cluster


def wait_until_bound(cluster: Cluster) -> None:
    """The API server takes up a new policy within a second or two."""
    deadline_s = time.monotonic() + 60
    while not cluster.create(TENANT, **DEVICES["limits"]):
        assert time.monotonic() < deadline_s, "the policy denies nothing"
        time.sleep(0.2)


@pytest.mark.parametrize("asked", DEVICES)
def test_only_the_operator_makes_pods_with_devices_where_a_tenant_is(cluster: Cluster, asked: str) -> None:
    refused = cluster.create(TENANT, **DEVICES[asked])
    assert "only LLMOS makes pods that ask for accelerators" in refused
    for user in ("system:serviceaccount:kube-system:job-controller", f"system:serviceaccount:{TENANT}:llmos"):
        assert "only LLMOS" in cluster.create(TENANT, user=user, **DEVICES[asked])
    assert not cluster.create(TENANT, user=OPERATOR, **DEVICES[asked])
    assert not cluster.create(NOBODYS, **DEVICES[asked])


def test_pods_without_devices_are_anybody_s(cluster: Cluster) -> None:
    resources = {"requests": {"cpu": "1", "memory": "1Gi", "ephemeral-storage": "1Gi"}}
    assert not cluster.create(TENANT, containers=[{"resources": resources}])


def test_images_come_from_the_registries_that_are_named_or_are_the_chart_s_own(cluster: Cluster) -> None:
    for image in ("docker.io/evil:1", "registry.example.com/ai-evil/app:1", "evil"):
        assert "Images must come from one of: registry.example.com/ai." in cluster.create(TENANT, image=image)
        assert "Images must come from" in cluster.create(TENANT, image=image, user=OPERATOR)
        assert not cluster.create(NOBODYS, image=image)
    assert not cluster.create(TENANT, image="llmos-worker-lite:0.1.0")
    mixed = cluster.create(TENANT, containers=[{}], initContainers=[{"image": "evil"}])
    assert "Refused: registry.example.com/ai/app:1, evil" in mixed


def test_only_the_operator_lifts_the_gate_of_the_quota(cluster: Cluster) -> None:
    gates = [{"name": "llmos.dev/quota"}, {"name": "example.com/other"}]
    assert not cluster.create(TENANT, user=OPERATOR, keep=True, schedulingGates=gates)
    patch = ("patch", "pod", "pod", f"--namespace={TENANT}", "--type=merge", "--patch")

    def lift(left: list[dict[str, str]], user: str = "") -> str:
        return cluster.kubectl(*patch, json.dumps({"spec": {"schedulingGates": left}}), user=user)

    assert "Only LLMOS lifts the scheduling gate" in lift(gates[1:])
    assert not lift(gates[:1])
    assert not lift([], user=OPERATOR)


@pytest.fixture
def tenants(cluster: Cluster) -> Iterator[Cluster]:
    """Tenant a has the namespace team-a, which the policy has taken in."""
    assert not cluster.apply_tenant("a", "team-a", "team-a-batch")
    deadline_s = time.monotonic() + 60
    while not cluster.apply_tenant("b", "team-a", keep=False):
        assert time.monotonic() < deadline_s, "the policy denies nothing"
        time.sleep(0.2)
    yield cluster
    cluster.kubectl("delete", "tenants", "--all")


def test_a_namespace_of_another_tenant_is_refused_with_its_name_and_what_to_do(tenants: Cluster) -> None:
    refused = tenants.apply_tenant("b", "team-b", "team-a")
    assert "Tenant a has namespace team-a already, and a namespace has one Tenant." in refused
    assert "annotation llmos.dev/takes-over" in refused
    assert not tenants.apply_tenant("b", "team-b")
    assert "Tenant a has namespace team-a-batch" in tenants.apply_tenant("b", "team-b", "team-a-batch")
    assert not tenants.apply_tenant("a", "team-a", "team-a-batch", "team-a-more")


def test_a_namespace_moves_if_the_new_tenant_says_so(tenants: Cluster) -> None:
    assert "team-a-batch" in tenants.apply_tenant("b", "team-a", "team-a-batch", takes_over="team-a")
    assert not tenants.apply_tenant("b", "team-a", takes_over="team-c,team-a")
    assert not tenants.apply_tenant("b", "team-a", "team-b"), "what it names already is not asked about again"
    assert not tenants.apply_tenant("a", "team-a-batch")


def test_a_namespace_of_a_tenant_that_is_being_deleted_may_be_named(tenants: Cluster) -> None:
    hold = ("patch", "tenant", "a", "--type=merge", "--patch")
    assert not tenants.kubectl(*hold, '{"metadata": {"finalizers": ["example.com/hold"]}}')
    assert not tenants.kubectl("delete", "tenant", "a", "--wait=false")
    deadline_s = time.monotonic() + 60
    while refused := tenants.apply_tenant("b", "team-a"):
        assert time.monotonic() < deadline_s, refused
        time.sleep(0.2)
    assert not tenants.kubectl(*hold, '{"metadata": {"finalizers": null}}')
