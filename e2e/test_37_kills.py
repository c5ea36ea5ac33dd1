"""Story 37: the trainer of a FineTuneJob is killed at ten random steps (SIGKILL: no last word, no last write). The job
learns what one learns that nobody disturbs: each step has the same loss, and the adapter is the same to the byte."""

from __future__ import annotations

import asyncio
import random
from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest

from e2e.cluster.objects import Kubectl
from e2e.support.api import Api, Object
from e2e.support.jobs import read_base_model, wait_for_job
from e2e.support.objects import wait_ready
from e2e.support.operator import OperatorProcess, OperatorSettings
from e2e.support.source import Source
from e2e.support.trainers import Run, kill_at_step, read_run, wait_for_trainer
from e2e.support.waiting import eventually
from e2e.test_27_finetune import build_job
from llmos.api import Reason

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(2400)]

STEPS, SAVE_EVERY = 24, 2
KILLS, SEED = 10, 37
LATEST_S = 0.5
"""About half a step on two cores, so that some kills meet a checkpoint that is being written."""
JOB_S = 900.0
ATTEMPT_S = 240.0
"""The pod starts, imports torch, loads 269 MB and does a few steps: 20 s on two idle cores."""
ADAPTER = "adapter_model.safetensors"


def build_short_job(namespace: str, uri: str, name: str) -> Object:
    """Story 27's job with a checkpoint every other step, and no retry but after losses of its pod."""
    job = build_job(namespace, uri, gate={"metric": "eval_loss", "max": 1000}, max_steps=STEPS)
    job["metadata"]["name"] = name
    job["spec"]["output"] = {"name": f"smollm2-{name}"}
    job["spec"]["trainer"]["hyperparameters"] |= {"seed": SEED, "maxLength": 64, "batchTokens": 128}
    job["spec"]["checkpoint"]["everySteps"] = SAVE_EVERY
    job["spec"]["retries"] = {"user": 0, "infrastructure": KILLS}
    return job


async def create_stored_model(api: Api, namespace: str) -> None:
    """The base model in a claim: eleven attempts need not fetch and convert it eleven times."""
    model = read_base_model(namespace)
    model["spec"]["storage"] = {"mode": "claim", "size": "2Gi"}
    await wait_ready(api, await api.create(model), timeout_s=600)


async def complete(api: Api, namespace: str, name: str) -> Object:
    """Wait until a job has succeeded, and return its status."""
    return await wait_for_job(
        api, namespace, name, f"success of {name}", lambda status: status.get("phase") == "Succeeded", timeout_s=JOB_S
    )


async def kill_trainer(api: Api, namespace: str, name: str, attempt: int, step: int, late_s: float) -> None:
    """Kill the trainer of an attempt after a step, and wait until that is counted as a loss."""
    pod = await wait_for_trainer(api, namespace, f"{name}-train-{attempt}", timeout_s=ATTEMPT_S)
    uid = pod["metadata"]["uid"]
    done = await asyncio.to_thread(kill_at_step, uid, attempt, step, late_s=late_s, timeout_s=ATTEMPT_S)
    print(f"Attempt {attempt} was killed after step {done}; {step} was wanted.")
    status = await wait_for_job(
        api,
        namespace,
        name,
        f"kill {attempt} is counted",
        lambda status: sum(status["attempts"].values()) >= attempt,
        timeout_s=60,
    )
    assert status["attempts"] == {"user": 0, "infrastructure": attempt, "preemptions": 0}


def read_times(ended: Object) -> tuple[datetime, datetime]:
    """When the container of an attempt that is over started, and when it ended."""
    return datetime.fromisoformat(ended["startedAt"]), datetime.fromisoformat(ended["endedAt"])


def assert_lost_time_is_true(status: Object, run: Run) -> None:
    """Something was lost, and no more than can have been: by all attempts together, and by each of them what lies
    between two checkpoints and until it goes on."""
    history: list[dict[str, Any]] = status["history"]
    times = [read_times(ended) for ended in history]
    lives_s = sum((end - start).total_seconds() for start, end in times)
    restart_s = max((after[0] - before[1]).total_seconds() for before, after in pairwise(times))
    most_s = KILLS * (SAVE_EVERY * run.slowest_step_s + restart_s)
    lost_s = status["lostAcceleratorSeconds"]
    print(f"Lost: {lost_s:.1f} s; the attempts ran {lives_s:.0f} s, and at most {most_s:.0f} s can be lost.")
    assert 0 < lost_s <= lives_s, history
    assert lost_s <= most_s, (lost_s, run.slowest_step_s, restart_s)


async def test_ten_kills_change_neither_a_loss_nor_a_byte_of_the_adapter(
    api: Api,
    kubectl: Kubectl,
    vllm_image: None,
    operator_process: OperatorProcess,
    source: Source,
    namespace: str,
) -> None:
    operator_process.ensure(OperatorSettings(start_timeout_s=1200, resync_s=30))
    await create_stored_model(api, namespace)
    await api.create(build_short_job(namespace, f"{source.url}/support-set", "calm"))
    calm = await complete(api, namespace, "calm")
    assert calm["lostAcceleratorSeconds"] == 0
    undisturbed = await read_run(api, kubectl, namespace, calm["claimName"])
    assert sorted(undisturbed.losses) == list(range(1, STEPS + 1)), "each step of the undisturbed job has its loss"

    await api.create(build_short_job(namespace, f"{source.url}/support-set", "killed"))
    await wait_for_job(
        api, namespace, "killed", "training", lambda status: status.get("phase") == "Training", timeout_s=JOB_S
    )
    chance = random.Random(SEED)  # noqa: S311 - reproducible, not secret
    steps = sorted(chance.sample(range(1, STEPS), KILLS))
    for attempt, step in enumerate(steps, start=1):
        # The pause before the next one stays short, for each comes further than the one before.
        await kill_trainer(api, namespace, "killed", attempt, step, chance.uniform(0, LATEST_S))
    status = await complete(api, namespace, "killed")
    assert status["attempts"] == {"user": 0, "infrastructure": KILLS, "preemptions": 0}
    assert {(ended["countsAs"], ended["reason"]) for ended in status["history"]} == {
        ("infrastructure", Reason.NodeLost)
    }
    assert len(status["history"]) == KILLS

    run = await read_run(api, kubectl, namespace, status["claimName"])
    assert run.losses == undisturbed.losses
    assert run.output[ADAPTER] == undisturbed.output[ADAPTER]
    assert status["metrics"] == calm["metrics"]
    assert status["evaluation"]["metrics"] == calm["evaluation"]["metrics"]
    assert_lost_time_is_true(status, run)
    await eventually(
        "no trainer is left",
        lambda: api.list("Pod", namespace, "llmos.dev/component=train"),
        lambda pods: not pods,
    )
