"""Ranks that hold shares of a model train like one that holds it all. How they end and go on: test_gang."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from llmos_workers.train.arguments import build_parser
from llmos_workers.train.main import build_options
from llmos_workers.train.options import observe_rank_device
from tests.training.train.gang_world import build_ranks, complete, start
from tests.training.train.test_gang import FULL, LORA, assert_alike, wait_for_steps
from tests.training.train.world import World, finish, steps_done

MakeWorld = Callable[..., World]

SUITES = {"evaluate": {"everySteps": 5, "suites": [{"name": "answers", "metrics": ["exact_match"], "limit": 8}]}}


def get_results(message: dict[str, Any]) -> dict[str, Any]:
    return {
        f"{metric['name']} of {which}": pytest.approx(metric[which], rel=1e-4, abs=1e-5)
        for metric in message["evaluation"]["metrics"]
        for which in ("base", "result")
    }


@pytest.mark.parametrize(
    ("method", "output", "size"),
    [(LORA, {}, 2), (FULL, {}, 3), (LORA, {"kind": "merged"}, 2)],
    ids=["lora", "full", "merged"],
)
def test_shares_learn_what_the_whole_learns(
    make_world: MakeWorld, method: dict[str, Any], output: dict[str, str], size: int
) -> None:
    """The length of most gradients here is above maxGradNorm: they are cut by that of all ranks' together."""
    one, many = (make_world(name, **method, **SUITES, output=output) for name in ("one", "many"))
    alone = one.complete()
    messages = complete(many, size, is_sharded=True)
    assert_alike(one, many)
    assert [message["outcome"] for message in messages] == ["complete", *["finished"] * (size - 1)]
    assert messages[0]["progress"]["tokens"] == alone["progress"]["tokens"]
    assert get_results(messages[0]) == get_results(alone)
    assert {path.name for path in (many.work / "output").iterdir()} == {
        path.name for path in (one.work / "output").iterdir()
    }


HELD = re.compile(r"^(\S+ \S+) INFO this rank holds (\d+) of (\d+) parameters", re.MULTILINE)


def test_each_rank_holds_a_share_and_those_of_a_pod_read_the_model_one_after_the_other(make_world: MakeWorld) -> None:
    world = make_world(**FULL, hyperparameters={"maxSteps": 1})
    # Two pods with two processes each.
    ranks = build_ranks(world, 4, is_sharded=True, processes=2)
    assert [finish(process) for process in [rank.start() for rank in ranks]] == [0] * 4
    found = [HELD.findall(rank.log_path.read_text())[0] for rank in ranks]
    held, (total, *_) = [int(own) for _, own, _ in found], [int(total) for _, _, total in found]
    assert sum(held) == total
    # 62 words are cut into 16, 16, 16 and 14.
    assert max(held) < 0.27 * total
    times = [time for time, _, _ in found]
    assert max(times[0], times[2]) <= min(times[1], times[3])


def test_a_job_goes_on_with_shares_and_without(make_world: MakeWorld) -> None:
    one, world = make_world("one", **FULL), make_world(**FULL, checkpoint={"everySteps": 2})
    one.complete()
    for size, is_sharded in ((3, True), (1, False), (2, True), (2, False)):
        ranks = build_ranks(world, size, is_sharded=is_sharded)
        processes = start(ranks)
        wait_for_steps(world, steps_done(world) + 2, processes[0])
        for process in processes:
            process.terminate()
        assert [finish(process) for process in processes] == [143] * size
    complete(world, is_sharded=True)
    assert_alike(one, world)


class Casts(TorchDispatchMode):  # type: ignore[misc]  # torch is not there where types are checked
    """Counts tensors of float32 that are cast."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += "_to_copy" in str(func) and args[0].dtype == torch.float32
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("more", "casts"), [([], 1), (["--sharded"], 3)])
def test_casts_of_weights_are_kept_only_where_the_weights_are(
    make_world: MakeWorld, more: list[str], casts: int
) -> None:
    """A layer that is given back would stay in the compute type until the end of a whole evaluation."""
    world = make_world(**FULL, trainer={"precision": "bfloat16"})
    device = observe_rank_device(build_options(build_parser().parse_args([*world.arguments, *more])))
    weight, inputs = torch.nn.Parameter(torch.ones(4, 4)), torch.ones(2, 4, dtype=torch.bfloat16)
    with torch.no_grad(), device.autocast(), Casts() as counted:
        for _ in range(3):
            torch.nn.functional.linear(inputs, weight)
    assert counted.count == casts
