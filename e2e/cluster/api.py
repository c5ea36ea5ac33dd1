"""What tests and the command line call: the cluster of a state folder, whichever provider runs it."""

from __future__ import annotations

import json
import os
import shutil
import ssl
from pathlib import Path
from typing import Any, Protocol

from e2e.cluster import binaries
from e2e.cluster.errors import ClusterError
from e2e.cluster.host import Host
from e2e.cluster.kind import Kind
from e2e.cluster.objects import Kubectl, build_ca_bundle
from e2e.cluster.paths import StateDir
from e2e.cluster.shell import run


class Cluster(Protocol):
    """What every provider can do."""

    def up(
        self, *, kwok_nodes: int | None = None, control_plane_only: bool = False, with_controllers: bool = True
    ) -> None: ...

    def down(self, *, purge: bool = False) -> None: ...

    def status(self) -> dict[str, Any]: ...

    def load_image(self, name: str) -> None: ...

    def build_image(self, repository: Path, target: str, *, engine: str = "vllm-cpu") -> str: ...

    def stop_component(self, name: str) -> None: ...

    def start_component(self, name: str) -> None: ...


def open_cluster(state: StateDir | None = None, provider: str = "auto") -> Cluster:
    """The cluster of a state folder. An existing one keeps its provider; a new one takes kind where a Docker engine
    answers, and this machine otherwise."""
    state = state or StateDir.default()
    existing = json.loads(state.record.read_text())["provider"] if state.record.exists() else None
    if existing and provider not in {"auto", existing}:
        raise ClusterError(f"{state.root} holds a cluster of provider {existing}. Run `down` first.")
    chosen = existing or (provider if provider != "auto" else ("kind" if has_docker_engine() else "host"))
    if chosen == "kind":
        return Kind(state)
    if chosen == "host":
        return Host(state)
    raise ClusterError(f"Unknown provider {chosen!r}. Choose auto, kind or host.")


def has_docker_engine() -> bool:
    if shutil.which("docker") is None:
        return False
    return run("docker", "version", "--format={{.Server.Version}}", check=False, timeout_s=20).returncode == 0


def apply_ca_bundle(kubeconfig: Path, namespace: str) -> None:
    """Create or update the ConfigMap llmos-ca-bundle from the certificate authorities this machine trusts."""
    bundle = os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile
    path = Path(bundle or "/etc/ssl/certs/ca-certificates.crt")
    if not path.exists():
        raise ClusterError(f"No certificate authorities at {path}. Name the file in SSL_CERT_FILE.")
    kubectl = Kubectl(binaries.ensure_binaries("kubectl")["kubectl"], kubeconfig)
    kubectl.apply([build_ca_bundle(namespace, path.read_text())])
