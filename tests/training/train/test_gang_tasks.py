"""Whatever a task learns, several ranks learn it as one does, with shares of the model and without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.training.train.gang_world import complete
from tests.training.train.test_gang import about, assert_alike
from tests.training.train.world import World, make_job, make_pairs, make_text_pairs, make_texts, write_dataset

TASKS: dict[str, tuple[str, Any, tuple[str, ...]]] = {
    "dpo": ("preference", make_pairs, ()),
    # token-classification has a dropout before its head, by transformers' choice, which each rank has for itself.
    "sequence-classification": ("text-label", make_texts, ("0", "1", "2")),
    "embedding": ("pairs", make_text_pairs, ()),
}


def build_world(base: Path, work: Path, task: str, tuning: str) -> World:
    form, make, labels = TASKS[task]
    job = make_job(
        method={"task": task, "tuning": tuning, "lora": {"rank": 4, "alpha": 8, "dropout": 0.0}},
        dataset={"format": {"type": form}},
        hyperparameters={"batchTokens": 128, "maxLength": 32, "epochs": 1},
    )
    rows = make(60)
    write_dataset(work, {"train": rows[:50], "eval": rows[50:]}, labels)
    return World(base, work, job)


@pytest.mark.parametrize(
    ("task", "tuning"),
    [("dpo", "lora"), ("dpo", "full"), ("sequence-classification", "lora"), ("embedding", "full")],
)
def test_two_ranks_learn_what_one_learns(base: Path, tmp_path: Path, task: str, tuning: str) -> None:
    one, whole, sharded = (build_world(base, tmp_path / name, task, tuning) for name in ("one", "whole", "sharded"))
    alone = one.complete()
    for many, is_sharded in ((whole, False), (sharded, True)):
        leader, worker = complete(many, is_sharded=is_sharded)
        assert worker["outcome"] == "finished"
        assert_alike(one, many)
        expected = alone["evaluation"]["metrics"]
        assert [metric["name"] for metric in leader["evaluation"]["metrics"]] == [each["name"] for each in expected]
        for metric, other in zip(leader["evaluation"]["metrics"], expected, strict=True):
            assert metric["result"] == about(other["result"])
