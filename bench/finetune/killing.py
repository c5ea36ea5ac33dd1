"""Kill the real command between two checkpoints, begin it again, and look what that took.

The way back is told apart by the lines of the trainer's log and its heartbeat:

    imports      the process starts    -> "attempt N begins"
    model        from there            -> it is loaded ("... of N parameters")
    checkpoint   from there            -> it is read, and training begins (the heartbeat's record)
    first step   from there            -> the first step is done

The checkpoint is verified while the model is loaded: what is left of that counts as checkpoint.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from bench.finetune.load import BASE_DIGEST, Load, copy_prepared
from llmos_workers.train.attempts import AttemptRecord, read_records

DEADLINE_S: Final = 900.0
_EVERY_STEPS: Final = 3
_ENOUGH_STEPS: Final = 1_000_000
_BEGINS: Final = r"attempt \d+ begins$"
_LOADED: Final = r" of \d+ parameters, computed in "


def measure_kill(load: Load, prepared: Path) -> dict[str, Any]:
    """Kill, begin again; seconds are wall time."""
    work, load = copy_prepared(prepared), replace(load, steps=_ENOUGH_STEPS)
    process = _start(load, work, "first")
    record = _wait(work, 0, lambda record: record.step >= 2 * _EVERY_STEPS + 2, process)
    process.kill()
    process.wait()
    interval_s = (record.step_at - record.began_at) / record.step * _EVERY_STEPS
    began = time.time()
    process = _start(load, work, "second")
    record = _wait(work, 1, lambda record: record.step > record.resumed_step, process)
    process.terminate()
    process.wait()
    if not record.resumed_step:
        raise RuntimeError("no checkpoint was complete when the trainer was killed")
    message = json.loads(_beside(work, "message").read_text())
    log = _beside(work, "second.log").read_text()
    shutil.rmtree(work)
    return {
        "interval_s": interval_s,
        "lost_s": message["lostAcceleratorSeconds"],
        "resume_s": record.began_at - began,
        "resume_to_first_step_s": _compute_first_step_at(record) - began,
        "resume_parts_s": split_resume(began, log, record),
    }


def split_resume(began: float, log: str, record: AttemptRecord) -> dict[str, float]:
    """Seconds of each part of the way back, which began at that time (of the clock)."""
    times = [began, find_time(log, _BEGINS), find_time(log, _LOADED), record.began_at, _compute_first_step_at(record)]
    names = ("imports", "model", "checkpoint", "first_step")
    return {name: after - before for name, before, after in zip(names, times, times[1:], strict=False)}


def _compute_first_step_at(record: AttemptRecord) -> float:
    """Of a small model several steps may have been done until somebody looked."""
    steps = record.step - record.resumed_step
    return record.began_at + (record.step_at - record.began_at) / steps


def find_time(log: str, pattern: str) -> float:
    """The time (of the clock) of the first line of the log that has the pattern."""
    for line in log.splitlines():
        if re.search(pattern, line):
            return datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f").astimezone().timestamp()
    raise RuntimeError(f"the trainer's log has no line with {pattern!r}")


def _start(load: Load, work: Path, name: str) -> subprocess.Popen[bytes]:
    job = _beside(work, "job.json")
    job.write_text(load.make_job(_EVERY_STEPS).model_dump_json(by_alias=True))
    command = [sys.executable, "-m", "llmos_workers.train", f"--job={job}", f"--model={load.model}", f"--work={work}"]
    with _beside(work, f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            [*command, f"--base-digest={BASE_DIGEST}", "--metrics-port=0"],
            env={
                **os.environ,
                "LLMOS_TERMINATION_LOG": str(_beside(work, "message")),
                # The images hold everything compiled: the first start leaves it so for the second one.
                "PYTHONDONTWRITEBYTECODE": "",
            },
            stdout=subprocess.DEVNULL,
            stderr=log,
        )


def _beside(work: Path, name: str) -> Path:
    return work.with_name(f"{work.name}-{name}")


def _wait(
    work: Path, number: int, condition: Callable[[AttemptRecord], bool], process: subprocess.Popen[bytes]
) -> AttemptRecord:
    deadline_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline_s and process.poll() is None:
        records = read_records(work / "attempts")
        if len(records) > number and condition(records[number]):
            return records[number]
        time.sleep(0.01)
    raise RuntimeError("the trainer ended, or did not get so far")
