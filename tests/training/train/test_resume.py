"""A run that is killed computes the same numbers as one that is not."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable

import pytest

from tests.training.train.world import World, finish, steps_done, wait_for

FULL = {"method": {"tuning": "full"}}
LORA = {"method": {"tuning": "lora"}}
SUITES = [{"name": "rule", "source": {"uri": "hf://org/rule"}, "metrics": ["loss", "exact_match"]}]


@pytest.mark.parametrize("method", [LORA, FULL], ids=["lora", "full"])
def test_ten_kills_change_no_bit_of_losses_and_result(make_world: Callable[..., World], method: dict) -> None:
    calm = make_world("calm", **method, evaluate={"suites": SUITES})
    killed = make_world("killed", **method, evaluate={"suites": SUITES})
    calm.complete()
    chance = random.Random(f"{method}")
    kills = 0
    while kills < 10:
        process = killed.start()
        begun = len(list((killed.work / "attempts").glob("*.json")))
        wait_for(lambda begun=begun: len(list((killed.work / "attempts").glob("*.json"))) > begun, process)
        target = steps_done(killed) + chance.randint(0, 4)
        if not wait_for(lambda target=target: steps_done(killed) >= target, process):
            break
        process.kill()
        assert finish(process) == -signal.SIGKILL
        kills += 1
    killed.complete()
    assert kills == 10
    assert killed.losses() == calm.losses()
    assert killed.eval_losses() == calm.eval_losses()
    assert killed.result_files() == calm.result_files()
    assert killed.message["lostAcceleratorSeconds"] > 0
    assert calm.message["lostAcceleratorSeconds"] == 0
