"""Looks at the engine again and again: first until it generates a token, then whether it still does.

It asks (probe.py), folds the answers into the watchdog's memory (watchdog.py) and writes what follows into the state
that the control port shows. It never stops or restarts anything: an unhealthy state makes kubelet do that.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Final, NoReturn

from llmos_workers.serve.failures import Failure, compute_start_timeout
from llmos_workers.serve.probe import EngineProbe
from llmos_workers.serve.state import ServeState
from llmos_workers.serve.watchdog import Load, Pulse, compute_pulse, is_stalled, is_unresponsive

_log: Final = logging.getLogger("llmos.serve")

_FIRST_TOKEN_S: Final = 120.0
"""Longest wait for one answer while warming up; a first step may compile kernels."""
_LOOK_S: Final = 5.0
"""Longest wait for /health and /metrics; a busy web server takes seconds."""
_MAX_PAUSE_S: Final = 10.0
_REFRESH_S: Final = 0.5
"""Longest wait for figures that somebody asked for; then the ones before are told, with their age."""


class Monitor:
    """Watches one engine on behalf of one state."""

    def __init__(
        self, probe: EngineProbe, state: ServeState, *, start_timeout_s: float, watchdog_s: float, poll_s: float
    ) -> None:
        self._probe = probe
        self._state = state
        self._start_timeout_s = start_timeout_s
        self._watchdog_s = watchdog_s
        self._poll_s = poll_s
        self._look_s = min(_LOOK_S, watchdog_s)
        self._clock = asyncio.get_running_loop().time
        self._reading = asyncio.Lock()

    async def warm_up(self) -> Failure | None:
        """Wait until the engine has generated a token; the failure, if it does not in time."""
        deadline_s = self._clock() + self._start_timeout_s
        last_answer: str | None = None
        pause_s = self._poll_s
        while (left_s := deadline_s - self._clock()) > 0:
            if await self._probe.is_healthy(min(self._look_s, left_s)):
                result = await self._probe.generate_one(min(_FIRST_TOKEN_S, left_s))
                if result.succeeded:
                    self._state.is_warm = True
                    _log.info("ready: the engine has generated its first token")
                    return None
                last_answer = result.answer
                _log.warning("the engine is healthy, but its first generation failed: %s", last_answer)
                pause_s = min(pause_s * 2, _MAX_PAUSE_S)
            await asyncio.sleep(min(pause_s, max(0.0, deadline_s - self._clock())))
        return compute_start_timeout(self._start_timeout_s, last_answer)

    async def watch(self) -> NoReturn:
        """Look at the warm engine for ever."""
        pulse = Pulse(self._clock(), self._clock())
        while True:
            pulse = await self._look(pulse)
            now_s = self._clock()
            # An engine that does not even answer /health would not answer a question either.
            answers = not is_unresponsive(pulse, now_s, min(self._watchdog_s, 2 * self._look_s))
            self._state.answers = answers
            if answers and is_stalled(pulse, now_s, self._watchdog_s) and not self._state.hung:
                pulse = await self._ask_for_a_token(pulse)
            self._judge(pulse)
            await asyncio.sleep(self._poll_s)

    async def _look(self, pulse: Pulse) -> Pulse:
        healthy, load = await asyncio.gather(self._probe.is_healthy(self._look_s), self._read_load())
        if load is not None:
            self._state.idle_looks = 0 if load.in_flight else self._state.idle_looks + 1
        return compute_pulse(pulse, self._clock(), healthy=healthy, load=load)

    async def refresh(self, max_age_s: float) -> None:
        """Read the warm engine's load unless it is younger than that; give up after half a second."""
        if not self._state.is_warm or not self._state.answers:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_REFRESH_S):
                await self._read_load(max_age_s)

    async def _read_load(self, max_age_s: float = 0.0) -> Load | None:
        """The load, read now or, by whoever asked at the same time, so recently; None if the engine does not tell."""
        async with self._reading:
            if self._clock() - self._state.load_at_s < max_age_s:
                return self._state.load
            load = await self._probe.observe_load(self._look_s)
            if load is not None:
                self._state.load, self._state.load_at_s = load, self._clock()
            return load

    async def _ask_for_a_token(self, pulse: Pulse) -> Pulse:
        _log.warning("no progress for %g s with requests in flight: asking for one token", self._watchdog_s)
        result = await self._probe.generate_one(self._watchdog_s)
        pulse = await self._look(pulse)
        return Pulse(pulse.healthy_at_s, self._clock(), pulse.progress) if result.answered else pulse

    def _judge(self, pulse: Pulse) -> None:
        before, now_s = self._state.hung, self._clock()
        self._state.hung = None
        if is_unresponsive(pulse, now_s, self._watchdog_s):
            self._state.hung = f"the engine has not answered /health for {self._watchdog_s:g} s"
        elif is_stalled(pulse, now_s, self._watchdog_s):
            self._state.hung = f"the engine has made no progress for {now_s - pulse.moved_at_s:.0f} s"
        if bool(before) != bool(self._state.hung):
            _log.warning("%s", self._state.hung or "the engine answers again")
