"""What a pass of the ledger tells pools and tenants, and when that is worth a write. Pure.

Positions, usage and seconds change with every pass; nobody could read that, and the API server should not store it. So
news are told at once if they change what a person would do, and otherwise only now and then: a pool's place in line
after `POSITION_S`, for few pools at a time, a tenant's usage after `USAGE_S`, accelerator-seconds after `SECONDS_S`.

Accelerator-seconds of a tenant are added up at each pass, from when they were last counted (or a gang was admitted) to
now, over the gangs that hold some now:

    seconds += sum over gangs of accelerators x (now - max(counted until, admitted))

Status keeps the sum and until when it counts. A new operator goes on from there, so that gangs that still run are
counted without a gap; what ended while no operator looked is counted up to that time only. It never counts too much.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from llmos.api import ClassUsage, MonthlyUsage, Tenant
from llmos_operator.planning.conditions import Fact
from llmos_operator.planning.quota import Gang, GangState, QuotaPlan, QuotaReport
from llmos_operator.planning.quota.plan import Overcommitted, TenantClassUsage, Waiting

POSITION_S: Final = 10.0
POSITIONS_AT_A_TIME: Final = 20
USAGE_S: Final = 2.0
SECONDS_S: Final = 60.0


@dataclass(frozen=True)
class PoolNews:
    """Why replicas of a pool wait."""

    first: Waiting
    """The one that is served first."""
    waiting: int
    """Replicas that wait."""


@dataclass(frozen=True)
class Meter:
    """Accelerator-seconds of one tenant in one month."""

    month: str
    seconds: float
    until_s: float


@dataclass(frozen=True)
class TenantNews:
    """How one tenant stands."""

    usage: tuple[ClassUsage, ...]
    share: float
    overcommitted: tuple[Overcommitted, ...]
    """Classes that are guaranteed to it and to others beyond what there is."""
    meter: Meter
    guaranteed: Fact | None = None
    """What is said of its guarantee where somebody else decides."""


def build_pool_news(report: QuotaReport, gangs: Mapping[str, Gang]) -> dict[str, PoolNews]:
    """Return the news of each pool that waits, by `namespace/name`."""
    waiting: dict[str, list[Waiting]] = {}
    for each in report.waiting:
        waiting.setdefault(gangs[each.gang_id].owner, []).append(each)
    return {
        owner: PoolNews(min(all_of, key=lambda each: each.position), len(all_of)) for owner, all_of in waiting.items()
    }


def build_tenant_news(
    tenants: Iterable[Tenant], report: QuotaReport, plan: QuotaPlan, meters: Mapping[str, Meter]
) -> dict[str, TenantNews]:
    """Return the news of each tenant, by name."""
    usage: dict[str, list[TenantClassUsage]] = {}
    for each in report.tenants:
        usage.setdefault(each.tenant, []).append(each)
    shares = dict(report.shares)
    return {
        tenant.metadata.name: TenantNews(
            usage=tuple(_build_usage(each) for each in usage.get(tenant.metadata.name, ())),
            share=round(shares.get(tenant.metadata.name, 0.0), 4),
            overcommitted=tuple(
                each
                for each in plan.overcommitted
                if any(quota.class_name == each.class_name and quota.guaranteed for quota in tenant.spec.quota)
            ),
            meter=meters[tenant.metadata.name],
        )
        for tenant in tenants
    }


def build_held_news(
    tenants: Iterable[Tenant], gangs: Iterable[Gang], meters: Mapping[str, Meter], guaranteed: Fact
) -> dict[str, TenantNews]:
    """Return the news of each tenant, by name, where somebody else decides: what it holds and what it waits for."""
    held: dict[str, dict[str, list[int]]] = {}
    for gang in gangs:
        if not (class_name := _find_class(gang)):
            continue
        counts = held.setdefault(gang.tenant, {}).setdefault(class_name, [0, 0])
        counts[0 if gang.placement is not None else 1] += gang.accelerators
    return {
        name: TenantNews(
            usage=tuple(
                ClassUsage(class_name=class_name, used=used, waiting=waiting)
                for class_name, (used, waiting) in sorted(held.get(name, {}).items())
            ),
            share=0.0,
            overcommitted=(),
            meter=meters[name],
            guaranteed=guaranteed,
        )
        for name in (tenant.metadata.name for tenant in tenants)
    }


def _find_class(gang: Gang) -> str:
    """Return the class that a gang holds accelerators of, else the first that it asks for; empty if it names none."""
    if gang.placement is not None:
        return gang.placement.class_name
    return gang.classes[0] if gang.classes else ""


def _build_usage(usage: TenantClassUsage) -> ClassUsage:
    return ClassUsage(
        class_name=usage.class_name,
        guaranteed=usage.guaranteed,
        used=usage.used,
        borrowed=usage.borrowed,
        lent=usage.lent,
        waiting=usage.waiting,
    )


def is_pool_news(before: PoolNews | None, after: PoolNews | None) -> bool:
    """Whether a pool must be told at once: it waits or no longer, or for something else."""
    if before is None or after is None:
        return before is not after
    return before.first.reason != after.first.reason


def is_tenant_news(before: TenantNews | None, after: TenantNews, told_ago_s: float) -> bool:
    """Whether a tenant is worth a write, `told_ago_s` after the last one."""
    if before is None or (before.overcommitted, before.guaranteed) != (after.overcommitted, after.guaranteed):
        return True
    if (before.usage, before.share) != (after.usage, after.share):
        return told_ago_s >= USAGE_S
    return round(before.meter.seconds) != round(after.meter.seconds) and told_ago_s >= SECONDS_S


def begin_meter(tenant: Tenant, now: datetime) -> Meter:
    """Return the meter of a tenant as its status kept it."""
    month, start_s = _month(now)
    known = tenant.status.this_month
    if known.month == month and known.counted_until is not None:
        return Meter(month, float(known.gpu_seconds), known.counted_until.timestamp())
    created = tenant.metadata.creation_timestamp
    return Meter(month, 0.0, max(start_s, created.timestamp() if created else start_s))


def advance_meter(meter: Meter, holding: Iterable[Gang], now: datetime) -> Meter:
    """Return the meter after counting up to now; with the first look in a month it begins anew."""
    month, start_s = _month(now)
    if meter.month != month:
        meter = Meter(month, 0.0, start_s)
    now_s = max(now.timestamp(), meter.until_s)
    held = sum(gang.accelerators * max(0.0, now_s - max(meter.until_s, gang.admitted_s)) for gang in holding)
    return Meter(month, meter.seconds + held, now_s)


def holds_accelerators(gang: Gang) -> bool:
    """Whether a gang holds accelerators now."""
    return gang.state is not GangState.WAITING and gang.placement is not None


def build_monthly_usage(meter: Meter, before: MonthlyUsage) -> MonthlyUsage:
    """Return what status says of a month; what others count in it stays as it was.

    A meter of an earlier month was not advanced since the new one began, and says nothing of it.
    """
    if meter.month < before.month:
        return before
    kept = before if before.month == meter.month else MonthlyUsage()
    until = datetime.fromtimestamp(meter.until_s, UTC).replace(microsecond=0)
    return kept.model_copy(update={"month": meter.month, "gpu_seconds": round(meter.seconds), "counted_until": until})


def _month(now: datetime) -> tuple[str, float]:
    start = now.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return start.strftime("%Y-%m"), start.timestamp()
