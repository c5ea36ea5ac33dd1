"""Kubernetes quantities in bytes."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubernetes.utils.quantity import parse_quantity

from llmos_operator.planning.quantities import are_equal_quantities, parse_quantity_bytes

KNOWN = {
    "8": 8,
    "20Gi": 20 * 2**30,
    "81559Mi": 81559 * 2**20,
    "1.5Gi": 3 * 2**29,
    "1k": 1000,
    "80G": 80 * 10**9,
    "2P": 2 * 10**15,
    "1500m": 1,
}


@pytest.mark.parametrize(("text", "size_bytes"), KNOWN.items())
def test_a_quantity_is_read_as_bytes(text: str, size_bytes: int) -> None:
    assert parse_quantity_bytes(text) == size_bytes


SUFFIXES = ("", "m", "k", "M", "G", "T", "P", "Ki", "Mi", "Gi", "Ti", "Pi")


@given(number=st.decimals(0, 10**6, places=2), suffix=st.sampled_from(SUFFIXES))
def test_it_agrees_with_the_official_client(number: object, suffix: str) -> None:
    assert parse_quantity_bytes(f"{number}{suffix}") == int(parse_quantity(f"{number}{suffix}"))


@given(number=st.decimals(0, 10**3, places=2), suffix=st.sampled_from(SUFFIXES), other=st.sampled_from(SUFFIXES))
def test_quantities_are_equal_where_the_official_client_says_so(number: object, suffix: str, other: str) -> None:
    first, second = f"{number}{suffix}", f"{number}{other}"
    milli = [math.ceil(1000 * parse_quantity(each)) for each in (first, second)]
    assert are_equal_quantities(first, second) is (milli[0] == milli[1])
    assert are_equal_quantities(first, first)
