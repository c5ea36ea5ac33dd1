"""What reasons mean for a job: nobody is sent to a field that a FineTuneJob does not have."""

from __future__ import annotations

import re

import pytest

from llmos.api import REASONS, FineTuneJobSpec, InferencePoolSpec, Reason
from llmos.api.job_reasons import find_info, say_for_job

OF_JOBS = [reason for reason, info in REASONS.items() if "FineTuneJob" in info.kinds]
OF_OTHERS = ("spec.source.uri", "spec.storage", "spec.modelRef", "spec.contextLength", "lower replicas", "the replica")


@pytest.mark.parametrize("reason", OF_JOBS)
def test_no_words_for_a_job_name_what_only_others_have(reason: Reason) -> None:
    info = find_info(reason, "FineTuneJob")
    said = f"{info.cause} {info.remedy}"
    assert not [words for words in OF_OTHERS if words.lower() in said.lower()], said
    assert info.cause
    assert info.remedy or not info.problem


@pytest.mark.parametrize("reason", OF_JOBS)
def test_the_fields_that_a_remedy_names_exist(reason: Reason) -> None:
    schema = str(FineTuneJobSpec.model_json_schema(by_alias=True))
    for top in ("trainer", "checkpoint", "retries", "hyperparameters", "dataset", "method"):
        for field in re.findall(rf"\b{top}\.(\w+)", find_info(reason, "FineTuneJob").remedy):
            assert f"'{field}'" in schema, f"{reason}: {top}.{field}"


@pytest.mark.parametrize("reason", [reason for reason, info in REASONS.items() if "InferencePool" in info.kinds])
def test_the_fields_that_a_pool_is_told_of_exist_or_are_said_to_be_another_s(reason: Reason) -> None:
    info = find_info(reason, "InferencePool")
    fields = {str(field.alias or name) for name, field in InferencePoolSpec.model_fields.items()}
    of_others = r"(LLMModel's|Tenant's|whose) spec\.[\w.]+|spec\.[\w.]+ of the Tenant"
    said = re.sub(of_others, "", f"{info.cause} {info.remedy}")
    assert set(re.findall(r"\bspec\.(\w+)", said)) <= fields


def test_other_kinds_have_the_words_of_the_table() -> None:
    assert find_info(Reason.OutOfMemory, "InferencePool") == REASONS[Reason.OutOfMemory]


def test_a_message_from_the_table_is_put_into_the_words_of_jobs_and_keeps_its_particulars() -> None:
    info = REASONS[Reason.SecretNotFound]
    told = say_for_job(Reason.SecretNotFound, f"{info.cause} Pod tune-prepare-1: secret hf not found. {info.remedy}")
    assert "dataset.source.secretRef" in told
    assert "Pod tune-prepare-1: secret hf not found." in told
    assert "in the job's namespace" in told
    assert "spec.source" not in told
    assert say_for_job(Reason.SecretNotFound, told) == told, "once is enough"


def test_a_remedy_that_a_fetch_step_has_shortened_is_known_too() -> None:
    remedy = REASONS[Reason.SourceNotFound].remedy.replace("spec.source.", "source.")
    assert "make a new FineTuneJob" in say_for_job(Reason.SourceNotFound, f"The source has no train.jsonl. {remedy}")


def test_what_a_worker_said_in_its_own_words_stays() -> None:
    assert say_for_job(Reason.DiskFull, "The checkpoint could not be written. Expand it.") == (
        "The checkpoint could not be written. Expand it."
    )
