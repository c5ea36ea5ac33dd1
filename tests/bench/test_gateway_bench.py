"""The gateway benchmark's own parts: its arithmetic, and that its load sees what is broken."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bench.gateway.load import ClosedLoop, OpenLoop, Streams
from bench.gateway.processes import build_server_command, find_ports
from bench.gateway.report import Side, build_rows
from bench.gateway.servers.load import build_request, run_rate, run_streams

TOKENS = 5


def closed(requests_per_s: float, p50_ms: float) -> ClosedLoop:
    return ClosedLoop(requests_per_s, p50_ms, p99_ms=9.0, failed=0, cpu_us_per_request=100.0, rss_mib=80.0)


def build_side(requests_per_s: float, p50_ms: float, p99_ms: float, broken: int = 0) -> Side:
    runs = [closed(requests_per_s * share, p50_ms) for share in (0.5, 1.0, 2.0)]
    steady = [OpenLoop(sent=1000, failed=0, p50_ms=1.0, p99_ms=p99_ms, cpu_share=0.3)]
    streams = [Streams(count, 1000, 9, 1.0, 2.0, 3.0, 0.7, 90.0) for count in (0, broken)]
    return Side(closed={1: runs, 32: runs}, steady=steady, streams=streams)


def test_verdicts_compare_medians_with_the_other_sides_of_the_same_run() -> None:
    sides = {
        "direct": build_side(50_000, 0.02, 1.0),
        "pass-through": build_side(8_000, 0.2, 3.0),
        "llmos": build_side(4_400, 0.3, 5.0),
    }
    rows = {(row.scenario, row.measure): row for row in build_rows(sides, streams=1000)}
    assert rows["c=32", "requests/s on one core"].value == "4,400"
    assert rows["c=32", "share of the bare pass-through"].value == "0.55"
    assert rows["c=1", "added p50, ms"].value == "0.28"
    assert rows["1,000/s", "added p99, ms"].value == "4.00"
    assert all(row.is_met for row in rows.values())


def test_one_broken_stream_of_any_run_is_too_many() -> None:
    rows = build_rows({"llmos": build_side(9_000, 0.1, 1.0, broken=1)}, streams=1000)
    assert [row.is_met for row in rows if row.measure == "broken"] == [False]


def test_what_was_not_measured_has_no_row() -> None:
    assert build_rows({"llmos": Side(), "direct": build_side(1, 1, 1)}, streams=1000) == []


@asynccontextmanager
async def open_backend() -> AsyncIterator[str]:
    (port,) = find_ports(1)
    command = build_server_command("backend", 100, TOKENS, port)
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        await process.stdout.readline()
        yield f"http://127.0.0.1:{port}/v1/chat/completions"
    finally:
        process.kill()
        await process.communicate()


async def test_streams_of_the_backend_are_whole_and_short_ones_are_seen() -> None:
    async with open_backend() as url:
        request = build_request(url, "key", "bench", is_stream=True)
        whole = await run_streams(url, request, streams=5, events=TOKENS)
        short = await run_streams(url, request, streams=5, events=TOKENS + 1)
    assert (whole["broken"], whole["events"]) == (0, 5 * TOKENS)
    assert short["broken"] == 5


async def test_a_rate_is_kept_and_every_answer_is_timed() -> None:
    async with open_backend() as url:
        request = build_request(url, "key", "bench", is_stream=False)
        found = await run_rate(url, request, rate=200, seconds=0.5)
    assert found["failed"] == found["unsent"] == 0
    assert len(found["latencies_ms"]) == found["sent"] > 0


def test_a_machine_without_a_second_core_is_refused_in_words() -> None:
    command = [sys.executable, "-m", "bench.gateway", "--router-core", "0", "--side", "llmos"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 2
    assert "Two cores are needed" in result.stdout
