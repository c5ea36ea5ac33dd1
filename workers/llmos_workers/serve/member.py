"""The life of a gang's pod that is not the leader: find the leader, run a headless engine, end with the leader.

    wait for the leader -> engine runs -> (the leader is ready) ready -> leader ends: engine is stopped, exit 1
      SIGTERM: go on until the leader has drained and ended, or for as long as a drain may take; then exit 0

A member takes no requests and knows of none: how long it has to stay is the leader's to say, by being there. An engine
that ends because the leader did says so (`GangBroken`), so that the operator reports what came first.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Final

from llmos.api.reasons import Reason
from llmos_workers.serve.failures import Failure
from llmos_workers.serve.gang import FoundLeader, GangPlace, LeaderProbe
from llmos_workers.serve.options import ServeOptions
from llmos_workers.serve.process import EngineProcess
from llmos_workers.serve.supervisor import STOP_S, Ending, Supervisor, observe_start_problem

_log: Final = logging.getLogger("llmos.serve")

_GONE_LOOKS: Final = 2
"""Looks in vain after which a leader that was about to end has ended."""


class Member(Supervisor):
    """One run of serve in a pod that follows a leader."""

    def __init__(self, options: ServeOptions, place: GangPlace) -> None:
        super().__init__(options)
        self._place = place
        self._missed = 0
        self._leader_gone = asyncio.Event()
        self._seen_at_s = self._loop.time()

    async def run(self) -> int:
        """Run until the engine or the leader ends. Returns the exit status."""
        failure = observe_start_problem(self._options.engine)
        if failure:
            return self._report(Ending(1, failure))
        async with AsyncExitStack() as stack:
            probe = await stack.enter_async_context(LeaderProbe(self._place, self._options.watchdog_s))
            self._state.waits_for = f"waiting for the leader {self._place.leader}"
            await self._serve_control(stack, _refresh_nothing)
            found = await probe.find(self._options.start_timeout_s)
            if found is None:
                cause = f"The leader {self._place.leader} did not answer within {self._options.start_timeout_s:g} s."
                return self._report(Ending(1, Failure(Reason.GangBroken, cause)))
            return await self._follow(stack, probe, found)

    async def _follow(self, stack: AsyncExitStack, probe: LeaderProbe, found: FoundLeader) -> int:
        _log.info("the leader is at %s", found.address)
        place = replace(self._place, leader=found.address)
        self._options = replace(self._options, engine=replace(self._options.engine, gang=place))
        self._state.waits_for = None
        self._seen_at_s = self._loop.time()
        engine = self._start_engine()
        stack.push_async_callback(engine.kill)
        ending = await self._wait_for_first(
            self._end_with_engine(engine, probe, found),
            self._end_with_leader(probe, found),
            self._end_by_word(engine),
            self._end_by_force(),
        )
        return await self._finish(engine, ending)

    async def _end_with_engine(self, engine: EngineProcess, probe: LeaderProbe, found: FoundLeader) -> Ending:
        status = await asyncio.shield(engine.exit_status)
        if self._stop_asked.is_set():
            return Ending(0)
        failure = self._explain_exit(engine, status)
        if failure.reason is Reason.EngineCrashed and status >= 0:
            load = await probe.look(found)
            if load is None or (self._state.is_warm and not load.ready):
                cause = f"The leader at {found.address} ended, and the engine of this pod with it."
                return Ending(1, replace(failure, reason=Reason.GangBroken, cause=cause))
        return Ending(1, failure)

    async def _end_with_leader(self, probe: LeaderProbe, found: FoundLeader) -> Ending:
        """Watch the leader until it has been away for too long."""
        while True:
            load = await probe.look(found)
            now_s = self._loop.time()
            self._missed = 0 if load else self._missed + 1
            self._state.answers = self._missed < _GONE_LOOKS
            if not self._state.answers:
                self._leader_gone.set()
            if load is not None:
                self._seen_at_s = now_s
                self._state.is_warm |= load.ready
            elif now_s - self._seen_at_s >= self._options.watchdog_s and not self._stop_asked.is_set():
                cause = f"The leader at {found.address} has not answered for {self._options.watchdog_s:g} s."
                return Ending(1, Failure(Reason.GangBroken, cause))
            await asyncio.sleep(self._options.poll_s)

    async def _end_by_word(self, engine: EngineProcess) -> Ending:
        """After SIGTERM the leader may still answer requests, for which it needs this pod."""
        await self._stop_asked.wait()
        self._state.is_draining = True
        self._leader_gone.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._options.drain_timeout_s + self._options.settle_s):
                await self._leader_gone.wait()
        await engine.stop(STOP_S)
        return Ending(0)


async def _refresh_nothing(_max_age_s: float) -> None:
    """A member has no load of its own."""
