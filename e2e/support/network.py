"""Who reaches whom: connections tried from inside pods, and stand-ins for places outside of the cluster."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Final

from e2e.cluster.images import image_name
from e2e.cluster.objects import Kubectl
from e2e.cluster.shell import run
from e2e.support.api import Object

INTERNET: Final = "203.0.113.7"
"""Of a range that nobody may use (RFC 5737): stands in for the internet, which a test must not need."""
LINK_LOCAL: Final = "169.254.77.77"
"""Stands in for the metadata service of a cloud, whose own address this machine may need."""

# All at once, for a closed address answers nothing and takes the whole time.
_TRY = """
import concurrent.futures, json, socket, sys
def opens(target):
    host, _, port = target.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=3).close()
        return True
    except OSError:
        return False
targets = json.loads(sys.argv[1])
with concurrent.futures.ThreadPoolExecutor(len(targets)) as pool:
    print(json.dumps(dict(zip(targets, pool.map(opens, targets)))))
"""


async def try_connections(
    kubectl: Kubectl, namespace: str, pod: str, targets: Mapping[str, str], container: str = "engine"
) -> dict[str, bool]:
    """Return which of the targets (name -> host:port) a pod can open."""
    words = ("exec", pod, f"--namespace={namespace}", f"--container={container}", "--")
    text = await asyncio.to_thread(kubectl, *words, "python", "-c", _TRY, json.dumps(list(targets.values())))
    opened: dict[str, bool] = json.loads(text)
    return {name: opened[target] for name, target in targets.items()}


async def resolve(kubectl: Kubectl, namespace: str, pod: str, host: str, container: str = "engine") -> str:
    """Return the address that a pod gets for a name."""
    code = "import socket, sys; print(socket.gethostbyname(sys.argv[1]))"
    words = ("exec", pod, f"--namespace={namespace}", f"--container={container}", "--", "python", "-c", code, host)
    return (await asyncio.to_thread(kubectl, *words)).strip()


def build_probe(namespace: str, name: str, labels: Mapping[str, str] | None = None) -> Object:
    """A pod that does nothing, from which connections are tried."""
    security = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": dict(labels or {})},
        "spec": {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 1,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "probe",
                    "image": image_name("worker-lite"),
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["python", "-c", "import time; time.sleep(3600)"],
                    "securityContext": security,
                }
            ],
        },
    }


@contextmanager
def stand_ins() -> Iterator[dict[str, str]]:
    """Listen at the addresses that stand in for places outside of the cluster; return host:port by name."""
    with ExitStack() as undo:
        targets = {}
        for name, address in (("internet", INTERNET), ("link-local", LINK_LOCAL)):
            run("ip", "addr", "replace", f"{address}/32", "dev", "lo")
            undo.callback(run, "ip", "addr", "del", f"{address}/32", "dev", "lo", check=False)
            listener = undo.enter_context(socket.create_server((address, 0)))
            targets[name] = f"{address}:{listener.getsockname()[1]}"
            threading.Thread(target=_accept, args=(listener,), name=f"stand-in for {name}", daemon=True).start()
        yield targets


def _accept(listener: socket.socket) -> None:
    while True:
        try:
            listener.accept()[0].close()
        except OSError:  # the story is over
            return
