"""Tokens of Tenants that go, and of others that come under the same name."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from redis import Redis

from llmos.api import Tenant
from llmos.api.load import GatewayLoad
from llmos_gateway.cluster.objects import parse_tenant
from tests.gateway.cluster.objects import tenant_object
from tests.gateway.engines import open_engine
from tests.gateway.proxy.budget_stage import EVEN, ask, open_tenant, read_status, read_used, wait_for_used
from tests.gateway.redis_server import Server
from tests.gateway.stage import Stage
from tests.gateway.values import api_key, tenant


async def test_a_tenant_on_its_way_out_is_forgotten_when_its_last_key_is_gone() -> None:
    options = {"sweep_s": 0.02}
    async with open_engine() as engine, open_tenant(engine, options=options, perDay="1000") as stage:
        assert await read_status(ask(stage, max_tokens=100)) == 200
        stage.catalog.put_tenant(leave(tenant("acme", "team", tokens={"cost": EVEN, "perDay": "1000"})))
        await asyncio.sleep(0.1)
        assert (await read_used(stage))[0] == 10, "a key is left, and with it the limits"
        stage.catalog.keys.remove(api_key(1, tenant="acme").name)
        async with asyncio.timeout(10):
            while "tenants" in await stage.read_load():  # noqa: ASYNC110 - another task's state
                await asyncio.sleep(0.01)


async def test_a_tenant_made_anew_under_the_same_name_has_used_nothing_even_if_nobody_heard_of_the_old_one_s_end() -> (
    None
):
    async with open_engine() as engine, open_tenant(engine) as stage:
        for uid, requests in (("old", 2), ("new", 1)):
            put_tenant(stage, uid, perDay="1000")
            for _ in range(requests):
                assert await read_status(ask(stage, max_tokens=100)) == 200
        await stage.wait_for_load(running=0, queued=0)
        async with asyncio.timeout(10):
            while "acme/old" in (load := await read_whole_load(stage)).tenants or "acme/old" in load.months:  # noqa: ASYNC110 - another task's state
                await asyncio.sleep(0.01)
        assert (await read_used(stage))[0] == load.tenants["acme/new"][1].used
        (*_, last) = await stage.read_log(3)
    assert load.months["acme/new"].output_tokens == last["completion_tokens"]
    assert set(load.months) == set(load.tenants) == {"acme/new"}


@pytest.mark.parametrize("is_claim_readable", [True, False])
@pytest.mark.parametrize("is_shared", [True, False])
async def test_a_tenant_that_cannot_be_read_for_a_while_keeps_what_it_used(
    server: Server, *, is_shared: bool, is_claim_readable: bool
) -> None:
    options = {"sweep_s": 0.01, **({"budget_store": server.url} if is_shared else {})}
    async with open_engine() as engine, open_tenant(engine, options=options) as stage:
        put_tenant(stage, "u1", perDay="1000")
        assert await read_status(ask(stage, max_tokens=100)) == 200
        await wait_for_used(stage, 10)
        newer = tenant_object("acme", "team" if is_claim_readable else "Not A Namespace", weight="heavy")
        newer["metadata"]["uid"] = "u1"
        if is_claim_readable:
            stage.catalog.put_tenant(parse_tenant(newer))
        else:  # As the watch takes what it cannot parse at all: it is absent.
            with pytest.raises(ValueError, match="namespaces"):
                parse_tenant(newer)
            stage.catalog.remove_tenant("acme")
        assert await read_status(ask(stage, max_tokens=100)) == 403
        await asyncio.sleep(0.2)  # Some sweeps, of which none may take anything away.
        put_tenant(stage, "u1", perDay="1000")
        load = await read_whole_load(stage)
    assert {use.window: use.used for use in load.tenants["acme/u1"]}["day"] == 10
    assert load.months["acme/u1"].output_tokens > 0


def put_tenant(stage: Stage, uid: str, **tokens: Any) -> None:
    made = tenant("acme", "team", tokens={"cost": EVEN, **tokens})
    metadata = made.metadata.model_copy(update={"uid": uid})
    stage.catalog.put_tenant(made.model_copy(update={"metadata": metadata}))


async def read_whole_load(stage: Stage) -> GatewayLoad:
    async with stage.client.get(f"{stage.admin_url}/load") as response:
        return GatewayLoad.model_validate_json(await response.read())


@pytest.mark.parametrize("is_late", [False, True])
async def test_the_keys_of_a_tenant_that_goes_are_taken_away_by_a_gateway_that_never_heard_of_it(
    server: Server, is_late: bool
) -> None:
    options = {"budget_store": server.url, "sweep_s": 0.02}
    async with open_engine() as engine:
        async with open_tenant(engine, options=options, perDay="1000") as stage:
            assert await read_status(ask(stage, max_tokens=100)) == 200
            await wait_for_used(stage, 10)
        async with open_tenant(engine, options=options, perDay="1000") as stage:
            stage.catalog.keys.remove(api_key(1, tenant="acme").name)
            with Redis(port=server.port, decode_responses=True) as client:
                keys = client.keys("llmos:budget:{acme}:*")
                assert keys != []
                assert all(0 < client.ttl(key) <= 35 * 86400 for key in keys), "they expire though nobody takes them"
                if is_late:  # It goes before this gateway has looked again.
                    stage.catalog.remove_tenant("acme")
                else:
                    stage.catalog.put_tenant(leave(tenant("acme", "team", tokens={"perDay": "1000"})))
                async with asyncio.timeout(10):
                    while client.keys("llmos:budget:{acme}:*"):  # noqa: ASYNC110 - another program's state
                        await asyncio.sleep(0.01)


def leave(made: Tenant) -> Tenant:
    metadata = made.metadata.model_copy(update={"deletion_timestamp": datetime.now(UTC)})
    return made.model_copy(update={"metadata": metadata})
