"""The life of a serving pod: start the engine, warm it up, watch it, drain it, stop it, and say why it failed.

    start -> healthy -> one token generated -> ready -> (SIGTERM) draining -> stopped, exit 0
      any of these -> failed: termination message, exit 1

This module orders the steps and waits; what a failure means (failures.py), when an engine has hung (watchdog.py) and
how it is called (command.py) is decided elsewhere, in pure functions. Every wait has a deadline. The engine is never
restarted here: the pod fails, and the operator makes another one after a pause.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NoReturn

from aiohttp import ClientSession, web

from llmos.api.reasons import Reason
from llmos_workers.serve.adapter_engine import AdapterEngine
from llmos_workers.serve.adapter_files import AdapterFiles
from llmos_workers.serve.adapters import AdapterKeeper, KeeperTimes
from llmos_workers.serve.command import (
    ENGINE_SHUTDOWN_S,
    EngineOptions,
    build_command,
    build_environment,
    find_owned_arguments,
)
from llmos_workers.serve.control import build_control_app
from llmos_workers.serve.failures import Failure, compute_exit_failure, compute_owned_arguments_failure
from llmos_workers.serve.guard import KEY_VARIABLE
from llmos_workers.serve.monitor import Monitor
from llmos_workers.serve.options import ServeOptions
from llmos_workers.serve.probe import EngineProbe
from llmos_workers.serve.process import EngineProcess
from llmos_workers.serve.state import ServeState
from llmos_workers.serve.termination import write_termination_message

_log: Final = logging.getLogger("llmos.serve")

STOP_S: Final = ENGINE_SHUTDOWN_S + 10
"""Patience with an engine that was told to stop: what it may use, and time to tear down; below kubelet's 30 s."""
_IDLE_LOOKS: Final = 2
"""One empty look may fall between two requests of a client that has not noticed the drain yet."""
_OOM_EVENTS: Final = Path("/sys/fs/cgroup/memory.events")


@dataclass(frozen=True, slots=True)
class Ending:
    """How serve ends."""

    exit_status: int
    failure: Failure | None = None


