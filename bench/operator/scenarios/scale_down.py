"""Scale 4 -> 1 under 16 streams of 5 s through the pool's Service, on a real node. KubeAI's method, step 5.

16 closed-loop clients, starts spread over 5 s. After 12 s the pool is scaled to 1, and the load goes on for 45 s: past
the 30 s of grace at whose end KubeAI cut what was running. Clients keep their connections, as real ones do, and never
retry: a stream fails if its status is not 200, its connection breaks, or `[DONE]` is missing.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from bench.operator.figures import Outcome, Row
from bench.operator.real_pool import READY_TIMEOUT_S, RealPool, open_pool
from bench.operator.waiting import wait_until
from llmos_operator.kube.resources import SERVICES

CLIENTS = 16
STREAM_TOKENS = 50
"""At 100 ms each: 5 s a stream."""
BEFORE_S, AFTER_S = 12.0, 45.0
SPREAD_S = 5.0
PAUSE_S = 0.05
NAMESPACE = "bench-scale-down"
POOL = "streams"


@dataclass
class _Tally:
    finished: int = 0
    failures: Counter[str] = field(default_factory=Counter)


async def measure(kubeconfig: Path) -> Outcome:
    """Make the pool on the cluster of `kubeconfig`, where LLMOS runs already; remove it at the end."""
    async with open_pool(kubeconfig, NAMESPACE, POOL) as pool:
        await pool.start(replicas=4)
        await pool.wait_for_ready(4)
        return await _run(pool)


async def _run(pool: RealPool) -> Outcome:
    service = await pool.kube.get(SERVICES, POOL, NAMESPACE)
    assert service is not None
    url = f"http://{service['spec']['clusterIP']}/v1/chat/completions"
    tally, stop = _Tally(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for index in range(CLIENTS):
            group.create_task(_stream_until(stop, url, tally, index * SPREAD_S / CLIENTS))
        await asyncio.sleep(BEFORE_S)
        patched_s = time.perf_counter()
        await pool.kube.apply(pool.build(replicas=1), field_manager="bench")
        one_left = group.create_task(_wait_for_pods(pool, 1))
        await asyncio.sleep(AFTER_S)
        stop.set()
    gone_s = one_left.result() - patched_s
    failed = sum(tally.failures.values())
    rows = (
        Row(
            "scale-down",
            f"4 -> 1 under {CLIENTS} streams of 5 s, load goes on {AFTER_S:.0f} s: failed",
            f"{failed} of {failed + tally.finished}",
            "0",
            failed == 0,
            "KubeAI, server drains: 44 of 198 (12 cut, 32 x 502); server exits at once: 45 of 108",
        ),
        Row("scale-down", "scaled -> one Pod left", f"{gone_s:.1f} s"),
    )
    return Outcome(rows, {"finished": tally.finished, "failures": dict(tally.failures), "one_pod_left_s": gone_s})


async def _wait_for_pods(pool: RealPool, count: int) -> float:
    async def ask() -> bool:
        return await pool.count_pods() <= count

    await wait_until(ask, what="The end of the replicas that were scaled away", timeout_s=READY_TIMEOUT_S)
    return time.perf_counter()


async def _stream_until(stop: asyncio.Event, url: str, tally: _Tally, delay_s: float) -> None:
    await asyncio.sleep(delay_s)
    timeout = aiohttp.ClientTimeout(total=60.0)
    async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
        while not stop.is_set():
            failure = await _stream(session, url)
            if failure:
                tally.failures[failure] += 1
                await asyncio.sleep(PAUSE_S)
            else:
                tally.finished += 1


async def _stream(session: aiohttp.ClientSession, url: str) -> str:
    """Return what went wrong, or nothing."""
    body = {
        "model": POOL,
        "messages": [{"role": "user", "content": "Count."}],
        "max_tokens": STREAM_TOKENS,
        "stream": True,
    }
    try:
        async with session.post(url, json=body) as response:
            if response.status != 200:
                return f"status {response.status}"
            lines = [line.strip() async for line in response.content]
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        return type(error).__name__
    return "" if b"data: [DONE]" in lines else "no [DONE]"
