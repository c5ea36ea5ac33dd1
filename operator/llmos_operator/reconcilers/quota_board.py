"""What the quota pass remembers from one time to the next, and what it tells pools, tenants and metrics.

All of it is in one event loop and may be lost: a new leader builds it anew from the objects (`forget`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from llmos_operator.kube.client import Objects
from llmos_operator.planning.quota import KeptLedger
from llmos_operator.planning.quota.plan import QuotaPlan, QuotaReport
from llmos_operator.planning.quota_jobs import build_job_owner, read_job_owner
from llmos_operator.planning.quota_news import (
    POSITION_S,
    POSITIONS_AT_A_TIME,
    Meter,
    PoolNews,
    TenantNews,
    is_pool_news,
    is_tenant_news,
)
from llmos_operator.planning.quota_view import LastLook
from llmos_operator.planning.quota_writes import Audit
from llmos_operator.reconcilers.keys import Key
from llmos_operator.reconcilers.parsed import Parsed

QUOTA: Final = Key("Quota", "", "")
"""The one key under which all accelerators are given out: two workers could both give away the last one."""
CHEAP_REPORT_S: Final = 0.01
REPORT_REST: Final = 20.0
"""A report that takes longer than the above is made anew after so many times its duration at the soonest."""
LONGEST_REPORT_REST_S: Final = 1.0
POOLS_KEPT: Final = 20_000
"""Parsed pools; a pool takes some KiB."""


@dataclass(frozen=True)
class Pass:
    """One pass, for metrics."""

    report: QuotaReport | None
    """None where the last one is new enough."""
    plan: QuotaPlan
    audits: tuple[Audit, ...]
    """Decisions that were written."""
    duration_s: float


def _tell_nobody(_news: Any) -> None:
    return None


class QuotaBoard:
    """Attributes:
    on_news: told the key of each pool and tenant whose status is to be written.
    on_pass: told of each pass.
    """

    def __init__(self) -> None:
        self.on_news: Callable[[Key], None] = _tell_nobody
        self.on_pass: Callable[[Pass | None], None] = _tell_nobody
        self.parsed = Parsed(limit=POOLS_KEPT)
        self.forget()

    def forget(self) -> None:
        """Begin anew: another process may have decided meanwhile."""
        self.meters: dict[str, Meter] = {}
        self.last_look = LastLook()
        self.ledger = KeptLedger()
        self.nodes: Objects | None = None
        self.nodes_read: datetime | None = None
        self.strangers: Objects = []
        self.strangers_read: datetime | None = None
        self.next_pass: datetime | None = None
        self.reclaimed: datetime | None = None
        self.next_report: datetime | None = None
        self.was_on: datetime | None = None
        """When there last was a Tenant."""
        self.has_told_pools = False
        """That quota is on; a first pass may have failed on the way."""
        self._pools: dict[str, tuple[PoolNews, datetime]] = {}
        self._tenants: dict[str, tuple[TenantNews, datetime]] = {}

    def is_report_due(self, now: datetime) -> bool:
        """Whether it is told anew how things stand. With thousands that wait that takes as long as deciding."""
        return self.next_report is None or now >= self.next_report

    def note_report(self, now: datetime, took_s: float) -> None:
        """A report was made."""
        rest_s = min(REPORT_REST * took_s, LONGEST_REPORT_REST_S) if took_s > CHEAP_REPORT_S else 0.0
        self.next_report = now + timedelta(seconds=rest_s)

    def doubt_nodes(self) -> None:
        """A node came, went or changed."""
        self.nodes = None

    def pool(self, key: Key) -> PoolNews | None:
        """Why replicas of a pool wait, as it was told last."""
        told = self._pools.get(f"{key.namespace}/{key.name}")
        return told[0] if told else None

    def job(self, key: Key) -> PoolNews | None:
        """Why the attempt of a job waits, as it was told last."""
        told = self._pools.get(build_job_owner(key.namespace, key.name))
        return told[0] if told else None

    def tenant(self, name: str) -> TenantNews | None:
        """How a tenant stands, as it was told last."""
        told = self._tenants.get(name)
        return told[0] if told else None

    def publish(self, pools: Mapping[str, PoolNews], tenants: Mapping[str, TenantNews], now: datetime) -> None:
        """Tell those for whom it is news."""
        budget = POSITIONS_AT_A_TIME
        for owner in {*self._pools, *pools}:
            before, told = self._pools.get(owner, (None, now))
            after = pools.get(owner)
            is_news = is_pool_news(before, after)
            if not is_news and after != before and (now - told).total_seconds() >= POSITION_S and budget > 0:
                budget -= 1
                is_news = True
            if is_news:
                self._tell_pool(owner, after, now)
        for name in self._tenants.keys() - tenants.keys():
            del self._tenants[name]
        for name, news in tenants.items():
            known, told = self._tenants.get(name, (None, now))
            if is_tenant_news(known, news, (now - told).total_seconds()):
                self._tenants[name] = (news, now)
                self.on_news(Key("Tenant", "", name))

    def _tell_pool(self, owner: str, news: PoolNews | None, now: datetime) -> None:
        if news is None:
            self._pools.pop(owner, None)
        else:
            self._pools[owner] = (news, now)
        if job := read_job_owner(owner):
            self.on_news(Key("FineTuneJob", *job))
        else:
            namespace, _, name = owner.partition("/")
            self.on_news(Key("InferencePool", namespace, name))
