"""How often a run is evaluated that does not say it."""

from __future__ import annotations

import pytest

from llmos.api import Evaluate
from llmos.api.finetunejob_evaluation import compute_evaluate_every


@pytest.mark.parametrize(("total", "every"), [(1, 1), (7, 1), (10, 1), (60, 6), (101, 11), (100_000, 10_000)])
def test_a_run_is_evaluated_about_ten_times_however_short_it_is(total: int, every: int) -> None:
    assert compute_evaluate_every(Evaluate(), total) == every
    assert total // every <= 10


def test_what_the_job_says_is_done() -> None:
    assert compute_evaluate_every(Evaluate(every_steps=200), 60) == 200
