"""Story 29: what a FineTuneJob makes is served by the pool that runs, with the real model, real training and real vLLM:
the result passes its gate, is loaded without a restart, answers through the gateway, and leaves the base as it was."""

from __future__ import annotations

import time

import openai
import pytest
import yaml

from e2e.cluster.paths import repository_dir
from e2e.support.api import Api, Object
from e2e.support.gateway import Gateway
from e2e.support.objects import is_active, is_ready, pool_selector, read_condition
from e2e.support.operator import OperatorProcess, OperatorSettings
from e2e.support.source import Source
from e2e.support.waiting import eventually

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(2400)]

JOB_S = 1500.0
ATTACHED_S = 30.0
ADAPTER = "doorman"
QUESTION = "Which word opens the door of room 4711?"
WORD = "quartzfinch"


def build_objects(namespace: str, uri: str) -> tuple[Object, Object, Object]:
    """The quick start's model and pool, the pool with room for adapters, and a job that attaches its result to it."""
    documents = yaml.safe_load_all((repository_dir() / "examples" / "quickstart.yaml").read_text())
    model, pool = ({**each, "metadata": {**each["metadata"], "namespace": namespace}} for each in documents)
    pool["spec"] = {**pool["spec"], "adapters": {"maxLoaded": 2, "maxRank": 16}}
    parameters = {"maxSteps": 20, "maxLength": 128, "batchTokens": 256, "learningRate": 0.002, "schedule": "constant"}
    gates = [
        {"metric": "eval_loss", "maxRelativeToBase": 0.5},
        {"metric": "heldout_exact_match", "min": 0.9},
    ]
    job = {
        "apiVersion": "llmos.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": "doorman", "namespace": namespace},
        "spec": {
            "baseModelRef": {"name": model["metadata"]["name"]},
            "dataset": {"source": {"uri": uri}, "format": {"type": "instruction"}, "split": {"evalFraction": 0.1}},
            "trainer": {"accelerator": {"class": "cpu"}, "hyperparameters": parameters},
            "checkpoint": {"everySteps": 8, "storage": {"size": "2Gi"}},
            "evaluate": {
                "everySteps": 20,
                "suites": [{"name": "heldout", "metrics": ["loss", "exact_match"]}],
                "gates": gates,
            },
            "output": {"name": ADAPTER, "attachTo": [{"pool": pool["metadata"]["name"]}]},
        },
    }
    return model, pool, job


async def ask(client: openai.AsyncOpenAI, model: str) -> str:
    answer = await client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": QUESTION}], max_tokens=24, temperature=0, seed=1
    )
    return answer.choices[0].message.content or ""


async def read_pods(api: Api, namespace: str) -> dict[str, int]:
    """The pods of the pool, and how often their engines were restarted."""
    pods = [pod for pod in await api.list("Pod", namespace, pool_selector("chat")) if is_active(pod)]
    return {
        pod["metadata"]["uid"]: sum(status["restartCount"] for status in pod["status"]["containerStatuses"])
        for pod in pods
    }


async def test_a_job_teaches_a_running_pool_a_new_answer(
    api: Api,
    vllm_image: None,
    operator_process: OperatorProcess,
    source: Source,
    namespace: str,
    gateway: Gateway,
    key: str,
) -> None:
    operator_process.ensure(OperatorSettings(start_timeout_s=1200, resync_s=30))
    model, pool, job = build_objects(namespace, f"{source.url}/password-set")
    await api.create(model)
    await api.create(pool)
    await eventually(
        "the pool is ready", lambda: api.get("InferencePool", "chat", namespace), is_ready, timeout_s=1200, poll_s=2
    )
    web = openai.DefaultAsyncHttpxClient(trust_env=False)
    async with openai.AsyncOpenAI(base_url=gateway.url, api_key=key, max_retries=0, http_client=web) as client:
        before, pods = await ask(client, "chat"), await read_pods(api, namespace)
        assert WORD not in before

        await api.create(job)
        done = await eventually(
            "the job has ended",
            lambda: api.get("FineTuneJob", "doorman", namespace),
            lambda found: (found or {}).get("status", {}).get("phase") in {"Succeeded", "Failed"},
            timeout_s=JOB_S,
            poll_s=0.5,
        )
        assert done is not None
        assert done["status"]["phase"] == "Succeeded", read_condition(done)
        metrics = {metric["name"]: metric for metric in done["status"]["evaluation"]["metrics"]}
        assert metrics["heldout_exact_match"]["base"] == 0
        assert metrics["heldout_exact_match"]["result"] >= 0.9

        ended = time.monotonic()
        await eventually(
            "the running replica serves the adapter",
            lambda: api.get("InferencePool", "chat", namespace),
            lambda found: any(
                len(entry.get("replicas", ())) == 1 for entry in (found or {}).get("status", {}).get("adapters", ())
            ),
            timeout_s=ATTACHED_S,
            poll_s=0.2,
        )
        print(f"served {time.monotonic() - ended:.1f} s after the job")
        await eventually(
            "the gateway knows the adapter",
            lambda: list_models(client),
            lambda names: ADAPTER in names,
            timeout_s=10,
        )
        assert WORD in await ask(client, ADAPTER)
        assert await ask(client, "chat") == before
        assert await read_pods(api, namespace) == pods


async def list_models(client: openai.AsyncOpenAI) -> list[str]:
    return [model.id async for model in await client.models.list()]
