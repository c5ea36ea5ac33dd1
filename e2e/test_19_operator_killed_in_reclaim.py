"""Story 19: story 17 again, while the operator is killed at random moments of the reclaim. No GPU is given out twice,
and it ends as if nothing had happened."""

from __future__ import annotations

import asyncio

import pytest

from e2e.cluster.node import PRETEND_GPUS
from e2e.support.api import Api
from e2e.support.objects import PRETEND_CLASS, build_model, build_pool, is_active, wait_ready
from e2e.support.operator import OperatorProcess, kill_again_and_again
from e2e.support.source import Source
from e2e.support.tenants import is_gated, tenants, wait_for_tenant
from e2e.support.waiting import eventually

pytestmark = [pytest.mark.core, pytest.mark.timeout(600)]

HALF = PRETEND_GPUS // 2
KILLS = 6
SEED = 19
LONGEST_LIFE_S = 5.0
"""An operator needs about two seconds to begin, so that many lives end in the middle of a step."""


async def count_admitted(api: Api, namespace: str) -> int:
    """Pods that may hold a GPU: released, and neither finished nor gone."""
    return sum(is_active(pod) and not is_gated(pod) for pod in await api.list("Pod", namespace))


async def test_a_reclaim_ends_well_however_often_the_operator_is_killed(
    api: Api, operator: OperatorProcess, source: Source
) -> None:
    async with tenants(api, owner=HALF, borrower=HALF) as places:
        for place in places.values():
            await wait_ready(api, await api.create(build_model(place, f"{source.url}/tiny")))
        drain = {"timeoutSeconds": 10}
        burst = build_pool(places["borrower"], accelerator=PRETEND_CLASS, replicas=PRETEND_GPUS, drain=drain)
        await wait_ready(api, await api.create(burst))

        killing = asyncio.create_task(
            kill_again_and_again(operator, kills=KILLS, seed=SEED, longest_life_s=LONGEST_LIFE_S)
        )
        await api.create(build_pool(places["owner"], accelerator=PRETEND_CLASS, replicas=HALF, drain=drain))
        most = 0

        async def observe() -> tuple[int, int]:
            nonlocal most
            owner, borrower = [await count_admitted(api, places[name]) for name in ("owner", "borrower")]
            most = max(most, owner + borrower)
            return owner, borrower

        await eventually(
            "both have what is theirs", observe, lambda seen: seen == (HALF, HALF), timeout_s=180, poll_s=0.1
        )
        await killing
        await wait_for_tenant(api, "owner", "it has its own", accelerators=f"{HALF}/{HALF}", waiting=0)
        await wait_for_tenant(api, "borrower", "it keeps its guarantee", accelerators=f"{HALF}/{HALF}", waiting=HALF)
        assert await observe() == (HALF, HALF)
        assert most <= PRETEND_GPUS, "a GPU was given out twice"
