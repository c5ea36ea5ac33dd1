"""Names that several adapters answer: shares, heirs, and what gateways count of a canary."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from llmos_gateway.catalog import ANONYMOUS, Adapter, Catalog, Pool
from llmos_gateway.load.canaries import CanaryBook, Outcome
from tests.gateway.values import adapter, api_key, endpoint, pool

GOOD, BAD = Outcome(is_failed=False, ttft_s=0.1, tpot_s=0.01), Outcome(is_failed=True)


def catalog_of(*adapters: Adapter) -> Catalog:
    catalog = Catalog()
    catalog.put_endpoints("red/chat", (endpoint(1), endpoint(2)))
    catalog.put_pool(replace(pool("red/chat"), adapters=adapters))
    return catalog


def find(catalog: Catalog, name: str = "support") -> Pool:
    found = catalog.find_pool(ANONYMOUS, name)
    assert found is not None
    return found


def deal(catalog: Catalog, name: str = "support", times: int = 2000) -> Counter[str]:
    coin = random.Random(5)  # noqa: S311 - no secret
    asked = find(catalog, name)
    return Counter(catalog.deal_out(asked, 100 * coin.random()).model for _ in range(times))


def taker(name: str, weight: int, *replicas: int) -> Adapter:
    return adapter(name, *(replicas or (1, 2)), replaces="support", weight=weight)


def test_a_canary_answers_its_share_of_the_name_and_all_of_its_own() -> None:
    catalog = catalog_of(adapter("support", 1, 2), taker("v2", 10))
    shares = deal(catalog)
    assert shares.keys() == {"support", "v2"}
    assert 150 <= shares["v2"] <= 250
    assert deal(catalog, "v2") == {"v2": 2000}
    assert deal(catalog, "red/chat/support").keys() == {"support", "v2"}


def test_a_promoted_one_answers_all_and_makes_room_for_the_next() -> None:
    assert deal(catalog_of(adapter("support", 1), taker("v2", 100))) == {"v2": 2000}
    shares = deal(catalog_of(adapter("support", 1), taker("v2", 90), taker("v3", 10)))
    assert shares.keys() == {"v2", "v3"}
    assert 150 <= shares["v3"] <= 250


def test_one_that_no_replica_serves_gets_nothing_and_neither_does_one_without_a_share() -> None:
    assert deal(catalog_of(adapter("support", 1), replace(taker("v2", 50), replicas=frozenset()))) == {"support": 2000}
    assert deal(catalog_of(adapter("support", 1), taker("v2", 0))) == {"support": 2000}
    assert deal(catalog_of(adapter("support"), taker("v2", 10))) == {"v2": 2000}
    assert deal(catalog_of(adapter("support"), replace(taker("v2", 10), replicas=frozenset()))) == {"support": 2000}


def test_the_name_outlives_the_adapter_that_bore_it() -> None:
    catalog = catalog_of(taker("v2", 100))
    seen = find(catalog)
    assert (seen.short_name, seen.full_name, seen.model) == ("support", "red/chat/support", "v2")
    assert deal(catalog) == {"v2": 2000}
    assert [name for name, _ in catalog.list_visible(ANONYMOUS)] == ["chat", "support", "v2"]
    assert catalog.find_pool(api_key(models=("support",)), "support") is not None
    assert catalog.find_pool(api_key(models=("support",)), "v2") is None
    assert deal(catalog_of(taker("v2", 90), taker("v3", 10))).keys() == {"v2", "v3"}
    catalog.put_pool(pool("red/chat"))
    assert catalog.find_pool(ANONYMOUS, "support") is None


def test_neither_pool_nor_model_can_be_taken_over() -> None:
    catalog = catalog_of(adapter("v2", 1, replaces="chat", weight=100), adapter("v3", 1, replaces="qwen", weight=100))
    assert [find(catalog, name).adapter for name in ("chat", "qwen")] == [None, None]
    assert catalog.deal_out(find(catalog, "qwen"), 1.0).adapter is None


@given(st.lists(st.tuples(st.integers(0, 100), st.booleans()), max_size=5), st.booleans(), st.floats(0, 99.999))
def test_whatever_is_drawn_a_replica_serves_it_if_any_serves_the_name(
    takers: list[tuple[int, bool]], is_served: bool, draw: float
) -> None:
    others = [taker(f"v{n}", weight) for n, (weight, _) in enumerate(takers)]
    others = [one if has else replace(one, replicas=frozenset()) for one, (_, has) in zip(others, takers, strict=True)]
    own = adapter("support", 1) if is_served else adapter("support")
    catalog = catalog_of(own, *others)
    dealt = catalog.deal_out(find(catalog), draw)
    can_serve = is_served or any(weight and has for weight, has in takers)
    assert bool(dealt.endpoints) == can_serve


async def test_both_are_counted_from_the_same_moment_on() -> None:
    catalog = catalog_of(adapter("support", 1), taker("v2", 10))
    book = CanaryBook(catalog)
    asked, canary = find(catalog), find(catalog, "v2")
    book.ended(asked, asked, GOOD)
    assert book.read("red/chat") == {}
    catalog.put_pool(replace(pool("red/chat"), adapters=(adapter("support", 1), taker("v2", 20))))
    asked, canary = find(catalog), find(catalog, "v2")
    for served, outcome in ((asked, GOOD), (asked, BAD), (canary, BAD)):
        book.ended(asked, served, outcome)
    book.ended(canary, canary, GOOD)
    load = book.read("red/chat")["v2"]
    assert (load.replaces, load.weight) == ("support", 20)
    assert (load.result.requests_total, load.result.failed_total) == (1, 1)
    assert (load.incumbent.requests_total, load.incumbent.failed_total) == (2, 1)
    assert (sum(load.incumbent.ttft.counts), load.incumbent.ttft.sum_s) == (1, 0.1)
    catalog.put_endpoints("red/chat", (endpoint(1),))
    assert book.read("red/chat")["v2"].result.requests_total == 1
    catalog.put_pool(replace(pool("red/chat"), adapters=(adapter("support", 1), taker("v2", 100))))
    assert book.read("red/chat") == {}
    await asyncio.sleep(0)


def test_a_canary_is_compared_with_the_one_that_answers_most() -> None:
    catalog = catalog_of(adapter("support", 1), taker("v2", 90), taker("v3", 10))
    book = CanaryBook(catalog)
    catalog.put_pool(replace(pool("red/chat"), adapters=(adapter("support", 1), taker("v2", 80), taker("v3", 20))))
    asked = find(catalog)
    for name in ("v2", "v3", "support"):
        book.ended(asked, find(catalog, name), GOOD)
    load = book.read("red/chat")["v3"]
    assert (load.result.requests_total, load.incumbent.requests_total) == (1, 1)
