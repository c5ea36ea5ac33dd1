"""Kubernetes quantities in bytes."""

from __future__ import annotations

from decimal import Decimal

_SUFFIXES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15} | {
    f"{prefix}i": 2 ** (10 * power) for power, prefix in enumerate("KMGTP", start=1)
}


def parse_quantity_bytes(quantity: str) -> int:
    """Return the bytes of a Kubernetes quantity such as `80Gi`."""
    number = quantity.rstrip("kKMGTPim")
    suffix = quantity[len(number) :]
    if suffix == "m":
        return int(Decimal(number) / 1000)
    return int(Decimal(number) * _SUFFIXES[suffix])
