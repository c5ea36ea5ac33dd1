"""One real etcd and kube-apiserver for all tests of this folder, started on first use."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from e2e.cluster.binaries import ensure_binaries
from e2e.cluster.controlplane import ControlPlane

CRDS = Path(__file__).parents[2] / "crds"

Kubectl = Callable[..., str]


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane.start(tmp_path_factory.mktemp("control-plane")) as running:
        yield running


@pytest.fixture(scope="session")
def kubectl(control_plane: ControlPlane) -> Kubectl:
    """Run kubectl as an administrator and return what it prints; `given` is its standard input."""
    program = ensure_binaries("kubectl")["kubectl"]

    def run(*arguments: str, given: str = "") -> str:
        command = [str(program), f"--kubeconfig={control_plane.kubeconfig}", *arguments]
        done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    return run


@pytest.fixture(scope="session")
def our_kinds(kubectl: Kubectl) -> None:
    """Have the API server serve the definitions of this checkout."""
    kubectl("apply", "--server-side", "--force-conflicts", "-f", str(CRDS))
    kubectl("wait", "--for=condition=Established", "--timeout=30s", "-f", str(CRDS))
