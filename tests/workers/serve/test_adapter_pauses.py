"""Whatever goes wrong with an adapter, also what nobody thought of, is tried again after growing pauses, on a clock
that costs no time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest

from llmos.api.adapters import HeldAdapter, WantedAdapter
from llmos_workers.serve.adapter_engine import AdapterEngine
from llmos_workers.serve.adapter_files import AdapterFiles
from llmos_workers.serve.adapters import LAST_PAUSE_S, AdapterKeeper, KeeperTimes
from llmos_workers.serve.state import ServeState

pytestmark = pytest.mark.looptime

WANTED = WantedAdapter(name="support", digest="sha256:" + "1" * 64, url="http://share", token="t")


class Engine:
    """Loads everything, unless `error` is set."""

    def __init__(self) -> None:
        self.loaded: dict[str, str] = {}
        self.looks = self.loads = 0
        self.error: Exception | None = None
        self.look_error: Exception | None = None

    async def observe_loaded(self) -> dict[str, str]:
        self.looks += 1
        if self.look_error:
            raise self.look_error
        return dict(self.loaded)

    async def observe_used(self) -> frozenset[str]:
        return frozenset()

    async def load(self, name: str, folder: str) -> None:
        self.loads += 1
        if self.error:
            raise self.error
        self.loaded[name] = folder


class Files:
    """Has everything once it was fetched, unless `error` is set."""

    def __init__(self) -> None:
        self.there: set[Path] = set()
        self.fetches = 0
        self.error: Exception | None = None

    def folder_of(self, name: str, digest: str) -> Path:
        return Path("/adapters") / name / digest[-8:]

    def has(self, folder: Path) -> bool:
        return folder in self.there

    async def fetch(self, wanted: WantedAdapter) -> Path:
        self.fetches += 1
        if self.error:
            raise self.error
        folder = self.folder_of(wanted.name, wanted.digest)
        self.there.add(folder)
        return folder

    async def remove(self, folder: Path) -> None:
        self.there.discard(folder)


@contextlib.asynccontextmanager
async def keeping(engine: Engine, files: Files) -> AsyncIterator[AdapterKeeper]:
    state = ServeState(is_engine_running=True, is_warm=True)
    times = KeeperTimes(patience_s=30, settle_s=1, drain_timeout_s=5)
    keeper = AdapterKeeper(state, cast("AdapterEngine", engine), cast("AdapterFiles", files), times)
    task = asyncio.create_task(keeper.run())
    keeper.want((WANTED,))
    yield keeper
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def held(keeper: AdapterKeeper) -> HeldAdapter:
    (adapter,) = keeper.describe().adapters
    return adapter


async def test_a_fetch_that_fails_for_a_reason_that_nobody_thought_of_is_not_repeated_at_once() -> None:
    engine, files = Engine(), Files()
    files.error = ValueError("what is this")
    async with keeping(engine, files) as keeper:
        await asyncio.sleep(600)
        assert held(keeper).state == "failed"
        assert "ValueError: what is this" in held(keeper).message
        assert 8 <= files.fetches <= 20, "pauses double up to a minute"
        files.error = None
        await asyncio.sleep(2 * LAST_PAUSE_S)
        assert held(keeper).state == "loaded"


async def test_an_engine_that_answers_nonsense_is_asked_again_after_growing_pauses() -> None:
    engine, files = Engine(), Files()
    engine.error = KeyError("id")
    async with keeping(engine, files) as keeper:
        await asyncio.sleep(600)
        assert held(keeper).state == "failed"
        assert 8 <= engine.loads <= 20
        engine.error = None
        await asyncio.sleep(2 * LAST_PAUSE_S)
        assert held(keeper).state == "loaded"


async def test_looks_that_fail_do_not_end_the_keeper_nor_come_without_pause() -> None:
    engine, files = Engine(), Files()
    engine.look_error = TypeError("no list")
    async with keeping(engine, files) as keeper:
        await asyncio.sleep(600)
        assert 8 <= engine.looks <= 20
        engine.look_error = None
        await asyncio.sleep(2 * LAST_PAUSE_S)
        assert held(keeper).state == "loaded"
