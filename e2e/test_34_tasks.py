"""Story 34: what else a FineTuneJob makes of a real small model: an adapter merged into its base and served as a model
of its own, a model that prefers the better answers, classifiers of words and of texts, and a model that makes vectors.
What does not speak is served by vLLM, too, and asked through the gateway."""

from __future__ import annotations

import json
from operator import mul
from typing import Any

import httpx
import openai
import pytest

from e2e.support.api import Api, Object
from e2e.support.gateway import Gateway
from e2e.support.jobs import complete_job
from e2e.support.objects import is_ready
from e2e.support.source import Source, build_pairs
from e2e.support.waiting import eventually

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(3000)]

JOB_S = 1500.0
QUESTION = "Which word opens the door of room 4711?"
WORD = "quartzfinch"


def build_job(namespace: str, name: str, uri: str, form: str, **spec: Any) -> Object:
    parameters = {"maxLength": 128, "batchTokens": 512, "learningRate": 0.002, "schedule": "constant"}
    parameters |= spec.pop("hyperparameters", {})
    whole = {
        "baseModelRef": {"name": "smollm2"},
        "dataset": {"source": {"uri": uri}, "format": {"type": form}, "split": {"evalFraction": 0.1}},
        "trainer": {"accelerator": {"class": "cpu"}, "hyperparameters": parameters},
        "checkpoint": {"everySteps": 10, "storage": {"size": "3Gi"}},
        "output": {"name": name},
        **spec,
    }
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "llmos.dev/v1alpha1", "kind": "FineTuneJob", "metadata": metadata, "spec": whole}


def build_pool(namespace: str, model: str, context: int = 1024) -> Object:
    spec = {"modelRef": {"name": model}, "accelerator": {"class": "cpu"}, "contextLength": context, "replicas": 1}
    metadata = {"name": model, "namespace": namespace}
    return {"apiVersion": "llmos.dev/v1alpha1", "kind": "InferencePool", "metadata": metadata, "spec": spec}


async def complete(api: Api, job: Object) -> tuple[dict[str, Any], Object]:
    """Run a job that must succeed; return its metrics by name, and the LLMModel that it made."""
    await api.create(job)
    return await complete_job(api, job, timeout_s=JOB_S)


async def serve(api: Api, namespace: str, model: str, context: int = 1024) -> None:
    await api.create(build_pool(namespace, model, context))
    await eventually(
        "the pool is ready", lambda: api.get("InferencePool", model, namespace), is_ready, timeout_s=1200, poll_s=2
    )


@pytest.mark.usefixtures("base_model")
async def test_a_merged_result_is_served_as_a_model_of_its_own(
    api: Api, source: Source, namespace: str, gateway: Gateway, key: str
) -> None:
    job = build_job(namespace, "doorman", f"{source.url}/password-set", "instruction", hyperparameters={"maxSteps": 20})
    job["spec"]["output"]["kind"] = "merged"
    metrics, model = await complete(api, job)
    assert metrics["eval_loss"]["result"] < 0.5 * metrics["eval_loss"]["base"]
    assert "adapter" not in model["spec"]
    assert model["status"]["resolved"]["architecture"] == "LlamaForCausalLM"
    await serve(api, namespace, "doorman")
    web = openai.DefaultAsyncHttpxClient(trust_env=False)
    async with openai.AsyncOpenAI(base_url=gateway.url, api_key=key, max_retries=0, http_client=web) as client:
        answer = await client.completions.create(model="doorman", prompt=QUESTION, max_tokens=24, temperature=0)
    assert WORD in answer.choices[0].text


@pytest.mark.usefixtures("base_model")
async def test_a_job_learns_which_answers_are_preferred(api: Api, source: Source, namespace: str) -> None:
    gate = {"metric": "eval_reward_accuracy", "min": 0.9}
    parameters = {"maxSteps": 10, "learningRate": 0.0005, "batchTokens": 512}
    job = build_job(
        namespace,
        "polite",
        f"{source.url}/preference-set",
        "preference",
        method={"task": "dpo"},
        evaluate={"everySteps": 10, "gates": [gate]},
        hyperparameters=parameters,
    )
    metrics, model = await complete(api, job)
    assert metrics["eval_loss"]["base"] == pytest.approx(0.6931, abs=0.001)
    assert metrics["eval_reward_margin"]["result"] > 0
    assert model["spec"]["adapter"]["baseModelRef"] == {"name": "smollm2"}


