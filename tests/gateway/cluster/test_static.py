"""The file in place of a cluster."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from llmos_gateway.catalog import Adapter, Catalog, Endpoint, HoldLimits
from llmos_gateway.cluster import StaticError, StaticWatch
from tests.gateway.values import key_id, key_text

FILE = f"""
pools:
  - name: chat
    hold: {{timeoutSeconds: 5}}
    endpoints: ["127.0.0.1:8000", {{address: "127.0.0.1:8010", control: "127.0.0.1:8011"}}]
  - {{namespace: other, name: idle, model: qwen, policy: prefix}}
keys:
  - {{key: {key_text()}, namespaces: [default]}}
  - {{key: {key_text(1)}, tenant: search}}
tenants:
  - {{name: search, namespaces: [other], weight: 2, models: {{allow: [default/chat]}}}}
models:
  - {{name: chat, sharedWith: [search]}}
peers: ["127.0.0.1:9000"]
"""


def load(path: Path, text: str) -> tuple[Catalog, StaticWatch]:
    path.write_text(text)
    catalog = Catalog()
    watch = StaticWatch(catalog, path)
    watch.load()
    return catalog, watch


def test_pools_endpoints_keys_and_peers_come_from_the_file(tmp_path: Path) -> None:
    catalog, watch = load(tmp_path / "gateway.yaml", FILE)
    key = catalog.authenticate(key_text(), 0)
    assert key is not None
    assert (key.id, catalog.is_synced, watch.peers()) == (key_id(0), True, ["127.0.0.1:9000"])
    pool = catalog.find_pool(key, "chat")
    assert pool is not None
    assert pool.hold == HoldLimits(timeout_s=5)
    assert pool.endpoints == (
        Endpoint("127.0.0.1:8000", "127.0.0.1:8001", "127.0.0.1:8000"),
        Endpoint("127.0.0.1:8010", "127.0.0.1:8011", "127.0.0.1:8010"),
    )
    assert catalog.find_pool(key, "qwen") is None


def test_adapters_in_the_file_are_on_all_endpoints_or_on_those_that_are_named(tmp_path: Path) -> None:
    adapters = "[support, {name: legal, replicas: ['127.0.0.1:1'], digest: v2, problem: Broken.}]"
    text = f"pools: [{{name: chat, endpoints: ['127.0.0.1:1', '127.0.0.1:2'], adapters: {adapters}}}]"
    catalog, _ = load(tmp_path / "gateway.yaml", text)
    support, legal = catalog.get_pool("default/chat", "support"), catalog.get_pool("default/chat", "legal")
    assert support is not None
    assert legal is not None
    assert [e.address for e in support.endpoints] == ["127.0.0.1:1", "127.0.0.1:2"]
    assert [e.address for e in legal.endpoints] == ["127.0.0.1:1"]
    assert legal.adapter == Adapter("legal", "v2", frozenset({"127.0.0.1:1"}), "Broken.")


def test_a_tenant_in_the_file_is_written_as_the_spec_of_its_object(tmp_path: Path) -> None:
    catalog, _ = load(tmp_path / "gateway.yaml", FILE)
    key, tenant = catalog.authenticate(key_text(1), 0), catalog.get_tenant("search")
    assert key is not None
    assert tenant is not None
    assert (tenant.namespaces, tenant.weight) == (frozenset({"other"}), 2)
    assert [name for name, _ in catalog.list_visible(key)] == ["chat", "idle"]


def test_json_is_fine_too(tmp_path: Path) -> None:
    catalog, _ = load(tmp_path / "gateway.json", json.dumps({"pools": [{"name": "chat"}]}))
    assert catalog.get_pool("default/chat") is not None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("pools: [", "cannot be used"),
        ("pools: [{name: a, colour: red}]", "colour"),
        ("pools: [{name: a, endpoints: [localhost]}]", "address"),
        ("pools: [{name: a, adapters: [b, b]}]", "different names"),
        ("pools: [{name: a, adapters: [a]}]", "different names"),
        ("keys: [{key: secret}]", "not of the form"),
        ("keys: [{id: a}]", "give key"),
        ("tenants: [{name: a}]", "namespaces"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_reason(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(StaticError, match=complaint):
        load(tmp_path / "gateway.yaml", text)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StaticError, match="No such file"):
        StaticWatch(Catalog(), tmp_path / "none.yaml").load()


@pytest.mark.looptime
async def test_changes_are_followed_and_mistakes_change_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text("pools: [{name: chat}]")
    catalog = Catalog()
    task = asyncio.create_task(StaticWatch(catalog, path).run())
    await asyncio.sleep(0.1)
    path.write_text("pools: [{name: chat}, {name: more}]")
    await asyncio.sleep(1)
    assert {pool.name for pool in catalog.get_pools()} == {"chat", "more"}
    path.write_text("pools: nonsense")
    await asyncio.sleep(1)
    assert {pool.name for pool in catalog.get_pools()} == {"chat", "more"}
    assert "Going on with what is known" in caplog.text
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
