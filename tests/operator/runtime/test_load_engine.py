"""The whole way of the figures: a real replica (serve with the simulator as its engine), read by the load task."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from e2e.cluster.controlplane import find_free_ports
from llmos_operator.planning.scaling_record import read_records
from tests.operator.runtime.load_world import KEY, FakeGateway, FakeReplica, LoadWorld, open_world

STEP_MS = 20.0
PER_SEQUENCE_MS = 1.0


@asynccontextmanager
async def run_replica(folder: Path) -> AsyncIterator[tuple[str, str]]:
    """Start a replica; yield the addresses of its engine and of its control port once it is ready."""
    port, control_port = find_free_ports(2)
    own = (
        f"--engine=simulator --model-dir=none --served-model-name=m --host=127.0.0.1 --port={port} "
        f"--control-port={control_port} --settle-s=0.1 --drain-timeout-s=1 --termination-log={folder / 'log'} -- "
        f"--decode-step-ms={STEP_MS} --decode-step-ms-per-seq={PER_SEQUENCE_MS}"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "llmos_workers.serve", *own.split()),
        env={**os.environ, "LLMOS_DRAIN_FILE": str(folder / "draining")},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        await wait_ready(f"http://127.0.0.1:{control_port}/readyz")
        yield f"127.0.0.1:{port}", f"127.0.0.1:{control_port}"
    finally:
        process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.wait(), 30)


async def wait_ready(url: str) -> None:
    async with asyncio.timeout(30), aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(url) as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)


async def ask_forever(address: str) -> None:
    """One client that asks again as soon as it has its answer."""
    body = {"prompt": "Hello", "max_tokens": 100}
    async with aiohttp.ClientSession() as session:
        while True:
            async with session.post(f"http://{address}/v1/completions", json=body) as response:
                await response.read()


@asynccontextmanager
async def put_load_on(address: str, clients: int) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(ask_forever(address)) for _ in range(clients)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def run_task(world: LoadWorld) -> AsyncIterator[None]:
    world.task.set_leader(True)
    running = asyncio.create_task(world.task.run())
    try:
        yield
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.mark.timeout(120)
async def test_what_a_replica_can_do_is_learned_from_what_it_really_does(tmp_path: Path) -> None:
    """The gateway sees none of this traffic: figures, units and ages all come from the engine."""
    gateway = FakeGateway()
    async with run_replica(tmp_path) as (engine, control), open_world(gateway) as world:
        world.replicas["chat-0"] = FakeReplica("chat-0", address=control)
        world.desired = 1
        world.reconcile(target={"utilization": 0.8})
        async with run_task(world):
            async with put_load_on(engine, 2):
                await asyncio.sleep(6)
            async with put_load_on(engine, 16):
                await asyncio.sleep(7)
            records = list(read_records((world.recorder.read(KEY) or b"").decode().splitlines()))
        busy = [r for record in records for r in record.sample.replicas if r.running == 16]
        assert busy, "the engine's load is seen although no gateway knows of it"
        assert records[-1].sample.stale == ()
        learned = records[-1].capacity
        # A step of 16 sequences takes 36 ms, and on a machine that has other things to do it takes longer.
        steps = sorted(replica.steps for replica in busy)[len(busy) // 2]
        assert 1 <= steps <= 31
        assert all(replica.generation_tokens <= 16 * (replica.steps + 1) for replica in busy)
        assert learned.samples >= 8
        assert learned.step_milliseconds > 0.3 * STEP_MS
        assert learned.decode_tokens_per_second > 0


def read_desired(world: LoadWorld) -> list[int]:
    return [record.desired for record in read_records((world.recorder.read(KEY) or b"").decode().splitlines())]


@pytest.mark.timeout(120)
async def test_a_step_of_load_that_bypasses_the_gateway_orders_what_it_needs_without_overshoot(tmp_path: Path) -> None:
    gateway = FakeGateway()
    async with run_replica(tmp_path) as (engine, control), open_world(gateway) as world:
        world.replicas["chat-0"] = FakeReplica("chat-0", address=control)
        world.desired = 1
        world.reconcile(target={"queueDepth": 4}, scaleDownDelaySeconds=2)
        async with run_task(world):
            async with put_load_on(engine, 16):
                await asyncio.sleep(4)
            async with asyncio.timeout(60):
                while (desired := read_desired(world))[-1] != 1:  # noqa: ASYNC110 - a busy machine ends it later
                    await asyncio.sleep(0.5)
        assert max(desired) == 4
        assert (desired[0], desired[-1]) == (1, 1)
