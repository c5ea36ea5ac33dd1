"""What a search decides by itself: rungs and budgets."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from llmos.api import FineTuneJob
from llmos_operator.planning.finetune_budget import compute_reserve_s, has_budget
from llmos_operator.planning.finetune_search import find_output_folder, judge_rung
from llmos_operator.planning.finetune_trials import begin_trial, spend

LOSSES = st.lists(st.floats(0, 10), min_size=1, max_size=40)


def build_job(**search: Any) -> FineTuneJob:
    asked = {"parameters": [{"name": "learningRate", "values": [0.001]}], **search}
    return FineTuneJob.model_validate(
        {
            "metadata": {"name": "tune"},
            "spec": {
                "baseModelRef": {"name": "base"},
                "dataset": {"source": {"uri": "hf://a/b"}},
                "trainer": {"accelerator": {"class": "cpu"}},
                "checkpoint": {"onPreempt": {"deadlineSeconds": 10}},
                "output": {"name": "result"},
                "search": asked,
            },
        }
    )


@given(LOSSES, st.integers(2, 10))
def test_the_best_of_a_rung_always_goes_on(losses: list[float], factor: int) -> None:
    best = min(losses)
    assert judge_rung(best, losses, factor)
    assert judge_rung(losses[0], [], factor), "the first one waits for nobody"


@given(LOSSES, st.integers(2, 10))
def test_of_those_that_come_one_after_another_few_go_on(losses: list[float], factor: int) -> None:
    ascending = sorted(losses)
    gone_on = sum(judge_rung(value, ascending[:place], factor) for place, value in enumerate(ascending) if place)
    # Each is worse than all before it: it goes on only where another place has come.
    assert gone_on == 0 or len(set(losses)) < len(losses)


@given(LOSSES, st.floats(0, 10), st.floats(0, 10), st.integers(2, 10))
def test_a_better_value_never_fares_worse(losses: list[float], one: float, other: float, factor: int) -> None:
    better, worse = sorted((one, other))
    assert judge_rung(better, losses, factor) >= judge_rung(worse, losses, factor)


@given(st.lists(st.tuples(st.integers(1, 5), st.floats(0, 1000)), max_size=30))
def test_what_was_spent_is_never_given_back(looks: list[tuple[int, float]]) -> None:
    trial = begin_trial(1, {"rank": 8.0})
    for attempt, seconds in sorted(looks, key=lambda look: look[0]):
        after = spend(trial, attempt, seconds)
        assert after.accelerator_seconds >= trial.accelerator_seconds
        assert after.accelerator_seconds >= after.attempt_seconds >= round(seconds, 1)
        trial = after
    longest: dict[int, float] = {}
    for attempt, seconds in looks:
        longest[attempt] = max(longest.get(attempt, 0.0), seconds)
    assert abs(trial.accelerator_seconds - sum(longest.values())) <= 0.1 * (len(longest) + 1)


def test_a_pod_is_made_only_if_there_is_time_for_it_to_learn_and_to_save() -> None:
    job = build_job(budgetAcceleratorHours=100 / 3600)
    search = job.spec.search
    assert search is not None
    assert compute_reserve_s(job) == 20
    trial = begin_trial(1, {"learningRate": 0.001})
    assert has_budget(search, [spend(trial, 1, 60)], {}, job, more=1)
    assert not has_budget(search, [spend(trial, 1, 61)], {}, job, more=1)
    assert has_budget(build_job().spec.search or search, [spend(trial, 1, 1e9)], {}, job, more=9)


def test_each_trial_has_a_folder() -> None:
    assert (find_output_folder(None), find_output_folder(3)) == ("output", "trials/3/output")
