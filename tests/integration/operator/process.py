"""Whole operator processes against a real kube-apiserver, as tests start and ask them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp

from e2e.cluster.controlplane import ControlPlane, find_free_ports

WAIT_S = 240.0
"""Far longer than it takes, also where a machine is so busy that an operator starts in a minute."""
REST_S = 3.0
LOOKS = 4


class OperatorProcess:
    """One `llmos-operator run` with its log."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self._log = log

    async def ask(self, path: str) -> tuple[int, str]:
        with contextlib.suppress(aiohttp.ClientError):
            async with aiohttp.ClientSession() as session, session.get(f"http://localhost:{self.port}{path}") as answer:
                return answer.status, await answer.text()
        return 0, ""

    async def is_ready(self) -> bool:
        return (await self.ask("/readyz"))[0] == 200

    async def is_leader(self) -> bool:
        return "llmos_operator_is_leader 1.0" in (await self.ask("/metrics"))[1]

    def messages(self) -> list[str]:
        return [json.loads(line)["message"] for line in self._log.read_text().splitlines()]

    async def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), WAIT_S)


async def count_writes(operator: OperatorProcess, *kinds: str) -> dict[str, float]:
    """Writes until now, by kind and verb; of all kinds where none is named."""
    counts = await _read_metric(operator, "llmos_operator_writes_total")
    wanted = [f'kind="{kind}"' for kind in kinds]
    return {name: count for name, count in counts.items() if not kinds or any(kind in name for kind in wanted)}


async def _read_metric(operator: OperatorProcess, name: str) -> dict[str, float]:
    """Values of a metric by its name with labels."""
    _, text = await operator.ask("/metrics")
    lines = [line.split() for line in text.splitlines() if line.startswith(f"{name}{{")]
    return {words[0]: float(words[-1]) for words in lines}


async def wait_for_looks(operator: OperatorProcess) -> None:
    """Wait until an operator that resyncs each second has looked at pools and quota again, and more than once.

    Time alone says nothing: on a busy machine it may not have come to look.
    """
    name = "llmos_operator_reconcile_seconds_count"
    looks = [f'{name}{{kind="{kind}"}}' for kind in ("InferencePool", "Quota")]
    before = await _read_metric(operator, name)

    async def have_come() -> bool:
        now = await _read_metric(operator, name)
        return all(now.get(look, 0) - before.get(look, 0) >= LOOKS for look in looks)

    await wait_until(have_come)


async def wait_for_rest(operator: OperatorProcess, *kinds: str) -> dict[str, float]:
    """Return the writes once there was none for a while.

    A busy machine takes its time for those of the beginning, and the server is shared: what other tests left there is
    looked at by a new operator, too.
    """
    writes = await count_writes(operator, *kinds)
    async with asyncio.timeout(WAIT_S):
        while True:
            await asyncio.sleep(REST_S)
            before, writes = writes, await count_writes(operator, *kinds)
            if before == writes:
                return writes


async def wait_until(is_so: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not await is_so():  # noqa: ASYNC110 - the state is in another process
            await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def run_operator(
    control_plane: ControlPlane, namespace: str, folder: Path, *arguments: str
) -> AsyncIterator[OperatorProcess]:
    """Run one operator that keeps its Lease in `namespace`, with further arguments."""
    (port,) = find_free_ports(1)
    log = folder / f"{port}.log"
    own = ["--namespace", namespace, "--metrics-port", str(port), "--resync-s", "3600"]
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "llmos_operator.main", "run", *own, *arguments),
            *("--kubeconfig", str(control_plane.kubeconfig)),
            stderr=output,
        )
    try:
        yield OperatorProcess(process, port, log)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
