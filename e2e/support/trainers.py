"""Trainers as they run: watched step by step and killed on this machine; and what they left in their claim, read by a
pod of its own, as a user would."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from e2e.cluster.images import image_name
from e2e.cluster.objects import Kubectl
from e2e.support.api import Api, Object
from e2e.support.network import build_probe
from e2e.support.processes import find_processes, kill_processes
from e2e.support.waiting import eventually
from llmos.api.names import WORK_DIR

TRAINER: Final = "llmos_workers.train"
_LOOK_S: Final = 0.05

READ: Final = """
import hashlib, json, pathlib, struct, sys
from tensorboardX.proto.event_pb2 import Event

def read_events(path):
    data, at = path.read_bytes(), 0
    while at + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        if at + 16 + length > len(data):
            return  # a kill has cut it
        yield Event.FromString(data[at + 12 : at + 12 + length])
        at += 16 + length

def read_losses(path):
    for event in read_events(path):
        for value in event.summary.value:
            if value.tag == "train/loss":
                yield event.step, value.simple_value, event.wall_time

work = pathlib.Path(sys.argv[1])
files = [list(read_losses(path)) for path in sorted((work / "tensorboard").iterdir())]
made = [path for path in (work / "output").iterdir() if path.is_file()]
output = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in made}
print(json.dumps({"files": files, "output": output}))
"""
"""Reads the event files and the result in a job's folder."""


@dataclass(frozen=True)
class Run:
    """What a job left in its claim."""

    files: tuple[tuple[tuple[int, float, float], ...], ...]
    """Of each attempt that wrote something: step, loss, and when it was done (seconds since 1970)."""
    output: dict[str, str]
    """sha256 of the files of the result, by name."""

    @property
    def losses(self) -> dict[int, float]:
        """The loss of each step; attempts that did the same step must agree.

        Raises:
            AssertionError: two attempts did not.
        """
        found: dict[int, float] = {}
        for step, loss, _ in (each for file in self.files for each in file):
            before = found.setdefault(step, loss)
            assert before == loss, f"the loss of step {step} was {before} in one attempt and {loss} in another"
        return found

    @property
    def slowest_step_s(self) -> float:
        """The longest time between the ends of two steps of one attempt."""
        return max((after[2] - before[2] for file in self.files for before, after in pairwise(file)), default=0.0)


def parse_run(text: str) -> Run:
    """Return what the pod that reads a claim printed."""
    told: dict[str, Any] = json.loads(text)
    files = tuple(tuple((int(step), float(loss), float(at)) for step, loss, at in file) for file in told["files"])
    return Run(files, told["output"])


def build_reader(namespace: str, claim: str) -> Object:
    """A pod that prints what a job left in its claim, with the rights of the trainer."""
    pod = build_probe(namespace, f"read-{claim}")
    spec, (container,) = pod["spec"], pod["spec"]["containers"]
    spec["securityContext"] |= {"runAsGroup": 65532, "fsGroup": 65532, "fsGroupChangePolicy": "OnRootMismatch"}
    spec["restartPolicy"] = "Never"
    spec["volumes"] = [{"name": "work", "persistentVolumeClaim": {"claimName": claim}}, {"name": "tmp", "emptyDir": {}}]
    container["image"] = image_name("worker")
    container["command"] = ["python", "-c", READ, WORK_DIR]
    # What reads event files imports torch, which wants a place for temporary files.
    work = {"name": "work", "mountPath": WORK_DIR, "readOnly": True}
    container["volumeMounts"] = [work, {"name": "tmp", "mountPath": "/tmp"}]
    return pod


async def read_run(api: Api, kubectl: Kubectl, namespace: str, claim: str, *, timeout_s: float = 180) -> Run:
    """Read what a job left in its claim, by a pod that is gone afterwards."""
    pod = await api.create(build_reader(namespace, claim))
    name = pod["metadata"]["name"]
    over = await eventually(
        f"claim {claim} is read",
        lambda: api.get("Pod", name, namespace),
        lambda found: (found or {}).get("status", {}).get("phase") in {"Succeeded", "Failed"},
        timeout_s=timeout_s,
    )
    said = await asyncio.to_thread(kubectl, "logs", name, f"--namespace={namespace}")
    assert over is not None
    assert over["status"]["phase"] == "Succeeded", f"claim {claim} could not be read: {said}"
    await api.delete("Pod", name, namespace)
    return parse_run(said)


async def wait_for_trainer(api: Api, namespace: str, name: str, *, timeout_s: float) -> Object:
    """Wait until the container of an attempt's pod runs, and return the pod. One that ended is not waited for."""

    def runs(pod: Object | None) -> bool:
        phase = (pod or {}).get("status", {}).get("phase")
        if phase in {"Succeeded", "Failed"}:
            raise AssertionError(f"pod {name} ended before it was killed: {(pod or {})['status']}")
        return bool(phase == "Running")

    pod = await eventually(
        f"pod {name} runs", lambda: api.get("Pod", name, namespace), runs, timeout_s=timeout_s, poll_s=0.3
    )
    assert pod is not None
    return pod


def kill_at_step(uid: str, attempt: int, step: int, *, late_s: float, timeout_s: float) -> int:
    """Wait until an attempt has done a step, and kill its trainer a moment later. Return the last step it did.

    Args:
        uid: of the attempt's pod.
        attempt: its number.
        step: to wait for.
        late_s: the moment, so that not every kill comes between two steps.
        timeout_s: for the step.

    Raises:
        AssertionError: the step was not done in time, or there was no trainer to kill.
    """
    deadline_s, trainer = time.monotonic() + timeout_s, _Trainer(uid, attempt)
    while (seen := trainer.read_step()) < step:
        assert time.monotonic() < deadline_s, (
            f"attempt {attempt} is at step {seen} after {timeout_s:g} s, not at {step}"
        )
        time.sleep(_LOOK_S)
    time.sleep(late_s)
    seen = max(seen, trainer.read_step())
    assert kill_processes(uid, TRAINER), (
        f"attempt {attempt} has no trainer to kill: it ended by itself after step {seen}"
    )
    return seen


class _Trainer:
    """The trainer of an attempt, looked for once: all processes of a machine are too many for a look each moment."""

    def __init__(self, uid: str, attempt: int) -> None:
        self._uid, self._attempt = uid, attempt
        self._found: list[Path] = []

    def read_step(self) -> int:
        """The last step that it wrote down in its claim; -1 if it has not begun to train, or runs no more."""
        self._found = [process for process in self._found if process.exists()]
        if not self._found:
            self._found = [Path(f"/proc/{pid}") for pid in find_processes(self._uid, TRAINER)]
        # The claim as the process has it mounted, wherever the node keeps it.
        folders = (process / f"root{WORK_DIR}" / "attempts" for process in self._found)
        return max((read_recorded_step(folder, self._attempt) for folder in folders), default=-1)


def read_recorded_step(folder: Path, attempt: int) -> int:
    """The last step in an attempt's record; -1 if there is none, or it is being rewritten."""
    try:
        paths = sorted(folder.glob("[0-9]*.json"), reverse=True)
    except OSError:  # the process through which we look has ended
        return -1
    for path in paths:
        try:
            record = json.loads(path.read_bytes())
        except (OSError, ValueError):
            continue
        if record.get("attempt") == attempt:
            return int(record["step"])
    return -1
