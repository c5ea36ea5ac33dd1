"""Processes on cores of their own: started, waited for, measured, ended."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

START_S = 90.0
END_S = 10.0
SERVERS = Path(__file__).parent / "servers"


class CannotStartError(Exception):
    """A side cannot take part; the text says why."""


@dataclass(frozen=True)
class Cores:
    """Which core has load and backend, and which the router."""

    load: int = 0
    router: int = 1

    def check(self) -> None:
        """Refuse a machine that does not have both.

        Raises:
            CannotStartError: it has not.
        """
        missing = {self.load, self.router} - os.sched_getaffinity(0)
        if missing or self.load == self.router:
            raise CannotStartError("Two cores are needed: one for load and backend, one for the router alone.")


@dataclass(frozen=True)
class Consumption:
    """Of a process and its children."""

    cpu_s: float
    rss_mib: float


def pin(core: int, command: Sequence[str]) -> list[str]:
    """Return a command line that runs on one core only."""
    return ["taskset", "--cpu-list", str(core), *command]


def find_ports(count: int) -> list[int]:
    """Return ports that are free now."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


@contextlib.contextmanager
def run_pinned(
    core: int, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[psutil.Process]:
    """Run a program for as long as the block lasts; its output goes to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = psutil.Popen(
            pin(core, command), stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **(environment or {})}
        )
        try:
            yield process
        finally:
            _end(process)


def _end(process: psutil.Popen) -> None:
    family = [process, *process.children(recursive=True)]
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.terminate()
    _, alive = psutil.wait_procs(family, timeout=END_S)
    for member in alive:
        member.kill()
    psutil.wait_procs(alive, timeout=END_S)


def wait_for_answer(url: str, key: str, body: bytes, process: psutil.Process, log: Path) -> None:
    """Wait until a chat request is answered with 200.

    Raises:
        CannotStartError: the program ended, or did not answer in time.
    """
    deadline_s = time.monotonic() + START_S
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    said = "nothing"
    while time.monotonic() < deadline_s:
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            raise CannotStartError(f"it ended at its start: {read_end(log)}")
        try:
            request = urllib.request.Request(url, data=body, headers=headers)  # noqa: S310 - loopback
            with urllib.request.urlopen(request, timeout=5):  # noqa: S310 - loopback
                return
        except urllib.error.HTTPError as error:
            said = f"{error.code} {error.read(200)!r}"
        except OSError as error:
            said = str(error)
        time.sleep(0.3)
    raise CannotStartError(f"no answer within {START_S:g} s, last: {said}")


def read_end(log: Path) -> str:
    """Return the last line of a log that says something."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it said nothing"


def observe_consumption(process: psutil.Process) -> Consumption:
    """Return what a process and its children have used."""
    cpu_s, rss_bytes = 0.0, 0
    for member in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = member.cpu_times()
            cpu_s += times.user + times.system
            rss_bytes += member.memory_info().rss
    return Consumption(cpu_s, rss_bytes / 1024**2)


def find_program(name: str, package: str) -> str:
    """Return the path of a program of the system.

    Raises:
        CannotStartError: it is not installed.
    """
    path = shutil.which(name)
    if path is None:
        raise CannotStartError(f"{name} is missing: apt-get update && apt-get install {package}")
    return path


def build_server_command(name: str, *arguments: object) -> list[str]:
    """Return the command line of one of the programs in `servers`."""
    return [sys.executable, str(SERVERS / f"{name}.py"), *map(str, arguments)]
