"""A run that is killed computes the same numbers as one that is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.training.train.world import (
    World,
    compare_with_killed,
    finish,
    make_job,
    make_pairs,
    make_words,
    wait_for,
    write_dataset,
)

FULL = {"method": {"tuning": "full"}}
LORA = {"method": {"tuning": "lora"}}
Task = tuple[str, str, list[dict[str, Any]]]
TASKS: list[Task] = [
    ("dpo", "preference", make_pairs(120)),
    ("token-classification", "tokens-labels", make_words(120)),
]
SUITES = [{"name": "rule", "source": {"uri": "hf://org/rule"}, "metrics": ["loss", "exact_match"]}]


@pytest.mark.parametrize("kind", ["adapter", "merged"])
def test_a_kill_while_the_result_is_made_changes_no_bit_of_it(make_world: Callable[..., World], kind: str) -> None:
    calm, killed = make_world("calm", output={"kind": kind}), make_world("killed", output={"kind": kind})
    calm.complete()
    process = killed.start()
    assert wait_for((killed.work / "output.tmp").exists, process)
    process.kill()
    finish(process)
    killed.complete()
    assert killed.result_files() == calm.result_files()
    assert not (killed.work / "output.tmp").exists()


@pytest.mark.parametrize("method", [LORA, FULL], ids=["lora", "full"])
def test_ten_kills_change_no_bit_of_losses_and_result(make_world: Callable[..., World], method: dict) -> None:
    calm = make_world("calm", **method, evaluate={"suites": SUITES})
    killed = make_world("killed", **method, evaluate={"suites": SUITES})
    compare_with_killed(calm, killed, f"{method}")


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task[0])
def test_kills_change_no_bit_of_what_other_tasks_learn(base: Path, tmp_path: Path, task: Task) -> None:
    name, form, rows = task
    spec = {"method": {"task": name}, "dataset": {"format": {"type": form}}}
    calm, killed = (World(base, tmp_path / name, make_job(**spec)) for name in ("calm", "killed"))
    for world in (calm, killed):
        write_dataset(world.work, {"train": rows[:100], "eval": rows[100:]}, labels=("even", "odd"))
    compare_with_killed(calm, killed, name, kills=4)
