"""Story 35: a FineTuneJob without a claim. What it learns is kept in an object store (a real S3 server): its pod is
lost with all that it had, the next one goes on from there, and the result is fetched from there as any other model."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster.objects import Kubectl
from e2e.support.api import Api
from e2e.support.jobs import read_base_model, wait_for_job
from e2e.support.object_store import serve_bucket
from e2e.support.objects import is_ready
from e2e.support.operator import OperatorProcess, OperatorSettings
from e2e.support.source import Source
from e2e.support.waiting import eventually
from e2e.test_27_finetune import JOB, JOB_S, STEPS, build_job, list_train_pods

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(2400)]

BUCKET = "learned"
SECRET = "object-store"  # noqa: S105 - the name of a Secret


@pytest.fixture
def store(source: Source, tmp_path: Path) -> Iterator[str]:
    """URL of the server, where pods reach it: beside the source of models."""
    address = source.url.split("//")[1].split(":")[0]
    with serve_bucket(tmp_path, BUCKET, address) as url:
        yield url


def build_secret(namespace: str, url: str) -> dict[str, Any]:
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_ENDPOINT_URL": url}
    more = {"AWS_REGION": "us-east-1", "AWS_ALLOW_HTTP": "true"}
    metadata = {"name": SECRET, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": keys | more}


async def test_a_job_without_a_claim_goes_on_from_an_object_store(
    api: Api,
    kubectl: Kubectl,
    vllm_image: None,
    operator_process: OperatorProcess,
    source: Source,
    store: str,
    namespace: str,
) -> None:
    operator_process.ensure(OperatorSettings(start_timeout_s=1200, resync_s=30))
    await api.create(read_base_model(namespace))
    await api.create(build_secret(namespace, store))
    await eventually(
        "the base model is known", lambda: api.get("LLMModel", "smollm2", namespace), is_ready, timeout_s=300
    )
    job = build_job(namespace, f"{source.url}/support-set")
    job["spec"]["checkpoint"]["storage"] = {"uri": f"s3://{BUCKET}/jobs", "secretRef": {"name": SECRET}}
    await api.create(job)
    place = f"s3://{BUCKET}/jobs/{namespace}/{JOB}"
    status = await wait_for_job(
        api,
        namespace,
        JOB,
        "a checkpoint in the store",
        lambda status: status.get("lastCheckpoint", {}).get("uri", "").startswith(f"{place}/checkpoints/"),
        timeout_s=JOB_S,
    )
    saved = status["lastCheckpoint"]["step"]
    assert 0 < saved < STEPS
    (pod,) = await list_train_pods(api, namespace)
    await asyncio.to_thread(
        kubectl, "delete", "pod", pod["metadata"]["name"], f"--namespace={namespace}", "--grace-period=0", "--force"
    )
    status = await wait_for_job(
        api,
        namespace,
        JOB,
        "that it goes on where it was",
        lambda status: status["attempt"] == 2 and status.get("progress", {}).get("step", 0) > saved,
        timeout_s=JOB_S,
    )
    status = await wait_for_job(
        api, namespace, JOB, "success", lambda status: status["phase"] == "Succeeded", timeout_s=JOB_S
    )
    assert status["attempts"] == {"user": 0, "infrastructure": 1, "preemptions": 0}
    assert await api.list("PersistentVolumeClaim", namespace) == []
    model = await eventually(
        "the adapter is read from the store",
        lambda: api.get("LLMModel", "smollm2-support", namespace),
        is_ready,
        timeout_s=300,
    )
    assert model is not None
    assert model["spec"]["source"] == {"uri": f"{place}/output", "secretRef": {"name": SECRET}}
    assert model["status"]["resolved"]["adapter"]["rank"] == 16
