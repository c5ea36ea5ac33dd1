"""The process: what is started in which order, and how it ends.

Everything runs in one event loop; more gateways are more processes. Start: the admin server, the watches of the
catalog, the public server. Requests are taken at once and answered 503 until the catalog has been read; readiness says
so to the Service.

End, on SIGTERM or SIGINT: not ready, and every answer that begins closes its connection; go on for `settle_s`, until
Services and load balancers have forgotten this process; take no more connections; let what runs finish, and connections
go that were not told, up to `drain_s`; tell what is left that the gateway ends (503, or an error event), and go.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import os
import resource
import secrets
import signal
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

import aiohttp

from llmos.api.load import PoolLoad, TokenUse
from llmos.api.tenancy import read_account
from llmos_gateway.budget_store import BudgetStore, Journal, JournalError, LocalStore
from llmos_gateway.catalog import Catalog
from llmos_gateway.holding import Holding
from llmos_gateway.http.admin import serve_admin
from llmos_gateway.http.connections import ConnectionLimits
from llmos_gateway.http.public import SWEEP_S, PublicServer
from llmos_gateway.http.tls import TlsFiles
from llmos_gateway.limits import MILLI, Use
from llmos_gateway.load import CanaryBook, LoadBook, Reports, build_load_handler
from llmos_gateway.load.months import MonthBook
from llmos_gateway.load.reports import HttpFetch
from llmos_gateway.metrics import Metrics
from llmos_gateway.protocol.errors import TimeLimitError
from llmos_gateway.proxy.accounts import Accounts
from llmos_gateway.proxy.budgets import Budgets
from llmos_gateway.proxy.call import Call
from llmos_gateway.proxy.limits import Limits
from llmos_gateway.proxy.order import Tools
from llmos_gateway.proxy.road import Road
from llmos_gateway.proxy.tracing import Tracer
from llmos_gateway.proxy.upstream import Upstream
from llmos_gateway.queueing import Queueing
from llmos_gateway.runtime.access_log import AccessLog
from llmos_gateway.runtime.clashes import Clashes
from llmos_gateway.runtime.memory import find_memory_warning, read_limit_bytes
from llmos_gateway.runtime.recording import CallRecorder
from llmos_gateway.runtime.tracing import build_exporting_tracer, is_tracing_wanted
from llmos_gateway.salts import MIN_SECRET_BYTES, CacheSalts

CLOSE_S: Final = 2.0
"""For the last bytes of the last answers."""
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_COLLECT_AFTER: Final = (5_000, 20, 20)
"""Objects that stay, and younger collections, after which the collector looks for cycles. Requests leave none, but what
they hold while they are answered makes it look again and again by Python's own 700."""

_OWN_SALT: Final = (
    "There is no --cache-salt-secret-file, so the salt of cached prompts is this process's own: other gateways do not "
    "find what engines cached for its callers, nor does this one after a restart."
)

_logger = logging.getLogger(__name__)


class Watch(Protocol):
    """Keeps the catalog up to date: `cluster.ClusterWatch` or `cluster.StaticWatch`."""

    async def run(self) -> None:
        """Follow until cancelled."""

    def peers(self) -> list[str]:
        """Return the admin addresses of the other gateways."""


@dataclass(frozen=True)
class Options:
    """How this process runs."""

    host: str | None = None
    """None: all addresses."""
    port: int = 8080
    admin_port: int = 8081
    name: str = field(default_factory=lambda: os.environ.get("HOSTNAME", "gateway"))
    """Of this gateway's pod."""
    asks_for_key: bool = True
    certificate: Path | None = None
    key: Path | None = None
    access_log: BinaryIO | None = None
    """Where a line for each request is written; None writes none."""
    cache_salt_secret: bytes | None = None
    """The same in all gateways; None makes one for this process."""
    budget_journal: Path | None = None
    """Where used tokens of tenants outlive the process; None forgets them."""
    budget_store: str = ""
    """URL of the Valkey or Redis in which all gateways count them; empty: this process counts alone."""
    budget_away_s: float = 30.0
    """How long requests of tenants with a budget go on without it."""
    settle_s: float = 5.0
    drain_s: float = 120.0
    sweep_s: float = SWEEP_S
    limits: Limits = field(default_factory=Limits)
    connections: ConnectionLimits = field(default_factory=ConnectionLimits)


