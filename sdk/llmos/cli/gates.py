"""Gates as people write them: `eval_loss<=0.95xbase`, `support_exact_match>=0.8`. Pure."""

from __future__ import annotations

import re
from typing import Final

from llmos.api import Gate

_GATE: Final = re.compile(
    r"(?P<metric>[a-z][a-z0-9_]*)\s*(?P<sign><=|>=)\s*(?P<limit>-?\d+(?:\.\d+)?(?:e-?\d+)?)\s*(?P<base>[x*]\s*base)?"
)
EVAL_LOSS: Final = "eval_loss"


class BadGateError(ValueError):
    """The words are no gate; the message says what is expected."""


def parse_gate(text: str, metrics: frozenset[str]) -> Gate:
    """Read a gate on one of the metrics that the job computes.

    Raises:
        BadGateError: it is not understood, or there is no such metric.
    """
    match = _GATE.fullmatch(text.strip())
    if match is None:
        raise BadGateError(
            f"{text!r} is no gate: write METRIC<=LIMIT or METRIC>=LIMIT, where LIMIT is a number such as 0.8, or a "
            "share of the base model's value such as 0.95xbase"
        )
    metric, limit = match["metric"], float(match["limit"])
    if metric not in metrics:
        raise BadGateError(
            f"the job computes no {metric!r}, only {', '.join(sorted(metrics))}; --suite adds metrics of its own"
        )
    if match["base"] and limit < 0:
        raise BadGateError(f"{text!r}: a share of the base model's value cannot be negative")
    if match["base"]:
        at_least = match["sign"] == ">="
        return Gate(metric=metric, **{"min_relative_to_base" if at_least else "max_relative_to_base": limit})
    return Gate(metric=metric, **{"min" if match["sign"] == ">=" else "max": limit})


def describe_gate(gate: Gate) -> str:
    """The gate as one would write it."""
    limits = (
        (">=", gate.min, ""),
        ("<=", gate.max, ""),
        (">=", gate.min_relative_to_base, " x base"),
        ("<=", gate.max_relative_to_base, " x base"),
    )
    said = [f"{sign} {limit:g}{base}" for sign, limit, base in limits if limit is not None]
    return f"{gate.metric} {' and '.join(said)}"
