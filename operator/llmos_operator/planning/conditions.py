"""Conditions: built from facts, with a transition time that moves only when the status does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from llmos.api.meta import Condition
from llmos.api.reasons import REASONS, Reason
from llmos_operator.planning.failures import Failure


@dataclass(frozen=True)
class Fact:
    """One condition before it knows its generation and time."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: Reason
    message: str


def is_true(kind: str, reason: Reason, message: str = "") -> Fact:
    """Return the fact that a condition holds."""
    return Fact(kind, "True", reason, message or REASONS[reason].cause)


def is_false(kind: str, reason: Reason, message: str = "") -> Fact:
    """Return the fact that a condition does not hold."""
    return Fact(kind, "False", reason, message or REASONS[reason].cause)


def is_unknown(kind: str, reason: Reason, message: str = "") -> Fact:
    """Return the fact that nobody knows yet."""
    return Fact(kind, "Unknown", reason, message or REASONS[reason].cause)


def build_conditions(
    facts: Iterable[Fact], previous: Sequence[Condition], generation: int, now: datetime
) -> tuple[Condition, ...]:
    """Return conditions that keep the time of their last change from the previous ones."""
    before = {condition.type: condition for condition in previous}
    return tuple(
        Condition(
            type=fact.type,
            status=fact.status,
            reason=fact.reason.value,
            message=fact.message,
            observed_generation=generation,
            last_transition_time=_transition_time(before.get(fact.type), fact, now),
        )
        for fact in facts
    )


def _transition_time(previous: Condition | None, fact: Fact, now: datetime) -> datetime:
    if previous is not None and previous.status == fact.status:
        return previous.last_transition_time
    return now.replace(microsecond=0)


@dataclass(frozen=True)
class Announcement:
    """An Event to emit because the aggregate condition changed its reason."""

    reason: Reason
    message: str
    warning: bool


def plan_announcement(kind: str, previous: Sequence[Condition], current: Sequence[Condition]) -> Announcement | None:
    """Return the Event for a change of condition `kind`, None if status and reason are as before.

    That a new object begins as it should is no news: its first condition is announced only if it tells a problem.
    """
    after = next((c for c in current if c.type == kind), None)
    before = next((c for c in previous if c.type == kind), None)
    if after is None or (before is not None and (before.status, before.reason) == (after.status, after.reason)):
        return None
    reason = Reason(after.reason)
    if before is None and not REASONS[reason].problem:
        return None
    return Announcement(reason, after.message, warning=REASONS[reason].problem)


def find_fact(kind: str, previous: Sequence[Condition]) -> Fact | None:
    """Return what condition `kind` said last, None if it said nothing that is known."""
    condition = next((c for c in previous if c.type == kind), None)
    if condition is None or condition.reason not in Reason.__members__:
        return None
    return Fact(kind, condition.status, Reason(condition.reason), condition.message)


def last_failure(kind: str, previous: Sequence[Condition]) -> Failure | None:
    """Return the problem that condition `kind` told last.

    While another attempt runs the last failure stays visible: it is still what a person must know, and conditions and
    Events do not flap with every attempt.
    """
    condition = next((c for c in previous if c.type == kind), None)
    if condition is None or condition.reason not in Reason.__members__:
        return None
    reason = Reason(condition.reason)
    return Failure(reason, condition.message) if REASONS[reason].problem else None
