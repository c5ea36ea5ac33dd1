"""What is left on the claim when something happens to it."""

from __future__ import annotations

import json
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from llmos_workers.train.arguments import build_parser
from llmos_workers.train.attempt import Attempt
from llmos_workers.train.main import build_options
from tests.training.train.world import (
    World,
    finish,
    make_rows,
    start_attempt,
    steps_done,
    stop_at,
    wait_for,
    write_dataset,
)

MakeWorld = Callable[..., World]

LARGE = {"tuning": "lora", "lora": {"rank": 64}}
"""Its weights are longer than the log, which is to go on."""
FULL_BYTES = 200_000

# peft asks transformers by a former name.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


def test_sigterm_saves_the_step_that_was_done_and_the_run_goes_on_from_it(make_world: MakeWorld) -> None:
    calm, world = make_world("calm"), make_world(checkpoint={"everySteps": 1000})
    calm.complete()
    stop_at(world, 4)
    message = world.message
    step = message["progress"]["step"]
    assert message["outcome"] == "stopped"
    assert message["lastCheckpoint"]["step"] == step >= 4
    assert world.checkpoints()[-1] == step
    outcome = world.complete()
    assert outcome["lostAcceleratorSeconds"] == 0
    assert world.losses() == calm.losses()
    assert world.result_files() == calm.result_files()


def test_a_second_sigterm_ends_at_once_and_leaves_the_older_checkpoint(make_world: MakeWorld) -> None:
    world = make_world(checkpoint={"everySteps": 3})
    process = world.start()
    assert wait_for(lambda: bool(world.checkpoints()), process)
    process.terminate()
    process.terminate()
    assert finish(process) == 143
    assert world.complete()["outcome"] == "complete"


@pytest.mark.parametrize("damage", ["flipped", "cut", "missing", "no manifest"])
def test_a_damaged_checkpoint_is_said_and_passed_over(make_world: MakeWorld, damage: str) -> None:
    world = make_world(checkpoint={"everySteps": 2, "keepBest": False})
    stop_at(world, 7)
    older, newest = world.checkpoints()[-2:]
    folder = world.work / "checkpoints" / f"step-{newest:08d}"
    weights = folder / "weights.pt"
    if damage == "flipped":
        data = bytearray(weights.read_bytes())
        data[len(data) // 2] ^= 1
        weights.write_bytes(data)
    elif damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-1])
    else:
        (weights if damage == "missing" else folder / "manifest.json").unlink()
    world.log_path.unlink()
    message = world.complete()
    log = world.log_path.read_text()
    assert f"passing over the checkpoint step-{newest:08d}, which is damaged" in log
    assert f"going on from step-{older:08d}" in log
    assert message["progress"]["step"] == message["progress"]["totalSteps"]


def test_what_was_half_written_is_removed(make_world: MakeWorld) -> None:
    world = make_world()
    half = world.work / "checkpoints" / "step-00000002.tmp"
    half.mkdir(parents=True)
    (half / "weights.pt").write_bytes(b"half")
    world.complete()
    assert not half.exists()


@pytest.mark.parametrize(
    ("what", "words"), [("dataset", "another dataset"), ("base", "another base model"), ("settings", "rank: 4, now 8")]
)
def test_a_checkpoint_of_something_else_is_refused_by_name(make_world: MakeWorld, what: str, words: str) -> None:
    world = make_world()
    stop_at(world, 4)
    before = world.checkpoints()
    manifest = world.work / "dataset" / "manifest.json"
    if what == "dataset":
        manifest.write_text(manifest.read_text().replace("d" * 64, "e" * 64))
    elif what == "base":
        manifest.write_text(manifest.read_text().replace("b" * 64, "c" * 64))
        world = replace(world, base_digest="sha256:" + "c" * 64)
    else:
        world = world.with_job(method={"tuning": "lora", "lora": {"rank": 8, "alpha": 8, "dropout": 0.1}})
    assert world.run() == 1
    assert world.message["reason"] == "CheckpointMismatch"
    assert words in world.message["message"]
    assert world.checkpoints() == before


def test_a_dataset_for_another_base_model_is_refused(make_world: MakeWorld) -> None:
    world = replace(make_world(), base_digest="sha256:" + "c" * 64)
    assert world.run() == 1
    assert world.message["reason"] == "BaseModelChanged"


