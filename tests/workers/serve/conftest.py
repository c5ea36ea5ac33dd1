"""serve as a real process with the simulator as its engine, on free ports of loopback."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiohttp import ClientError, ClientSession

START_S = 60.0
"""Far longer than it takes, also on a busy machine: what has not come by then does not come."""


@dataclass
class Serve:
    """A running serve, as kubelet and a client see it."""

    process: asyncio.subprocess.Process
    session: ClientSession
    engine_url: str
    control_port: int
    termination_log: Path
    output: Path

    async def probe(self, path: str) -> tuple[int, str]:
        """Status and text of a path of the control port; status 0 while nobody listens."""
        try:
            async with self.session.get(f"http://127.0.0.1:{self.control_port}{path}") as response:
                return response.status, await response.text()
        except ClientError as error:
            return 0, str(error)

    async def wait_for(self, path: str, status: int, within_s: float = START_S) -> str:
        """Wait until a path of the control port answers with a status; its text."""
        text = ""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while True:
                    got, text = await self.probe(path)
                    if got == status:
                        return text
                    await asyncio.sleep(0.05)
        raise AssertionError(f"{path} never answered {status}, last: {text}\n{self.output.read_text()}")

    async def wait_for_exit(self, within_s: float = START_S) -> int:
        """Exit status of serve."""
        return await asyncio.wait_for(self.process.wait(), within_s)

    def find_engine(self) -> psutil.Process:
        """The engine's process."""
        return psutil.Process(self.process.pid).children()[0]

    def read_termination(self) -> dict[str, str]:
        """The termination message."""
        told: dict[str, str] = json.loads(self.termination_log.read_bytes())
        return told

    def complete(self, **fields: Any) -> Any:
        """A request for text, to be used as an async context manager."""
        return self.session.post(f"{self.engine_url}/v1/completions", json={"prompt": "Hi", **fields})


StartServe = Callable[..., Awaitable[Serve]]


def find_free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


def _kill_family(process: asyncio.subprocess.Process) -> None:
    serve = psutil.Process(process.pid)
    for member in [serve, *serve.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            member.kill()


@pytest.fixture
def drain_file(tmp_path: Path) -> Path:
    """Where serve and its engine agree on the drain."""
    return tmp_path / "drain" / "draining"


@pytest.fixture
async def start_serve(tmp_path: Path, drain_file: Path) -> AsyncIterator[StartServe]:
    """Start serve with arguments of its own (`serve_args`) and of the simulator."""
    started: list[asyncio.subprocess.Process] = []
    async with ClientSession() as session:

        async def start(
            *engine_args: str, serve_args: tuple[str, ...] = (), model_dir: str = "none", name: str = "serve"
        ) -> Serve:
            port, control_port = find_free_ports(2)
            termination_log = tmp_path / f"{name}-termination-log"
            output = tmp_path / f"{name}-output"
            own = (
                f"--engine=simulator --model-dir={model_dir} --served-model-name=m --host=127.0.0.1 --port={port} "
                f"--control-port={control_port} --poll-s=0.1 --settle-s=0.5 --drain-timeout-s=10 "
                f"--start-timeout-s={START_S} --termination-log={termination_log}"
            )
            with output.open("wb") as stream:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "llmos_workers.serve", *own.split(), *serve_args, "--", *engine_args),
                    env={**os.environ, "LLMOS_DRAIN_FILE": str(drain_file)},
                    stdout=stream,
                    stderr=stream,
                )
            started.append(process)
            return Serve(
                process=process,
                session=session,
                engine_url=f"http://127.0.0.1:{port}",
                control_port=control_port,
                termination_log=termination_log,
                output=output,
            )

        yield start
    for process in started:
        if process.returncode is None:
            _kill_family(process)
            await process.wait()
