"""Tenants: what is theirs, what they may see, and how much they may use."""

from __future__ import annotations

from llmos.api import Tenant, TokenCost
from llmos_gateway.tenants import Budget, TenantBook
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


def test_a_tenant_sees_its_own_namespaces_and_no_others() -> None:
    book = book_of(tenant("red", "a"), tenant("blue", "b"))
    assert [book.may_see("red", namespace) for namespace in ("a", "b", "nobodys")] == [True, False, False]


def test_keys_without_a_tenant_see_all_but_dedicated_pools() -> None:
    book = book_of(tenant("red", "a"), tenant("blue", "b", isolation={"dedicatedPools": True}))
    assert [book.may_see("", namespace) for namespace in ("a", "b", "nobodys")] == [True, False, True]
    assert book.may_see("blue", "b")
