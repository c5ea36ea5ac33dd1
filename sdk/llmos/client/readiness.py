"""Judges whether an object may be used, from its Ready condition and the table of reasons. Pure.

A condition that speaks about an older generation says nothing about the present spec. Waiting ends early only for a
problem that LLMOS does not retry by itself and that no other object can cure: then nothing changes until a person acts.
A FineTuneJob is ready once it has succeeded, and its phase says whether it has failed: what ends one job may cost
another only one of its retries.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from llmos.api import REASONS, AcceleratorClass, Condition, FineTuneJob, InferencePool, LLMModel, Reason, Tenant
from llmos.api.job_reasons import find_info
from llmos.api.names import CONDITION_READY
from llmos.client.answers import as_sentence
from llmos.client.errors import NotReadyError

AnyKind = LLMModel | InferencePool | AcceleratorClass | Tenant | FineTuneJob

NO_STATUS: Final = "NoStatus"
PHASE_FAILED: Final = "Failed"
PHASE_SUCCEEDED: Final = "Succeeded"
"""Phases in which a FineTuneJob has ended."""
_NO_STATUS_REMEDY: Final = (
    "Check that the operator runs: kubectl get pods -A -l app.kubernetes.io/name=llmos; its log says what holds it up."
)
_CURED_BY_OTHERS: Final = frozenset(
    {Reason.ModelNotFound, Reason.ModelNotReady, Reason.AcceleratorClassNotFound, Reason.NoNodeHasAccelerator}
)


class Verdict(Enum):
    """What an object's Ready condition means to someone who waits."""

    READY = "ready"
    WAIT = "wait"
    FAILED = "failed"


def ready_condition(thing: AnyKind) -> Condition | None:
    """The Ready condition if it speaks about the present generation, else None."""
    return next(
        (
            condition
            for condition in thing.status.conditions
            if condition.type == CONDITION_READY and condition.observed_generation >= thing.metadata.generation
        ),
        None,
    )


def judge(thing: AnyKind) -> Verdict:
    """Whether to use the object, to wait on, or to give up."""
    condition = ready_condition(thing)
    if condition is None:
        return Verdict.WAIT
    if condition.status == "True":
        return Verdict.READY
    info = REASONS.get(Reason(condition.reason)) if condition.reason in Reason.__members__ else None
    if isinstance(thing, FineTuneJob) and thing.status.phase == PHASE_FAILED:
        return Verdict.FAILED
    is_final = info is not None and info.problem and info.retry == "on-change"
    return Verdict.FAILED if is_final and condition.reason not in _CURED_BY_OTHERS else Verdict.WAIT


def build_not_ready(thing: AnyKind, after: str = "") -> NotReadyError:
    """The error that says why the object cannot be used. `after` says for how long one waited: `after 60 s`."""
    title = f"{thing.kind} {thing.metadata.name} {_say_state(thing)}{f' {after}' if after else ''}"
    condition = ready_condition(thing)
    if condition is None:
        message = "the operator has not looked at it yet"
        return NotReadyError(f"{title}: {message}.", _NO_STATUS_REMEDY, reason=NO_STATUS, message=message)
    return NotReadyError(
        f"{title} ({condition.reason}): {as_sentence(condition.message or 'no message')}",
        find_remedy(condition, thing.kind),
        reason=condition.reason,
        message=condition.message,
    )


def _say_state(thing: AnyKind) -> str:
    if not isinstance(thing, FineTuneJob):
        return "is not ready"
    if thing.status.phase == PHASE_FAILED:
        return "has failed"
    return "cannot go on" if judge(thing) is Verdict.FAILED else "has not ended"


def find_remedy(condition: Condition, kind: str) -> str:
    """What the table of reasons advises for an object of this kind, unless the condition's message says it already."""
    if condition.reason not in Reason.__members__:
        return "" if condition.message else "Look at it: kubectl describe."
    remedy = find_info(Reason(condition.reason), kind).remedy
    return "" if remedy in condition.message else remedy
