"""Gates, held against what was measured."""

from __future__ import annotations

from typing import Any

import pytest

from llmos.api import Gate, MetricComparison
from llmos_operator.planning.finetune_gates import all_passed, judge_gates

LOSS = MetricComparison(name="eval_loss", base=2.0, result=1.9)


@pytest.mark.parametrize(
    ("limits", "passed"),
    [
        ({"max": 1.9}, True),
        ({"max": 1.89}, False),
        ({"min": 1.9}, True),
        ({"min": 1.91}, False),
        ({"maxRelativeToBase": 0.95}, True),
        ({"maxRelativeToBase": 0.94}, False),
        ({"minRelativeToBase": 0.95}, True),
        ({"minRelativeToBase": 0.96}, False),
        ({"max": 5, "maxRelativeToBase": 0.5}, False),
        ({"max": 0}, False),
    ],
)
def test_all_limits_must_hold_and_include_their_value(limits: dict[str, Any], passed: bool) -> None:
    (verdict,) = judge_gates((Gate.model_validate({"metric": "eval_loss", **limits}),), (LOSS,))
    assert verdict.passed is passed
    assert "eval_loss: 1.9, base 2" in verdict.message


def test_what_was_not_measured_does_not_hold_and_says_what_was() -> None:
    verdicts = judge_gates((Gate(metric="support_loss", max=1),), (LOSS,))
    assert not all_passed(verdicts)
    assert "measured: eval_loss" in verdicts[0].message


def test_without_gates_everything_passes() -> None:
    assert all_passed(judge_gates((), (LOSS,)))
