"""One pass of the quota ledger over the whole cluster: observe everything at one moment, plan, write, tell.

There is one key for it, so that accelerators are given out by one hand. What it decides from is never older than its
own writes: lists of pods are not older than anything that this process wrote (`kube/freshness.py`), and a pass writes
everything that it decided before it ends. It keeps nothing that the next pass needs, but what makes that one fast: a
pass that is cut off anywhere is followed by one that reads what was written and goes on.

Passes are paced: events only make the next one due, and it pauses for as long as a look took, so that at most half of
the time is spent on looking however many pods come and go. Whom to ask to go is looked for once a second at most, and
with thousands that wait it is told once a second why each of them does.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any, Final

from llmos.api import AcceleratorClass, FineTuneJob, InferencePool, Tenant
from llmos.api.names import (
    COMPONENT_REPLICA,
    COMPONENT_TRAIN,
    CPU_CLASS,
    LABEL_COMPONENT,
    LABEL_MANAGED_BY,
    LABEL_POOL,
    MANAGED_BY,
)
from llmos_operator.kube.client import Object, Objects
from llmos_operator.kube.errors import Conflict, Forbidden, Invalid, NotFound
from llmos_operator.kube.resources import ACCELERATOR_CLASSES, FINE_TUNE_JOBS, INFERENCE_POOLS, NODES, PODS
from llmos_operator.planning.claims import Tenants
from llmos_operator.planning.kueue import build_decides_fact
from llmos_operator.planning.quota import QuotaPlan, QuotaRules, Snapshot
from llmos_operator.planning.quota_news import (
    advance_meter,
    begin_meter,
    build_held_news,
    build_pool_news,
    build_tenant_news,
    holds_accelerators,
)
from llmos_operator.planning.quota_pods import requests_accelerators, show_pod
from llmos_operator.planning.quota_view import Observed, build_snapshot
from llmos_operator.planning.quota_writes import (
    Audit,
    Decision,
    PodWrite,
    build_completions,
    build_decisions,
    build_liftings,
)
from llmos_operator.planning.settings import Admitter
from llmos_operator.reconcilers.base import DONE, Context, Key, Result
from llmos_operator.reconcilers.kueue import is_kueue_installed
from llmos_operator.reconcilers.quota_board import Pass, QuotaBoard
from llmos_operator.reconcilers.tenant import observe_tenants

AT_A_TIME: Final = 16
"""Writes in flight."""
SHORTEST_PAUSE_S: Final = 0.03
RECLAIM_S: Final = 1.0
"""Time between two looks for whom to ask to go."""
LONGEST_PAUSE_S: Final = 30.0
"""A pass comes so often even if nothing happens: accelerator-seconds are counted."""
NODES_S: Final = 60.0
STRANGERS_S: Final = 60.0
"""Pods that are not LLMOS's are not watched: they are listed so often."""
LEFTOVERS_S: Final = 60.0
"""For so long after the last Tenant went, gates are looked for that were made just before."""

GANGS: Final = (COMPONENT_REPLICA, COMPONENT_TRAIN)
STRANGERS: Final = (
    f"{LABEL_COMPONENT} notin ({','.join(GANGS)})",
    f"{LABEL_COMPONENT} in ({','.join(GANGS)}),{LABEL_MANAGED_BY}!={MANAGED_BY}",
)
"""One that a person labelled like a pod of ours is a stranger, too."""

_OF_NO_GANG: Final[Object] = {"metadata": {"labels": {}}}
_logger = logging.getLogger(__name__)
_audit = logging.getLogger("llmos.audit")


async def reconcile_quota(context: Context, _key: Key) -> Result:
    """Give out accelerators."""
    board, now = context.quota, context.now()
    if board.next_pass is not None and now < board.next_pass:
        return Result(requeue_after_s=(board.next_pass - now).total_seconds())
    try:
        return await _pass(context, now)
    except BaseException:
        # The work queue tries again, ever more seldom: coming too early would count as a success.
        board.next_pass = None
        raise