def test_the_newest_and_the_best_are_kept(make_world: MakeWorld) -> None:
    # Of a rate at which nothing is learned, so that all evaluations are equal and the first is the best one.
    rate = {"learningRate": 1e-12, "epochs": 3, "schedule": "constant"}
    world = make_world(hyperparameters=rate, checkpoint={"everySteps": 2, "keep": 2}, evaluate={"everySteps": 4})
    world.complete()
    losses = world.eval_losses()
    best = min(losses, key=lambda step: losses[step])
    assert best == min(losses) == 4
    assert world.checkpoints() == sorted({best, *world.checkpoints()[-2:]})
    assert json.loads(world.result_files()["llmos.json"])["step"] == best


def test_time_makes_checkpoints_too(make_world: MakeWorld) -> None:
    world = make_world(checkpoint={"everySteps": 1000, "keepBest": False, "keep": 100})
    attempt = Attempt(build_options(build_parser().parse_args(world.arguments)))
    # A minute is the shortest that a job can say.
    assert attempt.schedule.save_every_s == 15 * 60
    attempt.schedule = replace(attempt.schedule, save_every_s=0.0)
    try:
        attempt.run()
    finally:
        attempt.close()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert len(world.checkpoints()) > 5


def test_a_full_disk_leaves_the_older_checkpoint_and_the_next_interval_tries_again(make_world: MakeWorld) -> None:
    world = make_world(method=LARGE, hyperparameters={"epochs": 20})
    process = world.start()
    assert wait_for(lambda: bool(world.checkpoints()), process)
    assert process.pid is not None
    # The kernel refuses longer files, in the middle of one, as a full disk would.
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (FULL_BYTES, resource.RLIM_INFINITY))
    assert wait_for(lambda: '"checkpointTrouble": "The checkpoint of step' in world.log_path.read_text(), process)
    assert len(world.checkpoints()) >= 1
    assert list((world.work / "checkpoints").glob("*.tmp")) == []
    assert process.exitcode is None
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert finish(process) == 0
    assert world.checkpoints()[-1] == world.message["progress"]["totalSteps"]
    lines = [line for line in world.log_path.read_text().splitlines() if '"event": "progress"' in line]
    assert "checkpointTrouble" not in lines[-1]


def test_a_last_checkpoint_that_does_not_fit_is_disk_full_and_nothing_is_lost(make_world: MakeWorld) -> None:
    # Without the best one, for it could not be kept either.
    settings = {"method": LARGE, "checkpoint": {"everySteps": 3, "keepBest": False}}
    calm, world = make_world("calm", **settings), make_world(**settings)
    calm.complete()
    process = world.start()
    assert wait_for(lambda: bool(world.checkpoints()), process)
    assert process.pid is not None
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (FULL_BYTES, resource.RLIM_INFINITY))
    assert finish(process) == 1
    assert world.message["reason"] == "DiskFull"
    assert "checkpoint.storage.size" in world.message["message"]
    assert world.checkpoints()
    assert not (world.work / "output").exists()
    world.complete()
    assert world.result_files() == calm.result_files()


def test_lost_seconds_are_those_between_the_checkpoint_and_the_last_step(make_world: MakeWorld) -> None:
    world = make_world(checkpoint={"everySteps": 1000, "keepBest": False}, hyperparameters={"epochs": 20})
    process = start_attempt(world)
    began_s = time.monotonic()
    assert wait_for(lambda: steps_done(world) >= 40, process)
    process.kill()
    at_least_s = time.monotonic() - began_s
    assert finish(process) == -signal.SIGKILL
    stop_at(world, 2)
    # All forty steps were lost, for there was no checkpoint; only the part of a step at the ends is not known.
    assert at_least_s * 0.8 <= world.message["lostAcceleratorSeconds"] <= at_least_s * 1.3 + 0.5


def test_a_result_that_is_there_is_reported_again(make_world: MakeWorld) -> None:
    world = make_world()
    first = world.complete()
    modified = (world.work / "output" / "manifest.json").stat().st_mtime_ns
    assert world.complete() == first
    assert (world.work / "output" / "manifest.json").stat().st_mtime_ns == modified


def test_suites_may_change_on_the_way(make_world: MakeWorld) -> None:
    world = make_world()
    stop_at(world, 4)
    write_dataset(world.work, {"suite-other": make_rows(5)})
    suites = [{"name": "other", "source": {"uri": "hf://org/other"}}]
    message = world.with_job(evaluate={"everySteps": 5, "suites": suites}).complete()
    assert [metric["name"] for metric in message["evaluation"]["metrics"]] == ["eval_loss", "other_loss"]
