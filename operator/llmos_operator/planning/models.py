"""The life of a model: inspect, then fetch if it has a claim. Stateless steps over observed Jobs, pure.

Each step is a Job of one attempt (`backoffLimit: 0`). A Job that failed for a reason that may pass is followed, after
a growing
pause, by a Job of the next attempt; one that needs a change stays as the record until the source changes. The name of
a Job
holds the hash of the source and the attempt, so a killed operator never starts a step twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal

from pydantic import ValidationError

from llmos.api import FetchProgress, LLMModel, LLMModelSpec, LLMModelStatus, Reason, ResolvedModel
from llmos.api.job_reasons import say_for
from llmos.api.names import (
    ANNOTATION_INPUTS,
    ANNOTATION_SOURCE_HASH,
    CONDITION_READY,
    CONDITION_RESOLVED,
    CONDITION_STORED,
    LABEL_COMPONENT,
)
from llmos_operator.planning.conditions import Fact, build_conditions, is_false, is_true, is_unknown, last_failure
from llmos_operator.planning.failures import (
    Failure,
    build_failure,
    container_statuses,
    failure_of_finished_pod,
    failure_of_slow_creation,
    failure_of_unscheduled_pod,
    failure_of_waiting_pod,
    read_attempt,
    read_time,
)
from llmos_operator.planning.model_users import Users
from llmos_operator.planning.replicas import compute_backoff_s

JsonObject = Mapping[str, Any]
StepName = Literal["inspect", "fetch"]

POD_PATIENCE_S = 30.0
"""A Job whose controller has made no pod for so long was refused one: Kubernetes tells that in Events only."""
CREATION_PATIENCE_S = 300.0
"""A pod that has its node, but no running container for so long, waits for more than an image."""
_CONDITIONS = {"inspect": CONDITION_RESOLVED, "fetch": CONDITION_STORED}
_WORDS_OF_REPLICAS = frozenset({Reason.EngineCrashed, Reason.OutOfMemory, Reason.ReplicaFailed})


def compute_source_hash(spec: LLMModelSpec) -> str:
    """Return a short hash of everything that decides what the model's files are."""
    facts = {
        "uri": spec.source.uri,
        "format": spec.format,
        "code": spec.trust_remote_code.revision if spec.trust_remote_code else "",
    }
    if spec.adapter is not None:
        facts["kind"] = "adapter"
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:10]


def compute_inputs_hash(spec: LLMModelSpec) -> str:
    """Return a short hash of what else a step depends on: a failure that needed a change is tried again when it
    differs."""
    facts = {"storage": spec.storage.to_manifest(), "secret": spec.source.secret_ref and spec.source.secret_ref.name}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:10]


@dataclass(frozen=True)
class Step:
    """One step of a model's life, as its newest Job shows it.

    `start_attempt` is the number of the attempt to start now, None if none is to be started.
    """

    state: Literal["absent", "running", "succeeded", "failed"]
    attempt: int = 0
    start_attempt: int | None = None
    retry_after_s: float | None = None
    failure: Failure | None = None
    stuck: Failure | None = None
    resolved: ResolvedModel | None = None
    pod_name: str = ""


def observe_step(
    name: StepName,
    model: LLMModel,
    jobs: Sequence[JsonObject],
    pods: Sequence[JsonObject],
    now: datetime,
    patience_s: float,
) -> Step:
    """Read the state of a step from its Jobs and their pods (of the model, of any step)."""
    source_hash = compute_source_hash(model.spec)
    mine = [job for job in jobs if _is_of(job, name, source_hash)]
    if not mine:
        return Step(state="absent", start_attempt=0)
    job = max(mine, key=lambda job: read_attempt(job["metadata"]))
    pod = next((p for p in pods if p["metadata"]["labels"].get("job-name") == job["metadata"]["name"]), None)
    step = Step("running", read_attempt(job["metadata"]), pod_name=pod["metadata"]["name"] if pod else "")
    facts = {c["type"]: c for c in job.get("status", {}).get("conditions", ()) if c["status"] == "True"}
    if "Complete" in facts:
        return _completed_step(name, step, pod, facts["Complete"], now)
    if "Failed" in facts:
        earlier = last_failure(_CONDITIONS[name], model.status.conditions)
        step = _failed_step(step, _failure_of_job(pod, facts["Failed"], earlier), facts["Failed"], now)
        changed = job["metadata"]["annotations"].get(ANNOTATION_INPUTS) != compute_inputs_hash(model.spec)
        return replace(step, start_attempt=step.attempt + 1) if changed else step
    return step if "Suspended" in facts else replace(step, stuck=_stuck(job, pod, now, patience_s))


