"""What all manifests share: metadata, owner references, security contexts that pass the `restricted` Pod Security
level."""

from __future__ import annotations

from typing import Any

from llmos.api.meta import Metadata
from llmos.api.names import API_VERSION, LABEL_MANAGED_BY, MANAGED_BY

Manifest = dict[str, Any]

USER_ID = 65532


def build_metadata(
    name: str,
    namespace: str,
    *,
    labels: dict[str, str],
    annotations: dict[str, str] | None = None,
    owner: Manifest | None = None,
) -> Manifest:
    """Return the metadata of a child; `owner` is the reference that garbage collection follows."""
    metadata: Manifest = {
        "name": name,
        "namespace": namespace,
        "labels": {LABEL_MANAGED_BY: MANAGED_BY, **labels},
    }
    if annotations:
        metadata["annotations"] = annotations
    if owner:
        metadata["ownerReferences"] = [owner]
    return metadata


def build_owner(kind: str, metadata: Metadata) -> Manifest:
    """Return the owner reference to one of our objects."""
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "name": metadata.name,
        "uid": metadata.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }


def build_pod_security() -> Manifest:
    """Return a pod's security context."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER_ID,
        "runAsGroup": USER_ID,
        "fsGroup": USER_ID,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def build_container_security() -> Manifest:
    """Return a container's security context."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def build_command(*words: str) -> list[str]:
    """Return a container's command that reaches its program as it stands: Kubernetes expands $(NAME) and $$ in it."""
    return [word.replace("$", "$$") for word in words]


def build_env(pairs: tuple[tuple[str, str], ...]) -> list[Manifest]:
    """Return environment variables; a later one wins over an earlier one of the same name."""
    return [{"name": name, "value": value} for name, value in dict(pairs).items()]
