"""Where the cluster tool keeps things.

Everything it writes lies below two folders, so that `down --purge` can promise to leave nothing: a cache of binaries
that all clusters share, and one state folder for each cluster. The few paths elsewhere that the Kubernetes programs
insist on (CNI's result cache, network namespaces, `/var/log/containers`) are listed and cleaned in `cleanup.py`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


def cache_dir() -> Path:
    """The folder of everything that is costly to make: `$LLMOS_CACHE`, else `$XDG_CACHE_HOME/llmos`, else
    `~/.cache/llmos`."""
    if chosen := os.environ.get("LLMOS_CACHE"):
        return Path(chosen).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache").absolute() / "llmos"


def repository_dir() -> Path:
    """The root of the checkout this file belongs to."""
    return Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class StateDir:
    """The layout of one cluster's state folder. Holds no state itself; every property is a path below `root`."""

    root: Path

    @classmethod
    def default(cls) -> StateDir:
        return cls(cache_dir() / "cluster")

    @property
    def lock(self) -> Path:
        return self.root.with_name(self.root.name + ".lock")

    @property
    def record(self) -> Path:
        """What `up` decided (provider, ports, what it added to the machine), so that `down` ends just that."""
        return self.root / "cluster.json"

    @property
    def kubeconfig(self) -> Path:
        return self.root / "admin.kubeconfig"

    @property
    def pki(self) -> Path:
        return self.root / "pki"

    @property
    def config(self) -> Path:
        return self.root / "config"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def etcd(self) -> Path:
        return self.root / "etcd"

    @property
    def kubelet(self) -> Path:
        return self.root / "kubelet"

    @property
    def pod_logs(self) -> Path:
        return self.root / "pod-logs"

    @property
    def volumes(self) -> Path:
        return self.root / "volumes"

    @property
    def cni(self) -> Path:
        return self.root / "cni"

    @property
    def containerd(self) -> Path:
        """The image store. The only folder that a plain `down` keeps (besides the logs)."""
        return self.root / "containerd"

    @property
    def containerd_state(self) -> Path:
        return self.root / "containerd-state"

    @property
    def containerd_socket(self) -> Path:
        return self.containerd_state / "containerd.sock"
