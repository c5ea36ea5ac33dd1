"""The gateway as the chart installs it: two pods behind a Service, in the namespace where the operator looks for them.

Only the gateway's own objects are taken from the chart; the operator stays a process of the test's machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import httpx
import yaml

from e2e.cluster.binaries import KUBERNETES_VERSION, ensure_binaries
from e2e.cluster.objects import Kubectl
from e2e.cluster.paths import repository_dir
from e2e.cluster.shell import run
from e2e.support.api import Api, Object
from e2e.support.asking import Target
from e2e.support.objects import build_namespace
from e2e.support.waiting import eventually
from llmos.api.apikeys import StoredKey, build_key_secret, compute_digest, find_key_id
from llmos.api.names import COMPONENT_GATEWAY, GATEWAY_ADMIN_PORT, GATEWAY_PORT, LABEL_COMPONENT
from llmos.client.keys import generate_key

SYSTEM_NAMESPACE: Final = "llmos-system"
REPLICAS: Final = 2
_RELEASE: Final = "stories"
_VALUES: Final = (
    f"--kube-version={KUBERNETES_VERSION}",
    "--set=images.registry=localhost",
    "--set=images.gateway.tag=dev",
)
_READY_TIMEOUT_S: Final = 120.0


@dataclass(frozen=True)
class Gateway:
    """The installed gateway."""

    url: str
    """Base URL of its Service, which this machine reaches."""
    release: str = _RELEASE
    replicas: int = REPLICAS

    def target(self, namespace: str, key: str, pool: str = "pool") -> Target:
        """Requests of a key for a pool, through the Service."""
        return Target(self.url, f"{namespace}/{pool}", key)


@contextmanager
def install_gateway(
    kubectl: Kubectl,
    *,
    release: str = _RELEASE,
    replicas: int = REPLICAS,
    values: Sequence[str] = (),
    beside: Sequence[Object] = (),
) -> Iterator[Gateway]:
    """Apply the gateway's objects of the chart, wait until all pods are ready, and remove everything at the end.

    Args:
        kubectl: for the cluster.
        release: what tells it from another one.
        replicas: its pods.
        values: further ones of the chart, as helm takes them.
        beside: objects that it needs.
    """
    had_namespace = kubectl("get", "namespace", SYSTEM_NAMESPACE, "--ignore-not-found", "--output=name").strip()
    if not had_namespace:
        kubectl.apply([build_namespace(SYSTEM_NAMESPACE)])
    objects = [*beside, *render_gateway(release, (f"--set=gateway.replicas={replicas}", *values))]
    kubectl.apply(objects)
    try:
        (deployment,) = (thing["metadata"]["name"] for thing in objects if thing["kind"] == "Deployment")
        kubectl("rollout", "status", f"--namespace={SYSTEM_NAMESPACE}", f"deployment/{deployment}", "--timeout=180s")
        yield Gateway(_find_url(kubectl, objects), release, replicas)
    finally:
        listed = yaml.safe_dump_all(objects)
        kubectl("delete", "--ignore-not-found", "--wait", "-f", "-", stdin=listed)
        if not had_namespace:
            kubectl("delete", "namespace", SYSTEM_NAMESPACE)


def render_gateway(release: str = _RELEASE, values: Sequence[str] = ()) -> list[Any]:
    """The objects of the chart that bear the gateway's name."""
    helm, chart = ensure_binaries("helm")["helm"], repository_dir() / "charts" / "llmos"
    command: tuple[str | Path, ...] = (helm, "template", release, chart, f"--namespace={SYSTEM_NAMESPACE}", *_VALUES)
    rendered = yaml.safe_load_all(run(*command, *values).stdout)
    return [thing for thing in rendered if thing and "gateway" in thing["metadata"]["name"]]


def _find_url(kubectl: Kubectl, objects: list[Any]) -> str:
    """The Service that leads to the port for clients."""
    services = [thing["metadata"]["name"] for thing in objects if thing["kind"] == "Service"]
    for name in services:
        spec = kubectl.get("service", name, f"--namespace={SYSTEM_NAMESPACE}")["spec"]
        for port in spec["ports"]:
            if port.get("targetPort") in {"http", "https", GATEWAY_PORT}:
                return f"http://{spec['clusterIP']}:{port['port']}/v1"
    raise AssertionError(f"none of {services} leads to port {GATEWAY_PORT}")


def _select(release: str) -> str:
    return f"{LABEL_COMPONENT}={COMPONENT_GATEWAY},app.kubernetes.io/instance={release}"


async def list_gateway_pods(api: Api, release: str = _RELEASE) -> list[Object]:
    """The pods that answer: ready and not ending."""
    pods = await api.list("Pod", SYSTEM_NAMESPACE, _select(release))
    return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"] and _is_pod_ready(pod)]


def _is_pod_ready(pod: Object) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


async def list_gateway_urls(api: Api, release: str = _RELEASE) -> list[str]:
    """Base URL of each gateway pod, past the Service."""
    return [f"http://{pod['status']['podIP']}:{GATEWAY_PORT}/v1" for pod in await list_gateway_pods(api, release)]


async def read_gateway_metric(api: Api, name: str) -> float:
    """The sum of a metric over all gateway pods and labels."""
    total = 0.0
    async with httpx.AsyncClient(trust_env=False) as client:
        for pod in await list_gateway_pods(api):
            text = (await client.get(f"http://{pod['status']['podIP']}:{GATEWAY_ADMIN_PORT}/metrics")).text
            lines = (line for line in text.splitlines() if line.partition("{")[0].partition(" ")[0] == name)
            total += sum(float(line.rpartition(" ")[2]) for line in lines)
    return total


async def restart_gateway_pod(api: Api, pod: Object) -> None:
    """Delete a gateway pod and wait until it is gone and another one is ready in its place."""
    name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
    await api.delete("Pod", name, SYSTEM_NAMESPACE)

    async def observe() -> tuple[set[str], int]:
        pods = await api.list("Pod", SYSTEM_NAMESPACE, _select(_RELEASE))
        return {pod["metadata"]["uid"] for pod in pods}, len(await list_gateway_pods(api))

    await eventually(
        f"gateway {name} is replaced",
        observe,
        lambda seen: uid not in seen[0] and seen[1] == REPLICAS,
        timeout_s=_READY_TIMEOUT_S,
    )


def build_key(
    name: str, *namespaces: str, within: str = SYSTEM_NAMESPACE, expires_at: datetime | None = None, tenant: str = ""
) -> tuple[str, Object]:
    """A new API key for these namespaces, and its Secret in the namespace of the gateway."""
    key = generate_key()
    stored = StoredKey(
        find_key_id(key) or "",
        name,
        compute_digest(key),
        frozenset(namespaces),
        expires_at=expires_at,
        tenant=tenant,
    )
    return key, build_key_secret(stored, within)


async def wait_until_known(api: Api, key: str, release: str = _RELEASE, replicas: int = REPLICAS) -> None:
    """Wait until every gateway pod accepts a key."""

    async def observe() -> list[int]:
        headers = {"Authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(trust_env=False, headers=headers) as client:
            return [(await client.get(f"{url}/models")).status_code for url in await list_gateway_urls(api, release)]

    await eventually("all gateways know the key", observe, lambda seen: seen == [200] * replicas, poll_s=0.1)
