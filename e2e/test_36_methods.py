"""Story 36: other ways to learn, with a real small model: all weights, cut over two pods that hold a half each; a
student that such a result teaches; and an adapter on a base model of four bits."""

from __future__ import annotations

from typing import Any

import pytest

from e2e.support.api import Api, Object
from e2e.support.jobs import complete_job, wait_for_job
from e2e.support.source import Source
from llmos.api.names import COMPONENT_TRAIN, LABEL_COMPONENT, LABEL_JOB

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(3000)]

JOB_S = 1200.0


def build_job(namespace: str, name: str, source: Source, **spec: Any) -> Object:
    parameters = {"maxLength": 128, "batchTokens": 512, "maxSteps": 12, "schedule": "constant"}
    parameters |= spec.pop("hyperparameters", {})
    whole = {
        "baseModelRef": {"name": "smollm2"},
        "dataset": {
            "source": {"uri": f"{source.url}/support-set"},
            "format": {"type": "instruction"},
            "split": {"evalFraction": 0.1},
        },
        "trainer": {"accelerator": {"class": "cpu"}, "hyperparameters": parameters, **spec.pop("trainer", {})},
        "checkpoint": {"everySteps": 6, "storage": {"size": "3Gi"}},
        "evaluate": {"everySteps": 12, "gates": [{"metric": "eval_loss", "maxRelativeToBase": 0.9}]},
        "output": {"name": name},
        **spec,
    }
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "llmos.dev/v1alpha1", "kind": "FineTuneJob", "metadata": metadata, "spec": whole}


@pytest.mark.usefixtures("base_model")
async def test_two_pods_hold_a_half_each_and_what_they_made_teaches_a_student(
    api: Api, source: Source, namespace: str
) -> None:
    wide = build_job(
        namespace,
        "wide",
        source,
        method={"tuning": "full"},
        trainer={"nodes": 2, "sharding": "full"},
        hyperparameters={"learningRate": 0.0002},
        checkpoint={"everySteps": 6, "storage": {"size": "8Gi", "accessMode": "ReadWriteMany"}},
    )
    await api.create(wide)
    await wait_for_job(
        api, namespace, "wide", "training", lambda status: status.get("phase") == "Training", timeout_s=JOB_S
    )
    pods = await api.list("Pod", namespace, f"{LABEL_JOB}=wide,{LABEL_COMPONENT}={COMPONENT_TRAIN}")
    assert len(pods) == 2
    assert all("--sharded" in pod["spec"]["containers"][0]["command"] for pod in pods)
    loss = (await complete_job(api, wide, timeout_s=JOB_S))[0]["eval_loss"]
    assert loss["result"] < 0.9 * loss["base"]

    distill = {"teacherRef": {"name": "wide"}, "alpha": 1.0}
    student = build_job(
        namespace,
        "student",
        source,
        method={"task": "distill", "distill": distill},
        hyperparameters={"learningRate": 0.001},
    )
    await api.create(student)
    metrics, _ = await complete_job(api, student, timeout_s=JOB_S)
    assert metrics["eval_kl"]["result"] < 0.5 * metrics["eval_kl"]["base"]
    assert metrics["eval_loss"]["teacher"] == pytest.approx(loss["result"], rel=0.02)


@pytest.mark.usefixtures("base_model")
async def test_an_adapter_is_learned_on_a_base_model_of_four_bits(api: Api, source: Source, namespace: str) -> None:
    job = build_job(namespace, "quartered", source, method={"tuning": "qlora"}, hyperparameters={"learningRate": 0.001})
    await api.create(job)
    metrics, model = await complete_job(api, job, timeout_s=JOB_S)
    assert metrics["eval_loss"]["result"] < 0.9 * metrics["eval_loss"]["base"]
    assert model["spec"]["adapter"]["baseModelRef"] == {"name": "smollm2"}
