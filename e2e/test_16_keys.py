"""Story 16: a key is made, used, and revoked; a second later no gateway takes it. Another one's time runs out. Neither
sees what it may not."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest

from e2e.support.api import Api
from e2e.support.asking import Target, ask, open_session
from e2e.support.gateway import REPLICAS, SYSTEM_NAMESPACE, Gateway, build_key, list_gateway_urls, wait_until_known
from e2e.support.keys import Keys
from e2e.support.objects import build_model, build_pool, wait_ready
from e2e.support.operator import OperatorProcess
from e2e.support.source import Source
from e2e.support.waiting import eventually

pytestmark = [pytest.mark.timeout(300)]

REVOKED_WITHIN_S = 1.0
EXPIRES_IN_S = 10


@pytest.fixture
async def name(api: Api) -> AsyncIterator[str]:
    """A key's name; what it names is gone afterwards."""
    chosen = f"e2e-{uuid.uuid4().hex[:8]}"
    yield chosen
    await api.delete("Secret", chosen, SYSTEM_NAMESPACE)


async def read_statuses(session: aiohttp.ClientSession, urls: list[str], namespace: str, key: str) -> list[int]:
    """How each gateway answers a request of the key."""
    asks = (ask(session, Target(url, f"{namespace}/pool", key), 1, stream=False) for url in urls)
    return [answer.status for answer in await asyncio.gather(*asks)]


async def test_keys_are_made_revoked_and_expire_and_see_only_what_they_may(
    api: Api, operator: OperatorProcess, source: Source, namespace: str, gateway: Gateway, keys: Keys, name: str
) -> None:
    await wait_ready(api, await api.create(build_model(namespace, f"{source.url}/tiny")))
    await wait_ready(api, await api.create(build_pool(namespace)))
    urls = await list_gateway_urls(api)
    async with open_session() as session:
        await revoke_one(api, session, urls, namespace, keys, name)
        await let_one_expire(api, session, urls, namespace, name)
        await look_from_elsewhere(api, session, gateway, namespace, keys, name)


async def revoke_one(
    api: Api, session: aiohttp.ClientSession, urls: list[str], namespace: str, keys: Keys, name: str
) -> None:
    """A revoked key is refused by every gateway within a second."""
    key = (await keys("create", f"--name={name}", f"--namespace={namespace}")).strip()
    await wait_until_known(api, key)
    assert await read_statuses(session, urls, namespace, key) == [200] * REPLICAS
    await keys("revoke", name)
    await asyncio.sleep(REVOKED_WITHIN_S)
    assert await read_statuses(session, urls, namespace, key) == [401] * REPLICAS


async def let_one_expire(api: Api, session: aiohttp.ClientSession, urls: list[str], namespace: str, name: str) -> None:
    """A key is refused when its time is over, and not before."""
    expires_at = datetime.now(UTC) + timedelta(seconds=EXPIRES_IN_S)
    key, secret = build_key(name, namespace, expires_at=expires_at)
    await api.create(secret)
    await wait_until_known(api, key)
    assert datetime.now(UTC) < expires_at
    await eventually(
        "the key is refused",
        lambda: read_statuses(session, urls, namespace, key),
        lambda statuses: statuses == [401] * REPLICAS,
        timeout_s=2 * EXPIRES_IN_S,
    )
    assert datetime.now(UTC) >= expires_at
    await api.delete("Secret", name, SYSTEM_NAMESPACE)


async def look_from_elsewhere(
    api: Api, session: aiohttp.ClientSession, gateway: Gateway, namespace: str, keys: Keys, name: str
) -> None:
    """A key of another namespace finds no pool here, by no name and in no list."""
    key = (await keys("create", f"--name={name}", "--namespace=somewhere-else")).strip()
    await wait_until_known(api, key)
    for model in (f"{namespace}/pool", "pool", "tiny"):
        answer = await ask(session, Target(gateway.url, model, key), 1, stream=False)
        assert answer.status == 404
    async with session.get(f"{gateway.url}/models", headers={"Authorization": f"Bearer {key}"}) as listed:
        assert (await listed.json())["data"] == []
