"""What gateways told of tenants' tokens, and which Tenants that is news for.

A Tenant is written at most every `NEWS_S` for it, and not at all while nothing is used. What is used of limits may be
lost at any time: gateways tell it again within a second. So do they with the tokens of the month, as long as they live;
what one told that is gone since waits here until it is written.

All of it is of accounts, which bear the uid of the Tenant: what was told of one that is gone is nothing to another one
of its name. Of gateways of an older version the tokens of the month count by name all the same: they are told once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from llmos.api import Tenant
from llmos.api.load import GatewayLoad, MonthTokens
from llmos.api.tenancy import build_account
from llmos.api.tenant import TokenWindow
from llmos_operator.planning.budgets import build_token_windows
from llmos_operator.planning.token_months import MOST_GATEWAYS
from llmos_operator.reconcilers.keys import Key

NEWS_S: Final = 60.0
FRESH_S: Final = 10.0
"""A gateway that has not told for longer is gone, and so is what it counted alone."""
GIVE_UP_S: Final = 600.0
"""After its deletion a Tenant waits so long for gateways that tell nothing, or tell that they keep its budget,"""
PATIENCE_S: Final = 60.0
"""and for each of them at least so long since this process missed it, or waits for nothing else: a new leader has heard
of none yet, and a budget cannot go before what uses it."""
LOOK_S: Final = 1.0
"""Between two looks for news."""


@dataclass(frozen=True)
class TokenNews:
    """What is known of one tenant's tokens."""

    windows: tuple[TokenWindow, ...] = ()
    """Used of its limits."""
    months: Mapping[str, MonthTokens] = field(default_factory=dict)
    """Used this month, by process of a gateway."""
    gateways: Collection[str] | None = field(default=None, compare=False)
    """Processes that may still tell; None as long as not all of them can have told."""
    is_waiting: bool = False
    """What some told cannot be written before that is known."""


@dataclass(frozen=True)
class Keepers:
    """Gateways that keep the budget of a Tenant on its way out, or may."""

    awaited: tuple[str, ...]
    silent: tuple[str, ...] = ()
    """They have told nothing for too long,"""
    stuck: tuple[str, ...] = ()
    """and these have told for too long that they keep it."""


