"""The real API server with our kinds, and a namespace for each test."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from e2e.cluster.controlplane import ControlPlane
from llmos.client import Client

Kubectl = Callable[..., str]


@pytest.fixture
def namespace(kubectl: Kubectl, our_kinds: None) -> str:
    name = f"sdk-{uuid.uuid4().hex[:8]}"
    kubectl("create", "namespace", name)
    return name


@pytest.fixture
def client(control_plane: ControlPlane, namespace: str) -> Iterator[Client]:
    with Client(kubeconfig=str(control_plane.kubeconfig), namespace=namespace) as connected:
        yield connected


@pytest.fixture
def set_ready(kubectl: Kubectl, namespace: str) -> Callable[..., None]:
    """Play the operator: write a pool's Ready condition and further status."""

    def write(name: str, status: str, reason: str, message: str = "", **further: Any) -> None:
        pool = json.loads(kubectl("get", "inferencepools.llmos.dev", name, "-n", namespace, "-o", "json"))
        condition = {
            "type": "Ready",
            "status": status,
            "reason": reason,
            "message": message,
            "observedGeneration": pool["metadata"]["generation"],
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        patch = json.dumps({"status": {"conditions": [condition], **further}})
        arguments = ("inferencepools.llmos.dev", name, "-n", namespace, "--subresource=status", "--type=merge")
        kubectl("patch", *arguments, "-p", patch)

    return write
