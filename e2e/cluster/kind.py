"""The kind provider, for machines where a Docker engine answers. Kept thin: kind does the work.

Its node gets the same pretend GPUs and labels as the host provider's; simulated nodes come from kwok as a program of
this machine. kind brings DNS, storage and networking itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from e2e.cluster import binaries, images, node, objects
from e2e.cluster.components import build_flags
from e2e.cluster.controlplane import find_free_ports
from e2e.cluster.errors import ClusterError
from e2e.cluster.objects import Kubectl
from e2e.cluster.paths import StateDir
from e2e.cluster.processes import Processes
from e2e.cluster.progress import step
from e2e.cluster.shell import run

CLUSTER_NAME = "llmos"
NODE_NAME = f"{CLUSTER_NAME}-control-plane"
_READY_TIMEOUT_S = 180


def build_config() -> Mapping[str, Any]:
    return {
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "nodes": [{"role": "control-plane", "labels": dict(node.NODE_LABELS)}],
    }


def build_create_command(kind: Path, state: StateDir) -> list[str]:
    flags = build_flags(
        {"name": CLUSTER_NAME, "kubeconfig": state.kubeconfig, "config": "-", "wait": f"{_READY_TIMEOUT_S}s"}
    )
    return [str(kind), "create", "cluster", *flags]


def build_delete_command(kind: Path, state: StateDir) -> list[str]:
    return [str(kind), "delete", "cluster", *build_flags({"name": CLUSTER_NAME, "kubeconfig": state.kubeconfig})]


def build_load_command(kind: Path, image: str) -> list[str]:
    return [str(kind), "load", "docker-image", image, *build_flags({"name": CLUSTER_NAME})]


class Kind:
    """The cluster named `llmos` of kind."""

    def __init__(self, state: StateDir) -> None:
        self._state = state
        self._processes = Processes(state.run, state.logs)

    def up(
        self, *, kwok_nodes: int | None = None, control_plane_only: bool = False, with_controllers: bool = True
    ) -> None:
        if control_plane_only:
            raise ClusterError("--control-plane-only needs no Docker: use it with `--provider host`.")
        paths = binaries.ensure_binaries("kind", "kubectl", *(("kwok",) if kwok_nodes else ()))
        self._state.root.mkdir(parents=True, exist_ok=True)
        if not self._exists(paths["kind"]):
            with step("kind cluster"):
                create = build_create_command(paths["kind"], self._state)
                run(*create, stdin=json.dumps(build_config()), timeout_s=_READY_TIMEOUT_S * 3)
            self._state.record.write_text(json.dumps({"provider": "kind"}))
        kubectl = Kubectl(paths["kubectl"], self._state.kubeconfig)
        objects.apply_pretend_gpus(kubectl, NODE_NAME)
        if kwok_nodes:
            address = self._node(kubectl)["status"]["addresses"][0]["address"]
            port = find_free_ports(1)[0]
            if self._processes.pid("kwok") is None:
                self._processes.start(node.build_kwok(paths["kwok"], self._state.kubeconfig, port, address))
        if kwok_nodes is not None:
            objects.apply_kwok_nodes(kubectl, kwok_nodes)

    def down(self, *, purge: bool = False) -> None:
        self._processes.stop_all(())
        kind = binaries.ensure_binaries("kind")["kind"]
        run(*build_delete_command(kind, self._state), timeout_s=300)
        self._state.record.unlink(missing_ok=True)
        self._state.kubeconfig.unlink(missing_ok=True)

    def status(self) -> dict[str, Any]:
        kind, kubectl = binaries.find_binary("kind"), binaries.find_binary("kubectl")
        is_up = kind is not None and kubectl is not None and self._exists(kind)
        if is_up and kubectl is not None:
            is_up = objects.is_node_ready(self._node(Kubectl(kubectl, self._state.kubeconfig)))
        return {
            "state": str(self._state.root),
            "up": is_up,
            "provider": "kind",
            "kubeconfig": str(self._state.kubeconfig),
        }

    def load_image(self, name: str) -> None:
        with step(f"load {name}"):
            run(*build_load_command(binaries.ensure_binaries("kind")["kind"], name), timeout_s=1200)

    def build_image(self, repository: Path, target: str, *, engine: str = "vllm-cpu") -> str:
        return images.build_image(repository, target, builder="docker", engine=engine)

    def stop_component(self, name: str) -> None:
        run("docker", "exec", NODE_NAME, *build_component_command(name, stop=True))

    def start_component(self, name: str) -> None:
        run("docker", "exec", NODE_NAME, *build_component_command(name, stop=False))

    def _exists(self, kind: Path) -> bool:
        return CLUSTER_NAME in run(kind, "get", "clusters").stdout.split() and self._state.kubeconfig.exists()

    def _node(self, kubectl: Kubectl) -> Mapping[str, Any]:
        found: Mapping[str, Any] = kubectl.get("node", NODE_NAME)
        return found


def build_component_command(name: str, *, stop: bool) -> list[str]:
    """kind runs its control plane as static pods: moving a manifest away ends one, moving it back starts it."""
    active, parked = f"/etc/kubernetes/manifests/{name}.yaml", f"/etc/kubernetes/{name}.yaml.stopped"
    return ["mv", active, parked] if stop else ["mv", parked, active]
