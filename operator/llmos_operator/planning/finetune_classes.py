"""On which accelerator class the next attempt of a FineTuneJob is made, and which the quota may choose among. Pure.

A pod cannot change what it asks for, so each attempt is made for one class. It is made for the first class that will
do, and says which others will (`ANNOTATION_ACCELERATOR_CLASSES`). The ledger admits it to the first of them that has
quota and room. Where that is another one than it was made for, the ledger keeps the room and marks it as moved: the
next attempt is made for that class, goes on from the ledger's record, and is there before the moved one is deleted.

An attempt that holds accelerators never moves. The next one begins with the first class again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from llmos.api import AcceleratorClass, FineTuneJob, LLMModel
from llmos.api.names import COMPONENT_TRAIN, CPU_CLASS
from llmos_operator.planning.classes import Choice, choose_classes
from llmos_operator.planning.failures import Failure
from llmos_operator.planning.finetune_memory import refuse_memory
from llmos_operator.planning.finetune_pods import End, JobPod, PodState
from llmos_operator.planning.quota_record import QuotaRecord

Chooser = Literal["ledger", "kueue", "nobody"]
"""Who gives out accelerators. Only the ledger chooses among classes."""


@dataclass(frozen=True)
class Target:
    """What an attempt is made for."""

    class_name: str
    classes: tuple[str, ...] = ()
    """Those that the ledger chooses among, if there are several."""
    record: QuotaRecord | None = None
    """Of the attempt in whose place it comes, which was admitted to this class."""


def choose_job_classes(
    job: FineTuneJob,
    known: Iterable[AcceleratorClass],
    base: LLMModel,
    teacher: LLMModel | None,
    unreadable: Mapping[str, Failure] | None = None,
) -> Choice:
    """Return which of the job's classes will do; nothing for one on the processor.

    Args:
        job: the job.
        known: classes that it names, and that exist.
        base: the model that it trains.
        teacher: the one that it distills, if it does.
        unreadable: why other classes cannot be read, by name.
    """
    wanted = job.spec.trainer.accelerator
    if wanted.class_name == CPU_CLASS:
        return Choice()
    return choose_classes(
        wanted.class_names,
        known,
        lambda accelerator: refuse_memory(job.spec, base, accelerator, teacher),
        unreadable,
    )


def find_moved(pods: Iterable[JobPod]) -> JobPod | None:
    """Return the newest attempt that was admitted to another class than it was made for."""
    return next((pod for pod in sorted(pods, key=lambda pod: -pod.number) if pod.move is not None), None)


def find_kept(pods: Iterable[JobPod], live: JobPod, now_s: float) -> QuotaRecord | None:
    """Return what an attempt whose making was cut off goes on from: the room that one that moved keeps for it."""
    moved = find_moved(pod for pod in pods if pod.number < live.number)
    if moved is None or moved.move is None or moved.move.placement is None:
        return None
    is_for_it = moved.move.placement.class_name == live.class_name
    return moved.move.for_other_class(moved.uid, now_s) if is_for_it else None


def end_stranded(pods: Iterable[JobPod], choice: Choice) -> tuple[JobPod, ...]:
    """Return the attempts such that one that waits for a class that will do no more has to go, where another one will.

    It holds nothing, and its pods cannot change what they ask for. It counts as one that moved.
    """
    return tuple(
        replace(pod, end=End("moved"), must_go=True, missing=()) if _is_stranded(pod, choice) else pod for pod in pods
    )


def _is_stranded(pod: JobPod, choice: Choice) -> bool:
    waits = pod.component == COMPONENT_TRAIN and pod.state is PodState.WAITING and pod.end is None
    return waits and not pod.is_placed and bool(choice.names) and pod.class_name not in ("", CPU_CLASS, *choice.names)


def plan_target(job: FineTuneJob, choice: Choice, chooser: Chooser, moved: JobPod | None, now_s: float) -> Target:
    """Return what the next attempt is made for.

    Args:
        job: the job.
        choice: classes that will do; there is one, or the job trains on the processor.
        chooser: who gives out accelerators.
        moved: the attempt in whose place it comes, if there is one.
        now_s: the current time, in seconds since 1970.
    """
    if not choice.usable:
        return Target(job.spec.trainer.accelerator.class_name)
    names = choice.names if chooser == "ledger" else choice.names[:1]
    among = names if len(names) > 1 else ()
    if moved is not None and moved.move is not None and moved.move.placement is not None:
        class_name = moved.move.placement.class_name
        if class_name in names:
            return Target(class_name, among, moved.move.for_other_class(moved.uid, now_s))
    return Target(names[0], among)


def find_class_warnings(job: FineTuneJob, choice: Choice, chooser: Chooser) -> Iterator[str]:
    """Return which classes are not asked for, and why, of a job that has a class that will do."""
    if not choice.usable:
        return
    for each in choice.left_out:
        yield f"trainer.accelerator: class {each.name} is left out. {each.failure.message}"
    if job.spec.trainer.accelerator.alternatives and chooser != "ledger":
        why = "Kueue admits, by its own flavors" if chooser == "kueue" else "there is no Tenant, so nobody chooses"
        yield f"trainer.accelerator: only class {choice.names[0]} is asked for, and no alternatives: {why}."
