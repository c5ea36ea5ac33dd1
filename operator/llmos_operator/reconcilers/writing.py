"""The two writes that every reconcile ends with: children that differ from what is wanted, and a status that
changed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from llmos.api.meta import ApiModel, Condition
from llmos.api.names import API_VERSION, CONDITION_READY
from llmos_operator.kube.client import Kube, Object
from llmos_operator.planning.conditions import Announcement, plan_announcement

Manifest = dict[str, Any]

NOTE_LIMIT_BYTES = 1024
"""The API server refuses an Event with a longer note."""


def is_applied(desired: object, existing: object) -> bool:
    """Whether everything that `desired` says is already so; what the server or others added does not matter."""
    if isinstance(desired, Mapping):
        return isinstance(existing, Mapping) and all(
            key in existing and is_applied(value, existing[key]) for key, value in desired.items()
        )
    if isinstance(desired, list):
        return (
            isinstance(existing, list)
            and len(desired) == len(existing)
            and all(is_applied(want, have) for want, have in zip(desired, existing, strict=True))
        )
    return desired == existing


async def apply_if_needed(kube: Kube, desired: Manifest, existing: Object | None) -> None:
    """Apply a child unless it already is as wanted, so that a second reconcile writes nothing."""
    if existing is None or not is_applied(desired, existing):
        await kube.apply(desired)


async def apply_status_if_changed(
    kube: Kube, current: Object, status: ApiModel, now: datetime, *announcements: Announcement | None
) -> bool:
    """Write the status if it differs from what the server has, then one Event if the Ready condition changed its
    reason, and one for each further announcement. Return whether it differed."""
    wanted = status.to_manifest()
    before = current.get("status") or {}
    if wanted == before:
        return False
    metadata = current["metadata"]
    manifest: Manifest = {
        "apiVersion": current["apiVersion"],
        "kind": current["kind"],
        "metadata": {"name": metadata["name"], "uid": metadata["uid"]},
        "status": wanted,
    }
    if "namespace" in metadata:
        manifest["metadata"]["namespace"] = metadata["namespace"]
    await kube.apply_status(manifest)
    previous = [Condition.model_validate(condition) for condition in before.get("conditions", ())]
    after = [Condition.model_validate(condition) for condition in wanted.get("conditions", ())]
    for announcement in (*announcements, plan_announcement(CONDITION_READY, previous, after)):
        if announcement is not None:
            await kube.create_event(build_event(current, announcement, now))
    return True


def build_event(about: Object, announcement: Announcement, now: datetime) -> Manifest:
    """Return an Event; its name is made from its content and time, so that a repeated write stays one Event."""
    metadata = about["metadata"]
    digest = hashlib.sha256(f"{metadata['uid']}{announcement.reason}{now.isoformat()}".encode()).hexdigest()[:16]
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{metadata['name']}.{digest}", "namespace": metadata.get("namespace", "default")},
        "eventTime": now.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "type": "Warning" if announcement.warning else "Normal",
        "reason": announcement.reason.value,
        "note": announcement.message.encode()[:NOTE_LIMIT_BYTES].decode(errors="ignore"),
        "action": "Reconcile",
        "reportingController": "llmos.dev/operator",
        "reportingInstance": "llmos-operator",
        "regarding": {
            "apiVersion": API_VERSION,
            "kind": about["kind"],
            "name": metadata["name"],
            "namespace": metadata.get("namespace", ""),
            "uid": metadata["uid"],
        },
    }
