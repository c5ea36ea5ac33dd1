"""A real server for the shared store: Valkey, or Redis where there is none."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis import Redis, RedisError

from e2e.cluster.controlplane import find_free_ports
from e2e.cluster.packages import ensure_packages


@dataclass
class Server:
    """One server on loopback that the test stops and starts."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, with what it kept."""
        program = shutil.which("valkey-server") or shutil.which("redis-server") or "redis-server"
        options = ("--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--appendfsync", "always")
        self.process = subprocess.Popen(
            [program, "--port", str(self.port), "--dir", self.folder, *options], stdout=subprocess.DEVNULL
        )
        until_s = time.monotonic() + 20
        while not self._answers():
            if time.monotonic() > until_s or self.process.poll() is not None:
                raise RuntimeError(f"{program} does not answer on port {self.port}")
            time.sleep(0.02)

    def kill(self) -> None:
        """End it at once."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _answers(self) -> bool:
        try:
            with Redis(port=self.port) as client:
                return bool(client.ping())
        except RedisError:
            return False


@pytest.fixture(scope="session")
def running_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server of the session."""
    if shutil.which("valkey-server") is None:
        ensure_packages({"redis-server": "redis-server"})
    (port,) = find_free_ports(1)
    server = Server(tmp_path_factory.mktemp("redis"), port)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def server(running_server: Server) -> Server:
    """A server that runs and is empty."""
    if running_server.process is None:
        running_server.start()
    with Redis(port=running_server.port) as client:
        client.flushall()
    return running_server
