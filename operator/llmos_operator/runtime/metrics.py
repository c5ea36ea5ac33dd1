"""The operator's own Prometheus metrics: every name and label in one place, in a registry of their own."""

from __future__ import annotations

import contextlib
from collections import Counter as PyCounter
from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from llmos_operator.planning.quota import QuotaReport
from llmos_operator.planning.scaling import ScalingPlan
from llmos_operator.reconcilers.quota_board import Pass

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# A second time series for each of ours, which nobody asks for.
disable_created_metrics()  # type: ignore[no-untyped-call]  # the library has no annotation there

_RECONCILE_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """What the operator counts. One instance a process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._reconcile_s = Histogram(
            "llmos_operator_reconcile_seconds",
            "Duration of one reconcile, whether or not it succeeded.",
            ("kind",),
            buckets=_RECONCILE_BUCKETS_S,
            registry=self._registry,
        )
        self._errors = Counter(
            "llmos_operator_reconcile_errors",
            "Reconciles that failed and are tried again.",
            ("kind", "reason"),
            registry=self._registry,
        )
        self._writes = Counter(
            "llmos_operator_writes",
            "Writes sent to the API server, except those of the leader election.",
            ("verb", "kind"),
            registry=self._registry,
        )
        self._reads = Counter(
            "llmos_operator_reads",
            "Reads sent to the API server, except those of the watches and the leader election.",
            ("verb", "kind"),
            registry=self._registry,
        )
        self._remembered = Counter(
            "llmos_operator_reads_remembered",
            "Reads of a reconcile that were answered from memory.",
            ("verb", "kind"),
            registry=self._registry,
        )
        self._events = Counter(
            "llmos_operator_watch_events", "Watch events received.", ("kind",), registry=self._registry
        )
        self._missed = Counter(
            "llmos_operator_watch_missed",
            "Changes that a list showed and no watch event had told.",
            ("kind",),
            registry=self._registry,
        )
        self._is_leader = Gauge(
            "llmos_operator_is_leader", "1 while this replica may write, else 0.", registry=self._registry
        )

        pool = ("namespace", "pool")
        self._scaling = {
            name: Gauge(f"llmos_operator_pool_{name}", text, pool, registry=self._registry)
            for name, text in (
                ("desired_replicas", "Replicas that the autoscaler decided on."),
                ("demanded_replicas", "Replicas that the load asks for, before limits, delays and rounding."),
                ("ready_replicas", "Replicas that the autoscaler counts as answering."),
                ("stale_sources", "Gateways and replicas that did not tell of the pool's load in the last second."),
            )
        }
        self._decisions = Counter(
            "llmos_operator_scaling_decisions",
            "Decisions of the autoscaler, about one a second for each pool, by what bounded them.",
            ("bounded_by",),
            registry=self._registry,
        )
        self._scaling_errors = Counter(
            "llmos_operator_scaling_errors",
            "Times that the autoscaler failed to decide about a pool.",
            registry=self._registry,
        )

        tenant = ("tenant", "class")
        self._tenant_gauges = {
            name: Gauge(f"llmos_operator_tenant_accelerators_{name}", text, tenant, registry=self._registry)
            for name, text in (
                ("guaranteed", "Accelerators guaranteed to a tenant."),
                ("used", "Accelerators that a tenant holds, borrowed ones included."),
                ("borrowed", "Accelerators that a tenant holds beyond its guarantee."),
                ("lent", "Accelerators of a tenant's guarantee that others hold."),
                ("waiting", "Accelerators that a tenant asked for and that are not admitted."),
            )
        }
        self._class_gauges = {
            name: Gauge(f"llmos_operator_class_{name}", text, ("class",), registry=self._registry)
            for name, text in (
                ("capacity", "Accelerators of a class that the nodes have."),
                ("guaranteed", "Accelerators of a class that are guaranteed to tenants."),
                ("used", "Accelerators of a class that replicas hold."),
                ("fragmentation", "Part of the free accelerators of a class that lie on nodes in use."),
            )
        }
        self._quota_decisions = Counter(
            "llmos_operator_quota_decisions",
            "Decisions of the quota ledger that were written.",
            ("action",),
            registry=self._registry,
        )
        self._quota_waiting = Gauge(
            "llmos_operator_quota_waiting",
            "Replicas that wait for accelerators, by reason.",
            ("reason",),
            registry=self._registry,
        )
        self._quota_pass_s = Histogram(
            "llmos_operator_quota_pass_seconds",
            "Duration of one pass of the quota ledger with all its writes.",
            buckets=_RECONCILE_BUCKETS_S,
            registry=self._registry,
        )

    def watch_queue(self, depth: Callable[[], int], oldest_s: Callable[[], float], running: Callable[[], int]) -> None:
        """Read the state of the queue at each scrape."""
        for name, text, value in (
            ("llmos_operator_queue_depth", "Keys that are due and have no worker yet.", depth),
            ("llmos_operator_queue_oldest_seconds", "How long the key that waits longest has been due.", oldest_s),
            ("llmos_operator_workers_busy", "Keys that a worker has.", running),
        ):
            Gauge(name, text, registry=self._registry).set_function(value)

    def observe_reconcile(self, kind: str, duration_s: float) -> None:
        """One reconcile ended."""
        self._reconcile_s.labels(kind).observe(duration_s)

    def count_error(self, kind: str, reason: str) -> None:
        """One reconcile failed; `reason` is the name of an exception class, of which there are few."""
        self._errors.labels(kind, reason).inc()

    def count_write(self, verb: str, kind: str) -> None:
        """One write was sent."""
        self._writes.labels(verb, kind).inc()

    def count_read(self, verb: str, kind: str) -> None:
        """One read was sent."""
        self._reads.labels(verb, kind).inc()

    def count_remembered(self, verb: str, kind: str) -> None:
        """One read was answered from memory."""
        self._remembered.labels(verb, kind).inc()

    def count_event(self, kind: str) -> None:
        """One watch event arrived."""
        self._events.labels(kind).inc()

    def count_missed(self, kind: str) -> None:
        """One change was seen that no watch event had told."""
        self._missed.labels(kind).inc()

    def observe_scaling(self, namespace: str, pool: str, plan: ScalingPlan, *, stale: int) -> None:
        """One decision was made about a pool, with figures of `stale` sources missing."""
        values = {
            "desired_replicas": plan.desired,
            "demanded_replicas": plan.raw,
            "ready_replicas": plan.inputs.ready,
            "stale_sources": stale,
        }
        for name, value in values.items():
            self._scaling[name].labels(namespace, pool).set(value)
        self._decisions.labels(plan.bounded_by or "nothing").inc()

    def forget_scaling(self, namespace: str, pool: str) -> None:
        """A pool is gone or scales no longer."""
        for gauge in self._scaling.values():
            # Where it has never been decided about there is nothing to remove.
            with contextlib.suppress(KeyError):
                gauge.remove(namespace, pool)

    def observe_quota(self, told: Pass | None) -> None:
        """One pass of the quota ledger ended; None: there is no quota any more."""
        if told is None or told.report is not None:
            for gauge in (*self._tenant_gauges.values(), *self._class_gauges.values(), self._quota_waiting):
                gauge.clear()
        if told is None:
            return
        if told.report is not None:
            self._set_quota(told.report)
        for audit in told.audits:
            self._quota_decisions.labels(audit.action).inc()
        self._quota_pass_s.observe(told.duration_s)

    def _set_quota(self, report: QuotaReport) -> None:
        for usage in report.tenants:
            for name, gauge in self._tenant_gauges.items():
                gauge.labels(usage.tenant, usage.class_name).set(getattr(usage, name))
        for each in report.classes:
            for name, gauge in self._class_gauges.items():
                gauge.labels(each.class_name).set(getattr(each, name))
        for reason, count in PyCounter(each.reason.value for each in report.waiting).items():
            self._quota_waiting.labels(reason).set(count)

    def count_scaling_error(self) -> None:
        """The autoscaler failed to decide about a pool."""
        self._scaling_errors.inc()

    def set_leader(self, is_leader: bool) -> None:
        """Say whether this replica may write."""
        self._is_leader.set(float(is_leader))

    def render(self) -> bytes:
        """Return the text format that Prometheus scrapes."""
        return generate_latest(self._registry)
