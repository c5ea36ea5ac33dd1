"""Kubernetes quantities in bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubernetes.utils.quantity import parse_quantity

from llmos_operator.planning.quantities import parse_quantity_bytes

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
