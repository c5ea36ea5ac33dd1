"""The gateway's Prometheus metrics: every name and label in one place, in a registry of their own.

Labels have few values: pools and tenants are what an administrator makes, a model is the pool's, a status is a number.
A caller's own words (models that do not exist, paths) never become labels. Tenants beyond `MAX_TENANTS` share the label
`other`, and a deleted pool takes its series with it.
"""

from __future__ import annotations

import itertools
from collections import Counter as CountOf
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

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
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from llmos.api.load import LATENCY_BUCKETS_S
from llmos_gateway.protocol.usage import Usage

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
MAX_TENANTS: Final = 500
OTHER_TENANT: Final = "other"
# A second time series for each of ours, which nobody asks for.
disable_created_metrics()  # type: ignore[no-untyped-call]  # the library has no annotation there

_POOL = ("pool", "model", "tenant")
_QUEUE_BUCKETS_S = (0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)


class PoolSeries:
    """The series of one pool and tenant, looked up once."""

    def __init__(self, metrics: Metrics, labels: tuple[str, str, str]) -> None:
        self._requests = metrics.requests
        self._labels = labels
        self._by_code: dict[tuple[str, int], Counter] = {}
        self._prompt = metrics.prompt_tokens.labels(*labels)
        self._cached = metrics.cached_tokens.labels(*labels)
        self._completion = metrics.completion_tokens.labels(*labels)
        self._ttft = metrics.ttft_s.labels(*labels)
        self._tpot = metrics.tpot_s.labels(*labels)
        self._duration = metrics.duration_s.labels(*labels)
        self._queue = metrics.queue_s.labels(*labels)
        self._retries = metrics.retries
        self._errors = metrics.errors

    def count(self, part: str, status: int) -> None:
        """One request ended with this status."""
        counter = self._by_code.get((part, status))
        if counter is None:
            counter = self._by_code[part, status] = self._requests.labels(*self._labels, part, str(status))
        counter.inc()

    def count_upstream_error(self, kind: str, *, is_retried: bool) -> None:
        """One attempt failed before the caller saw anything."""
        self._errors.labels(*self._labels, kind).inc()
        if is_retried:
            self._retries.labels(*self._labels, kind).inc()

    def observe_tokens(self, usage: Usage) -> None:
        """Count the tokens of one request."""
        if usage.prompt_tokens:
            self._prompt.inc(usage.prompt_tokens)
        if usage.cached_tokens:
            self._cached.inc(usage.cached_tokens)
        if usage.completion_tokens:
            self._completion.inc(usage.completion_tokens)

    def observe_times(self, duration_s: float, queue_s: float, ttft_s: float | None, tpot_s: float | None) -> None:
        """Record how long one request took."""
        self._duration.observe(duration_s)
        if queue_s:
            self._queue.observe(queue_s)
        if ttft_s is not None:
            self._ttft.observe(ttft_s)
        if tpot_s is not None:
            self._tpot.observe(tpot_s)