def _is_of(job: JsonObject, name: StepName, source_hash: str) -> bool:
    metadata = job["metadata"]
    return (
        metadata["labels"].get(LABEL_COMPONENT) == name
        and metadata.get("annotations", {}).get(ANNOTATION_SOURCE_HASH) == source_hash
        and "deletionTimestamp" not in metadata
    )


def _stuck(job: JsonObject, pod: JsonObject | None, now: datetime, patience_s: float) -> Failure | None:
    if pod is None:
        created = read_time(job["metadata"].get("creationTimestamp")) or now
        if (now - created).total_seconds() < POD_PATIENCE_S:
            return None
        name = job["metadata"]["name"]
        return build_failure(
            Reason.ForbiddenByPolicy, f"Job {name} gets no pod: kubectl describe job {name} tells why."
        )
    stuck = (
        failure_of_waiting_pod(pod)
        or failure_of_unscheduled_pod(pod, now, patience_s)
        or failure_of_slow_creation(pod, now, CREATION_PATIENCE_S, Reason.FetchFailed)
    )
    return stuck and _in_words_of_steps(stuck)


def _in_words_of_steps(failure: Failure) -> Failure:
    if failure.reason in _WORDS_OF_REPLICAS:
        return build_failure(Reason.FetchFailed, failure.message)
    return replace(failure, message=say_for(LLMModel.info.kind, failure.reason, failure.message))


def _completed_step(name: StepName, step: Step, pod: JsonObject | None, condition: JsonObject, now: datetime) -> Step:
    """The facts of an inspect step may be lost with its pod, if its node went before they were read."""
    if name == "fetch":
        return replace(step, state="succeeded")
    resolved = read_resolved(_termination_message(pod, name))
    if resolved is not None:
        return replace(step, state="succeeded", resolved=resolved)
    failure = build_failure(Reason.FetchFailed, f"The inspect step left no readable facts (pod {step.pod_name}).")
    return _failed_step(step, failure, condition, now)


def _termination_message(pod: JsonObject | None, container: str) -> str:
    for status in container_statuses(pod or {}):
        if status.get("name") == container and (terminated := status.get("state", {}).get("terminated")):
            return str(terminated.get("message", ""))
    return ""


def _failure_of_job(pod: JsonObject | None, condition: JsonObject, earlier: Failure | None) -> Failure:
    if pod is not None and pod.get("status", {}).get("phase") == "Failed":
        return _in_words_of_steps(failure_of_finished_pod(pod))
    # The pod went with its node, or the Job's deadline ended it: what was said of it before is all that is known.
    return earlier or build_failure(
        Reason.FetchFailed, f"The Job ended: {condition.get('message', 'no reason given')}."
    )


def _failed_step(step: Step, failure: Failure, condition: JsonObject, now: datetime) -> Step:
    step = replace(step, state="failed", failure=failure)
    if not failure.may_retry:
        return step
    failed_at = read_time(condition.get("lastTransitionTime")) or now
    left = (failed_at + timedelta(seconds=compute_backoff_s(step.attempt + 1)) - now).total_seconds()
    return replace(step, retry_after_s=left) if left > 0 else replace(step, start_attempt=step.attempt + 1)


def read_resolved(message: str) -> ResolvedModel | None:
    """Read the facts that an inspect step leaves in its termination message; None if they are none."""
    try:
        return ResolvedModel.model_validate_json(message)
    except ValidationError:
        return None


def read_progress(log: str) -> FetchProgress | None:
    """Return the newest progress line among the last lines of a fetch step's log, None if there is none."""
    for line in reversed(log.splitlines()):
        try:
            return FetchProgress.model_validate_json(line)
        except ValidationError:
            continue  # a message for people between two progress lines
    return None


_UNITS = ((10**12, "T"), (10**9, "B"), (10**6, "M"))


