"""Story 32: results of FineTuneJobs take the place of an adapter that a pool serves.

The first one gets its share of the requests, is not worse, and takes all. The second one fails, is rolled back, and the
first one answers all again. Clients go on asking the same name. Training is real, of a real small model; the pool's
engines are simulators, which can be told to fail the requests of one adapter.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable

import httpx
import pytest

from e2e.support.api import Api, Object
from e2e.support.gateway import Gateway
from e2e.support.jobs import read_base_model, wait_for_job
from e2e.support.objects import build_adapter, build_pool, is_ready, read_condition, wait_ready
from e2e.support.operator import OperatorProcess, OperatorSettings
from e2e.support.source import Source
from e2e.support.waiting import eventually
from e2e.test_27_finetune import build_job
from llmos.api import Reason

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(3000)]

JOB_S = 1200.0
NAME, GOOD, BAD = "support", "support-good", "support-bad"
WEIGHT = 30
WATCH_S = 90
AT_ONCE = 8


@pytest.fixture
async def pool(api: Api, vllm_image: None, operator_process: OperatorProcess, source: Source, namespace: str) -> None:
    """A pool that serves `support`, and in which an adapter of the second job's name will fail."""
    operator_process.ensure(OperatorSettings(start_timeout_s=1200, resync_s=30))
    await api.create(read_base_model(namespace))
    await eventually(
        "the base model is known", lambda: api.get("LLMModel", "smollm2", namespace), is_ready, timeout_s=300
    )
    faults = {"fault-adapter": BAD, "fault-error-rate": 0.6, "decode-step-ms": 1}
    served = build_pool(namespace, model="smollm2", replicas=2, args=faults, adapters={"maxLoaded": 4, "maxRank": 64})
    await wait_ready(api, await api.create(served), timeout_s=600)
    await api.create(build_adapter(namespace, f"{source.url}/adapter", name=NAME, base="smollm2", attach_to=("pool",)))
    await eventually(
        "both replicas serve the first adapter",
        lambda: api.get("InferencePool", "pool", namespace),
        lambda found: any(len(entry["replicas"]) == 2 for entry in (found or {}).get("status", {}).get("adapters", ())),
        timeout_s=180,
    )


async def tune(api: Api, source: Source, namespace: str, name: str) -> None:
    """A job of two steps whose result is to take the place of `support`."""
    gate = {"metric": "eval_loss", "maxRelativeToBase": 2}
    job = build_job(namespace, f"{source.url}/support-set", gate=gate, max_steps=2)
    job["metadata"]["name"] = name
    target = {"pool": "pool", "replaces": NAME, "weight": WEIGHT, "promoteAfter": f"{WATCH_S}s"}
    job["spec"]["output"] = {"name": name, "attachTo": [target]}
    await api.create(job)


def is_in(*states: str) -> Callable[[Object], bool]:
    """Whether the job's canary is in one of these states."""
    return lambda status: any(canary["state"] in states for canary in status.get("canaries", ()))


