"""A model that is to be deleted is kept for those who still need it, and for nobody else."""

from __future__ import annotations

from typing import Any

import pytest

from llmos_operator.planning.model_users import Users, find_users
from tests.operator.reconcilers.job_world import build_job
from tests.operator.reconcilers.world import build_pool

TAUGHT = {"task": "distill", "distill": {"teacherRef": {"name": "big"}}}


def use(job: dict[str, Any], model: str = "smollm2") -> tuple[str, ...]:
    return find_users(model, (), (job,)).jobs


@pytest.mark.parametrize(
    "phase", ["", "Pending", "Preparing", "Queued", "Training", "Evaluating", "Suspended", "Canary"]
)
def test_a_job_that_is_not_over_needs_its_base_model(phase: str) -> None:
    assert use({**build_job(), "status": {"phase": phase}}) == ("tune",)
    assert use({**build_job(), "status": {"phase": phase}}, "another") == ()


def test_a_job_that_nobody_has_looked_at_yet_needs_it_too() -> None:
    assert use(build_job()) == ("tune",)


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_job_that_is_over_needs_no_model(phase: str) -> None:
    assert use({**build_job(method=TAUGHT), "status": {"phase": phase}}) == ()
    assert use({**build_job(method=TAUGHT), "status": {"phase": phase}}, "big") == ()


def test_a_job_that_is_being_deleted_needs_no_model() -> None:
    job = build_job()
    assert use({**job, "metadata": {**job["metadata"], "deletionTimestamp": "2026-01-01T12:00:00Z"}}) == ()


def test_a_job_needs_its_teacher_and_not_the_model_that_it_makes() -> None:
    job = build_job(method=TAUGHT)
    assert [use(job, name) for name in ("smollm2", "big", "support")] == [("tune",), ("tune",), ()]


def test_they_are_told_by_kind_and_name() -> None:
    pools = [build_pool("b"), build_pool("a", modelRef={"name": "x"}, adapters={"models": [{"name": "smollm2"}]})]
    assert (
        str(find_users("smollm2", pools, [build_job()])) == "Pools that use it: a, b. FineTuneJobs that use it: tune."
    )
    assert str(Users(jobs=("one", "two"))) == "FineTuneJobs that use it: one, two."
    assert not find_users("other", pools, [build_job()]).is_any