class Gateway:
    """One gateway process. `run` returns when it was asked to stop, and raises if a part of it failed.

    Args:
        options: how it runs.
        catalog: what it knows.
        watch: keeps the catalog up to date.
    """

    def __init__(self, options: Options, catalog: Catalog, watch: Watch) -> None:
        self.ports: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()
        """The public and the admin port, once both are open."""
        self._options = options
        self._catalog = catalog
        self._watch = watch
        self._clock = time.monotonic
        self._metrics = Metrics()
        self._book = LoadBook(clock=self._clock)
        self._months = MonthBook()
        self._canaries = CanaryBook(catalog)
        self._stop = asyncio.Event()
        self._is_ending = False

    def stop(self) -> None:
        """Begin to end, as SIGTERM does."""
        self._stop.set()

    async def run(self) -> None:
        """Run until stopped."""
        async with AsyncExitStack() as stack:
            session = await stack.enter_async_context(aiohttp.ClientSession(trust_env=False))
            reports = Reports(
                self._catalog, self._book, peers=self._watch.peers, fetch=HttpFetch(session), gateway=self._options.name
            )
            tracer = self._build_tracer(stack)
            tools = await self._build_tools(stack, reports, tracer)
            reports.listen(tools.queueing.tell, tools.queueing.find_awaited)
            reports.listen_to_peers(tools.accounts.learn)
            salts = CacheSalts(self._options.cache_salt_secret or secrets.token_bytes(MIN_SECRET_BYTES))
            store = await self._open_budgets(stack)
            road = Road(
                tools,
                self._build_recorder(stack),
                salts,
                asks_for_key=self._options.asks_for_key,
                budgets=Budgets(self._catalog, store, self._metrics),
            )
            server = PublicServer(
                road,
                self._options.connections,
                clock=self._clock,
                on_begin=_build_trace_begin(tracer) if tracer is not None else None,
                on_refused=self._metrics.count_refused_connection,
            )
            self._watch_gauges(road, server, tools.queueing)
            self._watch_budgets(store)
            await self._open(stack, server, store, tools.accounts)
            self._warn()
            await self._run_parts(
                {
                    "catalog": self._watch.run(),
                    "reports": reports.run(),
                    "budgets": store.run(),
                    "sweep": self._sweep(road, server, tools, store),
                    "end": self._end(road, server),
                }
            )

    def _warn(self) -> None:
        if self._options.cache_salt_secret is None:
            _logger.warning(_OWN_SALT)
        if warning := find_memory_warning(self._options.limits, read_limit_bytes()):
            _logger.warning(warning)

    def _build_tracer(self, stack: AsyncExitStack) -> Tracer | None:
        if not is_tracing_wanted(os.environ):
            return None
        tracer = build_exporting_tracer()
        stack.push_async_callback(asyncio.to_thread, tracer.close)
        return tracer

    async def _build_tools(self, stack: AsyncExitStack, reports: Reports, tracer: Tracer | None) -> Tools:
        limits, extra = self._options.limits, reports.extra
        return Tools(
            catalog=self._catalog,
            holding=Holding(self._catalog, self._book, clock=self._clock),
            queueing=Queueing(self._catalog, self._book, others=extra, clock=self._clock),
            accounts=Accounts(self._catalog, self._book, extra=extra, clock=self._clock, is_told=reports.is_told),
            canaries=self._canaries,
            upstream=await stack.enter_async_context(Upstream(limits)),
            limits=limits,
            metrics=self._metrics,
            clock=self._clock,
            tracer=tracer,
        )

    async def _open_budgets(self, stack: AsyncExitStack) -> BudgetStore:
        options = self._options
        store: BudgetStore
        if options.budget_store:
            # Its client is loaded only where there is a server.
            shared = importlib.import_module("llmos_gateway.budget_store.shared")
            store = shared.SharedStore(options.budget_store, away_s=options.budget_away_s)
        else:
            store = local = LocalStore(Journal(options.budget_journal) if options.budget_journal else None)
            try:
                await asyncio.to_thread(local.start)
            except JournalError as error:
                _logger.error("%s Until then tenants with limits are refused, and it is tried again.", error)
        stack.push_async_callback(store.close)
        return store

    def _watch_budgets(self, store: BudgetStore) -> None:
        def read(value: Callable[[Use], int]) -> list[tuple[str, str, float]]:
            # Of two of one name only that which exists.
            uses = ((account, use) for account, windows in store.read().items() for use in windows)
            return [
                (read_account(account), use.window, value(use) / MILLI)
                for account, use in uses
                if self._catalog.is_current(account)
            ]

        self._metrics.watch_budgets(
            "budget_used_tokens",
            "Weighted tokens of a tenant in this window, reserved ones included.",
            lambda: read(lambda use: use.used),
        )
        self._metrics.watch_budgets(
            "budget_reserved_tokens", "Of these, reserved by running requests.", lambda: read(lambda use: use.held)
        )

    def _build_recorder(self, stack: AsyncExitStack) -> CallRecorder:
        add_line = None
        if self._options.access_log is not None:
            log = AccessLog(self._options.access_log, on_dropped=self._metrics.count_dropped_lines)
            add_line = stack.enter_context(log).add
        return CallRecorder(self._metrics, self._months, add_line, clock=self._clock)

    def _watch_gauges(self, road: Road, server: PublicServer, queueing: Queueing) -> None:
        metrics = self._metrics
        metrics.watch("requests_in_flight", "Requests on the road, held ones included.", lambda: len(road.calls))
        metrics.watch("connections", "Open connections of callers.", lambda: server.connections)
        metrics.watch_requests(
            "held_requests",
            "Requests that wait for a replica, or for their turn.",
            lambda: (
                (call.pool.id, call.pool.model, call.key.tenant)
                for call in road.calls
                if call.waits and call.pool and call.key
            ),
        )
        metrics.watch_pools(
            "running_requests", "Requests on a replica.", lambda: self._count(lambda load: load.running)
        )
        metrics.watch_pools(
            "dispatch_window", "Requests of this gateway that go to the replicas at once.", queueing.read_windows
        )
        self._catalog.subscribe(self._forget_gone)
        self._catalog.subscribe(Clashes(self._catalog).tell)

    def _count(self, read: Callable[[PoolLoad], int]) -> dict[str, float]:
        return {pool_id: read(load) for pool_id, load in self._book.build("", "").pools.items()}

    def _forget_gone(self, pool_id: str) -> None:
        pool = self._catalog.get_pool(pool_id)
        if pool is None:
            self._metrics.forget_pool(pool_id)
        else:
            self._metrics.retain_models(pool_id, {pool.model, *(adapter.name for adapter in pool.adapters)})

    async def _open(self, stack: AsyncExitStack, server: PublicServer, store: BudgetStore, accounts: Accounts) -> None:
        options = self._options
        load = build_load_handler(
            self._book,
            gateway=options.name,
            boot=secrets.token_hex(8),
            read_tenants=partial(_read_tenants, store),
            read_months=self._months.read,
            shares_budgets=store.is_shared,
            canaries=self._canaries,
            read_conversations=accounts.tell,
        )
        admin_port = await stack.enter_async_context(
            serve_admin(
                options.host,
                options.admin_port,
                find_reason_not_ready=self._find_reason_not_ready,
                metrics=self._metrics,
                load=load,
            )
        )
        self._tls = TlsFiles(options.certificate, options.key) if options.certificate and options.key else None
        port = await server.start(options.host, options.port, self._tls.context if self._tls else None)
        stack.push_async_callback(server.stop, CLOSE_S)
        _raise_file_limit()
        # What lives as long as the process need not be looked at by the collector again and again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_COLLECT_AFTER)
        _logger.info("Requests are taken on port %d, probes on port %d.", port, admin_port)
        self.ports.set_result((port, admin_port))

    async def _run_parts(self, parts: dict[str, Coroutine[Any, Any, None]]) -> None:
        """Run until one of the parts ends: normally the one that waits for the end."""
        if self._tls is not None:
            parts["tls"] = self._tls.watch()
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self.stop)
        tasks = {asyncio.create_task(part, name=name) for name, part in parts.items()}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for number in _SIGNALS:
                loop.remove_signal_handler(number)
        for task in done:
            if not task.cancelled() and (error := task.exception()):
                _logger.error("The part %r failed.", task.get_name(), exc_info=error)
                raise error

    async def _sweep(self, road: Road, server: PublicServer, tools: Tools, store: BudgetStore) -> None:
        limit_s = self._options.limits.request_timeout_s
        while True:
            await asyncio.sleep(self._options.sweep_s)
            server.sweep()
            tools.accounts.sweep()
            tools.accounts.gateways = tools.queueing.gateways = store.gateways = 1 + len(self._watch.peers())
            since_s = self._clock() - limit_s
            for account in self._catalog.find_gone((*store.read(), *self._months.read())):
                store.forget(account)
                if not self._catalog.is_current(account):
                    self._months.forget(account)
            for call in [call for call in road.calls if call.arrived_s < since_s]:
                call.interrupt(TimeLimitError(f"The answer took longer than {limit_s:g} s.", "time_limit"))

    async def _end(self, road: Road, server: PublicServer) -> None:
        await self._stop.wait()
        options = self._options
        self._is_ending = road.is_closing = True
        _logger.info("Ending: %d requests are in flight.", len(road.calls))
        await asyncio.sleep(options.settle_s)
        await server.drain(idle_s=options.settle_s, timeout_s=options.drain_s)
        road.end_calls()

    def _find_reason_not_ready(self) -> str:
        if self._is_ending:
            return "the gateway ends"
        return "" if self._catalog.is_synced else "not everything has been read from the API server yet"


def _read_tenants(store: BudgetStore) -> dict[str, tuple[TokenUse, ...]]:
    return {
        account: tuple(
            # What is used for a part counts as a whole token: a limit that is reached looks reached.
            TokenUse.model_construct(window=use.window, start_s=use.start_s, used=max(0, -(-use.used // MILLI)))
            for use in uses
        )
        for account, uses in store.read().items()
    }


def _build_trace_begin(tracer: Tracer) -> Callable[[Call, str], None]:
    def begin(call: Call, path: str) -> None:
        # Of other paths there are as many as callers can think of.
        name = f"{call.http.method} {path}" if call.part is not None else call.http.method
        call.span = tracer.begin_request(name, call.http.headers)

    return begin


def _raise_file_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
