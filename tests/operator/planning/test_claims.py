"""What is known of Tenants as they are stored, of those that cannot be read, too."""

from __future__ import annotations

from typing import Any

import pytest

from llmos.api import Tenant
from llmos.api.tenancy import find_owners
from llmos_operator.planning.claims import Tenants, read_tenants


def stored(name: str, year: int = 2026, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "creationTimestamp": f"{year}-01-01T00:00:00Z"}, "spec": spec}


def read(*items: dict[str, Any]) -> Tenants:
    return read_tenants(items, Tenant.model_validate)


def test_one_that_can_be_read_is_as_it_was_written() -> None:
    tenants = read(stored("a", namespaces=["x"], weight=3))
    assert [tenant.spec.weight for tenant in tenants.readable] == [3]
    assert tenants.unreadable == {}


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"weight": "heavy"}, "spec.weight"),
        ({"quota": "many"}, "spec.quota"),
        ({"isolation": {"profile": "newer"}}, "spec.isolation.profile"),
    ],
)
def test_of_one_that_cannot_be_read_the_namespaces_stay_and_what_is_wrong_is_named(
    spec: dict[str, Any], field: str
) -> None:
    tenants = read(stored("a", 2025, namespaces=["x"], **spec), stored("b", namespaces=["x", "y"]))
    assert find_owners(tenants.all).by_namespace == {"x": "a", "y": "b"}
    assert [tenant.metadata.name for tenant in tenants.readable] == ["b"]
    assert tenants.unreadable["a"].startswith(f"{field}: ")


def test_a_claim_grants_nothing_and_is_closed_to_all_sides() -> None:
    spec: dict[str, Any] = {
        "weight": "heavy",
        "quota": [{"class": "h100", "guaranteed": 8}],
        "isolation": {"egressAllow": ["0.0.0.0/0"]},
    }
    (claim,) = read(stored("a", namespaces=["x"], **spec)).all
    assert (claim.spec.quota, claim.spec.models.allow, claim.spec.isolation.egress_allow) == ((), (), ())
    assert claim.spec.isolation.profile == "strict"


def test_a_claim_keeps_its_queue_so_that_pods_that_wait_stay_in_it() -> None:
    spec: dict[str, Any] = {"namespaces": ["x"], "weight": "heavy"}
    (named,) = read(stored("a", kueue={"queueName": "research"}, **spec)).all
    (other,) = read(stored("a", kueue={"queueName": "NOT A NAME"}, **spec)).all
    assert (named.spec.kueue.queue_name, other.spec.kueue.queue_name) == ("research", "")


@pytest.mark.parametrize("namespaces", [None, "x", [], [7, "NOT A NAME"]])
def test_one_without_any_namespace_that_can_be_read_claims_nothing_and_is_there(namespaces: Any) -> None:
    tenants = read(stored("a", namespaces=namespaces))
    assert (tenants.all, list(tenants.unreadable), tenants.exist) == ((), ["a"], True)


def test_of_the_namespaces_those_that_can_be_read_stay() -> None:
    (claim,) = read(stored("a", namespaces=["x", "NOT A NAME"])).all
    assert claim.spec.namespaces == ("x",)


def test_without_any_there_is_no_quota() -> None:
    assert not read().exist
