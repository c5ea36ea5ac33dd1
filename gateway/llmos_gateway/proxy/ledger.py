"""The hook for limits of tenants: what a request reserves before it may go on, and what it settles at its end.

There are no limits of tenants yet, so every reservation is granted. The road calls both for each request that names a
model, in any case settle after reserve, so that limits need no other change than another `Ledger`.
"""

from __future__ import annotations

from typing import Protocol

from llmos_gateway.catalog import ApiKey, Pool
from llmos_gateway.protocol.usage import Usage


class Ledger(Protocol):
    """Who may use how much."""

    def reserve(self, key: ApiKey, pool: Pool, prompt_tokens: int) -> None:
        """Take the estimated tokens from what the caller has left.

        Raises:
            TooManyRequestsError: nothing is left; it says when there will be.
        """

    def settle(self, key: ApiKey, pool: Pool, prompt_tokens: int, usage: Usage) -> None:
        """Replace the estimate by what was used."""


class OpenLedger:
    """Grants everything."""

    def reserve(self, key: ApiKey, pool: Pool, prompt_tokens: int) -> None:
        """Grant it."""

    def settle(self, key: ApiKey, pool: Pool, prompt_tokens: int, usage: Usage) -> None:
        """Keep no account."""