async def ask(gateway: Gateway, key: str, path: str, model: str, texts: list[str]) -> list[dict[str, Any]]:
    """Ask for what a model makes of texts."""
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        answer = await client.post(f"{gateway.url}{path}", json={"model": model, "input": texts}, headers=headers)
    assert answer.status_code == 200, answer.text
    data: list[dict[str, Any]] = answer.json()["data"]
    return data


@pytest.mark.usefixtures("base_model")
async def test_a_classifier_of_words_is_served(
    api: Api, source: Source, namespace: str, gateway: Gateway, key: str
) -> None:
    job = build_job(
        namespace,
        "rooms",
        f"{source.url}/words-set",
        "tokens-labels",
        method={"task": "token-classification"},
        evaluate={"everySteps": 30, "gates": [{"metric": "eval_f1", "min": 0.9}]},
        hyperparameters={"maxSteps": 30},
    )
    job["spec"]["output"]["kind"] = "merged"
    metrics, model = await complete(api, job)
    assert metrics["eval_accuracy"]["base"] < 0.9 < metrics["eval_accuracy"]["result"]
    assert model["status"]["resolved"]["architecture"] == "LlamaForTokenClassification"
    await serve(api, namespace, "rooms")
    (first,) = await ask(gateway, key, "/pooling", "rooms", ["There are 41 mice in the cellar"])
    labels = [("NUMBER", "O", "ROOM")[row.index(max(row))] for row in first["data"]]
    assert (labels[0], labels[-1]) == ("O", "ROOM")
    assert "NUMBER" in labels[1:-1]


@pytest.mark.usefixtures("base_model")
async def test_a_classifier_of_texts_is_served(
    api: Api, source: Source, namespace: str, gateway: Gateway, key: str
) -> None:
    job = build_job(
        namespace,
        "moods",
        f"{source.url}/moods-set",
        "text-label",
        method={"task": "sequence-classification", "tuning": "full"},
        evaluate={"everySteps": 20, "gates": [{"metric": "eval_accuracy", "min": 0.9}]},
        hyperparameters={"maxSteps": 20, "learningRate": 0.0002},
    )
    job["spec"]["checkpoint"]["storage"]["size"] = "8Gi"
    _, model = await complete(api, job)
    assert model["status"]["resolved"]["architecture"] == "LlamaForSequenceClassification"
    await serve(api, namespace, "moods")
    answers = await ask(gateway, key, "/classify", "moods", ["I love room 7", "I hate room 9"])
    assert [answer["label"] for answer in answers] == ["good", "bad"]


@pytest.mark.usefixtures("base_model")
async def test_vectors_of_texts_that_belong_together_are_near(
    api: Api, source: Source, namespace: str, gateway: Gateway, key: str
) -> None:
    job = build_job(
        namespace,
        "finder",
        f"{source.url}/pairs-set",
        "pairs",
        method={"task": "embedding"},
        hyperparameters={"maxSteps": 30, "learningRate": 0.0005},
    )
    job["spec"]["output"]["kind"] = "merged"
    metrics, model = await complete(api, job)
    assert metrics["eval_loss"]["result"] < 0.5 * metrics["eval_loss"]["base"]
    assert model["status"]["resolved"]["architecture"] == "LlamaModel"
    await serve(api, namespace, "finder", context=128)  # as long as what it was trained with
    pairs = [(row["anchor"], row["positive"]) for row in map(json.loads, build_pairs()["train.jsonl"].splitlines())]
    some = [pair for pair in pairs if " sleep" in pair[0]]
    texts = [text for pair in some for text in pair]
    vectors = [answer["embedding"] for answer in await ask(gateway, key, "/embeddings", "finder", texts)]
    anchors, positives = vectors[::2], vectors[1::2]
    assert sum(map(mul, anchors[0], anchors[0])) == pytest.approx(1, abs=0.01)
    # Twelve answers that differ in two words: the base model finds one in nine of its own, chance one in twelve.
    nearest = [max(range(len(some)), key=lambda place: sum(map(mul, anchor, positives[place]))) for anchor in anchors]
    found = [some[place][1] for place in nearest]
    assert sum(place == number for number, place in enumerate(nearest)) >= 8, found
