"""A new reason needs a story: this says so before any cluster is started for it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from e2e.test_05_failures import TOLD_ELSEWHERE
from e2e.test_05_failures import test_every_reason_that_names_a_problem_is_provoked_by_a_story as check_reasons
from llmos.api import Reason

ROOT = Path(__file__).parents[2]


async def test_every_reason_that_names_a_problem_has_its_story() -> None:
    await check_reasons()


@pytest.mark.parametrize("reason", TOLD_ELSEWHERE)
def test_what_is_told_elsewhere_is_really_told_there(reason: Reason) -> None:
    for place in TOLD_ELSEWHERE[reason].partition(":")[0].split(", "):
        folder = ROOT / place
        files = list(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
        # By the reason's own name, or that of the error which a worker raises for it.
        assert any(re.search(rf"\b{reason}(Error)?\b", file.read_text()) for file in files), place
