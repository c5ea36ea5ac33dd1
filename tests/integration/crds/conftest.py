"""The committed CRDs, served by a real API server, and the official client to send objects to it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kubernetes.client import ApiClient, ApiException, CustomObjectsApi
from kubernetes.config import new_client_from_config

from e2e.cluster.controlplane import ControlPlane
from llmos.api import KINDS
from llmos.api.names import GROUP, VERSION
from tests.integration.conftest import Kubectl

ROOT = Path(__file__).parents[3]
INFO = {kind.info.kind: kind.info for kind in KINDS}

Object = dict[str, Any]


class RefusedError(Exception):
    """The API server refused an object: `causes` are pairs of field and message."""

    def __init__(self, causes: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{field}: {message}" for field, message in causes))
        self.causes = causes


@dataclass(frozen=True)
class Server:
    """Creates objects of our kinds in the namespace `default`."""

    objects: CustomObjectsApi

    def try_out(self, manifest: Object) -> Object:
        """Return the object as the server would store it; raise RefusedError if it would not."""
        return self._create(manifest, {"dry_run": "All"})

    def create(self, manifest: Object) -> Object:
        return self._create(manifest, {})

    def _create(self, manifest: Object, options: dict[str, str]) -> Object:
        info = INFO[manifest["kind"]]
        try:
            if info.scope == "Cluster":
                created = self.objects.create_cluster_custom_object(GROUP, VERSION, info.plural, manifest, **options)
            else:
                created = self.objects.create_namespaced_custom_object(
                    GROUP, VERSION, "default", info.plural, manifest, **options
                )
        except ApiException as error:
            causes = json.loads(error.body).get("details", {}).get("causes")
            if not causes:
                raise
            raise RefusedError([(cause.get("field", ""), cause["message"]) for cause in causes]) from error
        return dict(created)


@pytest.fixture(scope="session")
def crds(kubectl: Kubectl) -> None:
    """Install the committed CRDs and wait until they are served."""
    kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
    for info in INFO.values():
        kubectl("wait", "--for=condition=Established", "--timeout=30s", f"crd/{info.plural}.{GROUP}")


@pytest.fixture(scope="session")
def server(control_plane: ControlPlane, crds: None) -> Iterator[Server]:
    client: ApiClient = new_client_from_config(str(control_plane.kubeconfig))
    with client:
        yield Server(CustomObjectsApi(client))
