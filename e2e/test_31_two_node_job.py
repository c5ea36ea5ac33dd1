"""Story 31: a FineTuneJob on two nodes, as two real pods that train one adapter of a real small model together. One of
them is deleted on the way: both end as one attempt, and both go on from its last checkpoint. In the end they have
learned what one pod learns by itself.

There is one node, so its pods share it; they meet by name and exchange gradients over the network all the same. The
claim is a folder of the node, which both may write.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from e2e.support.api import Api, Object, RefusedError
from e2e.support.jobs import read_base_model, wait_for_job
from e2e.support.objects import is_ready
from e2e.support.operator import OperatorProcess, OperatorSettings
from e2e.support.source import Source
from e2e.support.waiting import eventually
from llmos.api.names import COMPONENT_TRAIN, LABEL_COMPONENT, LABEL_GANG_SIZE, LABEL_JOB, LABEL_RANK

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(3600)]

JOB, ALONE = "pair", "alone"
JOB_S = 1800.0
"""Each pod of each attempt fetches and converts 93 MB, and two trainers share the cores of one machine."""
STEPS, NODES = 16, 2


def build_job(namespace: str, uri: str, name: str = JOB, nodes: int = NODES) -> Object:
    parameters = {"maxSteps": STEPS, "maxLength": 128, "batchTokens": 512, "learningRate": 0.001}
    storage = {"size": "2Gi", "accessMode": "ReadWriteMany"}
    spec: dict[str, Any] = {
        "baseModelRef": {"name": "smollm2"},
        # What each rank leaves out at random would be something else for one.
        "method": {"lora": {"dropout": 0}},
        "dataset": {"source": {"uri": uri}, "format": {"type": "instruction"}, "split": {"evalFraction": 0.1}},
        "trainer": {"accelerator": {"class": "cpu"}, "nodes": nodes, "hyperparameters": parameters},
        "checkpoint": {"everySteps": 4, "storage": storage},
        "evaluate": {"everySteps": STEPS, "gates": [{"metric": "eval_loss", "maxRelativeToBase": 0.9}]},
        "output": {"name": f"smollm2-{name}"},
    }
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "llmos.dev/v1alpha1", "kind": "FineTuneJob", "metadata": metadata, "spec": spec}


async def list_gang(api: Api, namespace: str) -> list[Object]:
    """The train pods that are there, rank 0 first."""
    pods = await api.list("Pod", namespace, f"{LABEL_JOB}={JOB},{LABEL_COMPONENT}={COMPONENT_TRAIN}")
    return sorted(pods, key=lambda pod: str(pod["metadata"]["labels"][LABEL_RANK]))


async def wait_for_status(api: Api, namespace: str, what: str, is_so: Callable[[Any], object]) -> Object:
    return await wait_for_job(api, namespace, JOB, what, is_so, timeout_s=JOB_S)


async def test_two_pods_train_as_one_and_go_on_when_one_of_them_is_deleted(
    api: Api, vllm_image: None, operator_process: OperatorProcess, source: Source, namespace: str
) -> None:
    operator_process.ensure(OperatorSettings(start_timeout_s=1200, resync_s=30))
    await api.create(read_base_model(namespace))
    await eventually(
        "the base model is known", lambda: api.get("LLMModel", "smollm2", namespace), is_ready, timeout_s=300
    )
    await api.create(build_job(namespace, f"{source.url}/support-set"))
    status = await wait_for_status(
        api, namespace, "a checkpoint", lambda status: status.get("lastCheckpoint", {}).get("step", 0) > 0
    )
    saved = status["lastCheckpoint"]["step"]
    assert saved < STEPS
    first = await list_gang(api, namespace)
    assert [pod["metadata"]["name"] for pod in first] == [f"{JOB}-train-1", f"{JOB}-train-1-1"]
    assert {pod["metadata"]["labels"][LABEL_GANG_SIZE] for pod in first} == {str(NODES)}
    assert {pod["status"]["phase"] for pod in first} == {"Running"}

    await api.delete("Pod", first[1]["metadata"]["name"], namespace)
    status = await wait_for_status(
        api, namespace, "the next attempt", lambda status: status["attempt"] == 2 and status["phase"] == "Training"
    )
    assert status["attempts"] == {"user": 0, "infrastructure": 1, "preemptions": 0}
    assert status["lastCheckpoint"]["step"] >= saved
    second = await list_gang(api, namespace)
    assert [pod["metadata"]["name"] for pod in second] == [f"{JOB}-train-2", f"{JOB}-train-2-1"]

    status = await wait_for_status(api, namespace, "success", lambda status: status["phase"] == "Succeeded")
    assert status["attempts"] == {"user": 0, "infrastructure": 1, "preemptions": 0}
    assert status["progress"]["step"] == status["lastCheckpoint"]["step"] == STEPS
    assert [gate["passed"] for gate in status["evaluation"]["gates"]] == [True]
    await eventually(
        "the adapter is ready", lambda: api.get("LLMModel", "smollm2-pair", namespace), is_ready, timeout_s=300
    )
    assert await list_gang(api, namespace) == []

    await api.create(build_job(namespace, f"{source.url}/support-set", ALONE, nodes=1))
    alone = await wait_for_job(
        api, namespace, ALONE, "success", lambda status: status["phase"] == "Succeeded", timeout_s=JOB_S
    )
    assert read_losses(status) == pytest.approx(read_losses(alone), rel=1e-3)


def read_losses(status: Object) -> list[float]:
    """Losses of the last steps and of the held-out examples at each evaluation, and what the result came to."""
    on_the_way = [loss for each in status["metrics"] for loss in (each["loss"], each["evalLoss"])]
    assert on_the_way
    return [*on_the_way, *(metric["result"] for metric in status["evaluation"]["metrics"])]


async def test_several_nodes_are_refused_without_a_claim_that_they_can_share(api: Api, namespace: str) -> None:
    job = build_job(namespace, "hf://org/set")
    del job["spec"]["checkpoint"]["storage"]["accessMode"]
    with pytest.raises(RefusedError, match="ReadWriteMany"):
        await api.create(job)
