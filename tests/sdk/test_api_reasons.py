"""The table of reasons: complete, and each problem says what to do."""

from __future__ import annotations

import re

import pytest

from llmos.api import KINDS, REASONS, Reason
from llmos.api import names as api_names

CONDITIONS = {value for name, value in vars(api_names).items() if name.startswith("CONDITION_")}
PROBLEMS = [reason for reason, info in REASONS.items() if info.problem]


def test_every_reason_has_a_row() -> None:
    assert set(REASONS) == set(Reason)


@pytest.mark.parametrize("reason", Reason)
def test_a_row_names_existing_kinds_and_conditions(reason: Reason) -> None:
    info = REASONS[reason]
    assert set(info.kinds) <= {kind.info.kind for kind in KINDS}
    assert info.kinds
    assert info.condition in CONDITIONS
    assert info.cause.endswith(".")


@pytest.mark.parametrize("reason", Reason)
def test_a_reason_is_a_word_that_the_server_accepts(reason: Reason) -> None:
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9]*", reason.value)
    assert len(reason.value) <= 64
    assert reason.name == reason.value


@pytest.mark.parametrize("reason", PROBLEMS)
def test_a_problem_has_a_remedy_and_a_way_on(reason: Reason) -> None:
    assert REASONS[reason].remedy
    # What ended a job lies in what it cannot change any more: the way on is another job.
    ends_a_job = REASONS[reason].kinds == ("FineTuneJob",) and "FineTuneJob" in REASONS[reason].remedy
    assert REASONS[reason].retry in {"back-off", "on-change"} or ends_a_job
