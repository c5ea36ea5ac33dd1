"""The real command with several processes in one pod: they train, are stopped and fail as one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from llmos_workers.train.attempts import Heartbeat
from tests.training.train.gang_world import complete
from tests.training.train.world import World, steps_done

MakeWorld = Callable[..., World]

DEADLINE_S = 400.0
"""Each process imports torch by itself, which takes a minute where others use the machine."""


@contextmanager
def command(world: World) -> Iterator[subprocess.Popen[bytes]]:
    """The command with two processes; none of them is left behind."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    words = [sys.executable, "-m", "llmos_workers.train", *world.arguments, "--processes=2", f"--gang-port={port}"]
    world.message_path.unlink(missing_ok=True)
    with world.log_path.open("ab") as log:
        process = subprocess.Popen(
            words,
            env={**os.environ, "LLMOS_TERMINATION_LOG": str(world.message_path)},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes], world: World) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert process.poll() is None, world.log_path.read_text()[-3000:]
        assert time.monotonic() < deadline_s, "nothing happened"
        time.sleep(0.01)


def find_children(process: subprocess.Popen[bytes]) -> list[int]:
    """The ranks of the command, in their order."""
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def test_one_of_two_processes_is_killed_and_the_next_attempt_ends_as_two_pods_would(make_world: MakeWorld) -> None:
    calm, world = make_world("calm"), make_world()
    complete(calm)
    with command(world) as process:
        wait_until(lambda: steps_done(world) >= 4, process, world)
        os.kill(find_children(process)[1], signal.SIGKILL)
        assert process.wait(DEADLINE_S) == 137
        assert not world.message_path.exists(), "it is told apart from a failure by the lack of words"
    with command(world) as process:
        assert process.wait(DEADLINE_S) == 0, world.log_path.read_text()[-3000:]
    assert world.message["outcome"] == "complete"
    assert world.losses() == calm.losses()
    assert world.result_files() == calm.result_files()


def test_the_pod_is_stopped_as_one(make_world: MakeWorld) -> None:
    world = make_world(hyperparameters={"epochs": 1000})
    with command(world) as process:
        wait_until(lambda: steps_done(world) >= 2, process, world)
        process.terminate()
        assert process.wait(DEADLINE_S) == 143
    assert world.message["outcome"] == "stopped"
    assert world.checkpoints()[-1] == world.message["progress"]["step"]


def test_one_process_speaks_for_the_pod(make_world: MakeWorld) -> None:
    """What the others do not know (lost time, checkpoints) would stand in the status by turns."""
    world, moments = make_world(), iter((1000.0, 1100.0))
    before = Heartbeat(world.work / "attempts", attempt=1, accelerators=1, resumed_step=0, clock=lambda: next(moments))
    before.beat(3)
    before.close()
    with command(world) as process:
        assert process.wait(DEADLINE_S) == 0, world.log_path.read_text()[-3000:]
    lines = [json.loads(line) for line in world.log_path.read_text().splitlines() if line.startswith('{"event"')]
    told = [line["lostAcceleratorSeconds"] for line in lines if "lostAcceleratorSeconds" in line]
    assert set(told) == {100.0}


def test_the_pod_says_what_its_processes_failed_with(make_world: MakeWorld) -> None:
    world = make_world()
    (world.work / "dataset" / "manifest.json").unlink()
    with command(world) as process:
        assert process.wait(DEADLINE_S) == 1
    assert world.message["reason"] == "TrainingFailed"
    assert "no prepared dataset" in world.message["message"]
