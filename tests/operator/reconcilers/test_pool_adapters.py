"""Adapters of pools: what is told to replicas, shared by pods and written into status, pass by pass."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from llmos.api.adapters import HeldAdapter, HeldAdapters, WantedAdapters, compute_token_hash
from llmos.api.names import ANNOTATION_SOURCE_HASH
from llmos_operator.kube.errors import Forbidden, Invalid, KubeError
from llmos_operator.kube.resources import INFERENCE_POOLS, LLM_MODELS, PODS, SECRETS, SERVICES
from llmos_operator.reconcilers.adapter_key import AdapterKeys, KeyUnreadableError
from tests.operator.reconcilers.world import NAMESPACE, World, build_model, build_pool, condition

RESOLVED = {
    "digest": "sha256:" + "1" * 64,
    "architecture": "LoRA",
    "parameters": 1024,
    "layers": 0,
    "kvHeads": 0,
    "headDim": 0,
    "vocabulary": 0,
    "maxContext": 0,
    "weightsBytes": 4096,
    "dtype": "float32",
    "adapter": {"rank": 8, "targetModules": ["q_proj"]},
}


class Replicas:
    """What the replicas were told, and what they answer: everything is loaded at once unless `state` says else."""

    def __init__(self) -> None:
        self.state = "loaded"
        self.told: dict[str, WantedAdapters] = {}
        self.tokens: set[str] = set()

    async def tell(
        self, addresses: Mapping[str, str], wanted: WantedAdapters, token: str
    ) -> dict[str, HeldAdapters | None]:
        self.told |= dict.fromkeys(addresses, wanted)
        self.tokens.add(token)
        held = [{"name": each.name, "digest": each.digest, "state": self.state} for each in wanted.adapters]
        return dict.fromkeys(addresses, HeldAdapters(adapters=tuple(map(HeldAdapter.model_validate, held))))


def adapter_of(name: str = "support", **change: Any) -> dict[str, Any]:
    return build_model(name, adapter={"baseModelRef": {"name": "smollm2"}, "attachTo": ["chat"]}, **change)


def start(*objects: dict[str, Any]) -> tuple[World, Replicas]:
    world, replicas = World(build_model(), *objects), Replicas()
    world.context = replace(world.context, tell_adapters=replicas.tell)
    return world, replicas


async def inspect(world: World, name: str = "support", **facts: Any) -> dict[str, Any]:
    """An adapter is looked at until it is ready."""
    await world.model(name)
    (job,) = [job for job in world.jobs() if job["metadata"]["labels"]["llmos.dev/model"] == name]
    assert "--adapter" in job["spec"]["template"]["spec"]["containers"][0]["command"]
    world.finish_job(job["metadata"]["name"], json.dumps({**RESOLVED, **facts}))
    return await world.model(name)


def shares(world: World) -> list[dict[str, Any]]:
    return [pod for pod in world.pods() if pod["metadata"]["labels"].get("llmos.dev/component") == "share"]


def replicas_of(world: World) -> list[dict[str, Any]]:
    return [pod for pod in world.pods() if pod["metadata"]["labels"].get("llmos.dev/component") == "replica"]


async def test_an_attached_adapter_is_shared_told_to_the_replicas_and_named_with_them() -> None:
    world, replicas = start(build_pool(replicas=2, adapters={}), adapter_of())
    await world.pool()
    world.start_pods()
    model = await inspect(world)
    assert condition(model)["status"] == "True"
    assert model["status"]["summary"] == "LoRA rank 8 float32 0.0 MiB"
    pool = await world.pool()
    names = sorted(pod["metadata"]["name"] for pod in replicas_of(world))
    assert pool["status"]["adapters"] == [
        {"name": "support", "digest": RESOLVED["digest"], "replicas": names, "reason": "Loaded", "message": ""}
    ]
    assert condition(pool, "AdaptersReady")["reason"] == "AdaptersLoaded"
    (wanted,) = replicas.told[names[0]].adapters
    assert wanted.url == "http://support-share.team-a.svc:8002"
    (share,) = shares(world)
    assert share["metadata"]["ownerReferences"][0]["kind"] == "LLMModel"
    (variable,) = share["spec"]["containers"][0]["env"]
    assert variable["value"] == compute_token_hash(wanted.token)
    assert world.kube.stored(SERVICES, NAMESPACE, "support-share")["spec"]["selector"]["llmos.dev/model"] == "support"


async def test_the_replicas_know_the_hash_of_the_operator_s_token_and_another_operator_has_the_same() -> None:
    world, replicas = start(build_pool(adapters={}))
    await world.pool()
    world.start_pods()
    await world.pool()
    (pod,) = replicas_of(world)
    environment = {each["name"]: each["value"] for each in pod["spec"]["containers"][0]["env"]}
    (token,) = replicas.tokens
    assert environment["LLMOS_TOKEN_SHA256"] == compute_token_hash(token)
    other = World()
    other.kube = world.kube
    other.context = replace(other.context, kube=world.kube, tell_adapters=replicas.tell)
    await other.pool()
    assert replicas.tokens == {token}
    assert len(world.kube.all(SECRETS)) == 1


async def test_a_second_pass_writes_nothing() -> None:
    world, _ = start(build_pool(adapters={}), adapter_of())
    await world.pool()
    world.start_pods()
    await inspect(world)
    await world.pool()
    world.kube.forget_writes()
    await world.pool()
    await world.model("support")
    assert world.kube.writes == []


async def test_attaching_and_detaching_neither_restarts_nor_changes_a_pod() -> None:
    world, replicas = start(build_pool(adapters={}), adapter_of())
    await world.pool()
    world.start_pods()
    before = replicas_of(world)
    await inspect(world)
    pool = await world.pool()
    revision = pool["status"]["revision"]
    model = world.kube.stored(LLM_MODELS, NAMESPACE, "support")
    world.kube.put({**model, "spec": {**model["spec"], "adapter": {"baseModelRef": {"name": "smollm2"}}}})
    await world.model("support")
    pool = await world.pool()
    assert pool["status"]["adapters"] == []
    assert pool["status"]["revision"] == revision
    assert replicas_of(world) == before
    assert next(iter(replicas.told.values())).adapters == ()
    world.finish_deletions()
    assert shares(world) == []
    assert [s["metadata"]["name"] for s in world.kube.all(SERVICES)] == ["chat"]


async def test_files_are_shared_only_while_a_pool_wants_them_and_again_when_the_pod_is_lost() -> None:
    world, _ = start(adapter_of())
    await inspect(world)
    assert shares(world) == []
    world.kube.put(build_pool(adapters={}))
    await world.model("support")
    (share,) = shares(world)
    world.kube.set_status(PODS, share["metadata"]["name"], NAMESPACE, phase="Failed", reason="Evicted")
    await world.model("support")
    (again,) = shares(world)
    assert again["metadata"]["name"] != share["metadata"]["name"]
    world.kube.finish_deletion(INFERENCE_POOLS, "chat", NAMESPACE)
    await world.model("support")
    assert shares(world) == []


async def test_a_new_version_leaves_the_one_before_in_place_until_it_is_known() -> None:
    world, replicas = start(build_pool(adapters={}), adapter_of())
    await world.pool()
    world.start_pods()
    await inspect(world)
    await world.pool()
    model = world.kube.stored(LLM_MODELS, NAMESPACE, "support")
    world.kube.put({**model, "spec": {**model["spec"], "source": {"uri": "hf://org/name@next"}}})
    await world.model("support")
    pool = await world.pool()
    assert (
        pool["status"]["adapters"][0] | {"digest": RESOLVED["digest"], "reason": "ModelNotReady"}
        == (pool["status"]["adapters"][0])
    )
    assert [wanted.digest for wanted in next(iter(replicas.told.values())).adapters] == [RESOLVED["digest"]]
    assert len(shares(world)) == 1
    hashes = {job["metadata"]["annotations"][ANNOTATION_SOURCE_HASH] for job in world.jobs()}
    assert len(hashes) == 1
    digest = "sha256:" + "2" * 64
    world.finish_job(world.jobs()[0]["metadata"]["name"], json.dumps({**RESOLVED, "digest": digest}))
    await world.model("support")
    pool = await world.pool()
    assert pool["status"]["adapters"][0]["digest"] == digest
    assert [pod["metadata"]["labels"]["llmos.dev/revision"] for pod in shares(world)] == ["22222222"]


async def test_while_replicas_load_the_pool_says_so_and_is_looked_at_soon() -> None:
    world, replicas = start(build_pool(adapters={}), adapter_of())
    replicas.state = "loading"
    await world.pool()
    world.start_pods()
    await inspect(world)
    result = await world.reconcile("InferencePool", "chat")
    assert result.requeue_after_s == 2
    pool = world.kube.stored(INFERENCE_POOLS, NAMESPACE, "chat")
    assert condition(pool, "AdaptersReady")["reason"] == "AdaptersLoading"
    assert condition(pool)["status"] == "True"


async def test_a_pool_whose_model_is_an_adapter_is_refused_with_a_remedy() -> None:
    world, _ = start(build_pool(modelRef={"name": "support"}), adapter_of())
    pool = await world.pool()
    assert condition(pool)["reason"] == "InvalidSpec"
    assert "set modelRef to its base model smollm2" in condition(pool)["message"]
    assert replicas_of(world) == []


async def test_an_adapter_that_a_pool_names_is_not_deleted_under_it() -> None:
    world, _ = start(build_pool(adapters={"models": [{"name": "support"}]}), adapter_of())
    await inspect(world)
    model = world.kube.stored(LLM_MODELS, NAMESPACE, "support")
    assert model["metadata"]["finalizers"]
    await world.kube.delete(LLM_MODELS, "support", NAMESPACE)
    model = await world.model("support")
    assert condition(model)["reason"] == "InUse"


@pytest.mark.parametrize("labels", [{}, {"llmos.dev/component": "adapter-key"}])
async def test_no_token_is_made_of_a_key_that_cannot_be_read(labels: dict[str, str]) -> None:
    metadata = {"name": "llmos-adapter-key", "namespace": "llmos-system", "labels": labels}
    world = World({"apiVersion": "v1", "kind": "Secret", "metadata": metadata})
    with pytest.raises(KeyUnreadableError, match="delete it: a new one is made"):
        await AdapterKeys().read(world.kube, "llmos-system")


@pytest.mark.parametrize("error", [Forbidden("secrets is forbidden"), Invalid("not valid")])
async def test_a_pool_whose_key_cannot_be_read_says_so_and_goes_on_serving(error: KubeError) -> None:
    world, replicas = start(build_pool(replicas=2, adapters={}), adapter_of())
    await world.pool()
    world.start_pods()
    await inspect(world)
    before = await world.pool()
    pods = world.pod_names()
    # The operator starts anew, and may not read what it made.
    world.context = replace(world.context, adapter_keys=AdapterKeys())
    world.kube.fail_next("list", "Secret", error, times=100)
    replicas.told.clear()
    pool = await world.pool()
    assert condition(pool)["reason"] == "AdapterKeyUnreadable"
    assert "2 replicas answer" in condition(pool)["message"]
    assert "Grant the operator's account" in condition(pool)["message"]
    assert condition(pool, "Available")["status"] == "True"
    assert condition(pool, "AdaptersReady")["reason"] == "AdapterKeyUnreadable"
    assert pool["status"]["adapters"] == before["status"]["adapters"], "the gateway routes by it"
    assert pool["status"]["revision"] == before["status"]["revision"]
    assert replicas.told == {}
    world.kube.put({**pool, "spec": {**pool["spec"], "replicas": 3}})
    result = await world.reconcile("InferencePool", "chat")
    assert result.requeue_after_s is not None
    assert world.pod_names() == pods, "no replica is made that nobody could tell anything"
    world.kube._failures.clear()
    await world.pool()
    assert len(replicas_of(world)) == 3
    assert condition(await world.pool(), "AdaptersReady")["status"] == "True"


async def test_a_key_that_is_no_text_is_said_like_one_that_may_not_be_read() -> None:
    labels = {"llmos.dev/component": "adapter-key"}
    metadata = {"name": "llmos-adapter-key", "namespace": "llmos-system", "labels": labels}
    world = World({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": {"key": "no base64!"}})
    with pytest.raises(KeyUnreadableError, match="holds no key"):
        await AdapterKeys().read(world.kube, "llmos-system")


async def test_what_the_api_server_refuses_of_a_share_pod_stands_in_the_pool_and_is_tried_again() -> None:
    world, replicas = start(adapter_of())
    await inspect(world)
    world.kube.put(build_pool(adapters={}))
    await world.pool()
    world.start_pods()
    replicas.state = "loading"
    world.kube.fail_next("apply", "Pod", Forbidden("pods is forbidden: exceeded quota: team"))
    result = await world.reconcile("LLMModel", "support")
    assert result.requeue_after_s is not None
    assert result.requeue_after_s <= 15
    said = condition(await world.pool(), "AdaptersReady")
    assert said["reason"] == "AdapterLoadFailed"
    assert "exceeded quota: team" in said["message"]
    await world.model("support")
    assert len(shares(world)) == 1
    assert condition(await world.pool(), "AdaptersReady")["reason"] == "AdaptersLoading"


async def test_a_model_that_is_no_adapter_any_more_shares_nothing() -> None:
    world, _ = start(build_pool(adapters={}), adapter_of())
    await inspect(world)
    assert len(shares(world)) == 1
    model = world.kube.stored(LLM_MODELS, NAMESPACE, "support")
    spec = {key: value for key, value in model["spec"].items() if key != "adapter"}
    world.kube.put({**model, "spec": spec})
    await world.model("support")
    world.finish_deletions()
    assert shares(world) == []
    assert "support-share" not in [service["metadata"]["name"] for service in world.kube.all(SERVICES)]


async def test_with_a_new_key_files_are_shared_by_a_new_pod() -> None:
    world, _ = start(build_pool(adapters={}), adapter_of())
    await inspect(world)
    (before,) = shares(world)
    world.kube.finish_deletion(SECRETS, "llmos-adapter-key", world.context.settings.namespace)
    world.context = replace(world.context, adapter_keys=AdapterKeys())
    await world.model("support")
    world.finish_deletions()
    (after,) = shares(world)
    assert after["metadata"]["name"] != before["metadata"]["name"]
    assert after["spec"]["containers"][0]["env"] != before["spec"]["containers"][0]["env"]
    await world.model("support")
    assert shares(world) == [after]
