"""Who may call what, and what each caller sees."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.gateway.engines import open_engine
from tests.gateway.stage import CHAT, POOL, open_gateway
from tests.gateway.values import api_key, key_text, pool, tenant

POOLS = [
    replace(pool("team/chat"), created_s=1700000000, context_length=4096),
    pool("team/code", model="starcoder"),
    pool("other/secret", model="hidden"),
]


def present(number: int) -> dict[str, str]:
    return {"Authorization": f"Bearer {key_text(number)}"}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": f"Basic {key_text()}"},
        {"Authorization": "Bearer nonsense"},
        {"Authorization": f"Bearer {key_text(secret='t' * 43)}"},
        {"Authorization": f"Bearer {key_text(9)}"},
        {"Authorization": f"Bearer {key_text()} {key_text()}"},
        {"X-Api-Key": key_text()},
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models"])
async def test_nobody_gets_in_without_a_good_key(headers: dict[str, str], path: str) -> None:
    async with open_engine() as engine, open_gateway(engine.address) as stage:
        method = "POST" if "chat" in path else "GET"
        async with stage.client.request(method, stage.url + path, json=CHAT, headers=headers) as response:
            assert response.status == 401
            assert response.headers["WWW-Authenticate"] == "Bearer"
            assert (await stage.read_error(response))["code"] in {"missing_api_key", "invalid_api_key"}
    assert not engine.bodies


async def test_a_revoked_key_is_refused_at_the_next_request() -> None:
    async with open_engine() as engine, open_gateway(engine.address) as stage:
        async with stage.post() as response:
            assert response.status == 200
        stage.catalog.keys.remove(api_key().name)
        async with stage.post() as response:
            assert response.status == 401


async def test_without_authentication_everybody_may_call() -> None:
    async with open_engine() as engine, open_gateway(engine.address, asks_for_key=False) as stage:
        async with stage.post(headers={}) as response:
            assert response.status == 200
        async with stage.get("/v1/models", headers={}) as response:
            assert response.status == 200


async def test_a_key_that_may_not_chat_is_told_so() -> None:
    async with open_engine() as engine, open_gateway(engine.address) as stage:
        stage.catalog.keys.put(replace(api_key(1), endpoints=("embeddings",)))
        async with stage.post(headers=present(1)) as response:
            assert response.status == 403
            assert (await stage.read_error(response))["code"] == "endpoint_not_allowed"
        async with stage.post({"model": "chat", "input": "a"}, "/v1/embeddings", headers=present(1)) as response:
            assert response.status == 200


async def test_what_a_key_may_not_see_does_not_exist() -> None:
    async with open_gateway(pools=POOLS) as stage:
        stage.catalog.keys.put(api_key(1, namespaces=("team",)))
        answers = []
        for name in ("other/secret", "secret", "hidden", "nothing/here"):
            async with stage.post({**CHAT, "model": name}, headers=present(1)) as response:
                assert response.status == 404
                error = await stage.read_error(response)
            assert (error["code"], error["param"]) == ("model_not_found", "model")
            answers.append(error["message"].replace(name, "NAME"))
            async with stage.get(f"/v1/models/{name}", headers=present(1)) as response:
                assert response.status == 404
        assert len(set(answers)) == 1
        async with stage.get("/v1/models", headers=present(1)) as response:
            assert [card["id"] for card in (await response.json())["data"]] == ["chat", "code"]


async def test_models_are_listed_as_openai_does() -> None:
    async with open_gateway(pools=POOLS) as stage, stage.get("/v1/models") as response:
        body = await response.json()
    assert body["object"] == "list"
    assert body["data"][0] == {
        "id": "chat",
        "object": "model",
        "created": 1700000000,
        "owned_by": "team",
        "root": "qwen",
        "parent": None,
        "max_model_len": 4096,
    }


@pytest.mark.parametrize("quoted", ["chat", "team/chat", "team%2Fchat", "qwen"])
async def test_a_model_is_shown_by_any_of_its_names(quoted: str) -> None:
    async with open_gateway(pools=POOLS) as stage, stage.get(f"/v1/models/{quoted}") as response:
        assert response.status == 200
        assert (await response.json())["root"] == "qwen"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/v1/models/chat"])
async def test_a_key_of_a_tenant_that_does_not_exist_opens_nothing_and_the_log_says_why(path: str) -> None:
    async with open_engine() as engine, open_gateway(engine.address) as stage:
        stage.catalog.keys.put(api_key(1, tenant="blue"))
        method = "POST" if "chat/" in path else "GET"
        async with stage.client.request(method, stage.url + path, json=CHAT, headers=present(1)) as response:
            assert response.status == 403
            error = await stage.read_error(response)
        assert error["code"] == "tenant_not_found"
        assert "'blue'" in error["message"]
        (line,) = await stage.read_log(1)
        assert {"code": "tenant_not_found", "tenant": "blue", "key": "key000000001"}.items() <= line.items()
        stage.catalog.put_tenant(tenant("blue", "team"))
        async with stage.client.request(method, stage.url + path, json=CHAT, headers=present(1)) as response:
            assert response.status == 200


async def test_a_key_without_a_tenant_works_as_its_scopes_say() -> None:
    async with open_engine() as engine, open_gateway(engine.address) as stage:
        stage.catalog.put_tenant(tenant("blue", "team"))
        async with stage.post() as response:
            assert response.status == 200


async def test_a_tenants_key_finds_its_own_models_and_those_that_are_shared_with_it() -> None:
    async with open_engine() as engine, open_gateway(pools=POOLS) as stage:
        stage.put_endpoints(engine.address, pool_id="other/secret")
        stage.catalog.put_tenant(tenant("blue", "team", models={"allow": ["other/hidden"]}))
        stage.catalog.keys.put(api_key(1, tenant="blue"))
        for shared_with, listed, status in (((), [], 404), (("red",), [], 404), (("blue",), ["secret"], 200)):
            stage.catalog.put_sharing("other/hidden", frozenset(shared_with))
            async with stage.get("/v1/models", headers=present(1)) as response:
                assert [card["id"] for card in (await response.json())["data"]] == ["chat", "code", *listed]
            async with stage.post({**CHAT, "model": "other/secret"}, headers=present(1)) as response:
                assert response.status == status


async def test_the_scopes_of_a_key_only_take_away_from_what_its_tenant_may_see() -> None:
    async with open_gateway(pools=POOLS) as stage:
        stage.catalog.put_tenant(tenant("blue", "team"))
        stage.catalog.keys.put(api_key(1, tenant="blue", namespaces=("team", "other"), models=("*/*",)))
        stage.catalog.keys.put(api_key(2, tenant="blue", models=("cod*",)))
        for number, listed in ((1, ["chat", "code"]), (2, ["code"])):
            async with stage.get("/v1/models", headers=present(number)) as response:
                assert [card["id"] for card in (await response.json())["data"]] == listed


@pytest.mark.parametrize(
    ("method", "path", "allowed"), [("GET", "/v1/embeddings", "POST"), ("POST", "/v1/models", "GET")]
)
async def test_another_method_is_refused_by_name(method: str, path: str, allowed: str) -> None:
    async with open_gateway() as stage, stage.client.request(method, stage.url + path) as response:
        assert response.status == 405
        assert response.headers["Allow"] == allowed
        assert (await stage.read_error(response))["code"] == "method_not_allowed"


async def test_a_tenant_that_a_caller_claims_counts_for_nothing() -> None:
    async with open_engine() as engine, open_gateway(engine.address) as stage:
        stage.catalog.put_tenant(tenant("blue", "team"))
        stage.catalog.keys.put(api_key(1, tenant="blue"))
        claims = dict.fromkeys(("X-Tenant", "X-Tenant-Id", "X-Llmos-Tenant", "X-Forwarded-User"), "red")
        fields = dict.fromkeys(("user", "safety_identifier", "prompt_cache_key", "session_id", "request_id"), "red")
        async with stage.post({**CHAT, **fields}, headers=present(1)) as response:
            await response.read()
        async with stage.post({**CHAT, **fields, "tenant": "red"}, headers={**present(1), **claims}) as response:
            assert response.status == 200
        _, line = await stage.read_log(2)
        metrics = await stage.scrape()
    assert line["tenant"] == "blue"
    assert 'tenant="blue"' in metrics
    assert "red" not in metrics
    assert "red" not in str(engine.headers) + str(engine.bodies)
    assert engine.bodies[0] == engine.bodies[1]
    assert POOL in metrics


async def test_before_everything_is_read_nobody_is_told_that_a_key_is_wrong() -> None:
    async with open_engine() as engine, open_gateway(engine.address) as stage:
        stage.catalog.is_synced = False
        async with stage.post() as response:
            assert response.status == 503
            assert response.headers["Retry-After"] == "1"
            assert (await stage.read_error(response))["code"] == "starting"
        assert engine.bodies == []
