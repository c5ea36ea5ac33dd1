"""The simulator as a process of its own, for tests of conversations."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

START_TIMEOUT_S = 60.0
STOPPED_TIMEOUT_S = 10.0


@contextmanager
def run_simulator(host: str = "127.0.0.1") -> Iterator[str]:
    """Start it and yield its address; its model is called `sim`."""
    with socket.socket() as free:
        free.bind((host, 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "llmos_workers.simulate", "--host", host, "--port", port]
    command += ["--served-model-name", "sim"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until_it_answers(f"http://{host}:{port}", process)
            yield f"http://{host}:{port}"
        finally:
            process.terminate()


def wait_until_it_answers(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/health", timeout=2, trust_env=False).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    pytest.fail(f"the simulator did not start; exit status {process.poll()}")


def read_running_requests(url: str) -> float:
    lines = httpx.get(f"{url}/metrics", timeout=5, trust_env=False).text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_running{"))


def is_idle_soon(url: str) -> bool:
    """Whether no request runs any more within a few seconds."""
    deadline = time.monotonic() + STOPPED_TIMEOUT_S
    while read_running_requests(url) and time.monotonic() < deadline:
        time.sleep(0.1)
    return read_running_requests(url) == 0