async def _pass(context: Context, now: datetime) -> Result:
    began_s = time.perf_counter()
    # One that is being deleted, or cannot be read, is a Tenant: nothing is given away for its sake.
    tenants = await observe_tenants(context)
    if context.settings.admission is Admitter.KUEUE:
        return await _stand_aside(context, tenants, now, began_s)
    return await _give_out(context, tenants, now, began_s) if tenants.exist else await _lift_all(context, now)


async def _give_out(context: Context, tenants: Tenants, now: datetime, began_s: float) -> Result:
    board = context.quota
    board.was_on = now
    observed = await _observe(context, tenants, now)
    snapshot = _build_snapshot(context, observed)
    ledger = board.ledger.open(snapshot)
    may_reclaim = board.reclaimed is None or (now - board.reclaimed).total_seconds() >= RECLAIM_S
    plan = ledger.plan(snapshot.now_s, reclaim=may_reclaim)
    board.ledger.keep(ledger)
    if may_reclaim:
        board.reclaimed = now
    roster = board.last_look.roster
    gangs = {gang.id: gang for gang in snapshot.gangs}
    decisions = build_decisions(plan, gangs, roster.gangs, now, snapshot.rules.swap_window_s)
    _pace(context, began_s)
    await _write_all(context, build_completions(roster.unfinished))
    audits = await _carry_out(context, decisions)
    # What the status of a Tenant that cannot be read says stays as it is.
    meters = _count_seconds(board, tenants.readable, snapshot, now)
    report = None
    if board.is_report_due(now):
        report_began_s = time.perf_counter()
        report = ledger.report()
        news = build_tenant_news(tenants.readable, report, plan, meters)
        board.publish(build_pool_news(report, gangs), news, now)
        board.note_report(context.now(), time.perf_counter() - report_began_s)
    if not board.has_told_pools:
        _tell_pools(board, observed.pools)
    board.on_pass(Pass(report, plan, audits, time.perf_counter() - began_s))
    is_told = may_reclaim and report is not None
    return Result(requeue_after_s=_next_look_s(plan, snapshot.now_s, is_over=is_told))


def _pace(context: Context, began_s: float) -> None:
    """Pause from here on: what a look decided is written meanwhile."""
    look_s = time.perf_counter() - began_s
    context.quota.next_pass = context.now() + timedelta(seconds=max(SHORTEST_PAUSE_S, look_s))


async def _stand_aside(context: Context, tenants: Tenants, now: datetime, began_s: float) -> Result:
    """Where Kueue admits: lift nothing, reclaim nothing; count what tenants hold, and say who decides."""
    board = context.quota
    board.on_pass(None)
    if not tenants.exist:
        board.publish({}, {}, now)
        return DONE
    observed = await _observe(context, tenants, now)
    snapshot = _build_snapshot(context, observed)
    _pace(context, began_s)
    meters = _count_seconds(board, tenants.readable, snapshot, now)
    decides = build_decides_fact(is_installed=await is_kueue_installed(context))
    board.publish({}, build_held_news(tenants.readable, snapshot.gangs, meters, decides), now)
    return Result(requeue_after_s=LONGEST_PAUSE_S)


def _next_look_s(plan: QuotaPlan, now_s: float, *, is_over: bool) -> float:
    """After what was decided comes another look: it may have made something else possible. So also where something was
    left to the next look."""
    if not is_over or not plan.is_empty():
        return RECLAIM_S
    due_s = LONGEST_PAUSE_S if plan.next_s is None else plan.next_s - now_s
    return min(max(due_s, RECLAIM_S), LONGEST_PAUSE_S)


