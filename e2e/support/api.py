"""The Kubernetes API as the stories need it: plain objects in and out, over HTTP.

Not the operator's own client: a story must not fail to see what the operator's client fails to see.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx

from llmos.client.connection import load_connection

Object = dict[str, Any]

_TIMEOUT: Final = httpx.Timeout(30.0)
_PREFIXES: Final = {
    "Namespace": ("api/v1", "namespaces"),
    "Node": ("api/v1", "nodes"),
    "Pod": ("api/v1", "pods"),
    "Service": ("api/v1", "services"),
    "Secret": ("api/v1", "secrets"),
    "ResourceQuota": ("api/v1", "resourcequotas"),
    "PersistentVolume": ("api/v1", "persistentvolumes"),
    "PersistentVolumeClaim": ("api/v1", "persistentvolumeclaims"),
    "Deployment": ("apis/apps/v1", "deployments"),
    "Job": ("apis/batch/v1", "jobs"),
    "Event": ("apis/events.k8s.io/v1", "events"),
    "EndpointSlice": ("apis/discovery.k8s.io/v1", "endpointslices"),
    "Lease": ("apis/coordination.k8s.io/v1", "leases"),
    "PriorityClass": ("apis/scheduling.k8s.io/v1", "priorityclasses"),
    "ValidatingAdmissionPolicy": ("apis/admissionregistration.k8s.io/v1", "validatingadmissionpolicies"),
    "ValidatingAdmissionPolicyBinding": ("apis/admissionregistration.k8s.io/v1", "validatingadmissionpolicybindings"),
    "CustomResourceDefinition": ("apis/apiextensions.k8s.io/v1", "customresourcedefinitions"),
    "NetworkPolicy": ("apis/networking.k8s.io/v1", "networkpolicies"),
    "LLMModel": ("apis/llmos.dev/v1alpha1", "llmmodels"),
    "InferencePool": ("apis/llmos.dev/v1alpha1", "inferencepools"),
    "FineTuneJob": ("apis/llmos.dev/v1alpha1", "finetunejobs"),
    "Tenant": ("apis/llmos.dev/v1alpha1", "tenants"),
    "AcceleratorClass": ("apis/llmos.dev/v1alpha1", "acceleratorclasses"),
}


class RefusedError(Exception):
    """The API server refused a request."""

    def __init__(self, response: httpx.Response) -> None:
        """Keep status and words of the answer."""
        super().__init__(f"{response.request.method} {response.request.url}: {response.status_code} {response.text}")
        self.status = response.status_code


class Api:
    """One connection to the API server, as the administrator."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        """Take a client whose base URL is the API server."""
        self._client = client

    async def get(self, kind: str, name: str, namespace: str = "") -> Object | None:
        """Return an object, None if there is none."""
        response = await self._client.get(_path(kind, namespace, name))
        return None if response.status_code == 404 else _checked(response)

    async def list(self, kind: str, namespace: str = "", selector: str = "", *, limit: int = 0) -> list[Object]:
        """Return all objects of a kind, in one namespace or in all; with a limit the first ones."""
        items: list[Object] = (await self._list(kind, namespace, selector, limit))["items"]
        return items

    async def _list(self, kind: str, namespace: str, selector: str, limit: int = 0) -> Object:
        query = {"labelSelector": selector, "limit": str(limit)}
        return _checked(await self._client.get(_path(kind, namespace), params=query))

    async def create(self, manifest: Object, *, dry_run: bool = False) -> Object:
        """Create an object."""
        path = _path(manifest["kind"], manifest["metadata"].get("namespace", ""))
        return _checked(await self._client.post(path, json=manifest, params={"dryRun": "All"} if dry_run else {}))

    async def patch(self, kind: str, name: str, namespace: str, change: Object) -> Object:
        """Merge a change into an object."""
        headers = {"Content-Type": "application/merge-patch+json"}
        return _checked(await self._client.patch(_path(kind, namespace, name), json=change, headers=headers))

    async def delete(self, kind: str, name: str, namespace: str = "") -> None:
        """Delete an object, with its children in the background; one that is gone is fine."""
        body = {"propagationPolicy": "Background"}
        response = await self._client.request("DELETE", _path(kind, namespace, name), json=body)
        if response.status_code != 404:
            _checked(response)

    async def delete_all(self, kind: str, namespace: str, *, grace_s: int | None = None) -> None:
        """Delete all objects of a kind in a namespace, pods with this grace period instead of their own."""
        body: Object = {"propagationPolicy": "Background"}
        if grace_s is not None:
            body["gracePeriodSeconds"] = grace_s
        _checked(await self._client.request("DELETE", _path(kind, namespace), json=body))

    async def watch(self, kind: str, namespace: str, selector: str) -> AsyncIterator[tuple[str, Object]]:
        """Yield what exists as ADDED, then every change, in the order in which the API server made them.

        The API server ends a stream that is read too slowly: it goes on from the last change then, so that none is
        missed. Where it cannot, the last event is an ERROR.
        """
        listed = await self._list(kind, namespace, selector)
        for item in listed["items"]:
            yield "ADDED", item
        query = {"labelSelector": selector, "watch": "1", "resourceVersion": listed["metadata"]["resourceVersion"]}
        path, endless = _path(kind, namespace), httpx.Timeout(30.0, read=None)
        while True:
            async with self._client.stream("GET", path, params=query, timeout=endless) as response:
                async for line in response.aiter_lines():
                    event = json.loads(line)
                    yield event["type"], event["object"]
                    if event["type"] == "ERROR":
                        return
                    query["resourceVersion"] = event["object"]["metadata"]["resourceVersion"]


@asynccontextmanager
async def connect(kubeconfig: Path) -> AsyncIterator[Api]:
    """Open a connection for the length of a block."""
    options = load_connection(str(kubeconfig)).client_options(has_transport=False)
    async with httpx.AsyncClient(timeout=_TIMEOUT, limits=httpx.Limits(max_connections=64), **options) as client:
        yield Api(client)


def _path(kind: str, namespace: str, name: str = "") -> str:
    prefix, plural = _PREFIXES[kind]
    scope = f"/namespaces/{namespace}" if namespace else ""
    return f"/{prefix}{scope}/{plural}" + (f"/{name}" if name else "")


def _checked(response: httpx.Response) -> Object:
    if response.is_error:
        raise RefusedError(response)
    answer: Object = response.json()
    return answer
