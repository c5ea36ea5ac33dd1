"""Story 7: the life of a release. Installed where the restricted level is enforced, upgraded, its leader killed, rolled
back, removed and installed again; what users wrote is there all the time.

The story brings a release of its own, beside whatever else runs in the cluster, and leaves the cluster as it found it.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster import StateDir
from e2e.cluster.api import open_cluster
from e2e.cluster.binaries import ensure_binaries
from e2e.cluster.images import image_name
from e2e.cluster.paths import repository_dir
from e2e.cluster.shell import wait_for

NAMESPACE = "chart-story"
RELEASE = "story"
DEPLOYMENT = f"{RELEASE}-operator"
LEASE = "llmos-operator"
CHART = repository_dir() / "charts" / "llmos"
COMMAND_TIMEOUT_S = 300.0
# Lease duration 15 s, two looks of 2.4 s, and the end of a pod on a busy machine.
FAIL_OVER_TIMEOUT_S = 60.0
REACTION_TIMEOUT_S = 30.0
OWNERSHIP = ("meta.helm.sh/release-name", "meta.helm.sh/release-namespace", "helm.sh/resource-policy")
VALUES = (
    "--set=images.registry=localhost",
    "--set=images.operator.tag=dev",
    "--set=images.gateway.tag=dev",
    "--set=images.worker.tag=dev",
    "--set=images.workerLite.tag=dev",
    "--set=fetch.caBundleConfigMap=llmos-ca-bundle",
)
POOL = {
    "apiVersion": "llmos.dev/v1alpha1",
    "kind": "InferencePool",
    "metadata": {"name": "kept", "namespace": NAMESPACE},
    "spec": {
        "modelRef": {"name": "does-not-exist"},
        "engine": {"name": "simulator"},
        "accelerator": {"class": "cpu"},
        "replicas": 1,
    },
}


class Cluster:
    """helm and kubectl on the cluster of this story."""

    def __init__(self, kubeconfig: Path) -> None:
        self._kubeconfig = f"--kubeconfig={kubeconfig}"
        self._programs = ensure_binaries("helm", "kubectl")

    def run(self, program: str, *arguments: str, stdin: str = "", check: bool = True) -> str:
        command = [str(self._programs[program]), self._kubeconfig, f"--namespace={NAMESPACE}", *arguments]
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{program} {' '.join(arguments)}: {done.stderr}{done.stdout}")
        return done.stdout

    def helm(self, *arguments: str) -> str:
        return self.run("helm", *arguments)

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        return self.run("kubectl", *arguments, stdin=stdin)

    def install(self) -> None:
        """--take-ownership: definitions stay on uninstall, and those that are there may be someone else's."""
        self.helm("install", RELEASE, str(CHART), *VALUES, "--wait", "--timeout=4m", "--take-ownership")

    def get(self, *arguments: str) -> dict[str, Any]:
        text = self.run("kubectl", "get", *arguments, "--ignore-not-found", "--output=json")
        found: dict[str, Any] = json.loads(text) if text else {}
        return found

    def deployment(self) -> dict[str, Any]:
        return self.get("deployment", DEPLOYMENT)

    def leader(self) -> str:
        """The pod that holds the Lease; empty for none."""
        holder: str = self.get("lease", LEASE).get("spec", {}).get("holderIdentity") or ""
        return holder.partition("_")[0]

    def pods(self) -> dict[str, dict[str, Any]]:
        """Of the operator."""
        selector = f"--selector=app.kubernetes.io/instance={RELEASE},app.kubernetes.io/component=operator"
        listed = self.get("pods", selector).get("items", [])
        return {pod["metadata"]["name"]: pod for pod in listed}

    def wait_for_leader(self, is_wanted: Callable[[str], bool], timeout_s: float = FAIL_OVER_TIMEOUT_S) -> str:
        def is_led() -> bool:
            leader = self.leader()
            return bool(leader) and leader in self.pods() and is_wanted(leader)

        wait_for("a leader", is_led, timeout_s=timeout_s, hint="Read the logs of the operator's pods.")
        return self.leader()

    def change_pool_and_wait_for_its_status(self) -> None:
        """A change of the spec that the operator must answer in the status, which only its role allows it to write."""
        context_length = 1024 + int(time.time()) % 100_000
        patch = json.dumps({"spec": {"contextLength": context_length}})
        self.kubectl("patch", "inferencepool", "kept", "--type=merge", f"--patch={patch}")

        def is_answered() -> bool:
            pool = self.get("inferencepool", "kept")
            return bool(pool.get("status", {}).get("observedGeneration") == pool["metadata"]["generation"])

        wait_for("the status of the pool", is_answered, timeout_s=REACTION_TIMEOUT_S, hint="Is there a leader?")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    state = StateDir.default()
    machine = open_cluster(state)
    if not machine.status()["up"]:
        machine.up()
    for target in ("operator", "gateway"):
        machine.build_image(repository_dir(), target)
        machine.load_image(image_name(target))
    cluster = Cluster(state.kubeconfig)
    before = cluster.get("customresourcedefinitions").get("items", [])
    remove_release(cluster)
    cluster.kubectl("create", "namespace", NAMESPACE)
    cluster.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
    yield cluster
    remove_release(cluster)
    restore_definitions(cluster, before)


