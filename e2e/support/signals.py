"""Signals to the engine of a replica, from within its pod: how an engine dies or hangs."""

from __future__ import annotations

import asyncio

from e2e.cluster.objects import Kubectl
from e2e.support.api import Object

_SCRIPT = """
import os, pathlib, signal
for process in pathlib.Path("/proc").glob("[0-9]*"):
    if process.name != str(os.getpid()) and b"llmos_workers.simulate" in (process / "cmdline").read_bytes():
        os.kill(int(process.name), getattr(signal, "{signal}"))
"""


async def signal_engine(kubectl: Kubectl, pod: Object, name: str) -> None:
    """Send a signal to the engine in a pod, from within."""
    script = _SCRIPT.format(signal=name)
    namespace, pod_name = pod["metadata"]["namespace"], pod["metadata"]["name"]
    await asyncio.to_thread(
        kubectl, "exec", "--namespace", namespace, pod_name, "--container=engine", "--", "python", "-c", script
    )