class Supervisor:
    """One run of serve."""

    def __init__(self, options: ServeOptions) -> None:
        self._options = options
        self._loop = asyncio.get_running_loop()
        self._state = ServeState(load_at_s=self._loop.time())
        self._stop_asked = asyncio.Event()
        self._stop_forced: asyncio.Future[int] = self._loop.create_future()
        self._is_stopping = False
        self._adapter_key = secrets.token_hex()
        self._oom_kills_before = observe_oom_kills(_OOM_EVENTS)

    async def run(self) -> int:
        """Run until the engine ends or a signal asks for the end. Returns the exit status."""
        # The folder outlives a restart of the container, and with it the word of the last drain.
        self._options.drain_file.unlink(missing_ok=True)
        failure = observe_start_problem(self._options.engine)
        if failure:
            return self._report(Ending(1, failure))
        async with AsyncExitStack() as stack:
            probe = await stack.enter_async_context(
                EngineProbe(
                    self._options.engine.port, self._options.engine.served_model_name, os.environ.get("VLLM_API_KEY")
                )
            )
            monitor = Monitor(
                probe,
                self._state,
                start_timeout_s=self._options.start_timeout_s,
                watchdog_s=self._options.watchdog_s,
                poll_s=self._options.poll_s,
            )
            keeper = await self._open_keeper(stack)
            await self._serve_control(stack, monitor.refresh, keeper)
            engine = self._start_engine()
            stack.push_async_callback(engine.kill)
            if keeper is not None:
                self._keep_adapters(stack, keeper)
            ending = await self._wait_for_first(
                self._end_by_exit(engine),
                self._end_by_start_failure(monitor),
                self._end_by_signal(engine),
                self._end_by_force(),
            )
            return await self._finish(engine, ending)

    async def _finish(self, engine: EngineProcess, ending: Ending) -> int:
        self._state.is_engine_running = False
        await engine.kill()
        if ending.failure and not ending.failure.lines:
            ending = replace(ending, failure=replace(ending.failure, lines=engine.collect_lines()))
        return self._report(ending)

    def _start_engine(self) -> EngineProcess:
        command = build_command(self._options.engine)
        _log.info("starting: %s", " ".join(command))
        engine = EngineProcess(command, build_environment({**os.environ, KEY_VARIABLE: self._adapter_key}))
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._ask_to_stop, number)
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            self._loop.add_signal_handler(number, engine.send, number)
        self._state.is_engine_running = True
        return engine

    async def _open_keeper(self, stack: AsyncExitStack) -> AdapterKeeper | None:
        options = self._options.adapters
        if options is None:
            return None
        session = await stack.enter_async_context(ClientSession(trust_env=False))
        return AdapterKeeper(
            self._state,
            AdapterEngine(session, self._options.engine.port, self._adapter_key),
            AdapterFiles(session, options.folder, options.limit_bytes),
            KeeperTimes(options.patience_s, self._options.settle_s, self._options.drain_timeout_s),
        )

    def _keep_adapters(self, stack: AsyncExitStack, keeper: AdapterKeeper) -> None:
        keeping = asyncio.create_task(keeper.run(), name="adapters")
        keeping.add_done_callback(_log_death)

        async def stop() -> None:
            keeping.cancel()
            await asyncio.wait({keeping})

        stack.push_async_callback(stop)

    async def _serve_control(
        self,
        stack: AsyncExitStack,
        refresh: Callable[[float], Awaitable[None]],
        keeper: AdapterKeeper | None = None,
    ) -> None:
        token_hash = self._options.adapters.token_hash if self._options.adapters else ""
        app = build_control_app(
            self._state, clock=self._loop.time, refresh=refresh, keeper=keeper, token_hash=token_hash
        )
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, self._options.engine.host, self._options.control_port).start()

    async def _wait_for_first(self, *endings: Coroutine[None, None, Ending]) -> Ending:
        """The first of: the engine ends, it is not ready in time, a drain is complete, a second signal comes."""
        ways = [asyncio.create_task(ending) for ending in endings]
        done, others = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        return next(task for task in ways if task in done).result()

    async def _end_by_exit(self, engine: EngineProcess) -> Ending:
        status = await asyncio.shield(engine.exit_status)
        if self._is_stopping:
            return Ending(0)
        return Ending(1, self._explain_exit(engine, status))

    def _explain_exit(self, engine: EngineProcess, status: int) -> Failure:
        return compute_exit_failure(
            engine.collect_lines(),
            status,
            was_ready=self._state.is_warm,
            oom_killed=observe_oom_kill(self._oom_kills_before),
        )

    async def _end_by_start_failure(self, monitor: Monitor) -> Ending:
        return Ending(1, await monitor.warm_up() or await monitor.watch())

    async def _end_by_signal(self, engine: EngineProcess) -> Ending:
        await self._stop_asked.wait()
        if self._state.is_warm and not self._state.hung:
            await self._drain()
        if self._state.hung:
            # Nothing in flight will ever finish.
            return Ending(1, Failure(Reason.EngineHung, f"{self._state.hung[:1].upper()}{self._state.hung[1:]}."))
        self._is_stopping = True
        await engine.stop(STOP_S)
        return Ending(0)

    async def _end_by_force(self) -> Ending:
        number = await self._stop_forced
        _log.warning("second signal: stopping at once")
        return Ending(128 + number)

    async def _drain(self) -> None:
        """Wait until nothing is in flight, at least `settle_s`, at most `drain_timeout_s`, not for a hung engine."""
        began_s = self._loop.time()
        self._state.is_draining = True
        self._state.idle_looks = 0
        self._options.drain_file.parent.mkdir(parents=True, exist_ok=True)
        self._options.drain_file.touch()
        _log.info("draining: %d requests in flight", self._state.load.in_flight)
        while not self._state.hung:
            passed_s = self._loop.time() - began_s
            if passed_s >= self._options.settle_s and self._state.idle_looks >= _IDLE_LOOKS:
                _log.info("drained after %.1f s", passed_s)
                return
            if passed_s >= self._options.drain_timeout_s:
                _log.warning("drain timeout: %d requests in flight are cut", self._state.load.in_flight)
                return
            await asyncio.sleep(min(0.5, self._options.poll_s))

    def _ask_to_stop(self, number: signal.Signals) -> None:
        if not self._stop_asked.is_set():
            _log.info("%s received", number.name)
            self._stop_asked.set()
        elif not self._stop_forced.done():
            self._stop_forced.set_result(number)

    def _report(self, ending: Ending) -> int:
        if ending.failure:
            _log.error("%s: %s", ending.failure.reason, ending.failure.message)
            write_termination_message(self._options.termination_log, ending.failure)
        return ending.exit_status


def _log_death(task: asyncio.Task[NoReturn]) -> None:
    """Adapters must not take the base model along: what was loaded stays, and the log says why nothing more is."""
    if not task.cancelled() and (error := task.exception()):
        _log.error("adapters are not kept any more", exc_info=error)


def observe_start_problem(engine: EngineOptions) -> Failure | None:
    """What makes a start useless: arguments that LLMOS owns, or a model folder without a configuration."""
    owned = find_owned_arguments(engine.arguments)
    if owned:
        return compute_owned_arguments_failure(owned)
    folder = Path(engine.model_dir)
    if engine.engine == "simulator" and engine.model_dir == "none":
        return None
    # Mistral's own format has a params.json instead.
    if not any((folder / name).is_file() for name in ("config.json", "params.json")):
        return Failure(Reason.ModelFilesMissing, f"There is no config.json in {folder}.")
    return None


def observe_oom_kill(before: int) -> bool:
    """Whether the kernel killed more processes of this container than before."""
    return observe_oom_kills(_OOM_EVENTS) > before


def observe_oom_kills(events: Path) -> int:
    """Processes of this container that the kernel killed for memory; 0 where it does not tell (no cgroup v2)."""
    try:
        lines = events.read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
