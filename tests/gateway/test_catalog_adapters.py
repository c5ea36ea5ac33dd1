"""Adapters in the catalog: what their names mean, who sees them, and which replicas are theirs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos_gateway.catalog import ANONYMOUS, Adapter, ApiKey, Catalog, Endpoint, Pool
from tests.gateway.values import adapter, api_key, endpoint, pool, tenant

SUPPORT = adapter("support", 1)


def catalog_of(*pools: Pool) -> Catalog:
    catalog = Catalog()
    catalog.replace_pools(pools)
    return catalog


def with_adapters(pool_id: str, *adapters: Adapter, model: str = "qwen") -> Pool:
    return replace(pool(pool_id, model=model), adapters=adapters)


def found(catalog: Catalog, *words: str, key: ApiKey = ANONYMOUS) -> list[str | None]:
    pools = [catalog.find_pool(key, word) for word in words]
    return [None if pool is None else pool.full_name for pool in pools]


def test_an_adapter_is_found_by_its_name_in_its_namespace_and_of_its_pool() -> None:
    catalog = catalog_of(with_adapters("red/chat", SUPPORT))
    assert found(catalog, "support", "red/support", "red/chat/support") == ["red/chat/support"] * 3
    assert found(catalog, "blue/support", "red/chat/other", "red/other/support", "red/chat/support/x") == [None] * 4
    assert found(catalog, "chat", "qwen") == ["red/chat"] * 2


def test_engines_and_callers_know_it_by_the_name_of_its_llmmodel() -> None:
    seen = catalog_of(with_adapters("red/chat", SUPPORT)).find_pool(ANONYMOUS, "support")
    assert seen is not None
    assert (seen.id, seen.model, seen.short_name) == ("red/chat", "support", "support")


def test_pools_and_their_models_go_before_adapters() -> None:
    catalog = catalog_of(
        with_adapters("red/chat", adapter("code"), adapter("llama")), pool("red/code"), pool("blue/x", model="llama")
    )
    assert found(catalog, "code", "red/code", "red/chat/code") == ["red/code", "red/code", "red/chat/code"]
    assert found(catalog, "llama", "red/llama") == ["blue/x", "red/chat/llama"]
    assert [name for name, _ in catalog.list_visible(ANONYMOUS)] == [
        "chat", "code", "red/chat/code", "red/llama", "x",
    ]  # fmt: skip


def test_an_adapter_of_two_pools_is_found_by_its_longest_name_only() -> None:
    catalog = catalog_of(with_adapters("red/chat", SUPPORT), with_adapters("red/more", SUPPORT))
    assert found(catalog, "support", "red/support", "red/more/support") == [None, None, "red/more/support"]
    meant = catalog.find_meant(ANONYMOUS, "support")
    assert [pool.full_name for pool in meant] == ["red/chat/support", "red/more/support"]


def test_a_detached_adapter_is_gone() -> None:
    catalog = catalog_of(with_adapters("red/chat", SUPPORT))
    catalog.put_pool(pool("red/chat"))
    assert found(catalog, "support", "red/chat/support") == [None, None]
    assert catalog.get_pool("red/chat", "support") is None


def test_clashes_are_found_from_either_side() -> None:
    catalog = catalog_of(with_adapters("red/chat", adapter("code")), pool("blue/code"))
    assert catalog.find_clashes("red/chat") == catalog.find_clashes("blue/code") == ()
    catalog.put_pool(pool("red/code"))
    clash = (("red/chat/code", "red/code"),)
    assert catalog.find_clashes("red/chat") == catalog.find_clashes("red/code") == clash


@pytest.mark.parametrize(
    ("shared", "allowed", "visible"),
    [
        ("", "*/*", []),
        ("qwen", "*/*", ["chat"]),
        ("support", "*/*", ["support"]),
        ("support", "red/qwen", []),
        ("support", "red/support", ["support"]),
        ("qwen support", "red/*", ["chat", "support"]),
    ],
)
def test_others_see_an_adapter_only_if_it_is_shared_and_allowed_itself(
    shared: str, allowed: str, visible: list[str]
) -> None:
    catalog = catalog_of(with_adapters("red/chat", SUPPORT))
    catalog.replace_tenants([tenant("red"), tenant("blue", models={"allow": [allowed]})])
    catalog.replace_sharing({f"red/{name}": frozenset({"blue"}) for name in shared.split()})
    blue = api_key(1, tenant="blue")
    assert [name for name, _ in catalog.list_visible(blue)] == visible
    assert [name for name, _ in catalog.list_visible(api_key(2, tenant="red"))] == ["chat", "support"]


def test_nobody_else_sees_an_adapter_of_a_tenant_with_dedicated_pools() -> None:
    catalog = catalog_of(with_adapters("red/chat", SUPPORT))
    catalog.replace_tenants(
        [tenant("red", isolation={"dedicatedPools": True}), tenant("blue", models={"allow": ["*/*"]})]
    )
    catalog.put_sharing("red/support", frozenset({"*"}))
    assert catalog.list_visible(api_key(1, tenant="blue")) == catalog.list_visible(ANONYMOUS) == ()


@pytest.mark.parametrize(
    ("models", "visible"),
    [((), ["chat", "support"]), (("chat",), ["chat"]), (("red/chat*",), ["chat"]), (("red/support",), ["support"])],
)
def test_a_key_that_names_models_opens_an_adapter_by_its_own_name_only(
    models: tuple[str, ...], visible: list[str]
) -> None:
    catalog = catalog_of(with_adapters("red/chat", SUPPORT))
    assert [name for name, _ in catalog.list_visible(api_key(models=models))] == visible


def test_the_base_is_told_only_to_who_may_see_it() -> None:
    catalog = catalog_of(with_adapters("red/chat", SUPPORT))
    for key, base in ((ANONYMOUS, "qwen"), (api_key(models=("support",)), None)):
        seen = catalog.find_pool(key, "support")
        assert seen is not None
        assert catalog.find_base(key, seen) == base
    whole = catalog.get_pool("red/chat")
    assert whole is not None
    assert catalog.find_base(ANONYMOUS, whole) is None


def test_only_listed_replicas_that_are_ready_serve_an_adapter() -> None:
    catalog = catalog_of(with_adapters("red/chat", adapter("support", 2, 3)))
    catalog.put_endpoints("red/chat", (endpoint(1), endpoint(2)))
    seen = catalog.get_pool("red/chat", "support")
    assert seen is not None
    assert seen.endpoints == (endpoint(2),)
    catalog.put_pool(with_adapters("red/chat", adapter("support", 1)))
    seen = catalog.get_pool("red/chat", "support")
    assert seen is not None
    assert seen.endpoints == (endpoint(1),)


def test_who_waits_hears_when_a_replica_has_loaded_an_adapter() -> None:
    catalog, told = catalog_of(with_adapters("red/chat", adapter())), list[str]()
    catalog.subscribe(told.append)
    catalog.put_pool(with_adapters("red/chat", SUPPORT))
    catalog.put_pool(with_adapters("red/chat", SUPPORT))
    assert told == ["red/chat"]


@pytest.mark.parametrize(
    ("runs", "hopeless_pool", "problem", "hopeless", "expected"),
    [
        (False, False, "", False, (False, "", False)),
        (False, False, "AdapterLoadFailed", False, (False, "", False)),
        (False, False, "AdapterTooLarge", True, (True, "AdapterTooLarge", False)),
        (False, True, "", False, (True, "No GPU.", False)),
        (True, False, "", False, (False, "", False)),
        (True, False, "AdapterLoadFailed", False, (True, "AdapterLoadFailed", True)),
        (True, False, "AdapterTooLarge", True, (True, "AdapterTooLarge", False)),
        (True, True, "", False, (False, "", False)),
    ],
)
def test_what_an_adapter_without_a_replica_can_hope_for(
    *, runs: bool, hopeless_pool: bool, problem: str, hopeless: bool, expected: tuple[bool, str, bool]
) -> None:
    whole = pool(is_hopeless=hopeless_pool, problem="No GPU." if hopeless_pool else "")
    whole = replace(whole, endpoints=(endpoint(),) if runs else (), start_s=40.0)
    seen = whole.see(adapter(problem=problem, is_hopeless=hopeless))
    assert (seen.is_hopeless, seen.problem, seen.mends_itself) == expected
    assert seen.start_s == (0.0 if runs else 40.0)


NAMESPACES, NAMES = st.sampled_from("ab"), st.sampled_from("xyz")
REPLICAS = st.frozensets(st.sampled_from([endpoint(number).replica for number in range(3)]))
ADAPTERS = st.lists(st.builds(Adapter, NAMES, replicas=REPLICAS), max_size=3, unique_by=lambda one: one.name)
POOLS = st.builds(
    lambda namespace, name, model, adapters: with_adapters(f"{namespace}/{name}", *adapters, model=model),
    NAMESPACES,
    NAMES,
    st.sampled_from("xmn"),
    ADAPTERS.map(tuple),
)
WORDS = [
    *"xyzmn", *(f"{n}/{w}" for n in "ab" for w in "xyz"), *(f"{n}/{p}/{w}" for n in "ab" for p in "xyz" for w in "xyz")
]  # fmt: skip


@given(st.lists(POOLS, max_size=6))
def test_every_listed_name_finds_what_it_is_listed_for(pools: list[Pool]) -> None:
    catalog = catalog_of(*pools)
    listed = catalog.list_visible(ANONYMOUS)
    assert len({name for name, _ in listed}) == len(listed)
    assert len(listed) == sum(1 + len(one.adapters) for one in catalog.get_pools())
    for name, listed_pool in listed:
        assert catalog.find_pool(ANONYMOUS, name) == listed_pool


@given(st.lists(POOLS, max_size=6))
def test_adapters_never_change_what_a_word_meant_without_them(pools: list[Pool]) -> None:
    plain, full = catalog_of(*(replace(one, adapters=()) for one in pools)), catalog_of(*pools)
    for word in WORDS:
        if meant := plain.find_meant(ANONYMOUS, word):
            assert [one.full_name for one in full.find_meant(ANONYMOUS, word)] == [one.full_name for one in meant]


Change = Callable[[Catalog], None]
PLACES = st.builds(lambda namespace, name: f"{namespace}/{name}", NAMESPACES, NAMES)
ENDPOINTS = st.lists(st.sampled_from([endpoint(number) for number in range(3)]), unique=True).map(tuple)


def put_endpoints(pool_id: str, endpoints: tuple[Endpoint, ...]) -> Change:
    return lambda catalog: catalog.put_endpoints(pool_id, endpoints)


CHANGES: st.SearchStrategy[Change] = st.one_of(
    st.builds(lambda one: lambda catalog: catalog.put_pool(one), POOLS),
    st.builds(lambda pool_id: lambda catalog: catalog.remove_pool(pool_id), PLACES),
    st.builds(lambda pools: lambda catalog: catalog.replace_pools(pools), st.lists(POOLS, max_size=3)),
    st.builds(put_endpoints, PLACES, ENDPOINTS),
)


@given(st.lists(CHANGES, max_size=12))
def test_whatever_the_order_of_changes_the_catalog_is_what_it_would_be_made_anew(changes: list[Change]) -> None:
    catalog = Catalog()
    for change in changes:
        change(catalog)
    anew = Catalog()
    for one in catalog.get_pools():
        anew.put_endpoints(one.id, one.endpoints)
        anew.put_pool(one)
    assert catalog.list_visible(ANONYMOUS) == anew.list_visible(ANONYMOUS)
    for word in WORDS:
        assert catalog.find_meant(ANONYMOUS, word) == anew.find_meant(ANONYMOUS, word)
    for name, seen in catalog.list_visible(ANONYMOUS):
        if seen.adapter is None:
            continue
        whole = catalog.get_pool(seen.id)
        assert whole is not None
        assert seen.adapter in whole.adapters, name
        assert seen.endpoints == tuple(e for e in whole.endpoints if e.replica in seen.adapter.replicas)
