"""A real kube-apiserver takes what the chart renders, through the whole life of a release. Pods run in e2e only."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster.binaries import ensure_binaries
from e2e.cluster.controlplane import ControlPlane
from llmos.api import KINDS
from tests.chart.helm import CHART, EVERYTHING, TIMEOUT_S, find, load_everything, render, run_helm

pytestmark = pytest.mark.apiserver
NAMESPACE = "llmos-system"
SALT = "llmos-gateway-cache-salt"
"""Secret that keeps cached prompts of tenants apart; a new one would make all of them cold."""
# The kinds belong to the Prometheus operator and the Gateway API, which are not installed here.
NO_FOREIGN_KINDS = (
    "--set=metrics.serviceMonitor.enabled=false,gateway.metrics.serviceMonitor.enabled=false,"
    "gateway.httpRoute.enabled=false"
)


class Cluster:
    """helm and kubectl on one control plane."""

    def __init__(self, kubeconfig: Path) -> None:
        self._kubeconfig = f"--kubeconfig={kubeconfig}"

    def helm(self, *arguments: str) -> str:
        return run_helm(self._kubeconfig, f"--namespace={NAMESPACE}", *arguments)

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        kubectl = ensure_binaries("kubectl")["kubectl"]
        command = [str(kubectl), self._kubeconfig, f"--namespace={NAMESPACE}", *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def get(self, *arguments: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.kubectl("get", *arguments, "--output=json"))
        return found


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with ControlPlane.start(tmp_path_factory.mktemp("control-plane")) as running:
        cluster = Cluster(running.kubeconfig)
        cluster.kubectl("create", "namespace", NAMESPACE)
        cluster.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
        yield cluster


def test_a_release_is_installed_upgraded_rolled_back_removed_and_installed_again(cluster: Cluster) -> None:
    cluster.helm("install", "llmos", str(CHART))
    deployment = cluster.get("deployment", "llmos-operator")
    assert deployment["spec"]["replicas"] == 2
    salt = cluster.get("secret", SALT)["data"]
    cluster.helm("upgrade", "llmos", str(CHART), "--set=gateway.replicas=1")
    assert cluster.get("secret", SALT)["data"] == salt

    kept = ("--set=fullnameOverride=llmos", "--set=crds.install=true", NO_FOREIGN_KINDS)
    cluster.helm("upgrade", "llmos", str(CHART), f"--values={EVERYTHING}", *kept)
    assert cluster.get("deployment", "llmos-operator")["spec"]["replicas"] == 1

    cluster.helm("rollback", "llmos", "1")
    assert cluster.get("secret", SALT)["data"] == salt
    assert cluster.get("deployment", "llmos-operator")["spec"]["template"] == deployment["spec"]["template"]

    cluster.kubectl("wait", "--for=condition=Established", "crd/acceleratorclasses.llmos.dev")
    accelerator = {"apiVersion": "llmos.dev/v1alpha1", "kind": "AcceleratorClass", "metadata": {"name": "test-gpu"}}
    cluster.kubectl("create", "--filename=-", stdin=json.dumps(accelerator | {"spec": {"memory": "80Gi"}}))
    cluster.helm("uninstall", "llmos")
    labelled = "--selector=app.kubernetes.io/instance=llmos"
    for kind in (
        "deployments",
        "services",
        "serviceaccounts",
        "secrets",
        "clusterroles",
        "clusterrolebindings",
        "roles",
        "pdb",
    ):
        assert cluster.get(kind, labelled)["items"] == []
    assert cluster.get("acceleratorclass", "test-gpu")["spec"]["memory"] == "80Gi"

    cluster.helm("install", "llmos", str(CHART))
    assert cluster.get("acceleratorclass", "test-gpu")["spec"]["memory"] == "80Gi"
    cluster.helm("uninstall", "llmos")


def test_definitions_stay_when_their_switch_is_turned_off_and_are_found_again_when_it_is_turned_on(
    cluster: Cluster,
) -> None:
    cluster.helm("install", "llmos", str(CHART))
    cluster.helm("upgrade", "llmos", str(CHART), "--set=crds.install=false")
    assert len(cluster.get("customresourcedefinitions")["items"]) == len(KINDS)
    cluster.helm("upgrade", "llmos", str(CHART), "--set=crds.install=true")
    cluster.helm("uninstall", "llmos")
    assert len(cluster.get("customresourcedefinitions")["items"]) == len(KINDS)


def test_a_second_release_adopts_nothing_of_the_first(cluster: Cluster) -> None:
    cluster.helm("install", "one", str(CHART), "--set=crds.install=false")
    cluster.helm("install", "two", str(CHART), "--set=crds.install=false")
    cluster.helm("uninstall", "one")
    assert cluster.get("deployment", "two-operator")["spec"]["replicas"] == 2
    cluster.helm("uninstall", "two")


@pytest.mark.parametrize("part", ["operator", "gateway"])
@pytest.mark.parametrize("values", [{}, load_everything()], ids=["defaults", "everything"])
def test_the_pods_are_admitted_where_the_restricted_level_is_enforced(
    cluster: Cluster, values: dict[str, Any], part: str
) -> None:
    manifests = render(values)
    account = find(manifests, "ServiceAccount", part=part)["metadata"]["name"]
    cluster.kubectl("create", "serviceaccount", account)
    template = find(manifests, "Deployment", part=part)["spec"]["template"]
    pod = {"apiVersion": "v1", "kind": "Pod", **template}
    pod["metadata"]["name"] = "admitted"
    cluster.kubectl("create", "--dry-run=server", "--filename=-", stdin=json.dumps(pod))
    cluster.kubectl("delete", "serviceaccount", account)
