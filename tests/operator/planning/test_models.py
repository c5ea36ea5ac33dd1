"""The steps of a model's life, read from Jobs and pods as their controllers write them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.api import LLMModel, Reason, ResolvedModel
from llmos_operator.planning.models import (
    ModelFacts,
    Step,
    StepName,
    build_model_status,
    compute_inputs_hash,
    compute_source_hash,
    observe_step,
    read_progress,
    summarize,
)
from tests.operator.planning.pods import NOW, any_status, build_pod, stamp, terminated, waiting
from tests.operator.reconcilers.world import RESOLVED, build_model

RESOLVED_JSON = json.dumps(RESOLVED)


def model(**spec: Any) -> LLMModel:
    return LLMModel.model_validate(build_model(**spec))


MODEL = model()


def job(
    step: str = "inspect", attempt: int = 0, *, ended_s: float = 4, of: LLMModel = MODEL, end: str = ""
) -> dict[str, Any]:
    conditions = [{"type": end, "status": "True", "lastTransitionTime": stamp(ended_s)}] if end else []
    return {
        "metadata": {
            "name": f"smollm2-{step}-{attempt}",
            "creationTimestamp": stamp(20),
            "labels": {"llmos.dev/component": step},
            "annotations": {
                "llmos.dev/attempt": str(attempt),
                "llmos.dev/source-hash": compute_source_hash(of.spec),
                "llmos.dev/inputs": compute_inputs_hash(of.spec),
            },
        },
        "status": {"conditions": conditions},
    }


def pod_of(item: dict[str, Any], **status: Any) -> dict[str, Any]:
    return build_pod(name=f"{item['metadata']['name']}-x", labels={"job-name": item["metadata"]["name"]}, **status)


def observe(*jobs: dict[str, Any], pods: list[dict[str, Any]] | None = None, name: StepName = "inspect") -> Step:
    return observe_step(name, MODEL, jobs, pods or [], NOW, 10)


def ended(name: str, message: str, code: int) -> dict[str, Any]:
    return terminated(name=name, message=message, code=code)


def test_a_step_without_a_job_is_to_be_started() -> None:
    assert observe() == Step("absent", start_attempt=0)
    assert observe(job("fetch")).state == "absent"
    assert observe(job(of=model(source={"uri": "hf://other/name"}))).state == "absent", "the Job of another source"


def test_the_newest_attempt_counts() -> None:
    step = observe(job(attempt=10), job(attempt=9, end="Failed"))
    assert (step.state, step.attempt) == ("running", 10)


def test_a_finished_inspect_step_hands_over_its_facts() -> None:
    done = job(end="Complete")
    step = observe(done, pods=[pod_of(done, phase="Succeeded", containerStatuses=[ended("inspect", RESOLVED_JSON, 0)])])
    assert step.state == "succeeded"
    assert step.resolved == ResolvedModel.model_validate(RESOLVED)


@pytest.mark.parametrize("message", ["", "{}", "not json"])
def test_facts_that_cannot_be_read_are_a_failure_that_is_tried_again(message: str) -> None:
    done = job(end="Complete", ended_s=4)
    step = observe(done, pods=[pod_of(done, phase="Succeeded", containerStatuses=[ended("inspect", message, 0)])])
    assert (step.state, step.retry_after_s, step.start_attempt) == ("failed", 6, None)
    assert observe(job(end="Complete", ended_s=10)).start_attempt == 1


def test_a_failure_that_may_pass_waits_and_then_starts_the_next_attempt() -> None:
    message = json.dumps({"reason": "RateLimited", "message": "429"})
    for ended_s, start, retry_s in ((4.0, None, 16.0), (20.0, 2, None), (9999.0, 2, None)):
        failed = job(attempt=1, end="Failed", ended_s=ended_s)
        pod = pod_of(failed, phase="Failed", containerStatuses=[ended("inspect", message, 1)])
        step = observe(failed, pods=[pod])
        assert (step.state, step.start_attempt, step.retry_after_s) == ("failed", start, retry_s)


def test_a_failure_that_needs_a_change_waits_for_it() -> None:
    message = json.dumps({"reason": "DiskFull", "message": "needs 50 GiB"})
    failed = job("fetch", end="Failed", ended_s=9999)
    pods = [pod_of(failed, phase="Failed", containerStatuses=[ended("fetch", message, 1)])]
    assert observe(failed, pods=pods, name="fetch").start_attempt is None
    larger = model(storage={"size": "50Gi"})
    assert observe_step("fetch", larger, [failed], pods, NOW, 10).start_attempt == 1


WORDS: dict[str, tuple[dict[str, Any], Reason]] = {
    "an end without a word": ({"containerStatuses": [ended("inspect", "", 1)]}, Reason.FetchFailed),
    "a kill at the memory limit": (
        {"containerStatuses": [terminated(name="inspect", code=137, reason="OOMKilled")]},
        Reason.FetchFailed,
    ),
    "an eviction": ({"reason": "Evicted", "message": "low on resource"}, Reason.FetchFailed),
}


@pytest.mark.parametrize(("status", "reason"), WORDS.values(), ids=WORDS.keys())
def test_a_step_does_not_fail_in_the_words_of_a_replica(status: dict[str, Any], reason: Reason) -> None:
    failed = job(end="Failed")
    failure = observe(failed, pods=[pod_of(failed, phase="Failed", **status)]).failure
    assert failure is not None
    assert failure.reason is reason


def test_a_step_that_waits_says_for_what() -> None:
    running = job()
    pod = pod_of(running, phase="Pending", containerStatuses=[waiting("ErrImagePull", name="inspect")])
    stuck = observe(running, pods=[pod]).stuck
    assert stuck is not None
    assert stuck.reason is Reason.ImagePullFailed


def test_a_step_that_finds_no_node_asks_for_no_accelerators_to_be_freed() -> None:
    running = job()
    waits = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "lastTransitionTime": stamp(60)}
    pod = pod_of(running, phase="Pending", conditions=[{**waits, "message": "0/3 nodes: 3 Insufficient memory."}])
    stuck = observe(running, pods=[pod]).stuck
    assert stuck is not None
    assert stuck.reason is Reason.Unschedulable
    assert "inspects or fetches" in stuck.message
    assert "3 Insufficient memory" in stuck.message
    assert "replica" not in stuck.message
    assert "Free accelerators" not in stuck.message


@given(status=any_status, end=st.sampled_from(["", "Complete", "Failed", "Suspended"]))
def test_any_pod_of_any_job_can_be_read(status: dict[str, Any], end: str) -> None:
    for name in ("inspect", "fetch"):
        item = job(name, end=end)
        step = observe(item, pods=[pod_of(item, **status)], name=name)
        assert (step.failure is not None) == (step.state == "failed")
        assert step.start_attempt is None or step.state == "failed"


CHANGES = {
    "source": {"source": {"uri": "hf://other/name"}},
    "format": {"format": "gguf"},
    "trusted code": {"trustRemoteCode": {"revision": "0" * 40}},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_what_decides_the_files_changes_the_source_hash(change: dict[str, Any]) -> None:
    assert compute_source_hash(model(**change).spec) != compute_source_hash(MODEL.spec)


def test_where_the_files_lie_and_who_may_fetch_them_changes_only_the_inputs() -> None:
    for change in ({"storage": {"size": "1Gi"}}, {"source": {"uri": "hf://org/name@main", "secretRef": {"name": "s"}}}):
        changed = model(**change).spec
        assert compute_source_hash(changed) == compute_source_hash(MODEL.spec)
        assert compute_inputs_hash(changed) != compute_inputs_hash(MODEL.spec)


def test_the_newest_progress_line_of_a_log_counts() -> None:
    lines = ['{"bytesDone": 1, "bytesTotal": 9}', '{"bytesDone": 5, "bytesTotal": 9}', "retrying file 3"]
    progress = read_progress("\n".join(lines))
    assert progress is not None
    assert progress.bytes_done == 5


@given(log=st.text(max_size=200))
def test_a_log_of_any_text_is_no_progress(log: str) -> None:
    assert read_progress(f"x{log}".replace("\n", " ")) is None


SUMMARIES = {
    "LlamaForCausalLM 134.5M bfloat16 0.25 GiB": {},
    "LlamaForCausalLM 8.0B awq 0.25 GiB": {"parameters": 8_030_000_000, "quantization": "awq"},
    "LlamaForCausalLM 1.0T bfloat16 0.25 GiB": {"parameters": 10**12},
    "LlamaForCausalLM bfloat16 0.25 GiB": {"parameters": 999_999},
}


@pytest.mark.parametrize(("line", "facts"), SUMMARIES.items())
def test_a_model_is_summed_up_in_one_line(line: str, facts: dict[str, Any]) -> None:
    assert summarize(ResolvedModel.model_validate({**RESOLVED, **facts})) == line


RUNNING, FAILURE = Step("running"), Step("failed", failure=observe(job(end="Failed")).failure)
FACTS = ModelFacts(source_hash="h", resolved=ResolvedModel.model_validate(RESOLVED), claim_name="c")
ON_CLAIM = model(storage={"mode": "claim"})
STORIES: dict[str, tuple[LLMModel, ModelFacts, tuple[str, str, str]]] = {
    "it is being inspected": (
        MODEL,
        ModelFacts("h", inspect=RUNNING),
        ("Inspecting", "FetchedByReplica", "Inspecting"),
    ),
    "its inspection failed": (
        MODEL,
        ModelFacts("h", inspect=FAILURE),
        ("FetchFailed", "FetchedByReplica", "FetchFailed"),
    ),
    "each replica fetches it": (MODEL, FACTS, ("Resolved", "FetchedByReplica", "Available")),
    "a claim waits for the inspection": (
        ON_CLAIM,
        ModelFacts("h", inspect=RUNNING),
        ("Inspecting", "Inspecting", "Inspecting"),
    ),
    "it is being fetched": (
        ON_CLAIM,
        ModelFacts("h", FACTS.resolved, fetch=RUNNING, claim_name="c"),
        ("Resolved", "Fetching", "Fetching"),
    ),
    "its fetch failed": (
        ON_CLAIM,
        ModelFacts("h", FACTS.resolved, fetch=FAILURE),
        ("Resolved", "FetchFailed", "FetchFailed"),
    ),
    "it is stored": (
        ON_CLAIM,
        ModelFacts("h", FACTS.resolved, fetch=Step("succeeded"), claim_name="c"),
        ("Resolved", "Stored", "Available"),
    ),
}


@pytest.mark.parametrize(("item", "facts", "reasons"), STORIES.values(), ids=STORIES.keys())
def test_the_conditions_of_a_model_tell_its_story(
    item: LLMModel, facts: ModelFacts, reasons: tuple[str, str, str]
) -> None:
    status = build_model_status(item, facts, NOW)
    assert tuple(c.reason for c in status.conditions) == reasons
    assert [c.type for c in status.conditions] == ["Resolved", "Stored", "Ready"]
    assert (status.conditions[-1].status == "True") == (reasons[-1] == "Available")
    assert bool(status.source_hash) == (facts.resolved is not None)
