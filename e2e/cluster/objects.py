"""The Kubernetes objects that make a bare control plane a usable cluster: DNS, storage, GPUs, simulated nodes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from e2e.cluster.node import DNS_ADDRESS, NODE_ADDRESS, PRETEND_GPUS
from e2e.cluster.shell import run

Object = Mapping[str, Any]

KWOK_SELECTOR = "type=kwok"
_KWOK_ANNOTATIONS = {"kwok.x-k8s.io/node": "fake", "node.alpha.kubernetes.io/ttl": "0"}
_KWOK_GPUS = 8


def build_storage_class() -> Object:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": "standard", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "llmos.dev/local",
        "volumeBindingMode": "WaitForFirstConsumer",
        "reclaimPolicy": "Delete",
    }


def build_dns_service() -> list[Object]:
    """The Service `kube-dns` of every cluster; its one endpoint is CoreDNS on the node's address."""
    ports = [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]
    metadata = {"namespace": "kube-system", "labels": {"k8s-app": "kube-dns"}}
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {**metadata, "name": "kube-dns"},
            "spec": {"clusterIP": DNS_ADDRESS, "ports": ports},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "namespace": "kube-system",
                "name": "kube-dns-host",
                "labels": {"k8s-app": "kube-dns", "kubernetes.io/service-name": "kube-dns"},
            },
            "addressType": "IPv4",
            "ports": ports,
            "endpoints": [{"addresses": [NODE_ADDRESS], "conditions": {"ready": True}}],
        },
    ]


def build_kwok_node(index: int) -> Object:
    """A simulated node with 8 H100s, labelled as GPU feature discovery labels the real ones."""
    name = f"kwok-gpu-{index}"
    resources = {
        "cpu": "128",
        "memory": "2Ti",
        "ephemeral-storage": "2Ti",
        "pods": "250",
        "nvidia.com/gpu": str(_KWOK_GPUS),
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": _KWOK_ANNOTATIONS,
            "labels": {
                "type": "kwok",
                "kubernetes.io/arch": "amd64",
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "nvidia.com/gpu.present": "true",
                "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3",
                "nvidia.com/gpu.memory": "81559",
                "nvidia.com/gpu.count": str(_KWOK_GPUS),
            },
        },
        "spec": {"taints": [{"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"}]},
        "status": {"capacity": resources, "allocatable": resources},
    }


def build_ca_bundle(namespace: str, certificates: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "llmos-ca-bundle", "namespace": namespace},
        "data": {"ca.crt": certificates},
    }


def plan_kwok_nodes(existing: set[str], wanted: int) -> tuple[list[Object], list[str]]:
    """Which simulated nodes to create and which to delete."""
    nodes = [build_kwok_node(index) for index in range(wanted)]
    names = {node["metadata"]["name"] for node in nodes}
    return [node for node in nodes if node["metadata"]["name"] not in existing], sorted(existing - names)


class Kubectl:
    """kubectl against one cluster."""

    def __init__(self, binary: Path, kubeconfig: Path) -> None:
        self._command = (str(binary), f"--kubeconfig={kubeconfig}")

    def __call__(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        return run(*self._command, *arguments, stdin=stdin, check=check, timeout_s=300).stdout

    def get(self, *arguments: str) -> Any:
        return json.loads(self("get", "-o", "json", *arguments))

    def apply(self, objects: list[Object]) -> None:
        listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        self("apply", "--server-side", "--force-conflicts", "--field-manager=llmos-e2e", "-f", "-", stdin=listed)

    def create(self, objects: list[Object]) -> None:
        self("create", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))


def apply_pretend_gpus(kubectl: Kubectl, node: str) -> None:
    """Give a node GPUs that the scheduler counts and nobody has to own."""
    patch = [
        {"op": "add", "path": f"/status/{field}/nvidia.com~1gpu", "value": str(PRETEND_GPUS)}
        for field in (
            "capacity",
            "allocatable",
        )  # The kubelet would copy the second from the first, some seconds later.
    ]
    kubectl("patch", "node", node, "--subresource=status", "--type=json", "-p", json.dumps(patch))


def apply_kwok_nodes(kubectl: Kubectl, wanted: int) -> None:
    """Have exactly `wanted` simulated nodes."""
    existing = {node["metadata"]["name"] for node in kubectl.get("nodes", "-l", KWOK_SELECTOR)["items"]}
    missing, surplus = plan_kwok_nodes(existing, wanted)
    if missing:
        kubectl.create(missing)
    if surplus:
        # Whoever asked waits for the number; kubectl would wait for one after the other, minutes for hundreds.
        kubectl("delete", "node", "--wait=false", *surplus)


def is_node_ready(node: Object) -> bool:
    conditions = node.get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