class BudgetBoard:
    """Tokens of all tenants.

    Attributes:
        on_news: told the key of each Tenant whose status is worth writing.
    """

    def __init__(self) -> None:
        self.on_news: Callable[[Key], None] = lambda _key: None
        self._loads: dict[str, tuple[GatewayLoad, datetime]] = {}
        self._tenants: dict[str, Tenant] = {}
        self._months: OrderedDict[str, Mapping[str, MonthTokens]] = OrderedDict()
        """By process of a gateway, and account; whoever told last stands at the end."""
        self._told: dict[str, tuple[TokenNews, datetime]] = {}
        self._missed: dict[str, datetime] = {}
        """Gateways that should tell and do not, and since when a Tenant waits for them."""
        self._kept: dict[str, dict[str, datetime]] = {}
        """By Tenant that waits for nothing else: gateways that tell of its budget, and since when."""
        self._looked: datetime | None = None
        self._heard: datetime | None = None
        """When a gateway told first, since this process began or led."""

    def clear(self) -> None:
        """Begin anew: another process may have written meanwhile."""
        self._loads.clear()
        self._months.clear()
        self._told.clear()
        self._missed.clear()
        self._kept.clear()
        self._heard = None

    def is_needed(self) -> bool:
        """Return whether there is any tenant whose tokens are counted."""
        return bool(self._tenants)

    def forget(self, name: str) -> None:
        """A Tenant is gone."""
        self._tenants.pop(name, None)
        self._told.pop(name, None)
        self._kept.pop(name, None)

    def read(self, tenant: Tenant, now: datetime) -> TokenNews:
        """Return what the status of a Tenant is to say; what it says, as long as no gateway has told."""
        name, tokens = tenant.metadata.name, tenant.spec.tokens
        self._tenants[name] = tenant
        loads = self._find_fresh(now)
        news = self._build(tenant, loads, now)
        if not loads:
            is_limited = tokens.per_minute is not None or tokens.per_day is not None or tokens.per_month is not None
            return replace(news, windows=tenant.status.tokens if is_limited else ())
        self._told[name] = news, now
        return news

    def find_keepers(self, tenant: Tenant, gateways: Collection[str], now: datetime, *, is_used: bool) -> Keepers:
        """Return the gateways that tell of the budget of a Tenant on its way out; they drop it when nothing can use it
        any more, and they reach their store. Those that should tell and have not, to this process, may keep it as well.
        Both are waited for until `GIVE_UP_S` after the deletion.

        Args:
            tenant: the one.
            gateways: names of those that should tell.
            now: the current time.
            is_used: something is left that may use the budget, so that no gateway can drop it.
        """
        self._tenants[tenant.metadata.name] = tenant
        loads, account = self._find_fresh(now), _get_account(tenant)
        silent = {*gateways} - {load.gateway for load in loads}
        self._missed = {name: self._missed.get(name, now) for name in silent}
        deleted = tenant.metadata.deletion_timestamp or now
        telling = {load.gateway for load in loads if account in load.tenants}
        # One that tells of it now and then, and is silent in between, is not waited for anew each time.
        before = self._kept.get(tenant.metadata.name, {})
        kept = {name: before.get(name, now) for name in telling | before.keys() & silent}
        self._kept[tenant.metadata.name] = {} if is_used else kept
        given_up = {name for name, since in self._missed.items() if _is_too_long(deleted, since, now)}
        stuck = {name for name in telling if not is_used and _is_too_long(deleted, kept[name], now)}
        awaited = (telling - stuck) | (silent - given_up)
        return Keepers(tuple(sorted(awaited)), tuple(sorted(given_up)), tuple(sorted(stuck)))

    def take(self, load: GatewayLoad, now: datetime) -> None:
        """A gateway tells."""
        self._heard = self._heard or now
        self._loads[load.gateway] = load, now
        self._missed.pop(load.gateway, None)
        self._months[load.boot] = load.months
        self._months.move_to_end(load.boot)
        while len(self._months) > MOST_GATEWAYS:
            self._months.popitem(last=False)
        if self._looked is None or (now - self._looked).total_seconds() >= LOOK_S:
            self._looked = now
            self._look(now)

    def _look(self, now: datetime) -> None:
        loads = self._find_fresh(now)
        for name, tenant in self._tenants.items():
            told = self._told.get(name)
            if told is not None and now - told[1] < timedelta(seconds=NEWS_S):
                continue
            news = self._build(tenant, loads, now)
            if news != (told[0] if told is not None else TokenNews()):
                # Its reconcile reads it, and may be late: it is not told again before.
                self._told[name] = news, now
                self.on_news(Key("Tenant", "", name))

    def _build(self, tenant: Tenant, loads: Collection[GatewayLoad], now: datetime) -> TokenNews:
        account = _get_account(tenant)
        windows = build_token_windows(tenant.spec.tokens, account, loads, now)
        # Gateways of an older version, which are there during an upgrade, tell by name alone; newer ones never do.
        found = {boot: told.get(account) or told.get(tenant.metadata.name) for boot, told in self._months.items()}
        months = {boot: tokens for boot, tokens in found.items() if tokens is not None}
        # By then whoever lives has told.
        is_known = self._heard is not None and now - self._heard >= timedelta(seconds=FRESH_S)
        if is_known:
            return TokenNews(windows, months, frozenset(load.boot for load in loads))
        written = {each.boot for each in tenant.status.this_month.gateways}
        return TokenNews(windows, months, None, is_waiting=len(written | months.keys()) > MOST_GATEWAYS)

    def _find_fresh(self, now: datetime) -> list[GatewayLoad]:
        fresh = timedelta(seconds=FRESH_S)
        self._loads = {name: told for name, told in self._loads.items() if now - told[1] < fresh}
        return [load for load, _ in self._loads.values()]


def _is_too_long(deleted: datetime, since: datetime, now: datetime) -> bool:
    return now >= max(deleted + timedelta(seconds=GIVE_UP_S), since + timedelta(seconds=PATIENCE_S))


def _get_account(tenant: Tenant) -> str:
    return build_account(tenant.metadata.name, tenant.metadata.uid)
