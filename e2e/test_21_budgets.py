"""Story 21: a tenant's tokens run out in the middle of an answer, which ends and says why; the next request is told
when there is more. Gateways that are killed forget nothing, many requests at once are never over, and a shadow refuses
nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import aiohttp
import pytest

from e2e.cluster import Cluster
from e2e.cluster.objects import Kubectl
from e2e.conftest import ensure_image
from e2e.support.api import Api
from e2e.support.asking import Target, open_session
from e2e.support.budgets import (
    STORE_SECRET,
    Told,
    ask_openly,
    budgeted,
    build_store_secret,
    kill_gateways,
    read_used,
    serve_store,
)
from e2e.support.gateway import Gateway, install_gateway, list_gateway_urls
from e2e.support.objects import build_model, build_pool, wait_ready
from e2e.support.operator import OperatorProcess
from e2e.support.source import Source
from e2e.support.tenants import wait_for_month
from e2e.support.waiting import eventually

pytestmark = [pytest.mark.timeout(600)]

ENGINE = {"max-num-seqs": 64, "output-tokens": 3000, "decode-step-ms": 50, "decode-step-ms-per-seq": 0}
LIMIT = 200
"""Tokens of a day, of which an answer without a limit needs more."""
ANSWER = 100
MANY, FOR = 200, 10


@pytest.fixture(scope="module")
def sharing(machine: Cluster, kubectl: Kubectl, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Two gateways that count in one store."""
    ensure_image(machine, "gateway")
    values = [f"--set=gateway.budgets.store.secretName={STORE_SECRET}"]
    with (
        serve_store(tmp_path_factory.mktemp("store")) as url,
        install_gateway(kubectl, release="budgets", values=values, beside=[build_store_secret(url)]) as gateway,
    ):
        yield gateway


@pytest.fixture(scope="module")
def alone(machine: Cluster, kubectl: Kubectl) -> Iterator[Gateway]:
    """A single gateway, which needs nothing."""
    ensure_image(machine, "gateway")
    with install_gateway(kubectl, release="alone", replicas=1) as gateway:
        yield gateway


async def start_pool(api: Api, namespace: str, source: Source) -> None:
    model = build_model(namespace, f"{source.url}/tiny")
    model["spec"]["sharedWith"] = ["*"]
    await wait_ready(api, await api.create(model))
    await wait_ready(api, await api.create(build_pool(namespace, args=ENGINE)))


def assert_refused(told: Told) -> None:
    assert (told.status, told.code) == (429, "insufficient_quota"), told
    assert told.headers["x-ratelimit-limit-tokens"] == str(LIMIT)
    assert told.headers["x-ratelimit-remaining-tokens"] == "0"
    assert 1 <= int(told.headers["retry-after"]) <= 86_400
    assert told.headers["x-should-retry"] == "false"


async def ask_all(api: Api, session: aiohttp.ClientSession, gateway: Gateway, target: Target) -> list[Told]:
    """Ask every gateway once, past the Service."""
    urls = await list_gateway_urls(api, gateway.release)
    assert len(urls) == gateway.replicas
    return [await ask_openly(session, Target(url, target.model, target.key), stream=True) for url in urls]


