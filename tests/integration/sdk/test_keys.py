"""Keys on a real API server: made by the client, known to the gateway's reader, gone when revoked."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from llmos.api.apikeys import read_key_secret
from llmos.client import Client, KeyRights, NotFoundError, Rotation
from llmos_gateway.keys import KeyRing, build_api_key
from tests.integration.sdk.conftest import Kubectl

pytestmark = pytest.mark.apiserver


def test_a_key_lives_from_create_to_revoke(client: Client, namespace: str, kubectl: Kubectl) -> None:
    made = client.keys.create(KeyRights(frozenset({"team"})), system_namespace=namespace)
    stored = json.loads(kubectl("get", "secret", made.stored.name, "-n", namespace, "-o", "json"))
    ring = KeyRing()
    ring.put(build_api_key(read_key_secret(stored)))
    found = ring.authenticate(made.key, 0)
    assert found is not None
    assert found.may_see("team", "chat")
    assert [key.stored for key in client.keys.list(system_namespace=namespace)] == [made.stored]
    client.keys.revoke(made.stored.id, system_namespace=namespace)
    assert client.keys.list(system_namespace=namespace) == ()


def test_a_secret_that_is_no_key_is_left_alone(client: Client, namespace: str, kubectl: Kubectl) -> None:
    kubectl("create", "secret", "generic", "password", "-n", namespace, "--from-literal=a=b")
    with pytest.raises(NotFoundError):
        client.keys.revoke("password", system_namespace=namespace)
    kubectl("get", "secret", "password", "-n", namespace)


def test_both_keys_are_good_while_one_replaces_the_other(client: Client, namespace: str, kubectl: Kubectl) -> None:
    old = client.keys.create(KeyRights(frozenset({"team"})), name="ci", system_namespace=namespace)
    now = datetime.now(UTC).replace(microsecond=0)
    rotated = client.keys.rotate("ci", Rotation(now, timedelta(hours=1)), system_namespace=namespace)
    ring = KeyRing()
    for listed in client.keys.list(system_namespace=namespace):
        assert listed.stored is not None
        ring.put(build_api_key(listed.stored))
    for text in (old.key, rotated.new.key):
        assert ring.authenticate(text, now.timestamp()) is not None
    later_s = (now + timedelta(hours=1)).timestamp()
    assert ring.authenticate(old.key, later_s) is None
    assert ring.authenticate(rotated.new.key, later_s) is not None


def test_a_key_of_a_tenant_is_made_only_if_there_is_one(
    client: Client, namespace: str, kubectl: Kubectl, tmp_path: Path
) -> None:
    name = f"t-{namespace}"
    with pytest.raises(NotFoundError, match=f"There is no Tenant {name}"):
        client.keys.create(KeyRights(tenant=name), system_namespace=namespace)
    tenant = {"apiVersion": "llmos.dev/v1alpha1", "kind": "Tenant", "metadata": {"name": name}}
    manifest = tmp_path / "tenant.json"
    manifest.write_text(json.dumps(tenant | {"spec": {"namespaces": [namespace]}}))
    kubectl("apply", "-f", str(manifest))
    try:
        made = client.keys.create(KeyRights(tenant=name), system_namespace=namespace)
        assert [key.stored for key in client.keys.list(system_namespace=namespace)] == [made.stored]
    finally:
        kubectl("delete", "tenant", name)
