"""Keeps the nftables table of `policies.py` true: a program of the host provider, one of its components.

It follows pods, namespaces and policies by watches and replaces the table when what follows from them has changed. A
watch that ends begins anew with a list, after a pause that grows; the table stays as it is meanwhile. `down` removes
the table after this program has ended.

    python -m e2e.cluster.enforcer KUBECONFIG
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterable
from typing import Any

import httpx

from e2e.cluster.errors import ClusterError
from e2e.cluster.policies import build_table
from e2e.cluster.shell import run
from llmos.client.connection import load_connection

_PATHS = {
    "pods": "/api/v1/pods",
    "namespaces": "/api/v1/namespaces",
    "policies": "/apis/networking.k8s.io/v1/networkpolicies",
}
_TIMEOUT = httpx.Timeout(10.0, read=330.0)
_WATCH_S = 300
_GATHER_S = 0.05
"""Changes come in groups; one table for all of them is enough."""
_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.5, 8.0

Objects = dict[str, dict[str, Any]]


class Enforcer:
    """The live objects, and the table that was put in place last."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        """Nothing is known yet."""
        self._client = client
        self._known: dict[str, Objects] = {}
        self._changed = asyncio.Event()
        self._table = ""

    async def run(self) -> None:
        """Go on until the process is ended."""
        async with asyncio.TaskGroup() as tasks:
            for kind, path in _PATHS.items():
                tasks.create_task(self._follow(kind, path), name=kind)
            tasks.create_task(self._apply_changes(), name="apply")

    async def _follow(self, kind: str, path: str) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                version = await self._list(kind, path)
                pause_s = _FIRST_PAUSE_S
                await self._watch(kind, path, version)
            except (httpx.HTTPError, KeyError, ValueError) as error:
                print(f"{kind}: {type(error).__name__} {error}; again in {pause_s:g} s")
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LAST_PAUSE_S)

    async def _list(self, kind: str, path: str) -> str:
        listed = (await self._client.get(path)).raise_for_status().json()
        self._known[kind] = {item["metadata"]["uid"]: item for item in listed["items"]}
        self._changed.set()
        return str(listed["metadata"]["resourceVersion"])

    async def _watch(self, kind: str, path: str, version: str) -> None:
        query = {"watch": "1", "resourceVersion": version, "timeoutSeconds": str(_WATCH_S)}
        async with self._client.stream("GET", path, params=query) as response:
            response.raise_for_status()
            async for line in response.aiter_lines():
                event = json.loads(line)
                item = event["object"]
                if event["type"] == "DELETED":
                    self._known[kind].pop(item["metadata"]["uid"], None)
                else:
                    self._known[kind][item["metadata"]["uid"]] = item
                self._changed.set()

    async def _apply_changes(self) -> None:
        while True:
            await self._changed.wait()
            await asyncio.sleep(_GATHER_S)
            self._changed.clear()
            if len(self._known) == len(_PATHS):
                await self._apply()

    async def _apply(self) -> None:
        table = build_table(self._objects("pods"), self._objects("namespaces"), tuple(self._objects("policies")))
        if table == self._table:
            return
        try:
            await asyncio.to_thread(run, "nft", "-f", "-", stdin=table)
            self._table = table
        except ClusterError as error:
            print(f"{error}\n{table}")
            await asyncio.sleep(_LAST_PAUSE_S)
            self._changed.set()

    def _objects(self, kind: str) -> Iterable[dict[str, Any]]:
        return self._known[kind].values()


async def _main(kubeconfig: str) -> None:
    options = load_connection(kubeconfig).client_options(has_transport=False)
    async with httpx.AsyncClient(timeout=_TIMEOUT, **options) as client:
        await Enforcer(client).run()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
