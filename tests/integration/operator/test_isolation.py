"""What keeps a namespace closed, and what bounds its claims, against a real kube-apiserver."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from llmos.api.isolation import Check, parse_findings
from llmos.api.names import LABEL_TENANT
from llmos_operator.kube.aio import AioKube
from llmos_operator.kube.errors import Forbidden, NotFound
from llmos_operator.kube.resources import (
    LIMIT_RANGES,
    NAMESPACES,
    NETWORK_POLICIES,
    RESOURCE_QUOTAS,
    ROLE_BINDINGS,
    TENANTS,
)
from llmos_operator.planning.isolation import build_refusal
from llmos_operator.planning.settings import Settings
from llmos_operator.reconcilers.base import Context, Key
from llmos_operator.reconcilers.tenant import reconcile_tenant

pytestmark = pytest.mark.apiserver

_REWRITTEN = [
    ("1.5Ti", "1536Gi"),
    ("1024Gi", "1Ti"),
    ("2000G", "2T"),
    ("1024Pi", "1Ei"),
    ("0.1", "100m"),
    ("0.00001", "1m"),
    ("20000P", "20E"),
]
"""Quantities, and how the API server writes them."""


class Tenants:
    """Two Tenants that are reconciled when a test says so."""

    def __init__(self, kube: AioKube, namespace: str) -> None:
        self.kube, self.namespace = kube, namespace
        self.context = Context(kube, Settings(), now=lambda: datetime.now(UTC))

    def name(self, which: str) -> str:
        return f"{which}-{self.namespace}"

    async def write(self, which: str, *namespaces: str, **spec: Any) -> None:
        """Write a Tenant and look at it."""
        manifest = {"apiVersion": "llmos.dev/v1alpha1", "kind": "Tenant", "metadata": {"name": self.name(which)}}
        await self.kube.apply({**manifest, "spec": {"namespaces": list(namespaces), **spec}}, field_manager="user")
        await self.look(which)

    async def look(self, which: str) -> None:
        await reconcile_tenant(self.context, Key("Tenant", "", self.name(which)))

    async def policies(self) -> dict[str, dict[str, Any]]:
        return {
            item["metadata"]["name"]: item for item in await self.kube.list(NETWORK_POLICIES, namespace=self.namespace)
        }


@pytest.fixture
async def tenants(real_kube: AioKube, namespace: str) -> AsyncIterator[Tenants]:
    tenants = Tenants(real_kube, namespace)
    yield tenants
    for which in ("a", "b"):
        await real_kube.delete(TENANTS, tenants.name(which))
        with contextlib.suppress(NotFound):
            await real_kube.patch_metadata(TENANTS, tenants.name(which), finalizers=[])


@pytest.mark.parametrize("is_deleted", [False, True], ids=["it leaves the spec", "its Tenant is deleted"])
async def test_a_namespace_that_moves_keeps_its_policies(tenants: Tenants, namespace: str, *, is_deleted: bool) -> None:
    kube = tenants.kube
    await tenants.write("a", namespace)
    await tenants.write("b", namespace)
    before = await tenants.policies()
    assert {item["metadata"]["labels"][LABEL_TENANT] for item in before.values()} == {tenants.name("a")}
    if is_deleted:
        await kube.delete(TENANTS, tenants.name("a"))
        await tenants.look("a")
    else:
        await tenants.write("a", f"{namespace}-elsewhere")
    after = await tenants.policies()
    assert {name: item["metadata"]["uid"] for name, item in after.items()} == {
        name: item["metadata"]["uid"] for name, item in before.items()
    }
    b = await kube.get(TENANTS, tenants.name("b"))
    assert b is not None
    others = [item for kind in (LIMIT_RANGES, ROLE_BINDINGS) for item in await kube.list(kind, namespace=namespace)]
    for item in (*after.values(), *others):
        assert item["metadata"]["labels"][LABEL_TENANT] == tenants.name("b")
        assert [owner["uid"] for owner in item["metadata"]["ownerReferences"]] == [b["metadata"]["uid"]]
    found = await kube.get(NAMESPACES, namespace)
    assert found is not None
    assert found["metadata"]["labels"][LABEL_TENANT] == tenants.name("b")
    assert found["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert (await kube.get(TENANTS, tenants.name("a")) is None) is is_deleted


async def test_a_claim_that_is_more_than_the_tenant_s_storage_is_refused_and_the_model_says_by_what(
    tenants: Tenants, namespace: str
) -> None:
    kube = tenants.kube
    await tenants.write("a", namespace, storage={"size": "10Gi", "claims": 2})
    (quota,) = await kube.list(RESOURCE_QUOTAS, namespace=namespace)
    hard = quota["spec"]["hard"]
    assert (hard["requests.storage"], hard["persistentvolumeclaims"]) == ("10Gi", "2")
    # There is no controller of ResourceQuotas here that would count.
    metadata = {"name": quota["metadata"]["name"], "namespace": namespace}
    status = {"hard": hard, "used": dict.fromkeys(hard, "0")}
    await kube.apply_status({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "status": status})
    with pytest.raises(Forbidden) as refused:
        await kube.apply(build_claim(namespace, "large", "11Gi"))
    assert "spec.storage of its Tenant" in build_refusal(refused.value.message).message
    for name in ("first", "second"):
        await kube.apply(build_claim(namespace, name, "1Gi"))
    with pytest.raises(Forbidden) as refused:
        await kube.apply(build_claim(namespace, "third", "1Gi"))
    assert "spec.storage of its Tenant" in build_refusal(refused.value.message).message


@pytest.mark.parametrize(("size", "stored"), _REWRITTEN)
async def test_storage_that_the_api_server_writes_in_another_way_is_as_it_was_made(
    tenants: Tenants, namespace: str, size: str, stored: str, caplog: pytest.LogCaptureFixture
) -> None:
    await tenants.write("a", namespace, storage={"size": size})
    (before,) = await tenants.kube.list(RESOURCE_QUOTAS, namespace=namespace)
    assert before["spec"]["hard"]["requests.storage"] == stored
    found = await tenants.kube.get(TENANTS, tenants.name("a"))
    assert found is not None
    (isolation,) = (c for c in found["status"]["conditions"] if c["type"] == "IsolationReady")
    (quota,) = (each for each in parse_findings(isolation["message"]) if each.check == Check.QUOTA)
    assert quota.is_ok, quota.seen
    with caplog.at_level(logging.INFO, logger="llmos.audit"):
        await tenants.look("a")
    assert "isolate ResourceQuota" not in caplog.text, "it is not written again"


def build_claim(namespace: str, name: str, size: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}},
    }
