"""Story 2: three replicas under steady load; an argument changes, then the pool shrinks to one. No request fails, and
there is never a replica too many nor too few."""

from __future__ import annotations

import pytest

from e2e.support.api import Api
from e2e.support.operator import OperatorProcess
from e2e.support.rollout import roll_out_and_scale_down, start_pool
from e2e.support.source import Source

pytestmark = [pytest.mark.core, pytest.mark.timeout(600)]


async def test_a_rollout_and_a_scale_down_fail_no_request(
    api: Api, operator: OperatorProcess, source: Source, namespace: str
) -> None:
    await start_pool(api, namespace, f"{source.url}/tiny")
    report = await roll_out_and_scale_down(api, namespace)
    assert not report.failures, report
