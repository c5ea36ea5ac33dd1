"""A small file system for one claim, which can be full: a tmpfs on the node, and a PersistentVolume that is it.

The volumes of the cluster's own StorageClass are folders of the node's disk, whose sizes nobody enforces.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from e2e.cluster import Cluster, StateDir, kind
from e2e.cluster.node import NODE_NAME
from e2e.cluster.shell import run
from e2e.support.api import Api, Object
from e2e.support.waiting import eventually


@dataclass(frozen=True)
class Node:
    """The real node, and how a command is run where its kubelet mounts volumes."""

    name: str
    root: str
    """Folder for mount points. Of the host provider it is one below which `down` unmounts everything."""
    prefix: tuple[str, ...] = ()

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command on the node and return what it printed."""
        return run(*self.prefix, *command, check=check).stdout


def find_node(machine: Cluster) -> Node:
    """The real node of a cluster."""
    if machine.status()["provider"] == "kind":
        return Node(kind.NODE_NAME, "/var/llmos-e2e", ("docker", "exec", kind.NODE_NAME))
    return Node(NODE_NAME, str(StateDir.default().root / "disks"))


@dataclass(frozen=True)
class SmallDisk:
    """A volume of limited size."""

    name: str
    """Of the volume, and of the StorageClass by which a claim asks for it; no such class is needed for that."""
    node: Node

    @property
    def folder(self) -> str:
        """Where it is mounted on the node."""
        return f"{self.node.root}/{self.name}"

    def mount(self, size: str) -> None:
        """Mount it, with this size (of tmpfs, as in 64m)."""
        self.node.run("mkdir", "-p", self.folder)
        self.node.run("mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", self.name, self.folder)

    def grow(self, size: str) -> None:
        """Give it this size from now on, also for the pods that have it mounted already."""
        self.node.run("mount", "-o", f"remount,size={size}", self.folder)

    def unmount(self) -> None:
        """Unmount it, whoever still uses it; the memory is free when nobody does."""
        self.node.run("umount", self.folder, check=False)
        if self.is_mounted():
            self.node.run("umount", "--lazy", self.folder, check=False)
        self.node.run("rmdir", self.folder, check=False)

    def is_mounted(self) -> bool:
        """Whether something is mounted there."""
        return f" {self.folder} " in self.node.run("cat", "/proc/self/mounts")

    def sum_files(self, below: str) -> dict[str, str]:
        """The sha256 of each file in a folder of the volume, by its path below that folder."""
        found = self.node.run("find", f"{self.folder}/{below}", "-type", "f", "-exec", "sha256sum", "{}", "+")
        sums = (line.split(maxsplit=1) for line in found.splitlines())
        return {path.removeprefix(f"{self.folder}/{below}/"): digest for digest, path in sums}

    def build_volume(self, capacity: str) -> Object:
        """The PersistentVolume; `capacity` is only what claims compare with what they ask for."""
        here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [self.node.name]}
        return {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": self.name},
            "spec": {
                "capacity": {"storage": capacity},
                "accessModes": ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": self.name,
                "local": {"path": self.folder},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
            },
        }


@asynccontextmanager
async def small_disk(api: Api, machine: Cluster, size: str, *, capacity: str) -> AsyncIterator[SmallDisk]:
    """Have a volume of this size; volume and mount are gone afterwards, whatever happens.

    Who uses it in a namespace has to let the namespace go first: a volume stays as long as its claim.
    """
    disk = SmallDisk(f"e2e-small-{uuid.uuid4().hex[:6]}", find_node(machine))
    try:
        disk.mount(size)
        await api.create(disk.build_volume(capacity))
        yield disk
    finally:
        try:
            await api.delete("PersistentVolume", disk.name)
            await eventually(
                f"volume {disk.name} is gone",
                lambda: api.get("PersistentVolume", disk.name),
                lambda found: found is None,
            )
        finally:
            disk.unmount()
