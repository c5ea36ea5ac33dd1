"""What a job asks for and will not get: said early, with the remedy."""

from __future__ import annotations

from typing import Any

import pytest

from llmos.api import FineTuneJob, InferencePool
from llmos_operator.planning.finetune_warnings import find_attach_warnings, find_warnings
from tests.operator.reconcilers.job_world import build_job
from tests.operator.reconcilers.world import build_pool


def job(**spec: Any) -> FineTuneJob:
    return FineTuneJob.model_validate(build_job(**{"output": {"name": "a", "attachTo": [{"pool": "chat"}]}, **spec}))


def pool(**spec: Any) -> InferencePool:
    return InferencePool.model_validate(build_pool(**spec))


@pytest.mark.parametrize(
    ("pools", "words"),
    [
        ([], "there is no InferencePool chat in namespace team-a. Create it"),
        ([pool()], "chat takes no adapters. Set its spec.adapters"),
        ([pool(adapters={}, modelRef={"name": "other"})], "serves other, the adapter is one of smollm2"),
        ([pool(adapters={"maxRank": 8})], "rank is 16, InferencePool chat takes at most 8. Raise"),
    ],
)
def test_a_pool_that_will_not_load_the_adapter_is_named_with_the_remedy(pools: list[InferencePool], words: str) -> None:
    (warning,) = find_attach_warnings(job(), pools)
    assert words in warning


def test_a_search_may_find_a_rank_that_the_pool_does_not_take() -> None:
    small, search = pool(adapters={"maxRank": 16}), {"parameters": [{"name": "rank", "values": [8, 64]}]}
    (warning,) = find_attach_warnings(job(search=search), [small])
    assert "the adapter's rank is up to 64" in warning
    found = job(search=search).model_dump(by_alias=True)
    trials = [{"number": n, "parameters": [{"name": "rank", "value": r}]} for n, r in ((1, 64), (2, 8))]
    found["status"] = {"trials": trials, "bestTrial": 2, "output": {"digest": "sha256:1"}}
    assert find_attach_warnings(FineTuneJob.model_validate(found), [small]) == ()


def test_a_pool_that_takes_the_adapter_is_no_warning() -> None:
    assert find_attach_warnings(job(), [pool(adapters={})]) == ()
    assert find_attach_warnings(job(output={"name": "a"}), []) == ()


def stopping(total: int, *, every: int | None = None, patience: int = 3) -> tuple[str, ...]:
    evaluate = {"everySteps": every} if every else {}
    return find_warnings(job(earlyStopping={"patience": patience}, evaluate=evaluate), total_steps=total, unheard="")


def test_early_stopping_that_can_never_act_says_what_would_let_it() -> None:
    (warning,) = stopping(60, every=200)
    assert "the run has 60 steps, eval_loss is computed each 200, and patience is 3" in warning
    assert "Set evaluate.everySteps to 14 or less" in warning
    assert stopping(60, every=14) == (), "evaluated at 14, 28, 42 and 56: one to compare with, and three misses"
    assert stopping(60, every=15) != ()


def test_by_itself_a_run_is_evaluated_often_enough() -> None:
    assert stopping(60) == ()
    assert stopping(100_000) == ()
    (warning,) = stopping(60, patience=9)
    assert "or lower the patience" in warning
    (warning,) = stopping(3)
    assert "The run is too short for it" in warning


def test_without_early_stopping_or_the_number_of_steps_nothing_is_said() -> None:
    assert find_warnings(job(), total_steps=60, unheard="") == ()
    assert stopping(0, every=200) == ()


def test_the_steps_of_the_spec_count_until_the_run_tells_its_own() -> None:
    trainer = {"accelerator": {"class": "cpu"}, "hyperparameters": {"maxSteps": 50}}
    short = job(earlyStopping={}, evaluate={"everySteps": 50}, trainer=trainer)
    assert find_warnings(short, total_steps=0, unheard="") != ()
