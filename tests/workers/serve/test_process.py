"""The engine's process: its last lines are kept, its group is killed, its orphans are reaped."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos_workers.serve.process import LastLines
from llmos_workers.serve.supervisor import observe_oom_kills

# The reaper takes every child of its process, so it runs in one of its own.
PARENT = """
import asyncio, json, os, sys
from llmos_workers.serve.process import EngineProcess

async def main():
    engine = EngineProcess(["sh", "-c", sys.argv[1]], os.environ)
    status = await asyncio.wait_for(engine.exit_status, 10)
    lines = engine.collect_lines()
    await asyncio.sleep(0.3)
    print("\\nRESULT" + json.dumps({"status": status, "lines": lines, "left": find_children(), "group": engine.pid}))

def find_children():
    import psutil
    return [f"{child.status()} {child.name()}" for child in psutil.Process().children(recursive=True)]

asyncio.run(main())
"""


def run_engine(script: str) -> dict[str, object]:
    run = subprocess.run([sys.executable, "-c", PARENT, script], capture_output=True, text=True, timeout=20, check=True)
    result: dict[str, object] = json.loads(run.stdout.split("RESULT")[1])
    return result


def test_all_that_an_engine_leaves_behind_is_killed_and_reaped() -> None:
    # A background child of the engine's, and one that ended after its own parent did.
    result = run_engine("sleep 300 & (sleep 0.1 &) ; echo out; echo err >&2; sleep 0.2; exit 3")
    assert result["status"] == 3
    assert result["lines"] == ["out", "err"]
    assert result["left"] == []
    group = result["group"]
    assert isinstance(group, int)
    assert not psutil.pid_exists(group)


def test_a_child_that_left_the_group_is_reaped_when_it_ends() -> None:
    assert run_engine("setsid sh -c 'sleep 0.1' & exit 0")["left"] == []


def test_the_signal_that_ended_an_engine_is_its_status() -> None:
    assert run_engine("kill -SEGV $$")["status"] == -11


def test_last_lines_keep_what_a_person_would_have_seen() -> None:
    lines = LastLines()
    lines.feed(b"\x1b[32mgreen\x1b[0m\r\nload  0%\rload 50%\rload 100%\npart")
    lines.feed(b"ial")
    assert lines.get() == ("green", "load 100%", "partial")


@given(st.lists(st.binary(max_size=300), max_size=60))
def test_last_lines_are_bounded(chunks: list[bytes]) -> None:
    lines = LastLines(max_lines=5)
    for chunk in chunks:
        lines.feed(chunk)
    assert len(lines.get()) <= 6
    assert all(len(line) <= 2000 for line in lines.get())


@given(st.text(st.characters(exclude_characters="\r\n\x1b", exclude_categories=["Cs"]), max_size=50), st.integers(1, 9))
def test_where_the_stream_is_cut_changes_nothing(text: str, size: int) -> None:
    whole = f"first\n{text}\nlast".encode()
    lines = LastLines()
    for start in range(0, len(whole), size):
        lines.feed(whole[start : start + size])
    assert lines.get() == ("first", text, "last")


@pytest.mark.parametrize(("content", "kills"), [("low 0\noom 2\noom_kill 3\n", 3), ("low 0\n", 0), (None, 0)])
def test_kills_for_memory_are_read_from_the_control_group(tmp_path: Path, content: str | None, kills: int) -> None:
    path = tmp_path / "memory.events"
    if content is not None:
        path.write_text(content, encoding="ascii")
    assert observe_oom_kills(path) == kills