async def test_tokens_run_out_in_a_stream_and_killed_gateways_forget_nothing(
    api: Api, operator: OperatorProcess, source: Source, namespace: str, sharing: Gateway
) -> None:
    await start_pool(api, namespace, source)
    async with budgeted(api, sharing, namespace, "day", perDay=str(LIMIT)) as target, open_session() as session:
        cut = await ask_openly(session, target, stream=True)
        assert (cut.status, cut.code, cut.is_done) == (200, "insufficient_quota", False), cut
        assert LIMIT * 0.8 <= cut.tokens < LIMIT
        for told in await ask_all(api, session, sharing, target):
            assert_refused(told)
        assert set(await read_used(api, sharing, f"{namespace}-day", "day")) == {LIMIT}
        await eventually(
            "the Tenant says so",
            lambda: api.get("Tenant", f"{namespace}-day"),
            lambda found: [t["used"] for t in (found or {}).get("status", {}).get("tokens", ())] == [LIMIT],
            timeout_s=120,
        )
        month = await wait_for_month(
            api,
            f"{namespace}-day",
            "what was answered is counted",
            lambda month: LIMIT * 0.8 <= month.get("outputTokens", 0) <= LIMIT,
        )

        await kill_gateways(api, sharing)
        for told in await ask_all(api, session, sharing, target):
            assert_refused(told)

        tokens = {"spec": {"tokens": {"perDay": str(2 * LIMIT)}}}
        await api.patch("Tenant", f"{namespace}-day", "", tokens)
        again = await eventually(
            "the new limit holds",
            lambda: ask_openly(session, target, max_tokens=ANSWER),
            lambda told: told.status == 200,
        )
        assert again.headers["x-ratelimit-limit-tokens"] == str(2 * LIMIT)
        assert int(again.headers["x-ratelimit-remaining-tokens"]) <= LIMIT - ANSWER
        counted = month["outputTokens"] + again.tokens
        await wait_for_month(
            api,
            f"{namespace}-day",
            f"the next answer is added, to {counted}, though the gateways were killed",
            lambda month: month.get("outputTokens") == counted,
        )


async def test_many_at_once_are_never_over_and_a_shadow_refuses_nobody(
    api: Api, operator: OperatorProcess, source: Source, namespace: str, sharing: Gateway
) -> None:
    await start_pool(api, namespace, source)
    async with open_session() as session:
        async with budgeted(api, sharing, namespace, "probe", perMonth="1M") as target:
            probe = await ask_openly(session, target, max_tokens=ANSWER)
            need = 1_000_000 - int(probe.headers["x-ratelimit-remaining-tokens"])
        async with budgeted(api, sharing, namespace, "many", perMonth=str(FOR * need)) as target:
            asked = await asyncio.gather(
                *(ask_openly(session, target, max_tokens=ANSWER, ignore_eos=True) for _ in range(MANY))
            )
            used = await read_used(api, sharing, f"{namespace}-many", "month")
        answered = [told for told in asked if told.status == 200]
        refused = [told for told in asked if told.status == 429]
        assert (len(answered), len(refused)) == (FOR, MANY - FOR)
        assert all(told.code == "rate_limit_exceeded" and told.headers["retry-after"] == "1" for told in refused)
        assert {told.tokens for told in answered} == {ANSWER}
        assert max(used) <= FOR * need
        async with budgeted(
            api, sharing, namespace, "shadow", perMonth=str(ANSWER), maxConcurrency=1, mode="shadow"
        ) as target:
            shadows = await asyncio.gather(*(ask_openly(session, target, max_tokens=ANSWER) for _ in range(5)))
            counted = await read_used(api, sharing, f"{namespace}-shadow", "month")
        assert [told.status for told in shadows] == [200] * 5
        assert not any("x-ratelimit-limit-tokens" in told.headers for told in shadows)
        assert max(counted) >= 5 * ANSWER


async def test_a_single_gateway_that_is_killed_loses_a_second_at_most(
    api: Api, operator: OperatorProcess, source: Source, namespace: str, alone: Gateway
) -> None:
    await start_pool(api, namespace, source)
    tenant = f"{namespace}-alone"
    async with budgeted(api, alone, namespace, "alone", perDay="100k") as target, open_session() as session:
        whole = await ask_openly(session, target, max_tokens=ANSWER, ignore_eos=True)
        assert whole.status == 200
        (settled,) = await read_used(api, alone, tenant, "day")
        assert settled >= ANSWER
        streaming = asyncio.create_task(ask_openly(session, target, stream=True))
        # 20 tokens a second.
        await asyncio.sleep(6)
        await kill_gateways(api, alone)
        with pytest.raises(aiohttp.ClientError):
            await streaming
        (kept,) = await eventually(
            "the gateway knows what was used", lambda: read_used(api, alone, tenant, "day"), lambda seen: len(seen) == 1
        )
        assert settled + 50 <= kept <= settled + 256, (settled, kept)
