"""What stories of token budgets need: tenants with limits, a store that pods reach, and gateways that are killed."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import httpx
from redis import Redis, RedisError

from e2e.cluster.controlplane import find_free_ports
from e2e.cluster.node import NODE_ADDRESS
from e2e.cluster.packages import ensure_packages
from e2e.support.api import Api, Object
from e2e.support.asking import Target
from e2e.support.gateway import SYSTEM_NAMESPACE, Gateway, build_key, list_gateway_pods, wait_until_known
from e2e.support.processes import kill_processes
from e2e.support.waiting import eventually
from llmos.api.names import GATEWAY_ADMIN_PORT

EVEN: Final = {"input": 1, "cached": 1, "output": 1}
STORE_SECRET: Final = "e2e-budget-store"  # noqa: S105 - a name
_USED: Final = "llmos_gateway_budget_used_tokens"


@contextmanager
def serve_store(folder: Path) -> Iterator[str]:
    """Run a Valkey or Redis on this machine; yield its URL, which pods reach."""
    if shutil.which("valkey-server") is None:
        ensure_packages({"redis-server": "redis-server"})
    program = shutil.which("valkey-server") or "redis-server"
    (port,) = find_free_ports(1)
    options = ("--bind", NODE_ADDRESS, "--protected-mode", "no", "--appendonly", "yes", "--save", "")
    server = subprocess.Popen(
        [program, "--port", str(port), "--dir", folder, *options], stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        _wait_for_store(port)
        yield f"redis://{NODE_ADDRESS}:{port}/0"
    finally:
        server.kill()
        server.wait()


def _wait_for_store(port: int) -> None:
    until_s = time.monotonic() + 20
    while True:
        try:
            with Redis(host=NODE_ADDRESS, port=port) as client:
                client.ping()
                return
        except RedisError:
            if time.monotonic() > until_s:
                raise
            time.sleep(0.05)


def build_store_secret(url: str) -> Object:
    """The Secret that the chart's value names."""
    metadata = {"name": STORE_SECRET, "namespace": SYSTEM_NAMESPACE}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"url": url}}


@asynccontextmanager
async def budgeted(api: Api, gateway: Gateway, namespace: str, name: str, **tokens: Any) -> AsyncIterator[Target]:
    """Have a Tenant with limits that may call the pools of a namespace; yield how its requests go."""
    name = f"{namespace}-{name}"
    spec = {"namespaces": [name], "models": {"allow": [f"{namespace}/*"]}, "tokens": {"cost": EVEN, **tokens}}
    tenant = {"apiVersion": "llmos.dev/v1alpha1", "kind": "Tenant", "metadata": {"name": name}, "spec": spec}
    key, secret = build_key(name, namespace, tenant=name)
    try:
        await api.create(tenant)
        await api.create(secret)
        await wait_until_known(api, key, gateway.release, gateway.replicas)
        yield gateway.target(namespace, key)
    finally:
        await api.delete("Secret", name, SYSTEM_NAMESPACE)
        await api.delete("Tenant", name)


@dataclass(frozen=True)
class Told:
    """What came of one request, as far as budgets go."""

    status: int
    headers: dict[str, str]
    code: str
    """Of the error, from the body or from within the stream."""
    tokens: int
    """Events of a stream that hold text, or the engine's count."""
    is_done: bool


async def ask_openly(session: aiohttp.ClientSession, target: Target, **fields: Any) -> Told:
    """Ask without a limit of the answer's length unless `fields` say one."""
    body = {"model": target.model, "messages": [{"role": "user", "content": "Tell a long story."}], **fields}
    url = f"{target.url}/chat/completions"
    async with session.post(url, json=body, headers=target.build_headers()) as response:
        text = await response.text()
        headers = {name.lower(): value for name, value in response.headers.items()}
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")] or [text]
    events = [httpx.Response(200, text=line).json() for line in lines if line != "[DONE]"]
    code = next((event["error"]["code"] for event in events if event.get("error")), "")
    deltas = [choice.get("delta", {}) for event in events for choice in event.get("choices", ())]
    tokens = sum(bool(delta.get("content")) for delta in deltas)
    counted = next((event["usage"]["completion_tokens"] for event in events if event.get("usage")), tokens)
    return Told(response.status, headers, code, counted, "[DONE]" in lines)


async def read_used(api: Api, gateway: Gateway, tenant: str, window: str) -> list[float]:
    """Weighted tokens of a tenant as each gateway knows them; those that know nothing are left out."""
    label, seen = f'{_USED}{{tenant="{tenant}",window="{window}"}} ', []
    async with httpx.AsyncClient(trust_env=False) as client:
        for pod in await list_gateway_pods(api, gateway.release):
            text = (await client.get(f"http://{pod['status']['podIP']}:{GATEWAY_ADMIN_PORT}/metrics")).text
            seen += [float(line.removeprefix(label)) for line in text.splitlines() if line.startswith(label)]
    return seen


async def kill_gateways(api: Api, gateway: Gateway) -> None:
    """Send SIGKILL to the process of every gateway pod, and wait until all have begun anew and are ready."""
    pods = await list_gateway_pods(api, gateway.release)
    killed = [pid for pod in pods for pid in kill_processes(pod["metadata"]["uid"], "llmos-gateway")]
    assert len(killed) >= len(pods), "the processes of the gateway's pods are not found on this machine"

    async def observe() -> list[tuple[str, int]]:
        ready = await list_gateway_pods(api, gateway.release)
        return sorted((pod["metadata"]["uid"], _count_restarts(pod)) for pod in ready)

    wanted = sorted((pod["metadata"]["uid"], _count_restarts(pod) + 1) for pod in pods)
    await eventually("all gateways have begun anew", observe, lambda seen: seen == wanted, timeout_s=120)


def _count_restarts(pod: Object) -> int:
    return sum(status["restartCount"] for status in pod["status"]["containerStatuses"])
