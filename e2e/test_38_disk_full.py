"""Story 38: a FineTuneJob's claim is full when a checkpoint is to be written. The older checkpoints stay as they are,
and the job says what is wrong and what helps; once there is room it goes on from the newest of them, and succeeds.

The claim is a tmpfs of limited size: the file system itself says that there is no space left.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator

import pytest

from e2e.cluster import Cluster
from e2e.cluster.objects import Kubectl
from e2e.support.api import Api, Object
from e2e.support.disks import SmallDisk, small_disk
from e2e.support.jobs import OVER, wait_for_job
from e2e.support.objects import is_ready, read_condition
from e2e.support.source import Source
from e2e.support.waiting import eventually
from e2e.test_27_finetune import JOB, JOB_S, build_job
from llmos.api import Reason
from llmos.api.names import CONTAINER_TRAIN

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(2400)]

STEPS, SAVE_EVERY = 16, 4
SIZE, LARGER = "160m", "640m"
"""A checkpoint of an adapter of rank 16 has about 59 MB: two of the four fit into the first, all and the result into
the second."""
CAPACITY = "1Gi"


@pytest.fixture
async def disk(api: Api, machine: Cluster) -> AsyncIterator[SmallDisk]:
    """The small disk. A test names it before what makes the namespace, which has to go before it."""
    async with small_disk(api, machine, SIZE, capacity=CAPACITY) as made:
        yield made


def build_job_on(disk: SmallDisk, namespace: str, uri: str) -> Object:
    """Story 27's job, which keeps all checkpoints on this disk."""
    job = build_job(namespace, uri, gate={"metric": "eval_loss", "max": 1000}, max_steps=STEPS)
    job["spec"]["checkpoint"] = {
        "everySteps": SAVE_EVERY,
        "keep": 100,
        "keepBest": False,
        "storage": {"size": CAPACITY, "storageClassName": disk.name},
    }
    return job


def find_damaged(disk: SmallDisk, step: int) -> list[str]:
    """Return the files of a checkpoint that are not as its manifest says; that there is none is said, too."""
    folder = f"checkpoints/step-{step:08d}"
    found = disk.sum_files(folder)
    if "manifest.json" not in found:
        return [f"{folder} has no manifest, but {sorted(found)}"]
    manifest = json.loads(disk.node.run("cat", f"{disk.folder}/{folder}/manifest.json"))
    return [name for name, entry in manifest["files"].items() if found.get(name) != entry["sha256"]]


async def read_log(kubectl: Kubectl, namespace: str, attempt: int) -> str:
    """What an attempt's trainer said; nothing where its pod is not there."""
    words = ("logs", f"{JOB}-train-{attempt}", f"--namespace={namespace}", f"--container={CONTAINER_TRAIN}")
    return await asyncio.to_thread(lambda: kubectl(*words, check=False))


async def test_a_full_disk_is_told_and_the_job_goes_on_when_there_is_room(
    disk: SmallDisk, base_model: None, api: Api, kubectl: Kubectl, source: Source, namespace: str
) -> None:
    await api.create(build_job_on(disk, namespace, f"{source.url}/support-set"))
    await eventually(
        "the job is over",
        lambda: api.get("FineTuneJob", JOB, namespace),
        lambda job: (job or {}).get("status", {}).get("phase") in OVER,
        timeout_s=JOB_S,
        poll_s=1,
    )
    job = await api.get("FineTuneJob", JOB, namespace)
    assert job is not None
    status, told = job["status"], read_condition(job)
    assert (status["phase"], told["reason"]) == ("Failed", Reason.DiskFull), told
    assert "No space left on device" in told["message"], told
    assert "Give the claim more room" in told["message"], told
    assert status["attempts"] == {"user": 1, "infrastructure": 0, "preemptions": 0}
    assert [ended["reason"] for ended in status["history"]] == [Reason.DiskFull]
    assert await api.get("LLMModel", "smollm2-support", namespace) is None, "there is no result yet"

    saved = status["lastCheckpoint"]["step"]
    assert 0 < saved < STEPS, "some checkpoints fit, and the last one did not"
    kept = sorted(int(found) for found in set(re.findall(r"step-(\d+)/", "\n".join(disk.sum_files("checkpoints")))))
    assert kept == list(range(SAVE_EVERY, saved + 1, SAVE_EVERY)), "nothing is left of those that did not fit"
    assert {step: find_damaged(disk, step) for step in kept} == {step: [] for step in kept}

    # What the message and the documentation say: more room, and one more try.
    disk.grow(LARGER)
    await api.patch("FineTuneJob", JOB, namespace, {"spec": {"retries": {"user": 1}}})
    await eventually(
        "the job goes on",
        lambda: api.get("FineTuneJob", JOB, namespace),
        lambda found: (found or {}).get("status", {}).get("phase") not in OVER,
        timeout_s=90,
    )
    log = await eventually(
        "the next attempt says where it goes on",
        lambda: read_log(kubectl, namespace, 2),
        lambda text: re.search(r"going on from step-\d+", text),
        timeout_s=JOB_S,
    )
    assert re.findall(r"going on from step-(\d+)", log) == [f"{saved:08d}"]
    status = await wait_for_job(
        api, namespace, JOB, "success", lambda status: status.get("phase") == "Succeeded", timeout_s=JOB_S
    )
    assert status["progress"]["step"] == status["lastCheckpoint"]["step"] == STEPS
    assert status["attempts"] == {"user": 1, "infrastructure": 0, "preemptions": 0}
    assert status["lostAcceleratorSeconds"] > 0, "the steps after that checkpoint were done twice"
    assert find_damaged(disk, STEPS) == []
    await eventually(
        "the adapter is ready",
        lambda: api.get("LLMModel", "smollm2-support", namespace),
        is_ready,
        timeout_s=300,
    )
