"""How things stand, in numbers and in words: usage, shares, fragmentation, and why each gang waits.

What a tenant has lent: what all tenants of the cohort borrow, less what the spare gives them, is taken from guarantees;
it is told to the tenants that leave most of theirs idle. That is what would have to come back if they asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from llmos_operator.planning.quota.books import Book
from llmos_operator.planning.quota.holdings import Holdings
from llmos_operator.planning.quota.order import Keys
from llmos_operator.planning.quota.plan import ClassUsage, QuotaReport, TenantClassUsage
from llmos_operator.planning.quota.queues import Lines
from llmos_operator.planning.quota.turns import Turns
from llmos_operator.planning.quota.values import Gang, QuotaRules
from llmos_operator.planning.quota.words import Explainer


def build_report(
    holdings: Holdings, lines: Lines, keys: Keys, turns: Turns, rules: QuotaRules, now_s: float
) -> QuotaReport:
    """Return usage by tenant and class, and an explanation for each waiting gang."""
    waiting = [gang for line in lines.all() for gang in line]
    waiting += [*lines.backing_off(), *holdings.reservations.values()]
    explainer = Explainer(holdings, keys, turns, rules, now_s)
    return QuotaReport(
        tenants=tuple(_usage(holdings.now, waiting)),
        classes=tuple(_classes(holdings)),
        shares=tuple((tenant.name, _share(holdings.now, tenant.name)) for tenant in holdings.now.tenants()),
        waiting=explainer.explain(waiting),
    )


def _share(book: Book, tenant: str) -> float:
    units = book.units()
    return book.share(tenant) / units if units else 0.0


def _usage(book: Book, waiting: Iterable[Gang]) -> Iterator[TenantClassUsage]:
    wanted: dict[tuple[str, str], int] = {}
    for gang in waiting:
        if gang.classes:
            key = gang.tenant, gang.classes[0]
            wanted[key] = wanted.get(key, 0) + gang.accelerators
    for class_name in book.classes():
        lent = _lent(book, class_name)
        holders = {tenant.name for tenant in book.tenants() if class_name in tenant.quotas}
        holders |= {name for name in book.holders(class_name) if book.used(name, class_name)}
        holders |= {name for name, waits_for in wanted if waits_for == class_name}
        for name in sorted(holders):
            yield TenantClassUsage(
                tenant=name,
                class_name=class_name,
                guaranteed=book.quota(name, class_name).guaranteed,
                used=book.used(name, class_name),
                borrowed=book.borrowed(name, class_name),
                lent=lent.get(name, 0),
                waiting=wanted.get((name, class_name), 0),
            )


def _lent(book: Book, class_name: str) -> dict[str, int]:
    cohorts: dict[str, list[str]] = {}
    for tenant in book.tenants():
        cohorts.setdefault(tenant.cohort_key, []).append(tenant.name)
    lent: dict[str, int] = {}
    for cohort, members in cohorts.items():
        spare = book.spare(class_name) - book.excess(class_name, without_cohort=cohort)
        left = sum(book.borrowed(name, class_name) for name in members) - max(0, spare)
        idle = {name: _idle(book, name, class_name) for name in members}
        for name in sorted(idle, key=lambda name: (-idle[name], name)):
            lent[name] = max(0, min(idle[name], left))
            left -= lent[name]
    return lent


def _idle(book: Book, tenant: str, class_name: str) -> int:
    quota = book.quota(tenant, class_name)
    return min(quota.lendable, max(0, quota.guaranteed - book.used(tenant, class_name)))


def _classes(holdings: Holdings) -> Iterator[ClassUsage]:
    book = holdings.now
    for name in book.classes():
        room = holdings.rooms.get(name)
        yield ClassUsage(
            class_name=name,
            capacity=book.capacity(name),
            guaranteed=book.guaranteed(name),
            used=sum(book.used(tenant, name) for tenant in book.holders(name)),
            fragmentation=room.compute_fragmentation() if room else 0.0,
        )
