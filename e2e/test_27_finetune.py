"""Story 27: a FineTuneJob on the processor with a real small model: it learns 200 questions, survives the loss of its
pod, and registers what it made; bad data and a result that is not good enough end it and leave nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from e2e.cluster.objects import Kubectl
from e2e.support.api import Api, Object
from e2e.support.jobs import wait_for_job
from e2e.support.objects import is_ready, read_condition
from e2e.support.source import Source
from e2e.support.waiting import eventually
from llmos.api import Reason
from llmos.api.names import COMPONENT_TRAIN, LABEL_COMPONENT, LABEL_JOB

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(2400)]

JOB = "support"
JOB_S = 1500.0
"""Fetching 93 MB and converting it, for each pod anew, and some dozen steps on two busy cores."""
STEPS = 24


def build_job(namespace: str, uri: str, *, gate: Object | None = None, max_steps: int = STEPS) -> Object:
    parameters = {"maxSteps": max_steps, "maxLength": 128, "batchTokens": 256, "learningRate": 0.001}
    spec: dict[str, Any] = {
        "baseModelRef": {"name": "smollm2"},
        "dataset": {"source": {"uri": uri}, "format": {"type": "instruction"}, "split": {"evalFraction": 0.1}},
        "trainer": {"accelerator": {"class": "cpu"}, "hyperparameters": parameters},
        "checkpoint": {"everySteps": 5, "storage": {"size": "2Gi"}},
        "evaluate": {"everySteps": max_steps, "gates": [gate or {"metric": "eval_loss", "maxRelativeToBase": 0.9}]},
        "output": {"name": "smollm2-support"},
    }
    metadata = {"name": JOB, "namespace": namespace}
    return {"apiVersion": "llmos.dev/v1alpha1", "kind": "FineTuneJob", "metadata": metadata, "spec": spec}


async def wait_for_status(api: Api, namespace: str, what: str, is_so: Callable[[Any], object]) -> Object:
    return await wait_for_job(api, namespace, JOB, what, is_so, timeout_s=JOB_S)


async def list_train_pods(api: Api, namespace: str) -> list[Object]:
    return await api.list("Pod", namespace, f"{LABEL_JOB}={JOB},{LABEL_COMPONENT}={COMPONENT_TRAIN}")


@pytest.mark.usefixtures("base_model")
async def test_a_job_learns_survives_the_loss_of_its_pod_and_registers_an_adapter(
    api: Api, kubectl: Kubectl, source: Source, namespace: str
) -> None:
    await api.create(build_job(namespace, f"{source.url}/support-set"))
    status = await wait_for_status(
        api, namespace, "a checkpoint", lambda status: status.get("lastCheckpoint", {}).get("step", 0) > 0
    )
    report = status["datasetReport"]
    assert report["trainExamples"] + report["evalExamples"] == 200
    assert 10 <= report["evalExamples"] <= 30
    saved = status["lastCheckpoint"]["step"]
    (pod,) = await list_train_pods(api, namespace)
    await asyncio.to_thread(
        kubectl, "delete", "pod", pod["metadata"]["name"], f"--namespace={namespace}", "--grace-period=0", "--force"
    )
    status = await wait_for_status(
        api, namespace, "the next attempt", lambda status: status["attempt"] == 2 and status["phase"] == "Training"
    )
    assert status["attempts"] == {"user": 0, "infrastructure": 1, "preemptions": 0}
    status = await wait_for_status(api, namespace, "success", lambda status: status["phase"] == "Succeeded")
    assert status["progress"]["step"] == STEPS
    assert status["lastCheckpoint"]["step"] >= saved
    assert status["attempts"]["user"] == 0
    assert [gate["passed"] for gate in status["evaluation"]["gates"]] == [True]
    loss = next(metric for metric in status["evaluation"]["metrics"] if metric["name"] == "eval_loss")
    assert loss["result"] < 0.9 * loss["base"]

    model = await eventually(
        "the adapter is ready", lambda: api.get("LLMModel", "smollm2-support", namespace), is_ready, timeout_s=300
    )
    assert model is not None
    assert model["spec"]["adapter"]["baseModelRef"] == {"name": "smollm2"}
    assert model["status"]["resolved"]["adapter"]["rank"] == 16
    assert await list_train_pods(api, namespace) == []
    reasons = [event["reason"] for event in await api.list("Event", namespace) if event["regarding"]["name"] == JOB]
    assert {"Training", "NodeLost", "Registered"} <= set(reasons)


@dataclass(frozen=True)
class Bad:
    """A dataset that is refused."""

    folder: str
    reason: Reason
    names: str
    dataset: Object = field(default_factory=dict)
    suite: str = ""


BAD = {
    "broken": Bad("broken-set", Reason.DatasetInvalid, "train.jsonl:2"),
    "personal": Bad("personal-set", Reason.PersonalDataFound, "train.jsonl:2", {"clean": {"pii": "fail"}}),
    "overlong": Bad("long-set", Reason.ExamplesTooLong, "train.jsonl:2", {"validate": {"overlong": "fail"}}),
    "suite": Bad("support-set", Reason.DatasetInvalid, "suite-quiz/train.jsonl:2", suite="broken-set"),
}


@pytest.mark.usefixtures("base_model")
async def test_bad_data_is_refused_by_line_and_no_training_ever_begins(
    api: Api, source: Source, namespace: str
) -> None:
    for name, bad in BAD.items():
        job = build_job(namespace, f"{source.url}/{bad.folder}")
        job["metadata"]["name"], job["spec"]["output"]["name"] = name, name
        job["spec"]["dataset"] |= bad.dataset
        if bad.suite:
            job["spec"]["evaluate"]["suites"] = [{"name": "quiz", "source": {"uri": f"{source.url}/{bad.suite}"}}]
        await api.create(job)
        status = await wait_for_job(
            api, namespace, name, "the refusal", lambda status: status.get("phase") == "Failed", timeout_s=JOB_S
        )
        told = read_condition(await api.get("FineTuneJob", name, namespace))
        assert told["reason"] == bad.reason, told
        assert bad.names in told["message"]
        assert status["attempt"] == 0
    assert await api.list("Pod", namespace, f"{LABEL_COMPONENT}={COMPONENT_TRAIN}") == []


@pytest.mark.usefixtures("base_model")
async def test_a_result_that_is_not_good_enough_is_not_registered(api: Api, source: Source, namespace: str) -> None:
    impossible = {"metric": "eval_loss", "max": 0.000001}
    await api.create(build_job(namespace, f"{source.url}/support-set", gate=impossible, max_steps=2))
    status = await wait_for_status(api, namespace, "the verdict", lambda status: status.get("phase") == "Failed")
    told = read_condition(await api.get("FineTuneJob", JOB, namespace))
    assert told["reason"] == Reason.GateFailed
    assert status["evaluation"]["metrics"]
    assert await api.get("LLMModel", "smollm2-support", namespace) is None
