"""The process: what is started in which order, and how it ends.

Everything runs in one event loop. Start: HTTP server, wait for our kinds to be served, leader election, watches. A
standby does all of that too; only its queue is paused, so that it is warm when it becomes the leader and goes over
every key.

End, on SIGTERM or SIGINT: take no more work, let the running reconciles finish, release the lease, stop the watches. In
this order: the lease may only go when nothing here can write any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import signal
import socket
import time
import uuid
from collections.abc import Coroutine, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import aiohttp
import kopf

from llmos_operator.kube.aio import AioKube
from llmos_operator.kube.client import Kube
from llmos_operator.kube.config import Configuration, load_configuration, read_connection
from llmos_operator.kube.errors import KubeError
from llmos_operator.kube.resources import INFERENCE_POOLS
from llmos_operator.kube.stored import Memory, StoredKube
from llmos_operator.planning.settings import Settings
from llmos_operator.reconcilers.base import Context, Key
from llmos_operator.reconcilers.board import Board
from llmos_operator.reconcilers.budget_board import BudgetBoard
from llmos_operator.reconcilers.canary_board import CanaryBoard
from llmos_operator.reconcilers.quota_board import QUOTA, QuotaBoard
from llmos_operator.runtime.adapters import AdapterTeller
from llmos_operator.runtime.dispatch import Dispatcher, Reconcile
from llmos_operator.runtime.doors import DoorProber
from llmos_operator.runtime.engines import Engines
from llmos_operator.runtime.fetching import open_session
from llmos_operator.runtime.gateways import Gateways
from llmos_operator.runtime.handlers import OWN_KINDS, Router, build_kopf_settings, build_registry
from llmos_operator.runtime.health import HealthLimits, find_problems, serve_health
from llmos_operator.runtime.inflight import InFlightObserver
from llmos_operator.runtime.leader import Elector, LeaseTiming
from llmos_operator.runtime.load import LoadTask
from llmos_operator.runtime.metrics import Metrics
from llmos_operator.runtime.recorder import Recorder
from llmos_operator.runtime.references import DISCOVERY, References, build_work_key
from llmos_operator.runtime.resync import Resync, WatchCheck
from llmos_operator.runtime.workqueue import WorkQueue

LEASE_NAME: Final = "llmos-operator"
LEASE_REQUEST_TIMEOUT_S: Final = 4.0
PREFLIGHT_RETRY_S: Final = 5.0
KOPF_STOP_S: Final = 5.0
REST_S: Final = 0.1
EXIT_S: Final = 10.0
"""Longest time from the end of everything to the end of the process."""

_logger = logging.getLogger(__name__)


def _build_identity() -> str:
    # The host name says which pod; the rest tells it from an earlier container of the same pod.
    return f"{socket.gethostname()}_{uuid.uuid4().hex[:8]}"


@dataclass(frozen=True)
class Options:
    """How this process runs; what the reconciles need is in `Settings`."""

    kubeconfig: str = ""
    workers: int = 8
    resync_s: float = 600.0
    port: int = 8080
    """Of /healthz, /readyz and /metrics."""
    leader_election: bool = True
    identity: str = field(default_factory=_build_identity)
    gateway_urls: tuple[str, ...] = ()
    """Admin addresses of gateways that are not found by their label."""
    shutdown_s: float = 20.0
    """How long running reconciles may take to finish after SIGTERM."""
    lease: LeaseTiming = field(default_factory=LeaseTiming)
    health: HealthLimits = field(default_factory=HealthLimits)


class Operator:
    """One operator process. `run` returns when it was asked to stop, and raises if a part of it failed."""

    def __init__(self, settings: Settings, options: Options, reconcilers: Mapping[str, Reconcile]) -> None:
        self._settings = settings
        self._options = options
        self._reconcilers = reconcilers
        self._metrics = Metrics()
        self._references = References()
        self._memory = Memory(time.monotonic)
        self._board = Board()
        self._quota = QuotaBoard()
        self._budgets = BudgetBoard()
        self._canaries = CanaryBoard()
        self._recorder = Recorder()
        self._stop = asyncio.Event()
        self._kopf_stop = asyncio.Event()
        self._kopf_ready = asyncio.Event()

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT.

        Raises:
            NoClusterError: there is no cluster to talk to.
        """
        self._catch_signals()
        options = self._options
        async with AsyncExitStack() as stack:
            configuration = await load_configuration(options.kubeconfig, connections=max(32, 2 * options.workers))
            lease_kube = await stack.enter_async_context(
                AioKube(configuration, request_timeout_s=LEASE_REQUEST_TIMEOUT_S)
            )
            elector = Elector(
                lease_kube,
                name=LEASE_NAME,
                namespace=self._settings.namespace,
                identity=options.identity,
                on_change=self._on_leadership,
                clock=_read_clock_s,
                timing=options.lease,
            )
            kube = await stack.enter_async_context(
                AioKube(
                    configuration,
                    may_write=elector.may_write if options.leader_election else lambda: True,
                    on_write=self._metrics.count_write,
                    on_read=self._metrics.count_read,
                    freshness=self._memory.freshness,
                )
            )
            session = await stack.enter_async_context(aiohttp.ClientSession(trust_env=False))
            stored = StoredKube(kube, self._memory, self._metrics.count_remembered)
            self._queue = self._build_queue(stored, session)
            # Gateways' pods are the chart's, which no watch of ours tells of: they are listed afresh.
            self._load = self._build_load_task(kube, await stack.enter_async_context(open_session()))
            self._watch_check = WatchCheck(self._references, self._queue, kube, OWN_KINDS, on_missed=self._on_missed)
            port = await stack.enter_async_context(
                serve_health(
                    options.port,
                    problems=self._find_problems,
                    is_ready=self._kopf_ready.is_set,
                    metrics=self._metrics,
                    read_scaling=lambda namespace, pool: self._recorder.read(
                        Key(INFERENCE_POOLS.kind, namespace, pool)
                    ),
                )
            )
            _logger.info("Health and metrics are served on port %d.", port)
            await self._run_parts(configuration, kube, elector)

    def _build_queue(self, kube: Kube, session: aiohttp.ClientSession) -> WorkQueue[Key]:
        context = Context(
            kube=kube,
            settings=self._settings,
            now=lambda: datetime.now(UTC),
            observe_in_flight=InFlightObserver(session).observe,
            tell_adapters=AdapterTeller(session).tell,
            probe_doors=DoorProber().probe,
            board=self._board,
            quota=self._quota,
            budgets=self._budgets,
            canaries=self._canaries,
        )
        dispatcher = Dispatcher(context, self._reconcilers, self._metrics)
        queue = WorkQueue(
            dispatcher.process,
            workers=self._options.workers,
            on_failure=dispatcher.on_failure,
            own_workers=frozenset({QUOTA}),
            rest_s=REST_S,
            rest_of=dispatcher.take_rest_s,
        )
        self._metrics.watch_queue(lambda: queue.depth, queue.oldest_waiting_s, lambda: queue.running)
        self._quota.on_news = queue.add
        self._budgets.on_news = queue.add
        self._quota.on_pass = self._metrics.observe_quota
        queue.pause()
        return queue

    def _build_load_task(self, kube: AioKube, session: aiohttp.ClientSession) -> LoadTask:
        gateways = Gateways(
            session,
            kube,
            namespace=self._settings.namespace,
            urls=self._options.gateway_urls,
            is_needed=lambda: bool(self._board.pools) or self._budgets.is_needed() or self._canaries.is_needed(),
        )
        return LoadTask(
            self._board,
            self._queue,
            gateways,
            Engines(session),
            metrics=self._metrics,
            recorder=self._recorder,
            now=lambda: datetime.now(UTC),
            unschedulable_after_s=self._settings.withdraw_after_s,
            budgets=self._budgets,
            canaries=self._canaries,
        )

    async def _run_parts(self, configuration: Configuration, kube: AioKube, elector: Elector) -> None:
        parts: dict[str, Coroutine[Any, Any, None]] = {"signals": _wait(self._stop)}
        if not await self._wait_for_kinds(kube):
            return
        if self._options.leader_election:
            parts["leader election"] = elector.run()
        parts["resync"] = Resync(self._references, self._queue, interval_s=self._options.resync_s).run()
        parts["watch check"] = self._watch_check.run()
        parts["load"] = self._load.run()
        parts["watches"] = self._run_kopf(configuration)
        tasks = {asyncio.create_task(part, name=name) for name, part in parts.items()}
        if not self._options.leader_election:
            self._on_leadership(True)
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await self._shut_down(tasks, elector)
        errors = [task.exception() for task in done]
        # A task that ignores its cancellation must not keep the process.
        asyncio.get_running_loop().call_later(EXIT_S, os._exit, int(any(errors)))
        for task, error in zip(done, errors, strict=True):
            if error:
                _logger.error("The part %r failed.", task.get_name(), exc_info=error)
                raise error

    async def _shut_down(self, tasks: set[asyncio.Task[None]], elector: Elector) -> None:
        _logger.info("Stopping: %d reconciles are running.", self._queue.running)
        if not await self._queue.drain(self._options.shutdown_s):
            _logger.warning("Reconciles were cut off after %g s.", self._options.shutdown_s)
        await _cancel({task for task in tasks if task.get_name() == "leader election"})
        if self._options.leader_election:
            await elector.release()
        await _cancel(tasks)
        _logger.info("Stopped.")

    async def _run_kopf(self, configuration: Configuration) -> None:
        router = Router(
            self._references, self._queue, self._metrics.count_event, self._memory.see, self._quota.doubt_nodes
        )
        login = functools.partial(read_connection, configuration)
        self._queue.add(DISCOVERY)
        # Not `kopf.operator`: when a watch fails it waits for all others, which may wait for a login that never comes.
        tasks = await kopf.spawn_tasks(
            registry=build_registry(router, login, self._memory.miss),
            settings=build_kopf_settings(),
            clusterwide=True,
            standalone=True,
            stop_flag=self._kopf_stop,
            ready_flag=self._kopf_ready,
        )
        # kopf has taken the signals for itself, and would stop the watches before the reconciles.
        self._catch_signals()
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self._kopf_stop.set()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=KOPF_STOP_S)

    async def _wait_for_kinds(self, kube: AioKube) -> bool:
        """Wait until the API server serves our kinds to us; False if we were asked to stop before."""
        while not self._stop.is_set():
            try:
                for resource in OWN_KINDS:
                    await kube.list_versions(resource)
            except KubeError as error:
                _logger.error("Our kinds cannot be read yet, again in %g s: %s", PREFLIGHT_RETRY_S, error)
            else:
                return True
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), PREFLIGHT_RETRY_S)
        return False

    def _on_leadership(self, is_leader: bool) -> None:
        self._metrics.set_leader(is_leader)
        if is_leader:
            self._memory.forget()
            self._quota.forget()
            for key in {DISCOVERY, QUOTA, *map(build_work_key, self._references.keys())}:
                self._queue.add_after(key, 0.0)
            self._queue.resume()
            self._load.set_leader(True)
        else:
            self._load.set_leader(False)
            self._queue.pause()
            self._queue.abort()

    def _on_missed(self, key: Key) -> None:
        self._metrics.count_missed(key.kind)
        self._memory.doubt(*key)

    def _find_problems(self) -> list[str]:
        return find_problems(
            oldest_waiting_s=self._queue.oldest_waiting_s(),
            longest_run_s=self._queue.longest_run_s(),
            is_watch_silent=self._watch_check.is_watch_silent,
            limits=self._options.health,
        )

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


async def _cancel(tasks: set[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait for their end, but not for ever: one that ignores it must not keep the process."""
    for task in tasks:
        task.cancel()
    ended, late = await asyncio.wait(tasks, timeout=EXIT_S) if tasks else (set(), set())
    for task in late:
        _logger.error("The part %r did not end within %g s.", task.get_name(), EXIT_S)
    for task in ended:
        if not task.cancelled():
            task.exception()


def _read_clock_s() -> float:
    # Unlike the monotonic clock it goes on while the machine is suspended, when others may take the lease.
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)
