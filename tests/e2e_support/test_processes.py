"""Whose processes a story kills: only those of the pod that it names, and of them only the program that it names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from e2e.support.processes import find_processes, kill_processes

UID = "0b5c1f8e-1111-2222-3333-444455556666"


def add_process(proc: Path, pid: int, command: str, group: str) -> None:
    (proc / str(pid)).mkdir()
    (proc / str(pid) / "cmdline").write_bytes(command.replace(" ", "\0").encode())
    (proc / str(pid) / "cgroup").write_text(f"4:memory:{group}\n0::/\n")


@pytest.mark.parametrize(
    "group", [f"/llmos/burstable/pod{UID}/abc", f"/kubepods.slice/kubepods-pod{UID.replace('-', '_')}.slice/cri-abc"]
)
def test_only_the_named_program_of_the_named_pod_is_found(tmp_path: Path, group: str) -> None:
    add_process(tmp_path, 10, "python -m llmos_workers.train --attempt 1", group)
    add_process(tmp_path, 11, "/pause", group)
    add_process(tmp_path, 12, "python -m llmos_workers.train --attempt 1", "/llmos/burstable/podother/abc")
    (tmp_path / "13").mkdir()  # It ended while we looked.
    assert find_processes(UID, "llmos_workers.train", tmp_path) == [10]


def test_a_process_of_nobodys_pod_lives_on() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()", "llmos_workers.train"], stdin=subprocess.PIPE) as other:
        assert kill_processes(UID, "llmos_workers.train") == []
        assert other.poll() is None
        other.communicate(b"\n")
