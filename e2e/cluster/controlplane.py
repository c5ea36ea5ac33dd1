"""A real etcd and kube-apiserver on free loopback ports, for tests.

    with ControlPlane.start(tmp_path) as control_plane:
        client = connect(control_plane.kubeconfig)

It is up in a few seconds, needs neither root nor a node, and any number of them run side by side with a whole cluster.
The programs end with the `with` block, and also when the test process is killed. Start it in a thread that lives as
long as the control plane (pytest's fixtures run in the main thread): the kernel's leash is tied to that thread.
"""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import urllib.error
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from e2e.cluster import binaries
from e2e.cluster.components import (
    Audit,
    ControlPlaneSpec,
    build_apiserver,
    build_controller_manager,
    build_etcd,
    build_scheduler,
)
from e2e.cluster.pki import ADMIN, Authority, build_kubeconfig, write_pki, write_secret
from e2e.cluster.processes import Processes
from e2e.cluster.shell import wait_for

READY_TIMEOUT_S = 90.0
STOP_ORDER = ("kube-scheduler", "kube-controller-manager", "kube-apiserver", "etcd")
# Who the programs say they are. The bootstrap RBAC policy of Kubernetes knows the names that begin with "system:".
USERS = {
    "admin": ADMIN,
    "kube-controller-manager": ("system:kube-controller-manager", ""),
    "kube-scheduler": ("system:kube-scheduler", ""),
}


@dataclass(frozen=True)
class ControlPlane:
    """A running control plane. `kubeconfig` is an administrator's; `url` and `ca_file` are there for plain HTTP."""

    folder: Path
    spec: ControlPlaneSpec
    processes: Processes

    @classmethod
    def start(
        cls, folder: Path, *, with_controllers: bool = False, audited_users: tuple[str, ...] = ()
    ) -> ControlPlane:
        """Start etcd and kube-apiserver, and with `with_controllers` also kube-controller-manager and kube-scheduler
        (no pod ever runs: there is no node). All state lies in `folder`, which must be empty or absent.

        `read_audit_log` tells what the `audited_users` asked of the API server.

        Raises:
            ClusterError: a binary could not be found or built, or a program did not become ready.
        """
        wanted = (*binaries.CONTROL_PLANE, *(binaries.CONTROLLERS if with_controllers else ()))
        paths = binaries.ensure_binaries(*wanted)
        folder.mkdir(parents=True, exist_ok=True)
        api_port, client_port, peer_port = find_free_ports(3)
        audit = Audit(folder / "audit-policy.json", folder / "audit.log", audited_users) if audited_users else None
        spec = ControlPlaneSpec(folder / "pki", folder / "etcd", "127.0.0.1", api_port, client_port, peer_port, audit)
        authority = write_pki(spec.pki, api_hosts=[], node_address="127.0.0.1")
        issue_kubeconfigs(folder, authority, spec.url, USERS, "llmos-test")
        plane = cls(folder, spec, Processes(folder / "run", folder / "logs", die_with_parent=True))
        with ExitStack() as undo:
            undo.callback(plane.stop)
            start_control_plane(plane.processes, paths, spec, folder, with_controllers=with_controllers)
            undo.pop_all()
        return plane

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "admin.kubeconfig"

    @property
    def url(self) -> str:
        return self.spec.url

    @property
    def ca_file(self) -> Path:
        return self.spec.pki / "ca.crt"

    def read_audit_log(self) -> list[dict[str, Any]]:
        """Return the audit events (audit.k8s.io/v1) of the audited users so far: of every request one when its response
        began to stream, if it did, and one when it was complete."""
        if self.spec.audit is None or not self.spec.audit.log.exists():
            return []
        lines = self.spec.audit.log.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def stop_apiserver(self) -> None:
        """Take the API server away; what is stored stays."""
        self.processes.stop("kube-apiserver")

    def start_apiserver(self) -> None:
        """Bring it back at the same address and wait until it is ready."""
        self.processes.restart("kube-apiserver")
        wait_until_ready(self.processes, self.spec)

    def stop(self) -> None:
        """End everything and forget what was stored; logs and kubeconfigs stay for a look afterwards."""
        self.processes.stop_all(STOP_ORDER)
        shutil.rmtree(self.spec.etcd_data, ignore_errors=True)

    def __enter__(self) -> ControlPlane:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def start_control_plane(
    processes: Processes, paths: dict[str, Path], spec: ControlPlaneSpec, kubeconfigs: Path, *, with_controllers: bool
) -> None:
    """Start what is missing and wait for the API server. `kubeconfigs` holds one `USER.kubeconfig` each."""
    processes.start(build_etcd(paths["etcd"], spec))
    processes.start(build_apiserver(paths["kube-apiserver"], spec))
    wait_until_ready(processes, spec)
    if with_controllers:
        manager = kubeconfigs / "kube-controller-manager.kubeconfig"
        processes.start(build_controller_manager(paths["kube-controller-manager"], spec, manager))
        processes.start(build_scheduler(paths["kube-scheduler"], kubeconfigs / "kube-scheduler.kubeconfig"))


def wait_until_ready(processes: Processes, spec: ControlPlaneSpec) -> None:
    def is_ready() -> bool:
        processes.ensure_alive("etcd")
        processes.ensure_alive("kube-apiserver")
        return answers_ok(f"{spec.url}/readyz", spec.pki / "ca.crt")

    log = processes.log_file("kube-apiserver")
    wait_for("kube-apiserver /readyz", is_ready, timeout_s=READY_TIMEOUT_S, hint=f"See {log}.")


def answers_ok(url: str, ca_file: Path | None = None) -> bool:
    """Whether a GET answers 200 right now."""
    context = ssl.create_default_context(cafile=str(ca_file)) if ca_file else None
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(url, timeout=2.0) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def find_free_ports(count: int) -> list[int]:
    """Loopback TCP ports that were free a moment ago, all different."""
    with ExitStack() as open_sockets:
        sockets = [open_sockets.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def issue_kubeconfigs(
    folder: Path, authority: Authority, server: str, users: dict[str, tuple[str, str]], cluster: str
) -> None:
    """Write `USER.kubeconfig` for each (name, group)."""
    for user, (name, group) in users.items():
        config = build_kubeconfig(authority, authority.client(name, group), server, cluster)
        write_secret(folder / f"{user}.kubeconfig", config.encode())
