"""Story 11: load comes and goes, and the pool follows it from one replica to four and back. Not one request fails, and
each change of the number is explained."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from e2e.support.api import Api, Object
from e2e.support.asking import Target
from e2e.support.decisions import follow_decisions
from e2e.support.gateway import Gateway
from e2e.support.load import steady_load
from e2e.support.objects import build_model, build_pool, pool_selector, wait_ready
from e2e.support.operator import OperatorProcess
from e2e.support.source import Source
from e2e.support.waiting import eventually

pytestmark = [pytest.mark.timeout(600)]

SCALING = {"minReplicas": 1, "maxReplicas": 8, "target": {"queueDepth": 4}, "scaleDownDelaySeconds": 5}
BACKGROUND, BURST = 2, 14
"""Together 16 requests at a time, which is four replicas' worth."""


def explain(kubeconfig: Path, namespace: str) -> str:
    """What `llmos why` says."""
    command = [str(Path(sys.executable).with_name("llmos")), "why", "pool"]
    options = [f"--namespace={namespace}", f"--kubeconfig={kubeconfig}"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def wait_for_replicas(api: Api, namespace: str, count: int) -> None:
    """Wait until a pool has so many replicas, all ready, and the pods of others are gone."""

    async def observe() -> tuple[Object | None, int]:
        pods = await api.list("Pod", namespace, pool_selector("pool"))
        return await api.get("InferencePool", "pool", namespace), len(pods)

    def is_reached(seen: tuple[Object | None, int]) -> bool:
        status = (seen[0] or {}).get("status", {})
        return (status.get("desiredReplicas"), status.get("readyReplicas"), seen[1]) == (count, count, count)

    await eventually(f"{count} replicas", observe, is_reached, timeout_s=120)


async def test_a_pool_follows_its_load_and_no_request_fails(
    api: Api, operator: OperatorProcess, source: Source, namespace: str, gateway: Gateway, key: str, kubeconfig: Path
) -> None:
    await wait_ready(api, await api.create(build_model(namespace, f"{source.url}/tiny")))
    args = {"decode-step-ms": 20, "decode-step-ms-per-seq": 0}
    pool = build_pool(namespace, scaling=SCALING, args=args, drain={"timeoutSeconds": 30})
    await wait_ready(api, await api.create(pool))
    asked: Target = gateway.target(namespace, key)
    async with (
        follow_decisions(api, namespace) as decisions,
        steady_load(asked, streaming=1, whole=BACKGROUND - 1) as background,
    ):
        await background.wait_for_more(BACKGROUND)
        assert decisions.highest() == 1
        async with steady_load(asked, streaming=BURST // 2, whole=BURST - BURST // 2) as burst:
            await wait_for_replicas(api, namespace, 4)
            await burst.wait_for_more(2 * BURST)
        explained = await asyncio.to_thread(explain, kubeconfig, namespace)
        await wait_for_replicas(api, namespace, 1)
        await background.wait_for_more(BACKGROUND)

    assert not background.failures, background
    assert not burst.failures, burst
    assert decisions.highest() == 4, "no overshoot"
    assert "16" in explained or "queueDepth" in explained, explained
    changes = decisions.changes()
    assert [change.desired for change in changes if change.desired == 4] == [4], "up once"
    notes = [event["note"] for event in await api.list("Event", namespace) if event["regarding"]["name"] == "pool"]
    for change in changes:
        assert change.message
        assert any(change.message in note for note in notes), f"no Event tells of: {change}. There are {notes}"
