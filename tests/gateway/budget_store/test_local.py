"""The account of one gateway and its journal: what a restart, a kill and a broken disk leave."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmos_gateway.budget_store import Journal, JournalError, LocalStore, StoreAwayError, Tab
from llmos_gateway.budget_store.journal import State
from llmos_gateway.limits import WINDOWS, Quote, Refused, Terms, Use, find_starts

NOW = 1_790_000_000.0
TERMS = Terms(minute=100, day=1000, month=10_000)


def open_store(path: Path, now_s: float = NOW) -> LocalStore:
    store = LocalStore(Journal(path, lock_wait_s=0.0), unix_time=lambda: now_s)
    store.start()
    return store


async def reserve(store: LocalStore, amount: int, terms: Terms = TERMS) -> Tab | Refused:
    outcome = await store.open("acme", terms, Quote(amount, amount))
    return outcome if isinstance(outcome, Refused) else outcome[0]


def used(store: LocalStore) -> list[int]:
    return [use.used for use in store.read()["acme"]]


def read_state(path: Path) -> State:
    journal = Journal(path)
    try:
        return journal.open()
    finally:
        journal.close()


def build_uses(amount: int, now_s: float = NOW) -> tuple[Use, ...]:
    return tuple(Use(window, start_s, amount, 0) for window, start_s in zip(WINDOWS, find_starts(now_s), strict=True))


async def test_a_restart_finds_what_was_used_and_not_what_was_reserved(tmp_path: Path) -> None:
    store = open_store(tmp_path / "journal")
    ended, running = await reserve(store, 40), await reserve(store, 50)
    assert isinstance(ended, Tab)
    assert isinstance(running, Tab)
    store.settle(ended, 30)
    running.spent = 7
    await store.close()
    later = open_store(tmp_path / "journal", NOW + 60)
    assert used(later) == [0, 37, 37]
    await later.close()


async def test_a_second_process_does_not_write_the_same_journal(tmp_path: Path) -> None:
    store = open_store(tmp_path / "journal")
    with pytest.raises(JournalError, match="another process has had it"):
        open_store(tmp_path / "journal")
    await store.close()
    await open_store(tmp_path / "journal").close()


def test_a_folder_that_is_not_there_is_told_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="--budget-journal"):
        open_store(tmp_path / "no" / "journal")


async def test_a_journal_that_cannot_be_used_is_tried_until_it_can(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "later" / "journal"
    store = LocalStore(Journal(path), unix_time=lambda: NOW, flush_s=0.01, pause_s=0.01)
    with pytest.raises(JournalError):
        store.start()
    running = asyncio.create_task(store.run())
    for _ in range(2):
        with pytest.raises(StoreAwayError, match="No such file or directory") as caught:
            await reserve(store, 40)
        assert str(tmp_path) not in str(caught.value)
        await asyncio.sleep(0.05)
    assert not caplog.records, "what was said once is not said again"
    path.parent.mkdir()
    _, day_s, month_s = find_starts(NOW)
    state = {"tenant": "acme", "minute": [0, 0], "day": [day_s, 970], "month": [month_s, 970]}
    path.write_text(f"{json.dumps(state)}\n")
    async with asyncio.timeout(10):
        while not store._is_open:  # noqa: ASYNC110 - it notices by itself
            await asyncio.sleep(0.01)
    assert isinstance(await reserve(store, 40), Refused), "what was used before counts"
    tab = await reserve(store, 20)
    assert isinstance(tab, Tab)
    store.settle(tab, 20)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await store.close()
    assert read_state(path)["acme"]["day"][1] == 990


async def test_a_store_that_never_got_its_journal_leaves_it_to_the_process_that_has_it(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    store = open_store(path)
    late = LocalStore(Journal(path, lock_wait_s=0.0), unix_time=lambda: NOW, pause_s=0.01)
    with pytest.raises(JournalError):
        late.start()
    running = asyncio.create_task(late.run())
    await asyncio.sleep(0.05)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await late.close()
    tab = await reserve(store, 40)
    assert isinstance(tab, Tab)
    store.settle(tab, 40)
    await store.close()
    assert read_state(path)["acme"]["day"][1] == 40


def test_a_line_that_a_kill_has_cut_costs_that_line_only(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    journal.open()
    journal.append({"acme": build_uses(10)})
    journal.append({"acme": build_uses(20)})
    journal.close()
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        state = read_state(path).get("acme", {})
        first_end = whole.index(b"\n") + 1
        assert state.get("day", (0, 0))[1] == (0 if length < first_end else 10)
        path.with_name("journal.new").unlink(missing_ok=True)
    path.write_bytes(whole)
    assert read_state(path)["acme"]["day"][1] == 20


def test_a_journal_stays_small(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path, max_bytes=2000)
    journal.open()
    for amount in range(500):
        journal.append({"acme": build_uses(amount), "other": build_uses(1)})
        assert path.stat().st_size <= 2000
    journal.close()
    state = read_state(path)
    assert (state["acme"]["month"][1], state["other"]["month"][1]) == (499, 1)


async def test_a_disk_that_fails_stops_nobody_and_is_written_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "journal"
    store = LocalStore(Journal(path), unix_time=lambda: NOW, flush_s=0.01)
    store.start()
    full = path.with_name("journal.new")
    full.mkdir()
    store._journal._close_file()  # type: ignore[union-attr]
    running = asyncio.create_task(store.run())
    tab = await reserve(store, 40)
    assert isinstance(tab, Tab)
    store.settle(tab, 40)
    await asyncio.sleep(0.1)
    assert caplog.text.count("cannot be written") == 1
    full.rmdir()
    await asyncio.sleep(0.1)
    running.cancel()
    assert json.loads(path.read_text())["day"][1] == 40
    await store.close()


def test_a_line_of_which_a_full_disk_takes_a_part_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    journal.open()
    journal.append({"acme": build_uses(10)})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, hard))
    try:
        with pytest.raises(OSError, match="No space left"):
            journal.append({"acme": build_uses(20)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    journal.append({"other": build_uses(1)})
    journal.close()
    state = read_state(path)
    assert (state["acme"]["day"][1], state["other"]["day"][1]) == (20, 1)


async def test_gateways_without_a_shared_store_grant_a_part_each() -> None:
    store = LocalStore(unix_time=lambda: NOW)
    store.gateways = 4
    assert isinstance(await reserve(store, 25), Tab)
    assert isinstance(await reserve(store, 1), Refused)


async def test_two_hundred_at_once_on_a_budget_for_ten() -> None:
    store = LocalStore(unix_time=lambda: NOW)
    tabs = [tab for tab in await asyncio.gather(*(reserve(store, 10) for _ in range(200))) if isinstance(tab, Tab)]
    assert len(tabs) == 10
    assert used(store) == [100, 100, 100]


_WRITER = """
import asyncio, sys, time
from pathlib import Path
from llmos_gateway.budget_store import Journal, LocalStore
from llmos_gateway.limits import Quote, Terms

