"""Story 3: story 2 again, while the operator is killed at ten random moments. It ends as if nothing had happened:
nothing doubled, nothing orphaned, no request failed."""

from __future__ import annotations

import asyncio

import pytest

from e2e.support.api import Api
from e2e.support.objects import pool_selector
from e2e.support.operator import OperatorProcess, kill_again_and_again
from e2e.support.rollout import roll_out_and_scale_down, start_pool
from e2e.support.source import Source

pytestmark = [pytest.mark.core, pytest.mark.timeout(900)]

KILLS = 10
SEED = 3
LONGEST_LIFE_S = 6.0


async def test_an_operator_that_is_killed_ten_times_ends_where_it_would_have_ended(
    api: Api, operator: OperatorProcess, source: Source, namespace: str
) -> None:
    pool = await start_pool(api, namespace, f"{source.url}/tiny")
    killing = asyncio.create_task(kill_again_and_again(operator, kills=KILLS, seed=SEED, longest_life_s=LONGEST_LIFE_S))
    report = await roll_out_and_scale_down(api, namespace)
    await killing
    assert not report.failures, report

    owner = pool["metadata"]["uid"]
    (pod,) = await api.list("Pod", namespace, pool_selector("pool"))
    (service,) = await api.list("Service", namespace)
    for child in (pod, service):
        assert [reference["uid"] for reference in child["metadata"]["ownerReferences"]] == [owner]
    assert await api.list("Job", namespace) == [], "the inspect Job went when its facts were written"
