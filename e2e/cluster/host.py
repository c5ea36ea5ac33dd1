"""The host provider: the real Kubernetes programs on this machine, one real node, no Docker.

`up` is one list of repeatable steps, each of which does only what is missing; so the same function starts a cluster,
heals one after a crash, and verifies one that runs. `down` is the reverse list and works from any half-way point.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from e2e.cluster import binaries, cgroups, cleanup, images, network, node, objects, packages
from e2e.cluster.components import ControlPlaneSpec
from e2e.cluster.containerd import Containerd
from e2e.cluster.controlplane import (
    STOP_ORDER,
    USERS,
    answers_ok,
    find_free_ports,
    issue_kubeconfigs,
    start_control_plane,
    wait_until_ready,
)
from e2e.cluster.errors import ClusterError
from e2e.cluster.objects import Kubectl
from e2e.cluster.paths import StateDir
from e2e.cluster.pki import write_pki
from e2e.cluster.processes import Processes, boot_id
from e2e.cluster.progress import say, step
from e2e.cluster.shell import wait_for

_MINIMUM_FREE_BYTES = 10 * 1024**3
_NODE_USERS = {
    "kubelet": (f"system:node:{node.NODE_NAME}", "system:nodes"),
    "kube-proxy": ("system:kube-proxy", ""),
    "coredns": ("llmos-coredns", "system:masters"),
    "local-volumes": ("llmos-local-volumes", "system:masters"),
    "kwok": ("llmos-kwok", "system:masters"),
}
# Whoever makes pods ends first, so that nothing comes back while the pods are ended.
_POD_MAKERS = ("kwok", "local-volumes", "kube-scheduler", "kube-controller-manager", "kubelet")


@dataclass(frozen=True)
class Record:
    """What `up` decided and found; written before anything is changed, read by every later command."""

    provider: str
    boot_id: str
    control_plane_only: bool
    with_controllers: bool
    address: str
    api_port: int
    etcd_client_port: int
    etcd_peer_port: int
    kwok_port: int
    kwok_nodes: int
    owns_shim_folder: bool
    network_before: dict[str, str]

    @classmethod
    def read(cls, state: StateDir) -> Record | None:
        if not state.record.exists():
            return None
        return cls(**json.loads(state.record.read_text()))

    def write(self, state: StateDir) -> None:
        state.root.mkdir(parents=True, exist_ok=True)
        scratch = state.record.with_suffix(".new")
        scratch.write_text(json.dumps(asdict(self), indent=1))
        scratch.replace(state.record)


class Host:
    """One cluster of the host provider, known by its state folder."""

    def __init__(self, state: StateDir) -> None:
        self._state = state
        self._processes = Processes(state.run, state.logs)

    def up(
        self, *, kwok_nodes: int | None = None, control_plane_only: bool = False, with_controllers: bool = True
    ) -> None:
        """Make the cluster run; without `kwok_nodes` the number of simulated nodes stays (0 at first). When this fails
        or is interrupted before a cluster existed, nothing is left behind.

        Raises:
            ClusterError: with the cause and the remedy.
        """
        existing = self._usable_record(control_plane_only)
        if not control_plane_only:
            _check_machine(self._state)
        wanted = binaries.HOST if not control_plane_only else (*binaries.CONTROL_PLANE, *binaries.CONTROLLERS)
        paths = binaries.ensure_binaries(*wanted, *(() if control_plane_only else binaries.OWN_TOOLS))
        try:
            record = existing or self._begin(control_plane_only, with_controllers)
            if kwok_nodes is not None:
                record = replace(record, kwok_nodes=kwok_nodes)
            record.write(self._state)
            self._start_control_plane(record, paths)
            if not control_plane_only:
                self._start_node(record, paths, is_new=existing is None)
        except BaseException:
            if existing is None:
                say("Taking back what was started (the logs stay).")
                self.down()
            raise

    def down(self, *, purge: bool = False) -> None:
        """End the cluster and remove all it left. Images stay unless `purge`."""
        record = Record.read(self._state)
        has_node = record is not None and not record.control_plane_only
        if has_node:
            for name in _POD_MAKERS:
                self._processes.stop(name)
            self._end_pods()
        self._processes.stop_all((node.ENFORCER, "kube-proxy", "coredns", "containerd", *STOP_ORDER))
        if has_node and record is not None:
            cleanup.kill_shims(self._state)
            cgroups.kill_pods()
            cleanup.unmount_below(self._state.root)
            cleanup.remove_pod_networks()
            network.remove_network(network.NetworkBefore(**record.network_before))
            cleanup.remove_log_links(self._state)
            cleanup.remove_fixed_folders(with_shim_folder=record.owns_shim_folder)
        cleanup.remove_folders(self._state, keep_images=not purge)

    def status(self) -> dict[str, Any]:
        """What runs, as plain data. Never raises because something does not."""
        record = Record.read(self._state)
        if record is None:
            return {"state": str(self._state.root), "up": False, "provider": None}
        running = {name: self._processes.pid(name) for name in sorted(expected_components(record))}
        nodes = self._observe_nodes()
        are_nodes_ready = record.control_plane_only or (bool(nodes) and all(each["ready"] for each in nodes))
        return {
            "state": str(self._state.root),
            "up": all(running.values()) and are_nodes_ready,
            "provider": record.provider,
            "controlPlaneOnly": record.control_plane_only,
            "kubeconfig": str(self._state.kubeconfig),
            "server": self._spec(record).url,
            "components": {name: {"running": pid is not None, "pid": pid} for name, pid in running.items()},
            "nodes": nodes,
        }

    def load_image(self, name: str) -> None:
        containerd = Containerd(self._state.containerd_socket)
        if self._processes.pid("containerd") is None:
            raise ClusterError("The cluster is not up. Start it first: `python -m e2e.cluster up`.")
        images.load_image(containerd, name)

    def build_image(self, repository: Path, target: str, *, engine: str = "vllm-cpu") -> str:
        return images.build_image(repository, target, builder="buildah", engine=engine)

    def stop_component(self, name: str) -> None:
        if name not in self._processes.names():
            raise ClusterError(f"{name!r} does not run. Running: {', '.join(self._processes.names()) or 'nothing'}.")
        self._processes.stop(name)

    def start_component(self, name: str) -> None:
        record = Record.read(self._state)
        if record is None:
            raise ClusterError("There is no cluster. Start one: `python -m e2e.cluster up`.")
        self._processes.restart(name)
        if name in {"etcd", "kube-apiserver"}:
            wait_until_ready(self._processes, self._spec(record))

    def _usable_record(self, control_plane_only: bool) -> Record | None:
        """The record of a cluster that can be continued. Remains of one that cannot are removed."""
        record = Record.read(self._state)
        if record is None:
            return None
        if record.boot_id != boot_id():
            say("The machine was restarted since: beginning with a new cluster (loaded images are kept).")
            self.down()
            return None
        if record.control_plane_only != control_plane_only:
            raise ClusterError(
                f"{self._state.root} holds another kind of cluster (control plane only: {record.control_plane_only}). "
                "Run `down` first, or choose another folder with --state."
            )
        return record

    def _begin(self, control_plane_only: bool, with_controllers: bool) -> Record:
        if not control_plane_only:
            network.ensure_address_is_free()
        api_port, client_port, peer_port, kwok_port = find_free_ports(4)
        record = Record(
            provider="host",
            boot_id=boot_id(),
            control_plane_only=control_plane_only,
            with_controllers=with_controllers,
            address="127.0.0.1" if control_plane_only else node.NODE_ADDRESS,
            api_port=api_port if control_plane_only else node.API_PORT,
            etcd_client_port=client_port,
            etcd_peer_port=peer_port,
            kwok_port=kwok_port,
            kwok_nodes=0,
            owns_shim_folder=not cleanup.SHIM_FOLDER.exists(),
            network_before=asdict(network.observe_network()),
        )
        record.write(self._state)
        return record

    def _spec(self, record: Record) -> ControlPlaneSpec:
        return ControlPlaneSpec(
            pki=self._state.pki,
            etcd_data=self._state.etcd,
            address=record.address,
            api_port=record.api_port,
            etcd_client_port=record.etcd_client_port,
            etcd_peer_port=record.etcd_peer_port,
        )

    def _start_control_plane(self, record: Record, paths: dict[str, Path]) -> None:
        spec = self._spec(record)
        if not self._state.kubeconfig.exists():
            authority = write_pki(spec.pki, api_hosts=[record.address, "10.96.0.1"], node_address=record.address)
            users = {**_NODE_USERS, **USERS}  # The administrator's comes last and says that the others are there.
            users["admin"] = users.pop("admin")
            issue_kubeconfigs(self._state.root, authority, spec.url, users, node.CNI_NETWORK)
        if not record.control_plane_only:
            network.apply_network()
        with step("control plane"):
            start_control_plane(
                self._processes, paths, spec, self._state.root, with_controllers=record.with_controllers
            )

    def _start_node(self, record: Record, paths: dict[str, Path], *, is_new: bool) -> None:
        state, processes = self._state, self._processes
        kubectl = Kubectl(paths["kubectl"], state.kubeconfig)
        with step("DNS, storage and network policies"):
            kubectl.apply([objects.build_storage_class(), *objects.build_dns_service()])
            processes.start(node.build_coredns(paths["coredns"], state))
            state.volumes.mkdir(exist_ok=True)
            processes.start(node.build_local_volumes(paths["local-volumes"], state))
            processes.start(node.build_enforcer(state))
        with step("containerd"):
            self._start_containerd(paths, is_new=is_new)
        with step("node"):
            cgroups.apply_cgroup_root()
            processes.start(node.build_kubelet(paths["kubelet"], state))
            processes.start(node.build_kube_proxy(paths["kube-proxy"], state))
            self._wait_for_node(kubectl)
            objects.apply_pretend_gpus(kubectl, node.NODE_NAME)
        with step(f"{record.kwok_nodes} simulated nodes"):
            self._apply_kwok(record, paths, kubectl)
        for name in processes.names():
            processes.ensure_alive(name)

    def _start_containerd(self, paths: dict[str, Path], *, is_new: bool) -> None:
        state = self._state
        containerd = Containerd(state.containerd_socket)
        binary = shutil.which("containerd")
        assert binary is not None
        pause_image = f"localhost/llmos-pause:{paths['pause'].name.rpartition('-')[2]}"
        if self._processes.start(node.build_containerd(Path(binary), state, pause_image)):
            # A kubelet that lost its runtime backs off for minutes before it looks again.
            self._processes.stop("kubelet")

        def is_ready() -> bool:
            self._processes.ensure_alive("containerd")
            return containerd.is_ready()

        wait_for("containerd", is_ready, timeout_s=60, hint=f"See {self._processes.log_file('containerd')}.")
        if is_new:
            containerd.remove_containers()
        images.load_pause_image(containerd, paths["pause"], pause_image)

    def _wait_for_node(self, kubectl: Kubectl) -> None:
        def is_node_ready() -> bool:
            for name in ("kubelet", "containerd", "coredns", "kube-proxy"):
                self._processes.ensure_alive(name)
            found = kubectl.get("nodes", "--field-selector", f"metadata.name={node.NODE_NAME}")["items"]
            # Without its default service account a namespace refuses pods.
            account = kubectl("get", "serviceaccount", "default", "--ignore-not-found", "-o=name")
            is_ready = bool(found) and objects.is_node_ready(found[0]) and bool(account)
            return is_ready and answers_ok(node.KUBELET_HEALTHZ_URL)

        log = self._processes.log_file("kubelet")
        wait_for("The node", is_node_ready, timeout_s=120, poll_s=0.5, hint=f"See {log}.")
        dns = f"http://{node.NODE_ADDRESS}:{node.COREDNS_READY_PORT}/ready"
        wait_for("CoreDNS", lambda: answers_ok(dns), timeout_s=30, hint=f"See {self._processes.log_file('coredns')}.")

    def _apply_kwok(self, record: Record, paths: dict[str, Path], kubectl: Kubectl) -> None:
        kubeconfig = self._state.root / "kwok.kubeconfig"
        self._processes.start(node.build_kwok(paths["kwok"], kubeconfig, record.kwok_port))
        objects.apply_kwok_nodes(kubectl, record.kwok_nodes)

        def are_ready() -> bool:
            self._processes.ensure_alive("kwok")
            nodes = kubectl.get("nodes", "-l", objects.KWOK_SELECTOR)["items"]
            return len(nodes) == record.kwok_nodes and all(map(objects.is_node_ready, nodes))

        log = self._processes.log_file("kwok")
        wait_for("The simulated nodes", are_ready, timeout_s=60 + record.kwok_nodes, poll_s=0.3, hint=f"See {log}.")

    def _end_pods(self) -> None:
        containerd = Containerd(self._state.containerd_socket)
        if self._processes.pid("containerd") is not None and containerd.is_ready():
            containerd.remove_containers()

    def _observe_nodes(self) -> list[dict[str, Any]]:
        kubectl = binaries.find_binary("kubectl")
        if kubectl is None or not self._state.kubeconfig.exists():
            return []
        try:
            items = Kubectl(kubectl, self._state.kubeconfig).get("nodes", "--request-timeout=5s")["items"]
        except ClusterError:
            return []
        return [
            {
                "name": item["metadata"]["name"],
                "ready": objects.is_node_ready(item),
                "gpus": int(item.get("status", {}).get("allocatable", {}).get("nvidia.com/gpu", 0)),
            }
            for item in items
        ]


def expected_components(record: Record) -> set[str]:
    """The programs that run when the cluster is up."""
    if not record.control_plane_only:
        return {*STOP_ORDER, *_POD_MAKERS, "kube-proxy", "coredns", "containerd", node.ENFORCER}
    return set(STOP_ORDER) if record.with_controllers else {"etcd", "kube-apiserver"}


def _check_machine(state: StateDir) -> None:
    if sys.platform != "linux" or os.geteuid() != 0:
        raise ClusterError(
            "Without a Docker engine the cluster needs Linux and root. Start Docker (then kind is used), run this as "
            "root, or use `up --control-plane-only`, which needs neither."
        )
    packages.ensure_packages(packages.NODE_PACKAGES)
    state.root.mkdir(parents=True, exist_ok=True)
    free_bytes = shutil.disk_usage(state.root).free
    if free_bytes < _MINIMUM_FREE_BYTES:
        say(f"Warning: only {free_bytes / 1024**3:.1f} GiB are free at {state.root}; images may not fit.")
