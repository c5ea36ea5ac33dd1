"""Rules about tenants that operator and gateway share."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.api import Tenant
from llmos.api.tenancy import find_owners, parse_tokens

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def tenant(name: str, *namespaces: str, age_s: int = 0) -> Tenant:
    created = (NOW - timedelta(seconds=age_s)).isoformat()
    return Tenant.model_validate(
        {"metadata": {"name": name, "creationTimestamp": created}, "spec": {"namespaces": list(namespaces)}}
    )


def test_a_namespace_stays_with_the_older_of_two_tenants_and_the_younger_is_told() -> None:
    owners = find_owners([tenant("young", "x", "y", age_s=1), tenant("old", "y", "z", age_s=2)])
    assert owners.by_namespace == {"x": "young", "y": "old", "z": "old"}
    assert owners.taken == {"young": (("y", "old"),)}


def test_of_two_equally_old_tenants_the_first_by_name_has_it() -> None:
    assert find_owners([tenant("b", "x"), tenant("a", "x")]).by_namespace == {"x": "a"}


TENANTS = st.lists(
    st.builds(
        lambda number, namespaces, age_s: tenant(f"t{number}", *namespaces, age_s=age_s),
        st.integers(0, 9),
        st.lists(st.sampled_from("wxyz"), min_size=1, unique=True),
        st.integers(0, 3),
    ),
    unique_by=lambda one: one.metadata.name,
)


@given(TENANTS)
def test_the_order_in_which_tenants_are_read_decides_nothing(tenants: list[Tenant]) -> None:
    shuffled = sorted(tenants, key=lambda one: one.metadata.name, reverse=True)
    assert find_owners(shuffled).by_namespace == find_owners(tenants).by_namespace


@given(TENANTS, st.lists(st.sampled_from("wxyz"), min_size=1, unique=True))
def test_no_younger_tenant_takes_a_namespace_from_another(tenants: list[Tenant], wanted: list[str]) -> None:
    before = find_owners(tenants).by_namespace
    after = find_owners([*tenants, tenant("zz", *wanted, age_s=-1)]).by_namespace
    assert {namespace: after[namespace] for namespace in before} == before


@pytest.mark.parametrize(
    ("quantity", "tokens"), [("5000", 5000), ("200k", 200_000), ("20M", 20_000_000), ("0.5k", 500), ("1.0001", 2)]
)
def test_tokens_are_written_as_quantities(quantity: str, tokens: int) -> None:
    assert parse_tokens(quantity) == tokens


@pytest.mark.parametrize("quantity", ["", "k", "-1", "1e3", "1Ki", "1.2.3", "many"])
def test_what_is_no_quantity_of_tokens_is_refused(quantity: str) -> None:
    with pytest.raises(ValueError, match="no number of tokens"):
        parse_tokens(quantity)
