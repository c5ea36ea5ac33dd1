"""Tenants: what is theirs, what they may see, and how much they may use."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.api import Tenant, TokenCost
from llmos_gateway.tenants import MOST_DEPARTED, Budget, TenantBook
from tests.gateway.values import tenant


def book_of(*tenants: Tenant) -> TenantBook:
    book = TenantBook()
    book.replace(tenants)
    return book


def test_a_tenant_has_what_its_object_says() -> None:
    tokens = {"perMinute": "200k", "perDay": "20M", "maxConcurrency": 64, "mode": "shadow", "cost": {"cached": 0}}
    access = book_of(tenant("red", "a", "b", weight=3, tokens=tokens, models={"allow": ["shared/*"]})).get("red")
    assert access is not None
    assert (access.namespaces, access.weight, access.models) == (frozenset("ab"), 3, ("shared/*",))
    assert access.budget == Budget(200_000, 20_000_000, None, 64, TokenCost(cached=0), "shadow")
    assert (access.dedicated_pools, access.profile) == (False, "standard")


def test_a_tenant_without_limits_has_none() -> None:
    access = book_of(tenant("red")).get("red")
    assert access is not None
    assert access.budget == Budget()


def test_a_namespace_that_an_older_tenant_has_is_not_the_youngers() -> None:
    book = book_of(tenant("young", "a", "b", age_s=1), tenant("old", "b", age_s=2))
    young, owner = book.get("young"), book.find_owner("b")
    assert young is not None
    assert owner is not None
    assert (young.namespaces, owner.name) == (frozenset("a"), "old")
    book.remove("old")
    assert book.find_owner("b") == book.get("young")


def test_what_is_deleted_owns_nothing() -> None:
    book = book_of(tenant("red", "a"))
    book.remove("red")
    book.remove("red")
    assert (book.get("red"), book.find_owner("a")) == (None, None)


def test_a_changed_tenant_counts_as_it_is_now() -> None:
    book = book_of(tenant("red", "a"))
    book.put(tenant("red", "b", weight=2))
    access = book.get("red")
    assert access is not None
    assert (access.namespaces, access.weight) == (frozenset("b"), 2)


def see(book: TenantBook, name: str, *pools: str, shared_with: str = "") -> list[bool]:
    """Whether each pool, by namespace and model, exists for a tenant's key."""
    parts = [pool.partition("/") for pool in pools]
    return [book.may_see(name, namespace, model, shared_with.split()) for namespace, _, model in parts]


def test_a_tenant_sees_its_own_namespaces_and_no_others() -> None:
    book = book_of(tenant("red", "a"), tenant("blue", "b"))
    assert see(book, "red", "a/qwen", "b/qwen", "nobodys/qwen", shared_with="* red") == [True, False, False]


def test_keys_without_a_tenant_see_all_but_dedicated_pools() -> None:
    book = book_of(tenant("red", "a"), tenant("blue", "b", isolation={"dedicatedPools": True}))
    assert see(book, "", "a/qwen", "b/qwen", "nobodys/qwen") == [True, False, True]
    assert see(book, "blue", "b/qwen") == [True]


@pytest.mark.parametrize(
    ("allow", "shared_with", "expected"),
    [
        ("lib/qwen", "red", True),
        ("lib/*", "red", True),
        ("*/*", "*", True),
        ("lib/qw*", "blue red", True),
        ("lib/qwen", "", False),
        ("lib/qwen", "blue", False),
        ("lib/llama", "red", False),
        ("other/*", "*", False),
    ],
)
def test_a_model_of_others_needs_the_administrators_grant_and_its_owners_consent(
    allow: str, shared_with: str, expected: bool
) -> None:
    for owners in ((), (tenant("owner", "lib"),)):
        book = book_of(tenant("red", "a", models={"allow": [allow]}), *owners)
        assert see(book, "red", "lib/qwen", shared_with=shared_with) == [expected]


@pytest.mark.parametrize("isolation", [{"dedicatedPools": True}, {"profile": "strict", "dedicatedPools": True}])
def test_whoever_shares_no_pool_neither_borrows_nor_lends(isolation: dict[str, Any]) -> None:
    alone = tenant("alone", "b", models={"allow": ["*/*"]}, isolation=isolation)
    book = book_of(alone, tenant("red", "a", models={"allow": ["*/*"]}))
    assert see(book, "alone", "a/qwen", "b/qwen", shared_with="*") == [False, True]
    assert see(book, "red", "b/qwen", shared_with="* red") == [False]


def test_a_tenant_that_does_not_exist_sees_nothing() -> None:
    assert see(book_of(tenant("red", "a")), "ghost", "a/qwen", "nobodys/qwen", shared_with="* ghost") == [False, False]


TENANT_NAMES = ("red", "blue", "green")
TENANTS = st.lists(
    st.builds(
        lambda name, namespaces, allow, dedicated: tenant(
            name, *namespaces, models={"allow": allow}, isolation={"dedicatedPools": dedicated}
        ),
        st.sampled_from(TENANT_NAMES),
        st.lists(st.sampled_from("abc"), min_size=1, unique=True),
        st.lists(st.sampled_from(["a/*", "b/m", "*/*"]), unique=True),
        st.booleans(),
    ),
    unique_by=lambda one: one.metadata.name,
)


@given(TENANTS, st.sampled_from(TENANT_NAMES), st.sampled_from("abcd"), st.lists(st.sampled_from([*TENANT_NAMES, "*"])))
def test_without_consent_nobody_sees_more_than_its_own(
    tenants: list[Tenant], name: str, namespace: str, shared_with: list[str]
) -> None:
    book = book_of(*tenants)
    owner, access = book.find_owner(namespace), book.get(name)
    is_own = owner is not None and owner.name == name
    assert book.may_see(name, namespace, "m", ()) == is_own
    if book.may_see(name, namespace, "m", shared_with) and not is_own:
        assert access is not None
        assert access.models
        assert {name, "*"} & set(shared_with)
        assert not access.dedicated_pools
        assert owner is None or not owner.dedicated_pools


def test_the_accounts_of_tenants_that_leave_are_known_until_there_are_too_many() -> None:
    book = book_of(made("red", "1"), made("blue", "1"), leave(made("ending", "1")))
    assert book.find_leaving() == ("ending/1",)
    book.remove("red")
    book.put(made("blue", "2"))
    assert (book.is_current("blue/1"), book.is_current("blue/2")) == (False, True)
    assert set(book.find_leaving()) == {"ending/1", "red/1", "blue/1"}
    book.replace([made("blue", "2"), made("red", "2")])
    assert set(book.find_leaving()) == {"ending/1", "red/1", "blue/1"}
    for number in range(MOST_DEPARTED):
        book.put(made("other", str(number)))
    book.remove("other")
    assert len(book.find_leaving()) == MOST_DEPARTED
    assert "red/1" not in book.find_leaving()


def made(name: str, uid: str) -> Tenant:
    one = tenant(name)
    return one.model_copy(update={"metadata": one.metadata.model_copy(update={"uid": uid})})


def leave(one: Tenant) -> Tenant:
    metadata = one.metadata.model_copy(update={"deletion_timestamp": datetime.now(UTC)})
    return one.model_copy(update={"metadata": metadata})
