"""What the last attempts say about the next one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from llmos.api import EndedAttempt
from llmos_operator.planning.finetune_history import count_failures_in_vain

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def build_history(*steps: int | None, preempted: tuple[int, ...] = ()) -> tuple[EndedAttempt, ...]:
    def build(number: int, step: int | None) -> EndedAttempt:
        counts_as: Any = "preemption" if number in preempted else "infrastructure"
        return EndedAttempt(
            number=number, stage="train", counts_as=counts_as, reason="NodeLost", step=step, ended_at=NOW
        )

    return tuple(build(number, step) for number, step in enumerate(steps, start=1))


@pytest.mark.parametrize(
    ("steps", "count"),
    [
        ((), 1),
        ((7,), 1),
        ((None, None, 0), 3),
        ((7, 7, 6), 3),
        ((2, 4, 6, 8), 1),
        ((2, 4, 4, 4), 3),
        ((9, 8, 10), 1),
        ((None, 3), 1),
    ],
)
def test_only_those_that_came_no_further_make_the_next_one_wait_longer(
    steps: tuple[int | None, ...], count: int
) -> None:
    assert count_failures_in_vain(build_history(*steps)) == count


def test_a_preemption_is_no_failure() -> None:
    assert count_failures_in_vain(build_history(4, 4, 4, preempted=(2,))) == 2
    assert count_failures_in_vain(build_history(4, 9, 4, preempted=(2,))) == 2
