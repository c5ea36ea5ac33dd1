"""Runs the load programs on their core, and reads what they say. wrk for closed loops, `servers/load.py` for others."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.gateway.processes import (
    CannotStartError,
    Cores,
    build_server_command,
    find_program,
    observe_consumption,
    pin,
)
from bench.gateway.servers.load import PROMPT
from bench.gateway.sides import FOLDER, Side
from bench.operator.figures import compute_percentile

_SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer KEY"
wrk.body = [==[BODY]==]
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('RESULT {"requests":%d,"seconds":%.6f,"p50_ms":%.4f,"p99_ms":%.4f,"failed":%d}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


@dataclass(frozen=True)
class ClosedLoop:
    """What wrk found with some connections, each sending its next request when the last one is answered."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    failed: int
    cpu_us_per_request: float
    rss_mib: float


@dataclass(frozen=True)
class OpenLoop:
    """What came of requests at a fixed rate."""

    sent: int
    failed: int
    p50_ms: float
    p99_ms: float
    cpu_share: float


@dataclass(frozen=True)
class Streams:
    """What came of many streams at a time."""

    broken: int
    peak: int
    """Most at a time."""
    events: int
    ttft_p50_ms: float
    ttft_p99_ms: float
    longest_s: float
    cpu_share: float
    rss_mib: float


def run_closed_loop(side: Side, cores: Cores, connections: int, seconds: float) -> ClosedLoop:
    """Measure one side with wrk.

    Raises:
        CannotStartError: wrk is missing or failed.
    """
    wrk = find_program("wrk", "wrk")
    script = FOLDER / "chat.lua"
    _write_script(script, side)
    command = [wrk, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "20s", "-s", str(script)]
    before = observe_consumption(side.process)
    output = _run(pin(cores.load, [*command, side.url]), seconds + 60)
    after = observe_consumption(side.process)
    found = json.loads(output.partition("RESULT ")[2].splitlines()[0])
    return ClosedLoop(
        requests_per_s=found["requests"] / found["seconds"],
        p50_ms=found["p50_ms"],
        p99_ms=found["p99_ms"],
        failed=found["failed"],
        cpu_us_per_request=1e6 * (after.cpu_s - before.cpu_s) / max(1, found["requests"]),
        rss_mib=after.rss_mib,
    )


def run_open_loop(side: Side, cores: Cores, rate: float, seconds: float) -> OpenLoop:
    """Measure one side at a rate of requests."""
    before = observe_consumption(side.process)
    found = _run_load(side, cores, "rate", rate, seconds)
    after = observe_consumption(side.process)
    latencies_ms: Sequence[float] = found["latencies_ms"] or [float("inf")]
    return OpenLoop(
        sent=found["sent"],
        failed=found["failed"] + found["unsent"],
        p50_ms=compute_percentile(latencies_ms, 0.5),
        p99_ms=compute_percentile(latencies_ms, 0.99),
        cpu_share=(after.cpu_s - before.cpu_s) / seconds,
    )


def run_streams(side: Side, cores: Cores, streams: int, tokens: int) -> Streams:
    """Measure one side with streams of `tokens` tokens."""
    before, began_s = observe_consumption(side.process), time.monotonic()
    found = _run_load(side, cores, "streams", streams, tokens)
    after, ended_s = observe_consumption(side.process), time.monotonic()
    return Streams(
        broken=found["broken"],
        peak=found["peak"],
        events=found["events"],
        ttft_p50_ms=compute_percentile(found["ttft_ms"], 0.5),
        ttft_p99_ms=compute_percentile(found["ttft_ms"], 0.99),
        longest_s=max(found["duration_s"]),
        cpu_share=(after.cpu_s - before.cpu_s) / (ended_s - began_s),
        rss_mib=after.rss_mib,
    )


def _run_load(side: Side, cores: Cores, mode: str, first: float, second: float) -> dict[str, Any]:
    command = build_server_command("load", mode, side.url, side.key, side.model, first, second)
    found: dict[str, Any] = json.loads(_run(pin(cores.load, command), 300))
    return found


def _run(command: Sequence[str], timeout_s: float) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=timeout_s).stdout
    except subprocess.CalledProcessError as error:
        raise CannotStartError(f"{command[3]} failed: {error.stderr.strip()[-200:]}") from error
    except subprocess.TimeoutExpired as error:
        raise CannotStartError(f"{command[3]} did not end within {timeout_s:g} s") from error


def _write_script(path: Path, side: Side) -> None:
    messages = [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": PROMPT}]
    body = {"model": side.model, "messages": messages, "max_tokens": 16}
    path.write_text(_SCRIPT.replace("KEY", side.key).replace("BODY", json.dumps(body, separators=(",", ":"))))
