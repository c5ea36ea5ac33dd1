"""Takes back what a node left on the machine: mounts, network namespaces, links to logs.

Each function finds its objects by something that only this cluster has (its state folder, its CNI network's name), so
it can be called after any crash and never touches another's.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from e2e.cluster.node import CNI_NETWORK
from e2e.cluster.paths import StateDir
from e2e.cluster.shell import run, wait_for

_CNI_RESULTS = Path("/var/lib/cni/results")
_CONTAINER_LOGS = Path("/var/log/containers")
SHIM_FOLDER = Path("/run/containerd")
_DEVICE_PLUGINS = Path("/var/lib/kubelet/device-plugins")


def kill_shims(state: StateDir) -> None:
    """End the containerd shims that serve our socket; they outlive a containerd that was killed."""
    own = ["-address", str(state.containerd_socket)]

    def none_left() -> bool:
        shims = [pid for pid in _pids() if _is_shim(pid, own)]
        for pid in shims:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        return not shims

    wait_for("The end of containerd's shims", none_left, timeout_s=20)


def unmount_below(folder: Path) -> None:
    """Unmount all below `folder`: kubelet's tmpfs and bind mounts, containerd's root file systems."""
    for target in reversed(mounts_below(folder, Path("/proc/self/mountinfo").read_text())):
        if run("umount", target, check=False).returncode != 0:
            run("umount", "--lazy", target, check=False)


def mounts_below(folder: Path, mountinfo: str) -> list[str]:
    """The mount points below `folder`, in the order in which they were mounted."""
    points = [line.split()[4].encode().decode("unicode_escape") for line in mountinfo.splitlines()]
    return [point for point in points if point.startswith(f"{folder}/")]


def remove_pod_networks() -> None:
    """Remove the network namespaces of pods, and with them their interfaces, by what CNI remembers of our network."""
    for remembered in _CNI_RESULTS.glob(f"{CNI_NETWORK}-*"):
        result = json.loads(remembered.read_text())
        for namespace in pod_namespaces(result):
            run("ip", "netns", "delete", namespace, check=False)
        remembered.unlink(missing_ok=True)
        for loopback in _CNI_RESULTS.glob(f"cni-loopback-{result['containerId']}-*"):
            loopback.unlink(missing_ok=True)


def pod_namespaces(cni_result: Mapping[str, Any]) -> set[str]:
    """The names of the network namespaces in which a remembered CNI result has interfaces."""
    interfaces = cni_result.get("result", {}).get("interfaces", [])
    names = {Path(interface.get("sandbox", "")).name for interface in interfaces}
    return {name for name in names if name.startswith("cni-")}


def remove_log_links(state: StateDir) -> None:
    """Remove the links that the kubelet keeps for log collectors and that lead to our pods' logs."""
    if not _CONTAINER_LOGS.is_dir():
        return
    for link in _CONTAINER_LOGS.iterdir():
        if link.is_symlink() and str(link.readlink()).startswith(str(state.pod_logs)):
            link.unlink(missing_ok=True)


def remove_folders(state: StateDir, *, keep_images: bool) -> None:
    """Remove the state folder; with `keep_images` not the image store and the logs."""
    if not keep_images:
        shutil.rmtree(state.root, ignore_errors=True)
        return
    keep = {state.containerd, state.logs}
    for path in state.root.iterdir() if state.root.exists() else ():
        if path.is_dir() and path not in keep:
            shutil.rmtree(path, ignore_errors=True)
        elif not path.is_dir():
            path.unlink(missing_ok=True)


def remove_fixed_folders(*, with_shim_folder: bool) -> None:
    """Remove the folders whose place nobody can choose, where nothing else is in them. The sockets of containerd's
    shims can not be told from another containerd's: their folder goes only if it came with this cluster."""
    if with_shim_folder:
        shutil.rmtree(SHIM_FOLDER, ignore_errors=True)
    for leftover in ("kubelet.sock", "kubelet_internal_checkpoint"):
        (_DEVICE_PLUGINS / leftover).unlink(missing_ok=True)
    for folder in (_DEVICE_PLUGINS, _DEVICE_PLUGINS.parent, _CONTAINER_LOGS, _CNI_RESULTS, _CNI_RESULTS.parent):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _is_shim(pid: int, address: list[str]) -> bool:
    try:
        argv = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return False
    at = argv.index("-address") if "-address" in argv else -1
    return Path(argv[0]).name.startswith("containerd-shim") and argv[at : at + 2] == address