class Metrics:
    """What the gateway counts. One instance a process."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.requests = self._count("requests", "Requests that ended, by status of their answer.", "endpoint", "code")
        self.prompt_tokens = self._count("prompt_tokens", "Prompt tokens, as engines counted them.")
        self.cached_tokens = self._count("cached_tokens", "Prompt tokens that engines had in their prefix cache.")
        self.completion_tokens = self._count("completion_tokens", "Tokens that engines generated.")
        self.ttft_s = self._time("time_to_first_token_seconds", "From arrival to first token; streams only.")
        self.tpot_s = self._time("time_per_output_token_seconds", "Mean time for each further token; streams only.")
        self.duration_s = self._time("request_duration_seconds", "From arrival to the end of the answer.")
        self.queue_s = self._time(
            "queue_seconds",
            "How long requests waited for a replica or for their turn, of those that did.",
            _QUEUE_BUCKETS_S,
        )
        self.retries = self._count("retries", "Requests sent to another replica.", "reason")
        self.errors = self._count("upstream_errors", "Attempts that a replica failed.", "kind")
        self._log_dropped = Counter(
            "llmos_gateway_access_log_dropped", "Lines of the access log that found no room.", registry=registry
        )
        self._refused = Counter("llmos_gateway_connections_refused", "Connections beyond the limit.", registry=registry)
        self._budget_refused = Counter(
            "llmos_gateway_budget_refused",
            "Requests beyond a limit of their tenant; in shadow mode they went on.",
            ("tenant", "window", "mode"),
            registry=registry,
        )
        self._tenants: set[str] = set()
        self._series: dict[tuple[str, str, str], PoolSeries] = {}
        self._models: dict[str, set[str]] = {}
        """Those that have series, by pool."""

    def _count(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"llmos_gateway_{name}", text, (*_POOL, *labels), registry=self._registry)

    def _time(self, name: str, text: str, buckets: tuple[float, ...] = LATENCY_BUCKETS_S) -> Histogram:
        return Histogram(f"llmos_gateway_{name}", text, _POOL, buckets=buckets, registry=self._registry)

    def find_series(self, pool_id: str, model: str, tenant: str) -> PoolSeries:
        """Return the series of a pool and tenant; empty words for requests that found no pool."""
        series = self._series.get((pool_id, model, tenant))
        return series if series is not None else self._make_series(pool_id, model, tenant)

    def _make_series(self, pool_id: str, model: str, tenant: str) -> PoolSeries:
        labels = (pool_id, model, self._name_tenant(tenant))
        series = self._series.get(labels)
        if series is None:
            series = self._series[labels] = PoolSeries(self, labels)
            self._models.setdefault(pool_id, set()).add(model)
        return series

    def _name_tenant(self, tenant: str) -> str:
        if tenant not in self._tenants:
            if len(self._tenants) >= MAX_TENANTS:
                tenant = OTHER_TENANT
            self._tenants.add(tenant)
        return tenant

    def forget_pool(self, pool_id: str) -> None:
        """Drop the series of a pool that is gone."""
        self.retain_models(pool_id, ())

    def retain_models(self, pool_id: str, models: Collection[str]) -> None:
        """Drop the series of all models and adapters of a pool but these."""
        gone = self._models.get(pool_id, set()).difference(models)
        for model in gone:
            self._forget_model(pool_id, model)
        if gone and not (left := self._models[pool_id].difference(gone)):
            del self._models[pool_id]
        elif gone:
            self._models[pool_id] = left

    def _forget_model(self, pool_id: str, model: str) -> None:
        for labels in [labels for labels in self._series if labels[:2] == (pool_id, model)]:
            del self._series[labels]
        for metric in (
            self.requests, self.prompt_tokens, self.cached_tokens, self.completion_tokens, self.ttft_s, self.tpot_s,
            self.duration_s, self.queue_s, self.retries, self.errors,
        ):  # fmt: skip
            metric.remove_by_labels({"pool": pool_id, "model": model})

    def count_dropped_lines(self, number: int) -> None:
        """Lines of the access log were lost."""
        self._log_dropped.inc(number)

    def count_refused_connection(self) -> None:
        """One connection was refused."""
        self._refused.inc()

    def count_budget_refusal(self, tenant: str, window: str, *, is_enforced: bool) -> None:
        """One request was beyond a limit of its tenant."""
        mode = "enforce" if is_enforced else "shadow"
        self._budget_refused.labels(self._name_tenant(tenant), window, mode).inc()

    def watch_budgets(self, name: str, text: str, read: Callable[[], Iterable[tuple[str, str, float]]]) -> None:
        """Read a gauge for each tenant and window at each scrape."""
        labels = ("tenant", "window")

        def collect() -> Iterable[tuple[tuple[str, ...], float]]:
            return itertools.islice((((tenant, window), value) for tenant, window, value in read()), MAX_TENANTS * 3)

        self._registry.register(_Gauge(f"llmos_gateway_{name}", text, labels, collect))

    def watch_requests(self, name: str, text: str, read: Callable[[], Iterable[tuple[str, str, str]]]) -> None:
        """Count requests, each given by its pool, model and tenant, at each scrape; 0 for what had some before."""

        def collect() -> Iterable[tuple[tuple[str, ...], float]]:
            now = CountOf((pool, model, self._name_tenant(tenant)) for pool, model, tenant in read())
            return ((labels, now[labels]) for labels in {*self._series, *now} if labels[0])

        self._registry.register(_Gauge(f"llmos_gateway_{name}", text, _POOL, collect))

    def watch(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Read a gauge at each scrape."""
        Gauge(f"llmos_gateway_{name}", text, registry=self._registry).set_function(read)

    def watch_pools(self, name: str, text: str, read: Callable[[], Mapping[str, float]]) -> None:
        """Read a gauge for each pool at each scrape."""

        def collect() -> Iterable[tuple[tuple[str, ...], float]]:
            return (((pool_id,), value) for pool_id, value in read().items())

        self._registry.register(_Gauge(f"llmos_gateway_{name}", text, ("pool",), collect))

    def render(self) -> bytes:
        """Return the text format that Prometheus scrapes."""
        return generate_latest(self._registry)


class _Gauge(Collector):
    """One value for each combination of labels that has one now."""

    def __init__(
        self,
        name: str,
        text: str,
        labels: tuple[str, ...],
        read: Callable[[], Iterable[tuple[tuple[str, ...], float]]],
    ) -> None:
        self._name, self._text, self._labels, self._read = name, text, labels, read

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Return the values of this moment."""
        family = GaugeMetricFamily(self._name, self._text, labels=self._labels)
        for labels, value in self._read():
            family.add_metric(labels, value)
        return (family,)
