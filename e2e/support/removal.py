"""The end of a story's namespace: quick, and noticed if anything stays behind.

Kubernetes takes its time with a namespace. Its controller begins after 5 s; if a pod is left it comes back after half
of the pod's grace period, if a finalizer is left after 8 s, and so on. Nobody has to wait for that: what another story
could notice (pods with their accelerators, volumes, our own kinds with their finalizers) is ended and waited for here,
and the empty namespaces go meanwhile. The end of the session waits for them, and for their volumes.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Final

from e2e.support.api import Api
from e2e.support.waiting import eventually

E2E_LABEL: Final = "llmos.dev/e2e"
REMOVAL_TIMEOUT_S: Final = 240.0
"""Several rounds of the namespace controller on a busy machine."""
_GRACE_S: Final = 1
"""Pods do not drain. The kubelet ends them all the same and says when they are gone; with 0 it would not be asked."""
_AGAIN_S: Final = 20.0
_HOLDERS: Final = ("InferencePool", "LLMModel", "Job", "Pod", "PersistentVolumeClaim")
"""Owners first. What else there is in a namespace holds nothing."""


async def remove_namespace(api: Api, name: str) -> None:
    """Delete a namespace, and wait until nothing in it holds accelerators, volumes or a finalizer of ours."""
    await api.delete("Namespace", name)  # From now on nobody makes anything in it.
    again_s = 0.0

    async def end_what_is_left() -> str:
        nonlocal again_s
        # Once more now and then for what was made while the first time was under way.
        if time.monotonic() >= again_s:
            again_s = time.monotonic() + _AGAIN_S
            for kind in _HOLDERS:
                await api.delete_all(kind, name, grace_s=_GRACE_S)
        return await _find_holder(api, name)

    await eventually(
        f"namespace {name} is empty", end_what_is_left, lambda holder: not holder, timeout_s=REMOVAL_TIMEOUT_S
    )


async def _find_holder(api: Api, namespace: str) -> str:
    """Return one of the things that are left, of the kind that goes last; a large cluster has hundreds."""
    for kind in reversed(_HOLDERS):
        if left := await api.list(kind, namespace, limit=1):
            return f"{kind} {left[0]['metadata']['name']}"
    return ""


async def list_remains(api: Api) -> frozenset[str]:
    """The namespaces of stories, and volumes whose claims were in them or in others that are gone."""
    namespaces = await api.list("Namespace")
    ours = {thing["metadata"]["name"] for thing in namespaces if E2E_LABEL in thing["metadata"]["labels"]}
    kept = {thing["metadata"]["name"] for thing in namespaces} - ours
    volumes = [each for each in await api.list("PersistentVolume") if each["spec"].get("claimRef")]
    left = [each["metadata"]["name"] for each in volumes if each["spec"]["claimRef"]["namespace"] not in kept]
    return frozenset({*(f"Namespace {name}" for name in ours), *(f"PersistentVolume {name}" for name in left)})


async def wait_until_nothing_remains(api: Api, spared: Collection[str]) -> None:
    """Wait until nothing of the stories is left but what was there before."""

    async def observe() -> list[str]:
        return sorted(await list_remains(api) - set(spared))

    await eventually("the stories leave nothing", observe, lambda left: not left, timeout_s=REMOVAL_TIMEOUT_S)
