"""The way to the cluster, from real kubeconfig files."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from llmos import client
from llmos.client import AsyncClient, Client, ConfigurationError, load_connection
from llmos.client import aio as aio_client
from llmos.client import sync as sync_client


def write_kubeconfig(folder: Path, user: dict[str, Any], **cluster: Any) -> str:
    file = folder / "config"
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [{"name": "c", "cluster": {"server": "https://cluster.test:6443", **cluster}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [
            {"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "team"}},
            {"name": "there", "context": {"cluster": "c", "user": "u"}},
        ],
    }
    file.write_text(yaml.safe_dump(document))
    return str(file)


def sign(auth: httpx.Auth | None) -> str | None:
    assert auth is not None
    request = next(auth.sync_auth_flow(httpx.Request("GET", "https://cluster.test")))
    return dict(request.headers).get("authorization")


def test_the_context_says_where_and_in_which_namespace(tmp_path: Path) -> None:
    connection = load_connection(write_kubeconfig(tmp_path, {"token": "secret"}))
    assert (connection.server, connection.namespace) == ("https://cluster.test:6443", "team")
    assert sign(connection.auth) == "Bearer secret"


def test_another_context_and_namespace_can_be_chosen(tmp_path: Path) -> None:
    kubeconfig = write_kubeconfig(tmp_path, {"token": "secret"})
    assert load_connection(kubeconfig, "there").namespace == "default"
    assert load_connection(kubeconfig, "there", "mine").namespace == "mine"


def test_a_login_program_is_asked_for_the_token(tmp_path: Path) -> None:
    program = tmp_path / "login"
    program.write_text(
        '#!/bin/sh\necho \'{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", '
        '"status": {"token": "fresh"}}\'\n'
    )
    program.chmod(0o755)
    login = {"apiVersion": "client.authentication.k8s.io/v1", "command": str(program), "interactiveMode": "Never"}
    assert sign(load_connection(write_kubeconfig(tmp_path, {"exec": login})).auth) == "Bearer fresh"


def test_server_name_and_proxy_are_honoured(tmp_path: Path) -> None:
    extra = {"tls-server-name": "inner.test", "proxy-url": "http://proxy.test:3128"}
    connection = load_connection(write_kubeconfig(tmp_path, {}, **extra))
    assert (connection.tls_server_name, connection.proxy) == ("inner.test", "http://proxy.test:3128")
    assert sign(connection.auth) is None


@pytest.mark.parametrize("context", ["nowhere", None])
def test_a_configuration_that_cannot_be_used_says_so(tmp_path: Path, context: str | None) -> None:
    kubeconfig = write_kubeconfig(tmp_path, {"token": "x"}) if context else str(tmp_path / "missing")
    with pytest.raises(ConfigurationError, match="--kubeconfig") as caught:
        load_connection(kubeconfig, context)
    assert caught.value.cause.startswith("No usable Kubernetes configuration")


def test_the_namespace_of_the_client_wins_over_the_contexts(tmp_path: Path) -> None:
    with Client(kubeconfig=write_kubeconfig(tmp_path, {"token": "x"}), namespace="mine") as connected:
        assert connected.namespace == "mine"


def methods(owner: type) -> dict[str, list[str]]:
    return {
        name: list(inspect.signature(member).parameters)
        for name, member in inspect.getmembers(owner, inspect.isfunction)
        if not name.startswith("_")
    }


@pytest.mark.parametrize(
    ("blocking", "asynchronous"),
    [
        (sync_client.Resources, aio_client.AsyncResources),
        (sync_client.LoggedResources, aio_client.AsyncLoggedResources),
        (sync_client.Jobs, aio_client.AsyncJobs),
        (sync_client.Pools, aio_client.AsyncPools),
        (sync_client.Endpoint, aio_client.AsyncEndpoint),
        (Client, AsyncClient),
    ],
)
def test_both_clients_offer_the_same(blocking: type, asynchronous: type) -> None:
    assert methods(blocking) == methods(asynchronous)
    constructors = [list(inspect.signature(owner.__init__).parameters) for owner in (blocking, asynchronous)]  # type: ignore[misc]
    assert constructors[0] == constructors[1]


def test_the_package_exports_what_it_lists_and_the_api_alone_stays_light() -> None:
    assert all(hasattr(client, name) for name in client.__all__)
    code = "import sys, llmos.api; print([m for m in ('httpx', 'kubernetes', 'typer', 'rich') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == "[]"
