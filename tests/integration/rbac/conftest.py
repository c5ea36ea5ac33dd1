"""A control plane with controllers, with the chart installed; its audit log tells what our programs ask of it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import yaml

from e2e.cluster.controlplane import ControlPlane
from tests.chart.helm import CHART, run_helm
from tests.integration.rbac.names import CLASS_VIEWERS, GATEWAY_USER, NAMESPACE, OPERATOR_USER


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    folder = tmp_path_factory.mktemp("rbac")
    values = {
        "operator": {"replicas": 0},
        "gateway": {"replicas": 0},
        "rbac": {"acceleratorClassViewers": [CLASS_VIEWERS]},
    }
    with ControlPlane.start(folder, with_controllers=True, audited_users=(OPERATOR_USER, GATEWAY_USER)) as running:
        helm = (f"--kubeconfig={running.kubeconfig}", f"--namespace={NAMESPACE}")
        install = ("install", "llmos", str(CHART), "--create-namespace", "--values=-")
        run_helm(*helm, *install, stdin=yaml.safe_dump(values))
        yield running


def build_token_kubeconfig(plane: ControlPlane, token: str) -> str:
    """Return a kubeconfig (JSON is YAML) with the credentials that a pod has."""
    cluster = {"server": plane.url, "certificate-authority": str(plane.ca_file)}
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "pod", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "pod"}}],
            "current-context": "test",
        }
    )