async def main():
    store = LocalStore(Journal(Path(sys.argv[1])))
    store.start()
    asyncio.create_task(store.run())
    stream, _ = await store.open("acme", Terms(month=10**12), Quote(10**9, 10**9))
    while True:
        tab, _ = await store.open("acme", Terms(month=10**12), Quote(1, 1))
        store.settle(tab, 1)
        stream.spent += 1
        print(time.time(), stream.spent, flush=True)
        await asyncio.sleep(0.005)

asyncio.run(main())
"""


@pytest.mark.parametrize("alive_s", [1.3, 2.15])
def test_a_kill_loses_no_more_than_the_last_second(tmp_path: Path, alive_s: float) -> None:
    path, told = tmp_path / "journal", tmp_path / "told"
    with told.open("wb") as output:
        writer = subprocess.Popen([sys.executable, "-c", _WRITER, path], stdout=output)
        until_s = time.monotonic() + 20
        while not told.stat().st_size and time.monotonic() < until_s:
            time.sleep(0.01)
        time.sleep(alive_s)
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
    lines = [line.split() for line in told.read_text().splitlines() if line.count(" ") == 1]
    last_s = float(lines[-1][0])
    a_second_before = max(int(spent) for at_s, spent in lines if float(at_s) <= last_s - 1.0)
    state = read_state(path)
    # Of each step the stream spent one, and a short request another.
    assert 2 * a_second_before <= state["acme"]["month"][1] <= 2 * int(lines[-1][1])
    assert state["acme"]["month"][1] > 0


async def test_a_tenant_that_is_gone_is_forgotten_with_its_lines_but_not_while_a_request_runs(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal", lock_wait_s=0.0)
    store = LocalStore(journal, unix_time=lambda: NOW, flush_s=0.01)
    store.start()
    running = asyncio.create_task(store.run())
    tab = await reserve(store, 40)
    assert isinstance(tab, Tab)
    store.forget("acme")
    assert used(store) == [40, 40, 40]
    store.settle(tab, 30)
    async with asyncio.timeout(10):
        while "acme" not in (tmp_path / "journal").read_text():  # noqa: ASYNC110 - written by another thread
            await asyncio.sleep(0.01)
    store.forget("acme")
    assert store.read() == {}
    await asyncio.sleep(0.1)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await store.close()
    assert read_state(tmp_path / "journal") == {}
