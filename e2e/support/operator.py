"""The operator as a process of the test's machine: quick to start, and it can be killed at any moment.

It runs without leader election, so that a new one goes on at once where a killed one stopped; what a Lease adds is told
by the story of the chart. For the same reason there must be no other operator in the cluster: two of them without a
Lease would write against each other, and no story would mean anything.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import httpx

from e2e.cluster.controlplane import find_free_ports
from e2e.cluster.images import image_name
from e2e.cluster.node import NODE_ADDRESS
from e2e.cluster.shell import wait_for
from e2e.support.api import Api
from e2e.support.objects import build_namespace, build_pool

LEASE_NAME: Final = "llmos-operator"
_START_TIMEOUT_S: Final = 60.0
_STOP_TIMEOUT_S: Final = 40.0
_SHORTEST_LIFE_S: Final = 0.5
_PROBE_S: Final = 5.0
_LEASE_IS_OLD_S: Final = 30.0


@dataclass(frozen=True)
class OperatorSettings:
    """Options of the command line; short times, so that a story need not wait."""

    drain_settle_s: int = 3
    start_timeout_s: int = 60
    unschedulable_after_s: int = 3
    image_pull_timeout_s: int = 12
    resync_s: float = 3.0
    dns_address: str = f"{NODE_ADDRESS}/32"
    """CoreDNS is a program of the node here, not a pod."""

    def build_options(self) -> list[str]:
        """Return the words of the command line."""
        return [
            word
            for field in fields(self)
            for word in (f"--{field.name.replace('_', '-')}", str(getattr(self, field.name)))
        ]


class OperatorProcess:
    """One operator at a time; `restart` and `kill` keep its settings unless new ones are given."""

    def __init__(self, kubeconfig: Path, log: Path) -> None:
        """Nothing runs yet."""
        self._kubeconfig, self._log = kubeconfig, log
        self._settings = OperatorSettings()
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    @property
    def pid(self) -> int:
        """The process id; 0 if none runs."""
        return self._process.pid if self._process and self._process.poll() is None else 0

    def ensure(self, settings: OperatorSettings) -> None:
        """Have an operator with these settings."""
        if self.pid and settings == self._settings:
            return
        self.stop()
        self._settings = settings
        self.start()
        self.wait_until_ready()

    def start(self) -> None:
        """Start it, without waiting until it watches."""
        (self._port,) = find_free_ports(1)
        command = [sys.executable, "-m", "llmos_operator.main", "run", "--no-leader-election"]
        command += ["--worker-image", image_name("worker"), "--worker-lite-image", image_name("worker-lite")]
        command += ["--ca-bundle-config-map", "llmos-ca-bundle", "--metrics-port", str(self._port)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command + self._settings.build_options(), env=self._build_environment(), stdout=log, stderr=log
            )

    def _build_environment(self) -> Mapping[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("LLMOS_")}
        return {**kept, "KUBECONFIG": str(self._kubeconfig)}

    def wait_until_ready(self) -> None:
        """Wait until all its watches run."""

        def is_ready() -> bool:
            assert self.pid, f"the operator ended by itself, see {self._log}"
            try:
                return httpx.get(self._url("/readyz"), timeout=5, trust_env=False).status_code == 200
            except httpx.TransportError:
                return False

        wait_for("The operator", is_ready, timeout_s=_START_TIMEOUT_S, poll_s=0.2, hint=f"See {self._log}.")

    def kill(self) -> None:
        """SIGKILL: no last word, no last write."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(_STOP_TIMEOUT_S)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if that is not enough."""
        if not self.pid or self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def read_metric(self, name: str) -> float:
        """The sum of a metric over all its labels."""
        text = httpx.get(self._url("/metrics"), timeout=10, trust_env=False).text
        found = re.findall(rf"^{re.escape(name)}(?:\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE)
        return sum(map(float, found))

    def _url(self, path: str) -> str:
        return f"http://127.0.0.1:{self._port}{path}"


async def kill_again_and_again(operator: OperatorProcess, *, kills: int, seed: int, longest_life_s: float) -> None:
    """End so many lives of the operator at random moments; the one after them stays, and watches when this returns.

    A life begins when the operator is started, so that short ones end before its first write and long ones in the
    middle of a step.
    """
    moments = random.Random(seed)  # noqa: S311 - reproducible, not secret
    for _ in range(kills):
        await asyncio.sleep(moments.uniform(_SHORTEST_LIFE_S, longest_life_s))
        await asyncio.to_thread(operator.kill)
        await asyncio.to_thread(operator.start)
    await asyncio.to_thread(operator.wait_until_ready)


async def find_foreign_operator(api: Api) -> str:
    """Return how we know of another operator in the cluster, empty if there is none.

    One with leader election shows a Lease. One without shows nothing, but it answers: so we ask, by a pool whose model
    does not exist.
    """
    for lease in await api.list("Lease"):
        spec, metadata = lease["spec"], lease["metadata"]
        age_s = (
            datetime.now(UTC) - datetime.fromisoformat(spec.get("renewTime", "2000-01-01T00:00:00Z"))
        ).total_seconds()
        if metadata["name"] == LEASE_NAME and spec.get("holderIdentity") and age_s < _LEASE_IS_OLD_S:
            return f"{spec['holderIdentity']} holds the Lease {metadata['namespace']}/{LEASE_NAME}"
    namespace = f"e2e-probe-{uuid.uuid4().hex[:6]}"
    await api.create(build_namespace(namespace))
    try:
        await api.create(build_pool(namespace, model="does-not-exist"))
        await asyncio.sleep(_PROBE_S)
        probe = await api.get("InferencePool", "pool", namespace)
        return "somebody writes the status of new pools" if probe and "status" in probe else ""
    finally:
        await api.delete("Namespace", namespace)
