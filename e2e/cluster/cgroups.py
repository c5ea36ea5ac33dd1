"""The control group below which the kubelet puts its pods, so that they can be told apart and ended with certainty."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from e2e.cluster.node import CGROUP_ROOT
from e2e.cluster.shell import wait_for

_ROOT = Path("/sys/fs/cgroup")


def apply_cgroup_root() -> None:
    """Make the group in every hierarchy: the kubelet refuses a root that does not exist."""
    for hierarchy in _hierarchies():
        group = hierarchy / CGROUP_ROOT
        group.mkdir(exist_ok=True)
        # In cgroup v1 a new cpuset has no processors and no memory until it is given some.
        for setting in ("cpuset.cpus", "cpuset.mems"):
            own, parent = group / setting, hierarchy / setting
            if own.exists() and parent.exists() and not own.read_text().strip():
                own.write_text(parent.read_text())


def kill_pods() -> None:
    """End every process below the group and remove the groups. For whatever containerd could not end."""
    if not any(_groups()):
        return
    wait_for("The end of the pods' processes", _is_empty_after_kill, timeout_s=30)
    for group in _groups():
        _remove(group)


def _is_empty_after_kill() -> bool:
    pids = {int(pid) for group in _groups() for pid in _members(group)}
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return not pids


def _members(group: Path) -> list[str]:
    try:
        return (group / "cgroup.procs").read_text().split()
    except (FileNotFoundError, OSError):
        return []


def _remove(group: Path) -> None:
    for _ in range(50):
        try:
            group.rmdir()
        except FileNotFoundError:
            return
        except OSError:  # Busy until the kernel has reaped the last process.
            time.sleep(0.05)
        else:
            return


def _groups() -> list[Path]:
    """All groups of ours, children before parents."""
    tops = [hierarchy / CGROUP_ROOT for hierarchy in _hierarchies() if (hierarchy / CGROUP_ROOT).is_dir()]
    below = [Path(folder) for top in tops for folder, _, _ in os.walk(top)]
    return sorted(below, key=lambda path: len(path.parts), reverse=True)


def _hierarchies() -> list[Path]:
    """One folder with cgroup v2; one per controller with v1."""
    if (_ROOT / "cgroup.controllers").exists():
        return [_ROOT]
    return sorted({path.resolve() for path in _ROOT.iterdir() if (path / "cgroup.procs").exists()})
