"""A new reason needs a story: this says so before any cluster is started for it."""

from __future__ import annotations

from e2e.test_05_failures import test_every_reason_that_names_a_problem_is_provoked_by_a_story as check_reasons


async def test_every_reason_that_names_a_problem_has_its_story() -> None:
    await check_reasons()