async def _lift_all(context: Context, now: datetime) -> Result:
    """Without any Tenant there is no quota: lift the gates that are left, and look again for some that come late."""
    board = context.quota
    began_s = time.perf_counter()
    pods = await _observe_gang_pods(context)
    _pace(context, began_s)
    await _write_all(context, build_liftings(pods))
    if board.was_on is None:
        return DONE
    pools = {
        (pod["metadata"]["namespace"], name) for pod in pods if (name := pod["metadata"]["labels"].get(LABEL_POOL))
    }
    if (now - board.was_on).total_seconds() < LEFTOVERS_S:
        for namespace, name in pools:
            board.on_news(Key(INFERENCE_POOLS.kind, namespace, name))
        board.publish({}, {}, now)
        return Result(requeue_after_s=LEFTOVERS_S / 10)
    board.forget()
    board.on_pass(None)
    return DONE


async def _observe(context: Context, tenants: Tenants, now: datetime) -> Observed:
    kube, board = context.kube, context.quota
    # One after the other: what is remembered is answered at once, and others would take a turn in between.
    classes = await kube.list(ACCELERATOR_CLASSES)
    pools = await kube.list(INFERENCE_POOLS)
    jobs = await kube.list(FINE_TUNE_JOBS)
    nodes = await _observe_nodes(context, now)
    pods = await _observe_gang_pods(context)
    known = context.shared.parse_readable(AcceleratorClass, classes)
    strangers = await _observe_strangers(context, known, now)
    return Observed(
        now=now,
        tenants=tenants,
        classes=known,
        pools=tuple(
            pool
            for pool in board.parsed.parse_readable(InferencePool, pools)
            if pool.spec.accelerator.class_name != CPU_CLASS
        ),
        jobs=board.parsed.parse_readable(FineTuneJob, jobs),
        nodes=tuple(nodes),
        pods=(*pods, *strangers),
    )


async def _observe_gang_pods(context: Context) -> Objects:
    # In one list of all that are ours: what is shown of these is kept from look to look.
    pods = await context.kube.list(PODS, label_selector=f"{LABEL_MANAGED_BY}={MANAGED_BY}", view=_show_of_gang)
    return [pod for pod in pods if pod is not _OF_NO_GANG]


def _show_of_gang(pod: Object) -> Object:
    """Return what the ledger reads of a pod; whether it is of a gang is found out once, and not in each look."""
    return show_pod(pod) if (pod["metadata"].get("labels") or {}).get(LABEL_COMPONENT) in GANGS else _OF_NO_GANG


async def _observe_nodes(context: Context, now: datetime) -> Objects:
    board = context.quota
    is_old = board.nodes_read is None or (now - board.nodes_read).total_seconds() >= NODES_S
    if board.nodes is None or is_old:
        board.nodes, board.nodes_read = [], now  # A change that is told meanwhile makes it None again.
        listed = [_slim_node(node) for node in await context.kube.list(NODES)]
        if board.nodes is not None:
            board.nodes = listed
        return listed
    return board.nodes


async def _observe_strangers(context: Context, classes: tuple[AcceleratorClass, ...], now: datetime) -> Objects:
    """Return pods on nodes that hold accelerators and are none of LLMOS's."""
    board = context.quota
    if board.strangers_read is None or (now - board.strangers_read).total_seconds() >= STRANGERS_S:
        listed = await asyncio.gather(*(context.kube.list(PODS, label_selector=selector) for selector in STRANGERS))
        board.strangers_read = now
        board.strangers = [
            _show_stranger(pod)
            for pods in listed
            for pod in pods
            if pod["spec"].get("nodeName") and requests_accelerators(pod, classes)
        ]
    return board.strangers


def _build_snapshot(context: Context, observed: Observed) -> Snapshot:
    return build_snapshot(
        observed,
        rules=QuotaRules(settle_s=max(QuotaRules().settle_s, context.settings.min_run_s)),
        untenanted=dict(context.settings.untenanted),
        last=context.quota.last_look,
    )


