"""The story of kills reads what a job left by a script in a pod: it must read what the trainer really writes."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable

import pytest

from e2e.support.trainers import READ, parse_run, read_recorded_step
from tests.training.train.world import World, kill_within, steps_done

MakeWorld = Callable[..., World]

# peft asks transformers by a former name.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


def test_the_reader_finds_each_steps_loss_and_the_result_of_a_run_that_was_killed(make_world: MakeWorld) -> None:
    world = make_world()
    kill_within(world, 3)
    assert read_recorded_step(world.work / "attempts", 1) == steps_done(world) >= 3
    world.complete()
    said = subprocess.run([sys.executable, "-c", READ, str(world.work)], capture_output=True, text=True, check=True)
    run = parse_run(said.stdout)
    assert run.losses == world.losses()
    assert run.slowest_step_s > 0
    adapter = world.work / "output" / "adapter_model.safetensors"
    assert run.output[adapter.name] == hashlib.sha256(adapter.read_bytes()).hexdigest()
