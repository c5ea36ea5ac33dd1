"""The models that a FineTuneJob starts from: its base, and for task distill the teacher. Pure.

Both must be there, inspected, stored, whole (no adapters) and, once an attempt was made, what they were then: their
digests are pinned. A teacher must have the base model's vocabulary. What is known here is the rows of both embeddings,
which some families pad differently for the same tokenizer; so only numbers that no padding explains are refused here,
and the step `prepare` compares the tokenizers themselves, before any accelerator is held.
"""

from __future__ import annotations

from typing import Final

from llmos.api import Condition, FineTuneJob, LLMModel, Reason
from llmos.api.architecture import ModelArchitecture
from llmos.api.names import CONDITION_READY, CONDITION_STORED
from llmos_operator.planning.failures import Failure, build_failure

PADDING: Final = 512
"""Embeddings are padded to multiples of up to so many rows."""
CHANGED: Final = frozenset({Reason.BaseModelChanged, Reason.TeacherChanged})


def digest_of(model: LLMModel | None) -> str:
    """Return the digest of a model; empty if it is not known."""
    return model.status.resolved.digest if model is not None and model.status.resolved is not None else ""


def architecture_of(model: LLMModel | None) -> ModelArchitecture | None:
    """Return the facts of a model's architecture; None if they are not known."""
    return model.status.resolved.config if model is not None and model.status.resolved is not None else None


def refuse_base(job: FineTuneJob, base: LLMModel | None, digest: str) -> Failure | None:
    """Return why a job cannot start from its base model; `digest` is what it was pinned to, if it was."""
    field = "name its base in baseModelRef"
    return _refuse(job, job.spec.base_model_ref.name, base, digest, Reason.BaseModelChanged, field)


def refuse_teacher(
    job: FineTuneJob, teacher: LLMModel | None, digest: str, base: ModelArchitecture | None
) -> Failure | None:
    """Return why a job cannot learn from its teacher; None for a job that has none."""
    distill = job.spec.method.distill
    if distill is None:
        return None
    field = "name its base, or a merged model, in method.distill.teacherRef"
    name = distill.teacher_ref.name
    failure = _refuse(job, name, teacher, digest, Reason.TeacherChanged, field)
    return failure or _refuse_vocabulary(job.spec.base_model_ref.name, name, base, architecture_of(teacher))


def _refuse(
    job: FineTuneJob, name: str, model: LLMModel | None, digest: str, changed: Reason, field: str
) -> Failure | None:
    if model is None:
        detail = f"There is no LLMModel {name} in namespace {job.metadata.namespace}."
        return build_failure(Reason.ModelNotFound, detail)
    ready = next((each for each in model.status.conditions if each.type == CONDITION_READY), None)
    if model.status.resolved is None or ready is None or ready.observed_generation < model.metadata.generation:
        return build_failure(Reason.ModelNotReady, f"LLMModel {name} is being looked at.")
    if digest and model.status.resolved.digest != digest:
        detail = f"LLMModel {name} has {model.status.resolved.digest}, the job began with {digest}."
        return build_failure(changed, detail)
    if waits := _say_why_not_whole(name, model, ready):
        return build_failure(Reason.ModelNotReady, waits)
    if model.spec.adapter is not None:
        return build_failure(Reason.InvalidSpec, f"LLMModel {name} is an adapter: {field}.")
    return None


def _say_why_not_whole(name: str, model: LLMModel, ready: Condition) -> str:
    """Say why its files are not all there, as far as is known; empty if they are."""
    if model.metadata.deletion_timestamp is None:
        return "" if ready.status == "True" else f"LLMModel {name} says {ready.reason}: {ready.message}"
    # It is held back for those who use it, and no longer looked after: its files are complete now, or never.
    if any(each.type == CONDITION_STORED and each.status == "True" for each in model.status.conditions):
        return ""
    return f"LLMModel {name} was deleted before its files were complete: delete the job, and make both again."


def _refuse_vocabulary(
    base_name: str, teacher_name: str, base: ModelArchitecture | None, teacher: ModelArchitecture | None
) -> Failure | None:
    if base is None or teacher is None:
        # The plan of its memory says so.
        return None
    if abs(base.vocabulary_size - teacher.vocabulary_size) < PADDING:
        return None
    detail = (
        f"The vocabulary of the teacher {teacher_name} has {teacher.vocabulary_size} tokens, that of the base model "
        f"{base_name} has {base.vocabulary_size}."
    )
    return build_failure(Reason.TeacherMismatch, detail)