def _count_seconds(
    board: QuotaBoard, tenants: Iterable[Tenant], snapshot: Snapshot, now: datetime
) -> Mapping[str, Any]:
    holding: dict[str, list[Any]] = {}
    for gang in snapshot.gangs:
        if holds_accelerators(gang):
            holding.setdefault(gang.tenant, []).append(gang)
    board.meters = {
        name: advance_meter(board.meters.get(name) or begin_meter(tenant, now), holding.get(name, ()), now)
        for tenant in tenants
        if (name := tenant.metadata.name)
    }
    return board.meters


def _tell_pools(board: QuotaBoard, pools: Iterable[InferencePool]) -> None:
    """Quota is on now: that it is, stands in the status of each pool on accelerators."""
    board.has_told_pools = True
    for pool in pools:
        board.on_news(Key(INFERENCE_POOLS.kind, pool.metadata.namespace or "", pool.metadata.name))


async def _carry_out(context: Context, decisions: tuple[Decision, ...]) -> tuple[Audit, ...]:
    """Write decisions in their order; those of one kind at the same time, for they concern different gangs.

    Return those that were written: another one is decided anew by the next pass, and is to count once.
    """
    written: list[Audit] = []
    start = 0
    while start < len(decisions):
        action = decisions[start].audit.action
        end = next((i for i in range(start, len(decisions)) if decisions[i].audit.action != action), len(decisions))
        gate = asyncio.Semaphore(AT_A_TIME)
        await _finish_all(_carry_out_one(context, decision, gate, written) for decision in decisions[start:end])
        start = end
    return tuple(written)


async def _carry_out_one(context: Context, decision: Decision, gate: asyncio.Semaphore, written: list[Audit]) -> None:
    async with gate:
        for write in decision.writes:
            if not await _write(context, write):
                return
    written.append(decision.audit)
    _audit.info(
        "%s %s", decision.audit.action, decision.audit.gang, extra={"fields": {"audit": asdict(decision.audit)}}
    )


async def _write_all(context: Context, writes: Iterable[PodWrite]) -> None:
    gate = asyncio.Semaphore(AT_A_TIME)

    async def write_one(write: PodWrite) -> None:
        async with gate:
            await _write(context, write)

    await _finish_all(write_one(write) for write in writes)


async def _finish_all(steps: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Do everything, then raise what went wrong first: one pod's trouble does not hold up the others."""
    outcomes = await asyncio.gather(*steps, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome


async def _write(context: Context, write: PodWrite) -> bool:
    """Write; False if the pod is gone or another one: the next pass sees what is there now."""
    try:
        if write.patch is None:
            await context.kube.delete(PODS, write.name, write.namespace, uid=write.uid)
        else:
            await context.kube.merge(PODS, write.name, write.namespace, write.patch)
    except (NotFound, Conflict) as error:
        _logger.info("A pod changed before a decision about it was written, the next pass decides anew: %s", error)
        return False
    except (Forbidden, Invalid) as error:
        # It would be so the next time as well, and whoever comes after this pod would never get anything.
        _logger.warning(
            "A decision about pod %s/%s is refused and tried again with the next pass; see which webhook or policy of "
            "the cluster refuses it: %s",
            write.namespace,
            write.name,
            error,
        )
        return False
    return True


def _slim_node(node: Object) -> Object:
    """Return what the ledger reads of a node: the rest (images, addresses) would be kept for nothing."""
    status = node.get("status") or {}
    spec = node.get("spec") or {}
    return {
        "metadata": {"name": node["metadata"]["name"], "labels": node["metadata"].get("labels") or {}},
        "spec": {key: spec[key] for key in ("unschedulable", "taints") if key in spec},
        "status": {
            "allocatable": status.get("allocatable") or {},
            "conditions": [c for c in status.get("conditions") or () if c["type"] == "Ready"],
        },
    }


def _show_stranger(pod: Object) -> Object:
    """Return what the ledger reads of a pod that is none of ours: whatever it says of itself, it is of no gang."""
    shown = show_pod(pod)
    return {**shown, "metadata": {key: shown["metadata"][key] for key in ("name", "namespace")}}
