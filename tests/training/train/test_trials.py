"""Trials of a search: they share the dataset and nothing else, and each is what a job with its values would be."""

from __future__ import annotations

from dataclasses import replace

from tests.training.train.conftest import MakeWorld

RATES = [0.0005, 0.02]
SEARCH = {"algorithm": "grid", "parameters": [{"name": "learningRate", "values": RATES}]}


def test_a_trial_is_a_job_with_its_values_and_a_folder_of_its_own(make_world: MakeWorld) -> None:
    world = make_world(search=SEARCH, hyperparameters={"epochs": 1})
    first, second = (replace(world, trial=number).complete() for number in (1, 2))
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
