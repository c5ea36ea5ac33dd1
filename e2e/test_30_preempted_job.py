"""Story 30: a FineTuneJob trains on a GPU that another team lends. The owner asks for all of its GPUs: the job saves
its work and goes, the owner is served, and when it needs them no longer the job goes on from that checkpoint to its
end. Nobody's retries are spent.

The node only pretends to have GPUs, so the trainer computes on the processor; the quota knows no difference.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from e2e.cluster.node import PRETEND_GPUS
from e2e.cluster.objects import Kubectl
from e2e.support.api import Api, Object
from e2e.support.jobs import read_base_model, wait_for_job
from e2e.support.objects import PRETEND_CLASS, build_model, build_pool, is_ready, read_condition, wait_ready
from e2e.support.operator import OperatorProcess, OperatorSettings
from e2e.support.source import Source
from e2e.support.tenants import is_gated, tenants, wait_for_tenant
from e2e.support.waiting import eventually
from e2e.test_27_finetune import JOB, JOB_S, build_job, list_train_pods
from llmos.api.names import ANNOTATION_ATTEMPT, CONTAINER_TRAIN

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(2400)]

STEPS = 40
SAVE_EVERY = 4
HANDOVER_S = 180.0
"""The job's deadline for its last checkpoint is 120 s; a step and its checkpoint take seconds."""
ANYWHERE = "0.0.0.0/0"
"""Where models come from is not what this story tells; a mirror of the package index may stand anywhere."""


def build_borrowing_job(namespace: str, uri: str) -> Object:
    """Story 27's job, on a GPU, with a checkpoint every few steps. Its gate always holds."""
    job = build_job(namespace, uri, gate={"metric": "eval_loss", "max": 1000}, max_steps=STEPS)
    job["spec"]["trainer"]["accelerator"] = {"class": PRETEND_CLASS}
    job["spec"]["checkpoint"]["everySteps"] = SAVE_EVERY
    return job


async def wait_for_status(
    api: Api, namespace: str, what: str, is_so: Callable[[Any], object], *, timeout_s: float = JOB_S
) -> Object:
    return await wait_for_job(api, namespace, JOB, what, is_so, timeout_s=timeout_s)


async def read_first_step(api: Api, kubectl: Kubectl, namespace: str) -> int:
    """The step from which the running attempt went on, as its log says."""
    (pod,) = await list_train_pods(api, namespace)

    async def read() -> list[str]:
        name = pod["metadata"]["name"]
        words = ("logs", name, f"--namespace={namespace}", f"--container={CONTAINER_TRAIN}")
        # While the base model is fetched there is no log yet.
        log = await asyncio.to_thread(lambda: kubectl(*words, check=False))
        return re.findall(r"going on from step-(\d+)", log)

    found = await eventually("the attempt says where it goes on", read, bool, timeout_s=JOB_S)
    return int(found[0])


async def test_a_job_gives_a_borrowed_gpu_back_and_goes_on_when_it_is_idle_again(
    api: Api,
    kubectl: Kubectl,
    vllm_image: None,
    operator_process: OperatorProcess,
    source: Source,
    namespace: str,
) -> None:
    operator_process.ensure(OperatorSettings(start_timeout_s=1200, resync_s=30))
    within = {"borrower": namespace}
    async with tenants(api, within=within, egress=ANYWHERE, owner=PRETEND_GPUS, borrower=0) as places:
        own = places["owner"]
        await wait_ready(api, await api.create(build_model(own, f"{source.url}/tiny")))
        await api.create(build_pool(own, accelerator=PRETEND_CLASS, replicas=0, drain={"timeoutSeconds": 10}))
        await api.create(read_base_model(namespace))
        await eventually(
            "the base model is known", lambda: api.get("LLMModel", "smollm2", namespace), is_ready, timeout_s=300
        )

        await api.create(build_borrowing_job(namespace, f"{source.url}/support-set"))
        status = await wait_for_status(
            api, namespace, "a checkpoint", lambda status: status.get("lastCheckpoint", {}).get("step", 0) > 0
        )
        saved = status["lastCheckpoint"]["step"]
        await wait_for_tenant(api, "borrower", "it borrows", borrowed=1, accelerators="1/0")
        await wait_for_tenant(api, "owner", "it lends", lent=1, accelerators=f"0/{PRETEND_GPUS}")

        asked_s = time.monotonic()
        await api.patch("InferencePool", "pool", own, {"spec": {"replicas": PRETEND_GPUS}})
        await eventually(
            "the owner is served on all of its GPUs",
            lambda: api.get("InferencePool", "pool", own),
            lambda pool: (pool or {}).get("status", {}).get("readyReplicas") == PRETEND_GPUS,
            timeout_s=HANDOVER_S,
        )
        print(f"The owner was served {time.monotonic() - asked_s:.1f} s after it asked.")
        await wait_for_tenant(api, "owner", "it has its own", lent=0, accelerators=f"{PRETEND_GPUS}/{PRETEND_GPUS}")

        status = await wait_for_status(
            api, namespace, "the job is queued again", lambda status: status["phase"] == "Queued"
        )
        assert status["attempts"] == {"user": 0, "infrastructure": 0, "preemptions": 1}
        assert status["attempt"] == 2
        kept = status["lastCheckpoint"]["step"]
        assert saved <= kept < STEPS, "what was learned until it went is saved"
        (pod,) = await list_train_pods(api, namespace)
        assert pod["metadata"]["annotations"][ANNOTATION_ATTEMPT] == "2"
        assert is_gated(pod), "it waits and holds nothing"
        await eventually(
            "the job says for what it waits",
            lambda: api.get("FineTuneJob", JOB, namespace),
            lambda job: read_condition(job, "Admitted").get("reason") in {"QuotaExceeded", "WaitsForRoom"},
        )

        await api.patch("InferencePool", "pool", own, {"spec": {"replicas": 0}})
        await wait_for_status(api, namespace, "it goes on", lambda status: status["phase"] == "Training")
        assert await read_first_step(api, kubectl, namespace) == kept
        status = await wait_for_status(api, namespace, "success", lambda status: status["phase"] == "Succeeded")
        assert status["progress"]["step"] == STEPS
        assert status["attempts"] == {"user": 0, "infrastructure": 0, "preemptions": 1}
        assert status["lostAcceleratorSeconds"] == 0, "it was asked, so it saved: no step was done twice"
        await eventually(
            "the adapter is ready", lambda: api.get("LLMModel", "smollm2-support", namespace), is_ready, timeout_s=300
        )
        await wait_for_tenant(api, "borrower", "it gave everything back", borrowed=0, accelerators="0/0")
        reasons = {event["reason"] for event in await api.list("Event", namespace) if event["regarding"]["name"] == JOB}
        assert {"Training", "Preempted", "Registered"} <= reasons
