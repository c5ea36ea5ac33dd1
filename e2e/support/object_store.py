"""A real S3 server (moto) in a process of its own.

moto cannot be installed beside kubernetes>=37, so uv runs it in an environment of its own.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from e2e.cluster.paths import repository_dir


@contextmanager
def run_moto(folder: Path, address: str = "127.0.0.1") -> Iterator[str]:
    """Run the server; its log is in `folder`. Yields its URL."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        port = probe.getsockname()[1]
    where = ("-H", address, "-p", str(port))
    uv = repository_dir() / ".venv" / "bin" / "uv"
    command = [str(uv), "run", "--no-project", "--with", "moto[server]>=5", "moto_server", *where]
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env={**os.environ, "UV_SYSTEM_CERTS": "1"}, start_new_session=True
        )
    url = f"http://{address}:{port}"
    try:
        _wait_until_up(url, process, log)
        yield url
    finally:
        # On a busy machine its orderly end takes longer than anybody should wait: it has nothing to save.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_until_up(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + 240
    while time.monotonic() < deadline_s and process.poll() is None:
        try:
            httpx.get(f"{url}/moto-api/")
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(log.read_text())


@contextmanager
def serve_bucket(folder: Path, name: str, address: str = "127.0.0.1") -> Iterator[str]:
    """Run the server with a bucket. Yields its URL."""
    with run_moto(folder, address) as url:
        make_bucket(url, name)
        yield url


def make_bucket(server: str, name: str) -> None:
    """Make a bucket. The first request takes long where others use the machine: moto imports what it needs then."""
    httpx.put(f"{server}/{name}", timeout=120).raise_for_status()
