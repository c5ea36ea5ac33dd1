"""Kubernetes quantities in bytes."""

from __future__ import annotations

import math
from decimal import Decimal

_SUFFIXES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18} | {
    f"{prefix}i": 2 ** (10 * power) for power, prefix in enumerate("KMGTPE", start=1)
}


def parse_quantity_bytes(quantity: str) -> int:
    """Return the bytes of a Kubernetes quantity such as `80Gi`."""
    return int(_parse(quantity))


def are_equal_quantities(one: str, other: str) -> bool:
    """Whether two quantities are the same number, such as `1.5Ti` and `1536Gi`, as which the API server writes it.

    Parts of a thousandth count as one: the API server rounds them up.
    """
    return math.ceil(_parse(one) * 1000) == math.ceil(_parse(other) * 1000)


def _parse(quantity: str) -> Decimal:
    number = quantity.rstrip("kKMGTPEim")
    suffix = quantity[len(number) :]
    return Decimal(number) / 1000 if suffix == "m" else Decimal(number) * _SUFFIXES[suffix]
