"""What gateways told of tenants' tokens, and which Tenants that is news for.

A Tenant is written at most every `NEWS_S` for it, and not at all while nothing is used. All of it may be lost at any
time: gateways tell it again within a second.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from llmos.api import Tenant
from llmos.api.load import GatewayLoad
from llmos.api.tenant import TokenWindow
from llmos_operator.planning.budgets import build_token_windows
from llmos_operator.reconcilers.keys import Key

NEWS_S: Final = 60.0
FRESH_S: Final = 10.0
"""A gateway that has not told for longer is gone, and so is what it counted alone."""
LOOK_S: Final = 1.0
"""Between two looks for news."""


class BudgetBoard:
    """Tokens of all tenants with limits.

    Attributes:
        on_news: told the key of each Tenant whose status is worth writing.
    """

    def __init__(self) -> None:
        self.on_news: Callable[[Key], None] = lambda _key: None
        self._loads: dict[str, tuple[GatewayLoad, datetime]] = {}
        self._tenants: dict[str, Tenant] = {}
        self._told: dict[str, tuple[tuple[TokenWindow, ...], datetime]] = {}
        self._looked: datetime | None = None

    def clear(self) -> None:
        """Begin anew: another process may have written meanwhile."""
        self._loads.clear()
        self._told.clear()

    def is_needed(self) -> bool:
        """Return whether any tenant has limits in tokens."""
        return bool(self._tenants)

    def forget(self, name: str) -> None:
        """A Tenant is gone."""
        self._tenants.pop(name, None)
        self._told.pop(name, None)

    def read(self, tenant: Tenant, now: datetime) -> tuple[TokenWindow, ...]:
        """Return what the status of a Tenant is to say; what it says, as long as no gateway has told."""
        name, tokens = tenant.metadata.name, tenant.spec.tokens
        if tokens.per_minute is None and tokens.per_day is None and tokens.per_month is None:
            self.forget(name)
            return ()
        self._tenants[name] = tenant
        loads = self._find_fresh(now)
        if not loads:
            return tenant.status.tokens
        windows = build_token_windows(tokens, name, loads, now)
        self._told[name] = windows, now
        return windows

    def take(self, load: GatewayLoad, now: datetime) -> None:
        """A gateway tells."""
        self._loads[load.gateway] = load, now
        if self._looked is None or (now - self._looked).total_seconds() >= LOOK_S:
            self._looked = now
            self._look(now)

    def _look(self, now: datetime) -> None:
        loads = self._find_fresh(now)
        for name, tenant in self._tenants.items():
            told = self._told.get(name)
            if told is not None and now - told[1] < timedelta(seconds=NEWS_S):
                continue
            windows = build_token_windows(tenant.spec.tokens, name, loads, now)
            if told is None or windows != told[0]:
                # Its reconcile reads it, and may be late: it is not told again before.
                self._told[name] = windows, now
                self.on_news(Key("Tenant", "", name))

    def _find_fresh(self, now: datetime) -> list[GatewayLoad]:
        fresh = timedelta(seconds=FRESH_S)
        self._loads = {name: told for name, told in self._loads.items() if now - told[1] < fresh}
        return [load for load, _ in self._loads.values()]