class Clients:
    """Applications that ask the same name again and again, whole answers and streams, and note who answered."""

    def __init__(self, gateway: Gateway, key: str, namespace: str) -> None:
        self._url = f"{gateway.url}/chat/completions"
        self._model = f"{namespace}/{NAME}"
        self._web = httpx.AsyncClient(trust_env=False, timeout=60, headers={"Authorization": f"Bearer {key}"})
        self.answers: list[str] = []
        """LLMModels that answered; the status where none did."""

    async def __aenter__(self) -> Clients:
        self._asking = [asyncio.create_task(self._go_on(number)) for number in range(AT_ONCE)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._asking:
            task.cancel()
        await asyncio.gather(*self._asking, return_exceptions=True)
        await self._web.aclose()

    async def _go_on(self, number: int) -> None:
        while True:
            self.answers.append(await self._ask(is_stream=number % 2 == 0))
            await asyncio.sleep(0.2)

    async def _ask(self, *, is_stream: bool) -> str:
        message = {"role": "user", "content": "How do I reset my password?"}
        body = {"model": self._model, "messages": [message], "max_tokens": 6, "stream": is_stream}
        try:
            answer = await self._web.post(self._url, json=body)
        except httpx.TransportError as error:
            return type(error).__name__
        return read_model(answer.text) if answer.status_code == 200 else str(answer.status_code)

    async def count(self, number: int) -> Counter[str]:
        """Who gave the next so many answers."""
        begun = len(self.answers)

        async def look() -> int:
            return len(self.answers) - begun

        await eventually(f"{number} more answers", look, lambda given: given >= number, timeout_s=300)
        return Counter(self.answers[begun : begun + number])


def read_model(text: str) -> str:
    """Who gave an answer, whole or streamed."""
    lines = (line.removeprefix("data: ") for line in text.splitlines())
    return str(json.loads(next(line for line in lines if line.startswith("{")))["model"])


@pytest.mark.usefixtures("pool")
async def test_a_good_result_takes_over_and_a_bad_one_is_rolled_back(
    api: Api, source: Source, namespace: str, gateway: Gateway, key: str
) -> None:
    async with Clients(gateway, key, namespace) as clients:
        assert await clients.count(40) == {NAME: 40}

        await tune(api, source, namespace, GOOD)
        await wait_for_job(api, namespace, GOOD, "the canary runs", is_in("Running"), timeout_s=JOB_S)
        await check_share(clients)
        status = await wait_for_job(api, namespace, GOOD, "promotion", is_in("Promoted"), timeout_s=JOB_S)
        (canary,) = status["canaries"]
        assert min(canary["result"]["requests"], canary["incumbent"]["requests"]) >= 50
        assert canary["result"]["ttftMilliseconds"] > 0
        await settle(clients, lambda answers: set(answers) == {GOOD})
        job = await api.get("FineTuneJob", GOOD, namespace)
        assert read_condition(job)["reason"] == Reason.Promoted
        assert (job or {})["status"]["phase"] == "Succeeded"

        # Nobody needs the first adapter any more; its name goes on.
        await api.delete("LLMModel", NAME, namespace)
        await settle(clients, lambda answers: set(answers) == {GOOD})

        await tune(api, source, namespace, BAD)
        status = await wait_for_job(api, namespace, BAD, "the rollback", is_in("RolledBack"), timeout_s=JOB_S)
        (canary,) = status["canaries"]
        assert canary["incumbent"]["name"] == GOOD
        assert canary["result"]["failed"] > 0
        assert canary["incumbent"]["failed"] == 0
        await settle(clients, lambda answers: set(answers) == {GOOD})

    job = await api.get("FineTuneJob", BAD, namespace)
    told = read_condition(job)
    assert (told["status"], told["reason"]) == ("False", Reason.CanaryRegressed)
    assert "make a new FineTuneJob" in told["message"]
    events = [event for event in await api.list("Event", namespace) if event["regarding"]["name"] == BAD]
    assert {("Normal", "CanaryRunning"), ("Warning", "CanaryRegressed")} <= {(e["type"], e["reason"]) for e in events}
    model = await api.get("LLMModel", BAD, namespace)
    assert model is not None
    assert not model["spec"]["adapter"].get("attachTo")
    found = await api.get("InferencePool", "pool", namespace) or {}
    assert [entry["name"] for entry in found["status"]["adapters"]] == [GOOD]


async def check_share(clients: Clients) -> None:
    """Of 400 answers the share is within five standard deviations, 5 x sqrt(0.3 x 0.7 x 400) = 46."""
    answers = await settle(clients, lambda answers: GOOD in answers)
    answers = await clients.count(400)
    assert set(answers) <= {NAME, GOOD}, answers
    assert abs(answers[GOOD] - 400 * WEIGHT / 100) <= 46, answers


async def settle(clients: Clients, is_so: Callable[[Counter[str]], bool]) -> Counter[str]:
    """Wait until the next answers are as they should stay, as a change needs a moment to reach both gateways."""

    async def look() -> Counter[str]:
        return await clients.count(40)

    return await eventually("40 answers as they should be", look, is_so, timeout_s=60)
