"""Whether the result of a job is good enough: its gates, held against the numbers that the trainer measured. Pure.

A gate whose metric was not measured does not hold: nobody knows. Limits include their own value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from llmos.api import Gate, GateVerdict, MetricComparison

_LONGEST_MESSAGE = 256


def judge_gates(gates: Iterable[Gate], metrics: Iterable[MetricComparison]) -> tuple[GateVerdict, ...]:
    """Return a verdict for each gate, with the numbers."""
    measured = {metric.name: metric for metric in metrics}
    return tuple(_judge(gate, measured.get(gate.metric), sorted(measured)) for gate in gates)


def all_passed(verdicts: Iterable[GateVerdict]) -> bool:
    """Whether the result may be used."""
    return all(verdict.passed for verdict in verdicts)


def _judge(gate: Gate, metric: MetricComparison | None, measured: list[str]) -> GateVerdict:
    if metric is None:
        known = ", ".join(measured) or "nothing"
        message = f"{gate.metric} was not measured (measured: {known}). Name one of these, or add a suite."
        return GateVerdict(metric=gate.metric, passed=False, message=message[:_LONGEST_MESSAGE])
    broken = list(_find_broken(gate, metric))
    numbers = f"{gate.metric}: {_say(metric.result)}, base {_say(metric.base)}."
    message = " ".join([numbers, *broken])
    return GateVerdict(metric=gate.metric, passed=not broken, message=message[:_LONGEST_MESSAGE])


def _find_broken(gate: Gate, metric: MetricComparison) -> Iterator[str]:
    result, base = metric.result, metric.base
    if gate.min is not None and not result >= gate.min:
        yield f"It must not be below {_say(gate.min)}."
    if gate.max is not None and not result <= gate.max:
        yield f"It must not be above {_say(gate.max)}."
    if (share := gate.min_relative_to_base) is not None and not result >= base * share:
        yield f"It must be at least {_say(base * share)} ({_say(share)} x base)."
    if (share := gate.max_relative_to_base) is not None and not result <= base * share:
        yield f"It must be at most {_say(base * share)} ({_say(share)} x base)."


def _say(number: float) -> str:
    return f"{number:.4g}"
