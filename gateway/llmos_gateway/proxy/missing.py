"""Which replicas said lately that they do not have an adapter, though the cluster still lists them for it.

Such a replica was restarted, as a rule, and idles: without a memory it would attract every request first, until the
operator has noticed. What is remembered is short-lived and only a hint: where nobody else is left it is asked again.
"""

from __future__ import annotations

from typing import Final

from llmos_gateway.catalog import Pool

KEPT_S: Final = 5.0
MAX_KEPT: Final = 1000


class Missing:
    """Addresses by pool and adapter."""

    def __init__(self) -> None:
        self._until_s: dict[tuple[str, str, str], float] = {}
        """In the order in which they end."""

    def note(self, pool: Pool, address: str, now_s: float) -> None:
        """Remember that a replica does not have the adapter that this pool is seen for."""
        kept = (pool.id, pool.adapter_name, address)
        self._until_s.pop(kept, None)
        self._until_s[kept] = now_s + KEPT_S
        self._forget(now_s)

    def find(self, pool: Pool, now_s: float) -> set[str]:
        """Return the addresses that lack the adapter, as far as is remembered."""
        self._forget(now_s)
        return {address for pool_id, name, address in self._until_s if (pool_id, name) == (pool.id, pool.adapter_name)}

    def _forget(self, now_s: float) -> None:
        for kept, until_s in tuple(self._until_s.items()):
            if until_s > now_s and len(self._until_s) <= MAX_KEPT:
                return
            del self._until_s[kept]
