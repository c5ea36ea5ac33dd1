"""Several ranks train like one, and end and go on as one, with a copy of the model each or with shares of it."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmos_workers.train.gang import cut_into_buckets
from tests.training.train.gang_world import build_ranks, complete, end_soon, start
from tests.training.train.world import World, finish, steps_done, wait_for

MakeWorld = Callable[..., World]

with_copies_and_with_shares = pytest.mark.parametrize("is_sharded", [False, True], ids=["copies", "shares"])
LORA = {"method": {"tuning": "lora", "lora": {"rank": 4, "alpha": 8, "dropout": 0.0}}}
FULL = {"method": {"tuning": "full"}}
DROPPING = {"method": {"tuning": "lora", "lora": {"rank": 4, "alpha": 8, "dropout": 0.2}}}
SAVING_SELDOM = {"checkpoint": {"everySteps": 1000}}
MOSTLY_EVALUATING = {"evaluate": {"everySteps": 1}, "checkpoint": {"everySteps": 1000, "keepBest": False}}
"""Evaluations are left by all at the same batch."""


def about(value: float) -> Any:
    """Numbers are added in another order, and AdamW divides by the root of small ones."""
    return pytest.approx(value, rel=1e-4, abs=1e-5)


def wait_for_steps(world: World, steps: int, process: BaseProcess) -> None:
    assert wait_for(lambda: steps_done(world) >= steps, process)


def read_weights(world: World) -> dict[str, torch.Tensor]:
    files = sorted((world.work / "output").glob("*.safetensors"))
    return {name: tensor for path in files for name, tensor in load_file(path).items()}


def assert_alike(one: World, other: World) -> None:
    assert other.losses().keys() == one.losses().keys()
    for told, expected in ((other.losses(), one.losses()), (other.eval_losses(), one.eval_losses())):
        assert told == {step: about(loss) for step, loss in expected.items()}
    expected_weights = read_weights(one)
    for name, tensor in read_weights(other).items():
        torch.testing.assert_close(tensor, expected_weights[name], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("method", [LORA, FULL], ids=["lora", "full"])
def test_two_ranks_learn_what_one_learns(make_world: MakeWorld, method: dict[str, Any]) -> None:
    one, two = make_world("one", **method), make_world("two", **method)
    alone = one.complete()
    leader, worker = complete(two)
    assert_alike(one, two)
    assert worker["outcome"] == "finished"
    assert leader["outcome"] == "complete"
    assert leader["progress"]["tokens"] == alone["progress"]["tokens"]
    result, expected = (each["evaluation"]["metrics"][0]["result"] for each in (leader, alone))
    assert result == about(expected)


@with_copies_and_with_shares
def test_a_rank_for_which_a_step_has_nothing_takes_part(make_world: MakeWorld, is_sharded: bool) -> None:
    # Two micro-batches at most, for four ranks.
    few = {"batchTokens": 32, "epochs": 0.5}
    one, four = (make_world(name, **LORA, hyperparameters=few) for name in ("one", "four"))
    one.complete()
    complete(four, 4, is_sharded=is_sharded)
    assert_alike(one, four)


@with_copies_and_with_shares
@pytest.mark.parametrize("killed", [0, 1], ids=["the leader", "a worker"])
def test_one_that_is_killed_ends_the_other_and_both_go_on_with_the_same_numbers(
    make_world: MakeWorld, killed: int, is_sharded: bool
) -> None:
    calm, world = make_world("calm", **DROPPING), make_world("killed", **DROPPING)
    complete(calm, is_sharded=is_sharded)
    ranks = build_ranks(world, is_sharded=is_sharded)
    processes = start(ranks)
    wait_for_steps(world, 5, processes[0])
    processes[killed].kill()
    assert finish(processes[killed]) == -signal.SIGKILL
    assert end_soon(processes[1 - killed]) == 1
    message = ranks[1 - killed].message
    assert message["reason"] == "PeerLost"
    assert "ended without a word" in message["message"]
    outcome = complete(world, is_sharded=is_sharded)[0]
    assert outcome["lostAcceleratorSeconds"] > 0
    # With the same ranks every bit is the same, dropout included: random numbers of each rank are in the checkpoint.
    assert world.losses() == calm.losses()
    assert world.eval_losses() == calm.eval_losses()
    assert world.result_files() == calm.result_files()


def test_one_that_hears_nothing_of_the_other_ends_though_it_waits_for_it(make_world: MakeWorld) -> None:
    # Like a node that is gone: its connections stay open, and what waits for an answer waits on.
    world = make_world(**DROPPING)
    ranks = build_ranks(world, silence_s=3.0)
    processes = start(ranks)
    frozen = processes[1].pid
    assert frozen is not None
    os.kill(frozen, signal.SIGSTOP)
    try:
        assert end_soon(processes[0]) == 1
        assert "has not been heard of for 3 s" in ranks[0].message["message"]
        assert ranks[0].message["lastCheckpoint"] is None or ranks[0].message["lastCheckpoint"]["step"] > 0
    finally:
        os.kill(frozen, signal.SIGCONT)
    assert end_soon(processes[1]) == 1
    assert ranks[1].message["reason"] == "PeerLost"
    complete(world)


@pytest.mark.parametrize(
    ("asked", "is_sharded", "settings"),
    [(0, False, SAVING_SELDOM), (1, False, SAVING_SELDOM), (1, True, MOSTLY_EVALUATING)],
    ids=["the leader", "a worker", "a worker with a share, in an evaluation"],
)
def test_one_that_is_asked_to_stop_has_all_of_them_saved_and_stopped(
    make_world: MakeWorld, asked: int, is_sharded: bool, settings: dict[str, Any]
) -> None:
    calm, world = make_world("calm", **DROPPING, **settings), make_world(**DROPPING, **settings)
    complete(calm, is_sharded=is_sharded)
    ranks = build_ranks(world, is_sharded=is_sharded)
    processes = start(ranks)
    processes[asked].terminate()
    assert [end_soon(process) for process in processes] == [143, 143]
    assert [rank.message["outcome"] for rank in ranks] == ["stopped", "stopped"]
    assert world.checkpoints()[-1] == ranks[0].message["progress"]["step"]
    assert complete(world, is_sharded=is_sharded)[0]["lostAcceleratorSeconds"] == 0
    assert world.losses() == calm.losses()


def test_what_one_fails_with_is_what_all_say(make_world: MakeWorld, tmp_path: Path) -> None:
    leader, worker = build_ranks(make_world())
    worker = replace(worker, base=tmp_path / "nothing")
    processes = [leader.start(), worker.start()]
    assert [end_soon(process) for process in processes] == [1, 1]
    assert worker.message["reason"] == leader.message["reason"] == "TrainingFailed"
    assert leader.message["message"].startswith("Rank 1 (")


def test_a_loss_that_is_no_number_ends_all_with_it(make_world: MakeWorld) -> None:
    world = make_world()
    weights = world.base.with_name("infinite")
    model = AutoModelForCausalLM.from_pretrained(world.base)
    with torch.no_grad():
        model.model.norm.weight.fill_(math.inf)
    model.save_pretrained(weights)
    AutoTokenizer.from_pretrained(world.base).save_pretrained(weights)
    ranks = build_ranks(replace(world, base=weights))
    processes = [rank.start() for rank in ranks]
    assert [end_soon(process) for process in processes] == [1, 1]
    assert {rank.message["reason"] for rank in ranks} == {"LossNotFinite"}


def test_a_leader_whose_worker_never_comes_says_which(make_world: MakeWorld) -> None:
    (leader, _) = build_ranks(make_world(), meet_timeout_s=2.0)
    assert leader.run() == 1
    assert leader.message["reason"] == "PeerLost"
    assert "Of 2 ranks these did not come within 2 s: 1." in leader.message["message"]


def test_a_job_goes_on_with_more_ranks_and_with_fewer(make_world: MakeWorld) -> None:
    one, world = make_world("one", **LORA), make_world(**LORA, checkpoint={"everySteps": 2})
    one.complete()
    for size in (1, 3, 2):
        ranks = build_ranks(world, size)
        processes = start(ranks)
        wait_for_steps(world, steps_done(world) + 2, processes[0])
        for process in processes:
            process.terminate()
        assert [finish(process) for process in processes] == [143] * size
    complete(world)
    assert_alike(one, world)


def test_a_result_that_is_there_is_reported_by_all_without_a_meeting(make_world: MakeWorld) -> None:
    world = make_world()
    complete(world)
    leader, worker = build_ranks(world)
    assert worker.run() == 0
    assert leader.run() == 0
    assert leader.message["output"]["digest"].startswith("sha256:")


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(4, 200))
def test_buckets_hold_all_gradients_in_order_and_no_more_than_they_may(sizes: list[int], most_bytes: int) -> None:
    tensors = [torch.zeros(size) for size in sizes]
    buckets = cut_into_buckets(tensors, most_bytes)
    assert [id(tensor) for bucket in buckets for tensor in bucket] == [id(tensor) for tensor in tensors]
    assert all(len(bucket) == 1 or sum(tensor.nbytes for tensor in bucket) <= most_bytes for bucket in buckets)
