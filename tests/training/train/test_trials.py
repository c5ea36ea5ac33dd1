"""Trials of a search: they share the dataset and nothing else, and each is what a job with its values would be."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.training.train.conftest import MakeWorld

RATES = [0.0005, 0.02]
SEARCH = {"algorithm": "grid", "parameters": [{"name": "learningRate", "values": RATES}]}


def test_a_trial_is_a_job_with_its_values_and_a_folder_of_its_own(make_world: MakeWorld) -> None:
    world = make_world(search=SEARCH, hyperparameters={"epochs": 1})
    told = (json.dumps({"learningRate": rate}) for rate in RATES)
    first, second = (
        replace(world, trial=number, parameters=values).complete() for number, values in enumerate(told, 1)
    )
    losses = [message["evaluation"]["metrics"][0]["result"] for message in (first, second)]
    assert losses[0] > losses[1]
    assert not (world.work / "output").exists()
    assert not (world.work / "checkpoints").exists()
    plain = make_world("plain", hyperparameters={"epochs": 1, "learningRate": RATES[1]})
    plain.complete()
    name = "adapter_model.safetensors"
    trials = world.work / "trials"
    assert (trials / "2" / "output" / name).read_bytes() == (plain.work / "output" / name).read_bytes()
    assert (trials / "1" / "output" / name).read_bytes() != (trials / "2" / "output" / name).read_bytes()


def test_a_trial_of_a_job_without_a_search_is_refused(make_world: MakeWorld) -> None:
    world = replace(make_world(), trial=1)
    assert world.run() == 1
    assert "the job has no search" in world.log_path.read_text()


@pytest.mark.parametrize(
    ("values", "says"),
    [('{"learningRate": 2}', "less than or equal to 1"), ("0.1", "cannot be used"), ("{", "Expecting")],
)
def test_values_that_are_none_are_refused(make_world: MakeWorld, values: str, says: str) -> None:
    world = replace(make_world(search=SEARCH), trial=1, parameters=values)
    assert world.run() == 1
    assert says in world.log_path.read_text()
