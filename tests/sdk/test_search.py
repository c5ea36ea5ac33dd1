"""Values of trials: drawn or combined, the same whoever asks, and within what was asked for."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from llmos.api import FineTuneJob, Search
from llmos.api.search import apply_parameters, count_trials, propose_parameters


def search(*parameters: Mapping[str, object], **fields: object) -> Search:
    return Search.model_validate({"parameters": list(parameters), **fields})


RATE = {"name": "learningRate", "min": 1e-5, "max": 1e-2, "log": True}
RANK = {"name": "rank", "values": [4, 8, 16]}


@given(st.integers(0, 2**31 - 1), st.integers(1, 64))
def test_what_is_drawn_lies_within_and_is_the_same_each_time(seed: int, number: int) -> None:
    asked = search(RATE, RANK, {"name": "dropout", "min": 0.0, "max": 0.3}, seed=seed)
    values = propose_parameters(asked, number)
    assert values == propose_parameters(asked.model_copy(deep=True), number)
    assert 1e-5 <= values["learningRate"] <= 1e-2
    assert values["rank"] in {4, 8, 16}
    assert 0 <= values["dropout"] <= 0.3


@given(st.floats(0.001, 1000), st.floats(0.001, 1000), st.booleans(), st.integers(1, 64))
def test_bounds_hold_however_close_they_are(one: float, other: float, log: bool, number: int) -> None:
    low, high = sorted((one, other))
    drawn = propose_parameters(search({"name": "maxGradNorm", "min": low, "max": high, "log": log}), number)
    assert low <= drawn["maxGradNorm"] <= high


def test_draws_differ_by_trial_parameter_and_seed() -> None:
    many = [propose_parameters(search(RATE, seed=seed), number) for seed in (1, 2) for number in range(1, 33)]
    rates = [values["learningRate"] for values in many]
    assert len(set(rates)) > 60
    assert sum(rate < 1e-3 for rate in rates) > 30, "two of three decades of a logarithmic scale"


def test_a_grid_has_each_combination_once_in_order() -> None:
    grid = search(RANK, {"name": "learningRate", "values": [1e-4, 1e-3]}, algorithm="grid")
    assert count_trials(grid) == 6
    found = [tuple(propose_parameters(grid, number).values()) for number in range(1, 7)]
    assert found == [(4, 1e-4), (4, 1e-3), (8, 1e-4), (8, 1e-3), (16, 1e-4), (16, 1e-3)]
    assert count_trials(grid.model_copy(update={"max_trials": 4})) == 4
    assert count_trials(search(RATE, maxTrials=7)) == 7


def test_a_trial_is_the_job_with_other_values() -> None:
    job = FineTuneJob.model_validate(
        {
            "metadata": {"name": "tune"},
            "spec": {
                "baseModelRef": {"name": "base"},
                "dataset": {"source": {"uri": "hf://a/b"}},
                "trainer": {"accelerator": {"class": "cpu"}, "hyperparameters": {"maxSteps": 7}},
                "output": {"name": "result"},
            },
        }
    )
    spec = apply_parameters(job.spec, {"learningRate": 0.003, "rank": 4.0, "batchTokens": 64.0})
    assert (spec.method.lora.rank, spec.method.lora.alpha) == (4, 32)
    learned = spec.trainer.hyperparameters
    assert (learned.learning_rate, learned.batch_tokens, learned.max_steps) == (0.003, 64, 7)
    with pytest.raises(ValidationError):
        apply_parameters(job.spec, {"learningRate": 2.0})
