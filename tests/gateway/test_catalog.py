"""The catalog: how a caller's word finds a pool, and what listeners are told."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from llmos_gateway.catalog import ANONYMOUS, Catalog, Pool
from tests.gateway.values import api_key, endpoint, pool

RED = api_key(namespaces=("red",))


def catalog_of(*pools: Pool) -> Catalog:
    catalog = Catalog()
    catalog.replace_pools(pools)
    return catalog


def found(catalog: Catalog, model: str, key: object = ANONYMOUS) -> str | None:
    assert key is ANONYMOUS or key is RED
    pool = catalog.find_pool(RED if key is RED else ANONYMOUS, model)
    return pool.id if pool else None


def test_a_pool_is_found_by_its_name_its_whole_name_and_its_model() -> None:
    catalog = catalog_of(pool("red/chat", model="qwen"))
    assert [found(catalog, word) for word in ("chat", "red/chat", "qwen", "other")] == ["red/chat"] * 3 + [None]


def test_a_name_of_several_pools_is_no_name() -> None:
    catalog = catalog_of(pool("red/chat"), pool("blue/chat"), pool("red/more"))
    assert found(catalog, "chat") is None
    assert found(catalog, "qwen") is None
    assert found(catalog, "blue/chat") == "blue/chat"
    assert found(catalog, "more") == "red/more"


def test_a_pools_name_goes_before_another_pools_model() -> None:
    catalog = catalog_of(pool("red/qwen", model="llama"), pool("red/chat", model="qwen"))
    assert found(catalog, "qwen") == "red/qwen"


def test_what_a_key_may_not_see_neither_exists_nor_makes_a_name_ambiguous() -> None:
    catalog = catalog_of(pool("red/chat"), pool("blue/chat"), pool("blue/secret", model="gpt"))
    assert found(catalog, "chat", RED) == "red/chat"
    assert found(catalog, "qwen", RED) == "red/chat"
    assert [found(catalog, word, RED) for word in ("blue/chat", "blue/secret", "secret", "gpt")] == [None] * 4
    assert [name for name, _ in catalog.list_visible(RED)] == ["chat"]


NAMES = st.builds(lambda namespace, name: f"{namespace}/{name}", st.sampled_from("ab"), st.sampled_from("xyz"))


@given(st.lists(st.tuples(NAMES, st.sampled_from("xmn")), max_size=8))
def test_every_listed_name_finds_its_pool(given_pools: list[tuple[str, str]]) -> None:
    catalog = catalog_of(*(pool(name, model=model) for name, model in given_pools))
    listed = catalog.list_visible(ANONYMOUS)
    assert len(listed) == len({name for name, _ in given_pools})
    for name, listed_pool in listed:
        assert catalog.find_pool(ANONYMOUS, name) == listed_pool


def test_a_renamed_model_is_found_by_its_new_name_only() -> None:
    catalog = catalog_of(pool("red/chat", model="old"))
    catalog.put_pool(pool("red/chat", model="new"))
    assert (found(catalog, "old"), found(catalog, "new")) == (None, "red/chat")


def test_endpoints_may_come_before_their_pool_and_outlive_it() -> None:
    catalog = Catalog()
    catalog.put_endpoints("red/chat", (endpoint(),))
    assert catalog.get_pool("red/chat") is None
    catalog.put_pool(pool("red/chat"))
    assert catalog.get_pool("red/chat") == replace(pool("red/chat"), endpoints=(endpoint(),))
    catalog.remove_pool("red/chat")
    catalog.put_pool(pool("red/chat"))
    assert catalog.get_pool("red/chat") == replace(pool("red/chat"), endpoints=(endpoint(),))


def test_listeners_are_told_of_changes_and_of_nothing_else() -> None:
    catalog, told = Catalog(), list[str]()
    catalog.subscribe(told.append)
    catalog.put_pool(pool("red/chat"))
    catalog.put_pool(pool("red/chat"))
    catalog.put_endpoints("red/chat", (endpoint(),))
    catalog.replace_endpoints({"red/chat": (endpoint(),)})
    catalog.replace_pools([pool("red/chat")])
    assert told == ["red/chat"] * 2
    catalog.replace_endpoints({})
    catalog.replace_pools([])
    assert told == ["red/chat"] * 4
    assert catalog.get_pools() == ()


def test_a_listener_that_hears_of_a_removed_pool_no_longer_finds_it() -> None:
    catalog = catalog_of(pool("red/chat"))
    seen: list[Pool | None] = []
    catalog.subscribe(lambda pool_id: seen.append(catalog.get_pool(pool_id)))
    catalog.remove_pool("red/chat")
    assert seen == [None]