def summarize(resolved: ResolvedModel) -> str:
    """Return one line for people, for example `LlamaForCausalLM 134.5M bfloat16 0.25 GiB`."""
    size = next((f"{resolved.parameters / unit:.1f}{name}" for unit, name in _UNITS if resolved.parameters >= unit), "")
    if resolved.adapter is not None:
        size = f"{resolved.weights_bytes / 2**20:.1f} MiB"
        return f"{resolved.architecture} rank {resolved.adapter.rank} {resolved.dtype} {size}"
    kind = resolved.quantization or resolved.dtype
    words = (resolved.architecture, size, kind, f"{resolved.weights_bytes / 2**30:.2f} GiB")
    return " ".join(word for word in words if word)


@dataclass(frozen=True)
class ModelFacts:
    """What a reconcile found out about a model; the status is made from it."""

    source_hash: str
    resolved: ResolvedModel | None = None
    inspect: Step | None = None
    fetch: Step | None = None
    progress: FetchProgress | None = None
    claim_name: str = ""
    claim_failure: Failure | None = None
    refused: Failure | None = None
    used_by: Users = field(default_factory=Users)


def build_model_status(model: LLMModel, facts: ModelFacts, now: datetime) -> LLMModelStatus:
    """Return the status of `model` from what was found out."""
    resolved, stored = _resolved_fact(model, facts), _stored_fact(model, facts)
    conditions = (resolved, stored, _ready_fact(model, facts, resolved, stored))
    step = facts.fetch or facts.inspect
    failed = step is not None and step.state == "failed"
    return LLMModelStatus(
        observed_generation=model.metadata.generation,
        summary=summarize(facts.resolved) if facts.resolved else "",
        source_hash=facts.source_hash if facts.resolved else "",
        resolved=facts.resolved,
        fetch=facts.progress,
        claim_name=facts.claim_name,
        attempts=step.attempt + 1 if step is not None and failed else 0,
        conditions=build_conditions(conditions, model.status.conditions, model.metadata.generation, now),
    )


def _step_failure(model: LLMModel, kind: str, step: Step | None, refused: Failure | None) -> Failure | None:
    if refused is not None or step is None:
        return refused
    earlier = last_failure(kind, model.status.conditions) if step.state == "running" and step.attempt > 0 else None
    return step.failure or step.stuck or earlier


def _resolved_fact(model: LLMModel, facts: ModelFacts) -> Fact:
    if facts.resolved is not None:
        return is_true(CONDITION_RESOLVED, Reason.Resolved, summarize(facts.resolved))
    failure = _step_failure(model, CONDITION_RESOLVED, facts.inspect, facts.refused)
    if failure is not None:
        return is_false(CONDITION_RESOLVED, failure.reason, failure.message)
    return is_unknown(CONDITION_RESOLVED, Reason.Inspecting)


def _stored_fact(model: LLMModel, facts: ModelFacts) -> Fact:
    if model.spec.storage.mode == "ephemeral":
        return is_true(CONDITION_STORED, Reason.FetchedByReplica)
    if facts.fetch is not None and facts.fetch.state == "succeeded":
        return is_true(
            CONDITION_STORED, Reason.Stored, f"The files lie complete and verified in claim {facts.claim_name}."
        )
    failure = facts.claim_failure or _step_failure(model, CONDITION_STORED, facts.fetch, facts.refused)
    if failure is not None:
        return is_false(CONDITION_STORED, failure.reason, failure.message)
    if facts.resolved is None:
        return is_unknown(CONDITION_STORED, Reason.Inspecting, "Fetching begins when the model is resolved.")
    progress = facts.progress
    done = f" {progress.bytes_done / 2**30:.2f} of {progress.bytes_total / 2**30:.2f} GiB." if progress else ""
    return is_false(
        CONDITION_STORED, Reason.Fetching, f"The files are being fetched into claim {facts.claim_name}.{done}"
    )


def _ready_fact(model: LLMModel, facts: ModelFacts, resolved: Fact, stored: Fact) -> Fact:
    if model.metadata.deletion_timestamp is not None:
        if facts.used_by.is_any:
            failure = build_failure(Reason.InUse, str(facts.used_by))
            return is_false(CONDITION_READY, failure.reason, failure.message)
        return is_false(CONDITION_READY, Reason.Deleting)
    for fact in (resolved, stored):
        if fact.status != "True":
            return is_false(CONDITION_READY, fact.reason, fact.message)
    return is_true(CONDITION_READY, Reason.Available, "The model may be served.")
