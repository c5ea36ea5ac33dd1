"""The processes of a pod as this machine sees them: a program that is process 1 of its container cannot be killed from
within."""

from __future__ import annotations

import os
import signal
from pathlib import Path

_PROC = Path("/proc")


def find_processes(uid: str, word: str, proc: Path = _PROC) -> list[int]:
    """Return the ids of the processes of a pod whose command line has a word in it.

    Args:
        uid: of the pod; its control group bears it, with underscores where systemd keeps the groups.
        word: what tells the program from others in the pod, such as its pause process.
        proc: where the kernel tells of processes.
    """
    found = []
    for process in proc.glob("[0-9]*"):
        try:
            command, groups = (process / "cmdline").read_bytes(), (process / "cgroup").read_text()
        except OSError:
            continue
        if word.encode() in command and (uid in groups or uid.replace("-", "_") in groups):
            found.append(int(process.name))
    return sorted(found)


def kill_processes(uid: str, word: str) -> list[int]:
    """Send SIGKILL to these processes of a pod, and return which they were; one that is gone already is left out."""
    killed = []
    for pid in find_processes(uid, word):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        killed.append(pid)
    return killed