def remove_release(cluster: Cluster) -> None:
    cluster.run("helm", "uninstall", RELEASE, "--wait", "--ignore-not-found", check=False)
    cluster.run("kubectl", "delete", "namespace", NAMESPACE, "--ignore-not-found")


def restore_definitions(cluster: Cluster, before: list[dict[str, Any]]) -> None:
    """Definitions that were there belong to whom they belonged; others go."""
    known = {definition["metadata"]["name"]: definition["metadata"] for definition in before}
    ours = cluster.get("customresourcedefinitions", f"--selector=app.kubernetes.io/instance={RELEASE}").get("items", [])
    for name in (definition["metadata"]["name"] for definition in ours):
        if name not in known:
            cluster.kubectl("delete", "customresourcedefinition", name)
            continue
        annotations = known[name].get("annotations") or {}
        labels = known[name].get("labels") or {}
        marks = [f"{key}={annotations[key]}" if key in annotations else f"{key}-" for key in OWNERSHIP]
        cluster.kubectl("annotate", "--overwrite", "customresourcedefinition", name, *marks)
        keys = ("app.kubernetes.io/managed-by", "app.kubernetes.io/instance")
        marks = [f"{key}={labels[key]}" if key in labels else f"{key}-" for key in keys]
        cluster.kubectl("label", "--overwrite", "customresourcedefinition", name, *marks)


def test_the_life_of_a_release(cluster: Cluster) -> None:
    cluster.install()
    assert cluster.deployment()["status"]["readyReplicas"] == 2
    assert cluster.get("deployment", f"{RELEASE}-gateway")["status"]["readyReplicas"] == 2
    first_leader = cluster.wait_for_leader(lambda leader: True)
    cluster.kubectl("create", "--filename=-", stdin=json.dumps(POOL))
    cluster.change_pool_and_wait_for_its_status()

    # A standby takes over from a leader that had no time to say good-bye.
    cluster.kubectl("delete", "pod", first_leader, "--grace-period=0", "--force")
    second_leader = cluster.wait_for_leader(lambda leader: leader != first_leader)
    cluster.change_pool_and_wait_for_its_status()
    cluster.kubectl("rollout", "status", f"deployment/{DEPLOYMENT}", "--timeout=120s")

    installed = cluster.deployment()["spec"]["template"]
    upgrade = ("--set=operator.logLevel=debug", "--set=operator.resyncSeconds=30", "--wait", "--timeout=4m")
    cluster.helm("upgrade", RELEASE, str(CHART), *VALUES, *upgrade)
    assert cluster.deployment()["spec"]["template"] != installed
    third_leader = cluster.wait_for_leader(lambda leader: leader not in {first_leader, second_leader})
    assert '"logger": "kopf.' in cluster.kubectl("logs", third_leader), "libraries talk at level debug only"
    cluster.change_pool_and_wait_for_its_status()

    cluster.helm("rollback", RELEASE, "1", "--wait", "--timeout=4m")
    assert cluster.deployment()["spec"]["template"] == installed
    cluster.wait_for_leader(lambda leader: leader != third_leader)
    cluster.change_pool_and_wait_for_its_status()
    for pod in cluster.pods():
        logged = cluster.kubectl("logs", pod)
        assert "orbidden" not in logged, f"a right is missing: {logged}"

    uid = cluster.get("inferencepool", "kept")["metadata"]["uid"]
    cluster.helm("uninstall", RELEASE, "--wait")
    assert cluster.deployment() == {}
    assert cluster.get("inferencepool", "kept")["metadata"]["uid"] == uid

    cluster.install()
    cluster.wait_for_leader(lambda leader: True)
    cluster.change_pool_and_wait_for_its_status()
    assert cluster.get("inferencepool", "kept")["metadata"]["uid"] == uid


def test_the_standby_waits_with_warm_watches_and_answers_probes(cluster: Cluster) -> None:
    leader = cluster.wait_for_leader(lambda leader: True)
    pods = cluster.pods()
    assert len(pods) == 2
    for pod in pods.values():
        (status,) = pod["status"]["containerStatuses"]
        assert status["ready"]
        assert status["restartCount"] == 0
    (standby,) = set(pods) - {leader}
    metrics = cluster.kubectl("get", "--raw", f"/api/v1/namespaces/{NAMESPACE}/pods/{standby}:8080/proxy/metrics")
    assert "llmos_operator" in metrics
