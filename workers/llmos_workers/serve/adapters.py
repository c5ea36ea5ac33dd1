"""Has the engine serve the adapters that the operator wants, and no others.

    told (PUT /adapters) -> files fetched and verified -> engine loads -> engine asked -> loaded
    no longer wanted     -> no request uses it (or the drain's time is over) -> engine unloads -> files removed

What is loaded is what the engine says, each time anew. A version is another folder: of an adapter with a new digest the
old version is unloaded and the new one loaded, so that requests under way end with the weights that they began with;
new ones wait meanwhile (guard.py). If the new one does not load, the old one comes back.

A replica waits with its readiness for its first list and what stands in it, but not longer than `patience_s`: an
adapter that cannot be had must not keep the base model away. It is tried again after growing pauses.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from llmos.api.adapters import AdapterState, HeldAdapter, HeldAdapters, WantedAdapter
from llmos_workers.serve.adapter_engine import AdapterEngine, EngineRefusedError
from llmos_workers.serve.adapter_files import AdapterFiles, AdapterFilesError
from llmos_workers.serve.guard import find_reload_file
from llmos_workers.serve.state import ServeState

_log: Final = logging.getLogger("llmos.serve")

AT_ONCE: Final = 4
"""Adapters that are fetched at the same time."""
FIRST_PAUSE_S: Final = 1.0
LAST_PAUSE_S: Final = 60.0
_LOOK_S: Final = 0.5
"""Pause between looks at an adapter whose requests are waited for, and at an engine that does not tell."""
_REST_S: Final = 30.0
"""Pause between looks while all is as wanted."""
_NO_LIST: Final = "the operator has not told which adapters to load"


@dataclass(slots=True)
class _Held:
    """What is known of one adapter, besides what the engine says."""

    digest: str
    state: AdapterState = "loading"
    message: str = ""
    failures: int = 0
    again_s: float = 0.0


@dataclass(frozen=True, slots=True)
class KeeperTimes:
    """How long things may take, in seconds."""

    patience_s: float
    """Readiness waits for adapters so long after the engine is warm."""
    settle_s: float
    """An adapter that is no longer wanted serves at least so long: requests are still on their way."""
    drain_timeout_s: float
    """Requests of an adapter that is no longer wanted are waited for so long."""


class AdapterKeeper:
    """Keeps the adapters of one engine."""

    def __init__(self, state: ServeState, engine: AdapterEngine, files: AdapterFiles, times: KeeperTimes) -> None:
        self._state = state
        self._engine = engine
        self._files = files
        self._times = times
        self._clock = asyncio.get_running_loop().time
        self._wanted: dict[str, WantedAdapter] | None = None
        self._held: dict[str, _Held] = {}
        self._leaving_s: dict[str, float] = {}
        """Since when adapters are no longer wanted."""
        self._changed = asyncio.Event()
        self._fetching = asyncio.Semaphore(AT_ONCE)
        self._fetches: dict[str, asyncio.Task[None]] = {}
        """By the folder that they fill."""
        self._stumbles = 0
        """Looks in a row that ended in an error that nobody thought of."""
        state.waits_for_adapters = _NO_LIST
        find_reload_file().unlink(missing_ok=True)

    def want(self, adapters: tuple[WantedAdapter, ...]) -> None:
        """Take note of the whole list of what is wanted."""
        wanted = {adapter.name: adapter for adapter in adapters}
        if wanted == self._wanted:
            return
        for name, adapter in wanted.items():
            before = self._held.get(name)
            if before is None or before.digest != adapter.digest:
                self._held[name] = _Held(adapter.digest)
            elif self._wanted is not None and self._wanted.get(name) != adapter:
                before.again_s = 0.0  # It is elsewhere now.
        self._wanted = wanted
        self._held = {name: held for name, held in self._held.items() if name in wanted}
        self._changed.set()

    def describe(self) -> HeldAdapters:
        """Return what the replica says of its adapters."""
        return HeldAdapters(
            adapters=tuple(
                HeldAdapter(name=name, digest=held.digest, state=held.state, message=held.message[:1024])
                for name, held in sorted(self._held.items())
            )
        )

    async def run(self) -> NoReturn:
        """Go on until cancelled."""
        deadline_s = math.inf
        try:
            while True:
                if not self._state.is_warm:
                    await asyncio.sleep(_LOOK_S / 5)
                    continue
                deadline_s = min(deadline_s, self._clock() + self._times.patience_s)
                self._changed.clear()
                pause_s = await self._look_or_wait()
                self._judge_readiness(deadline_s)
                if self._state.waits_for_adapters:
                    pause_s = min(pause_s, max(0.05, deadline_s - self._clock()))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await self._changed.wait()
        finally:
            for task in self._fetches.values():
                task.cancel()

    def _judge_readiness(self, deadline_s: float) -> None:
        if self._state.waits_for_adapters is None:
            return
        waiting = sorted(name for name, held in self._held.items() if held.state != "loaded")
        if self._clock() >= deadline_s:
            _log.warning("ready without adapters: %s", ", ".join(waiting) or _NO_LIST)
            self._state.waits_for_adapters = None
        elif self._wanted is not None:
            words = f"adapters are being loaded: {', '.join(waiting)}"
            self._state.waits_for_adapters = words if waiting else None

    async def _look_or_wait(self) -> float:
        """Bring the engine closer to what is wanted; return when to look again, in seconds."""
        if self._wanted is None:
            return _REST_S
        try:
            return await self._look(tuple(self._wanted.values()))
        except EngineRefusedError as error:
            _log.warning("the engine does not tell or does not unload its adapters: %s", error)
            return _LOOK_S
        except Exception:  # noqa: BLE001 - whatever it is, it must not end what keeps the adapters
            self._stumbles += 1
            _log.exception("adapters could not be looked after, %d times in a row", self._stumbles)
            return _compute_pause_s(self._stumbles)

    async def _look(self, wanted: tuple[WantedAdapter, ...]) -> float:
        loaded = await self._engine.observe_loaded()
        self._drop_fetches(wanted)
        for adapter in wanted:
            await self._advance_or_fail(adapter, loaded.get(adapter.name))
        is_leaving = await self._release(wanted)
        self._stumbles = 0
        pauses = [_LOOK_S] if is_leaving else []
        now_s = self._clock()
        pauses += [
            max(0.05, held.again_s - now_s)
            for name, held in self._held.items()
            if held.state != "loaded" and name not in self._fetches
        ]
        return min(pauses, default=_REST_S)

    def _drop_fetches(self, wanted: tuple[WantedAdapter, ...]) -> None:
        """Forget fetches that have ended, and end those of files that nobody wants any more."""
        places = {str(self._files.folder_of(adapter.name, adapter.digest)) for adapter in wanted}
        for folder, task in tuple(self._fetches.items()):
            if task.done() or folder not in places:
                task.cancel()
                del self._fetches[folder]

    async def _advance_or_fail(self, adapter: WantedAdapter, current: str | None) -> None:
        try:
            await self._advance(adapter, current)
        except EngineRefusedError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the others go on
            held = self._held.get(adapter.name)
            if held is not None and held.digest == adapter.digest:
                self._stumble(adapter, held, error)

    def _stumble(self, adapter: WantedAdapter, held: _Held, error: Exception) -> None:
        """Something went wrong that nobody thought of: it is tried again like all else, after growing pauses."""
        _log.error("adapter %s: unexpected error", adapter.name, exc_info=error)
        said = f"{type(error).__name__}: {str(error).strip()}".rstrip(": .")
        self._fail(
            adapter, held, f"Unexpected: {said}. It is tried again; the log of container engine has the details."
        )

    async def _advance(self, adapter: WantedAdapter, current: str | None) -> None:
        """Take the next step with one adapter. One that the engine has lost is loaded again."""
        held = self._held.get(adapter.name)
        if held is None or held.digest != adapter.digest:
            return
        folder = self._files.folder_of(adapter.name, adapter.digest)
        if current == str(folder):
            held.state, held.message, held.failures = "loaded", "", 0
        elif self._clock() < held.again_s or str(folder) in self._fetches:
            return
        elif self._files.has(folder):
            await self._load(adapter, held, current)
        else:
            self._start_fetch(adapter, held)

    def _start_fetch(self, adapter: WantedAdapter, held: _Held) -> None:
        async def fetch() -> None:
            try:
                async with self._fetching:
                    await self._files.fetch(adapter)
            except AdapterFilesError as error:
                self._fail(adapter, held, str(error))
            except Exception as error:  # noqa: BLE001 - else the next look would begin it anew at once
                self._stumble(adapter, held, error)

        if held.state == "loaded":
            held.state = "loading"
        task = asyncio.create_task(fetch(), name=f"fetch of adapter {adapter.name}")
        self._fetches[str(self._files.folder_of(adapter.name, adapter.digest))] = task
        task.add_done_callback(lambda _: self._changed.set())

    def _fail(self, adapter: WantedAdapter, held: _Held, message: str) -> None:
        held.failures += 1
        held.again_s = self._clock() + _compute_pause_s(held.failures)
        held.state, held.message = "failed", message
        _log.warning("adapter %s, attempt %d: %s", adapter.name, held.failures, message)

    async def _load(self, adapter: WantedAdapter, held: _Held, current: str | None) -> None:
        folder = self._files.folder_of(adapter.name, adapter.digest)
        try:
            if current is None:
                await self._engine.load(adapter.name, str(folder))
            else:
                await self._replace(adapter.name, current, str(folder))
            if (await self._engine.observe_loaded()).get(adapter.name) != str(folder):
                raise EngineRefusedError("it says that it loaded it, but does not list it")
        except EngineRefusedError as error:
            await self._files.remove(folder)
            words = str(error).rstrip(".")
            self._fail(
                adapter, held, f"The engine does not load it: {words}. Compare it with the base model and the pool."
            )
            return
        held.state, held.message, held.failures = "loaded", "", 0
        _log.info("adapter %s is loaded, %s", adapter.name, adapter.digest[:19])

    async def _replace(self, name: str, current: str, folder: str) -> None:
        """Requests that began with the version before still have it, so its files stay for a while."""
        with _hold_requests():
            await self._engine.unload(name)
            try:
                await self._engine.load(name, folder)
            except EngineRefusedError:
                await self._engine.load(name, current)
                raise
        self._leaving_s[current] = self._clock()

    async def _release(self, wanted: tuple[WantedAdapter, ...]) -> bool:
        """Unload what is no longer wanted once it may go; return whether something is still waited for."""
        now_s = self._clock()
        names = {adapter.name for adapter in wanted}
        loaded = await self._engine.observe_loaded()
        for name in loaded.keys() - names:
            self._leaving_s.setdefault(loaded[name], now_s)
        for adapter in wanted:
            self._leaving_s.pop(str(self._files.folder_of(adapter.name, adapter.digest)), None)
        used = await self._engine.observe_used() if self._leaving_s else frozenset()
        for folder, since_s in tuple(self._leaving_s.items()):
            name, passed_s = Path(folder).parent.name, now_s - since_s
            if passed_s < self._times.settle_s or (name in used and passed_s < self._times.drain_timeout_s):
                continue
            if loaded.get(name) == folder:
                await self._engine.unload(name)
                _log.info("adapter %s is unloaded", name)
            await self._files.remove(Path(folder))
            del self._leaving_s[folder]
        return bool(self._leaving_s)


def _compute_pause_s(failures: int) -> float:
    pause_s = min(FIRST_PAUSE_S * 2.0 ** min(failures - 1, 10), LAST_PAUSE_S)
    return pause_s * random.uniform(0.75, 1.25)  # noqa: S311 - spreads retries


@contextlib.contextmanager
def _hold_requests() -> Iterator[None]:
    """Have the engine's guard hold new requests back for the length of the block."""
    file = find_reload_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
