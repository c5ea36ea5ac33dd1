"""Gateways and replicas that speak the words of `llmos.api.load` on loopback, and an autoscaler that reads them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import web

from llmos.api.load import EngineLoad, GatewayLoad, PoolLoad
from llmos.api.scaling import Scaling, ScalingStatus
from llmos_operator.kube.resources import INFERENCE_POOLS
from llmos_operator.planning.replicas import Replica, ReplicaState
from llmos_operator.planning.sampling import ScaledPool
from llmos_operator.reconcilers.board import Board
from llmos_operator.reconcilers.keys import Key
from llmos_operator.runtime.engines import Engines
from llmos_operator.runtime.fetching import open_session
from llmos_operator.runtime.gateways import Gateways
from llmos_operator.runtime.load import LoadTask
from llmos_operator.runtime.metrics import Metrics
from llmos_operator.runtime.recorder import Recorder
from tests.operator.fake_kube import FakeKube

KEY = Key(INFERENCE_POOLS.kind, "team", "chat")
POOL_ID = "team/chat"
BORN = datetime(2026, 1, 1, tzinfo=UTC)


@asynccontextmanager
async def serve(handler: Any, port: int = 0, *, host: str = "127.0.0.1") -> AsyncIterator[int]:
    """Answer GET /load on loopback; yield the port."""
    app = web.Application()
    app.add_routes([web.get("/load", handler)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


class FakeGateway:
    """One gateway: what it holds is set by the test, and its sequence grows with each urgent change."""

    def __init__(self) -> None:
        self.boot = uuid.uuid4().hex
        self.pools: dict[str, PoolLoad] = {}
        self.sequence = 0
        self.asked = 0
        self.is_deaf = False
        self.is_babbling = False
        self._changed = asyncio.Condition()

    async def tell(self, *, pool_id: str = POOL_ID, **figures: Any) -> None:
        """Say something of the pool that cannot wait."""
        async with self._changed:
            self.pools[pool_id] = self.pools.get(pool_id, PoolLoad()).model_copy(update=figures)
            self.sequence += 1
            self._changed.notify_all()

    async def load(self, request: web.Request) -> web.Response:
        self.asked += 1
        if self.is_babbling:
            return web.Response(text="Hello")
        wait_s, seen = float(request.query.get("wait_s", 0)), int(request.query.get("seen", -1))
        async with self._changed:
            try:
                async with asyncio.timeout(wait_s):
                    await self._changed.wait_for(lambda: self.sequence != seen)
            except TimeoutError:
                pass
        # Here, so that one that has become deaf does not answer what it was asked before either.
        if self.is_deaf:
            await asyncio.sleep(30)
        load = GatewayLoad(gateway="g", boot=self.boot, sequence=self.sequence, pools=self.pools)
        return web.Response(text=load.model_dump_json(by_alias=True), content_type="application/json")


@dataclass
class FakeReplica:
    """One replica and what its engine says."""

    name: str
    address: str = ""
    figures: dict[str, Any] = field(default_factory=dict)
    answer: str | None = None
    """What it says instead of a load."""
    asked: int = 0

    async def load(self, _: web.Request) -> web.Response:
        self.asked += 1
        if self.answer is not None:
            return web.Response(text=self.answer)
        load = EngineLoad(ready=True, boot=self.name, **self.figures)
        return web.Response(text=load.model_dump_json(by_alias=True), content_type="application/json")


class Queue:
    """Where keys go."""

    def __init__(self) -> None:
        self.keys: list[Key] = []

    def add(self, key: Key) -> None:
        self.keys.append(key)


class LoadWorld:
    """An autoscaler with its board, and helpers that play the reconcile."""

    def __init__(self, kube: FakeKube, gateways: Gateways, engines: Engines) -> None:
        self.kube = kube
        self.board, self.queue, self.metrics, self.recorder = Board(), Queue(), Metrics(), Recorder()
        self.gateways = gateways
        self.replicas: dict[str, FakeReplica] = {}
        self.starting: list[Replica] = []
        self.scaling = Scaling()
        self.desired = 0
        self.decided: ScalingStatus | None = None
        self.revision = "r1"
        self.now = BORN + timedelta(hours=1)
        self.task = LoadTask(
            self.board,
            self.queue,
            gateways,
            engines,
            metrics=self.metrics,
            recorder=self.recorder,
            now=lambda: self.now,
            unschedulable_after_s=60,
        )

    def reconcile(self, **scaling: Any) -> None:
        """Publish the pool as its reconcile would, after it followed the last decision."""
        if scaling:
            self.scaling = Scaling.model_validate(scaling)
        if (decision := self.board.decision(KEY)) is not None:
            self.desired, self.decided = decision.desired, decision
        ready = [
            Replica(name, 0, self.revision, ReplicaState.READY, BORN, was_ready=True, ready_at=BORN)
            for name in self.replicas
        ]
        self.board.publish(
            KEY,
            ScaledPool(
                scaling=self.scaling,
                revision=self.revision,
                desired=self.desired,
                decided=self.decided,
                replicas=(*ready, *self.starting),
                addresses={name: replica.address for name, replica in self.replicas.items()},
            ),
        )

    async def turn(self, times: int = 1) -> ScalingStatus | None:
        """Let the autoscaler decide; return what stands on the board."""
        for _ in range(times):
            # Figures that are read within the same tick of the clock are the same figures.
            await asyncio.sleep(0.005)
            await self.task.take_turn()
        return self.board.decision(KEY)

    async def hear(self, *gateways: FakeGateway) -> None:
        """Wait until what these gateways say now has been heard."""
        said = {gateway.boot: gateway.pools[POOL_ID] for gateway in gateways}
        await wait_until(lambda: said.items() <= self.heard().items())

    def heard(self) -> dict[str, PoolLoad]:
        """What has been heard of the pool, by the life of the gateway."""
        readings = self.gateways.read(POOL_ID, asyncio.get_running_loop().time()).values()
        return {reading.boot: reading.load for reading in readings if reading is not None}


async def wait_until(is_so: Any, within_s: float = 10.0) -> None:
    async with asyncio.timeout(within_s):
        while not is_so():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


@asynccontextmanager
async def open_world(*gateways: FakeGateway, replicas: int = 0) -> AsyncIterator[LoadWorld]:
    """An autoscaler that follows these gateways, and a pool with so many replicas that answer."""
    async with AsyncExitStack() as stack:
        ports = [await stack.enter_async_context(serve(gateway.load)) for gateway in gateways]
        session = await stack.enter_async_context(open_session())
        urls = tuple(f"http://127.0.0.1:{port}" for port in ports)
        kube = FakeKube()
        world = LoadWorld(kube, Gateways(session, kube, namespace="llmos-system", urls=urls), Engines(session))
        for number in range(replicas):
            replica = FakeReplica(f"chat-{number}")
            replica.address = f"127.0.0.1:{await stack.enter_async_context(serve(replica.load))}"
            world.replicas[replica.name] = replica
        asking = asyncio.create_task(world.gateways.run())
        stack.push_async_callback(_end, asking)
        await wait_until(lambda: world.gateways.are_known)
        yield world


async def _end(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
