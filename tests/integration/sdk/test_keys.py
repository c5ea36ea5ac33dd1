"""Keys on a real API server: made by the client, known to the gateway's reader, gone when revoked."""

from __future__ import annotations

import json

import pytest

from llmos.api.apikeys import read_key_secret
from llmos.client import Client, KeyRights, NotFoundError
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
