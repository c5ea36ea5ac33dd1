"""The last step of the road: what a request leaves behind in metrics, its tenant's account, audit log and trace.

What the log calls the decision:

    served      the caller got a whole answer
    refused     the gateway said no, or not now, before any replica saw the request; `code` says why
    failed      it was sent to a replica, and no whole answer came of it; or the gateway has a fault
    cancelled   the caller went away
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, Literal

from llmos_gateway.load.months import MonthBook
from llmos_gateway.metrics import Metrics
from llmos_gateway.proxy.call import CALLER_GONE_STATUS, Call

_FAULT: Final = 500
AddLine = Callable[[float, dict[str, Any]], None]


class CallRecorder:
    """Records calls.

    Args:
        metrics: where they are counted.
        months: where the tokens of tenants are.
        add_line: takes a line of the access log with its unix time; None writes no log.
        clock: seconds that only grow, the same as the road's.
    """

    def __init__(
        self, metrics: Metrics, months: MonthBook, add_line: AddLine | None, *, clock: Callable[[], float]
    ) -> None:
        self._metrics = metrics
        self._months = months
        self._add_line = add_line
        self._clock = clock

    def record(self, call: Call) -> None:
        """Note a request that has ended."""
        duration_s = self._clock() - call.arrived_s
        ttft_s, tpot_s = call.compute_ttft_s(), call.compute_tpot_s()
        usage = call.compute_usage()
        pool, tenant = call.pool, call.key.tenant if call.key is not None else ""
        series = self._metrics.find_series(pool.id if pool else "", pool.model if pool else "", tenant)
        series.count(call.part or "", call.status)
        if pool is not None:
            series.observe_tokens(usage)
            self._months.count(call.account, usage)
            series.observe_times(duration_s, call.queue_s, ttft_s, tpot_s)
        fields: dict[str, Any] = {
            "request_id": call.request_id,
            "endpoint": call.part or "",
            "decision": find_decision(call.status, call.attempts),
            "status": call.status,
            "code": call.code,
            "key": call.key.id if call.key is not None else "",
            "tenant": tenant,
            "pool": pool.id if pool else "",
            "model": pool.model if pool else "",
            "replica": call.replica,
            "stream": call.is_stream,
            "attempts": call.attempts,
            "ms": _to_ms(duration_s),
            "queue_ms": _to_ms(call.queue_s),
            "ttft_ms": None if ttft_s is None else _to_ms(ttft_s),
            "prompt_tokens": usage.prompt_tokens,
            "cached_tokens": usage.cached_tokens,
            "completion_tokens": usage.completion_tokens,
            "usage_exact": usage.is_exact,
        }
        if self._add_line is not None:
            self._add_line(time.time(), fields)
        if call.span is not None:
            shown = {f"llmos.{name}": value for name, value in fields.items() if value is not None}
            call.span.end({**shown, "http.response.status_code": call.status}, call.code if call.status >= 500 else "")


def find_decision(status: int, attempts: int) -> Literal["served", "refused", "failed", "cancelled"]:
    """Return what became of a request that ended with this status after so many attempts."""
    if status == CALLER_GONE_STATUS:
        return "cancelled"
    if status < 400:
        return "served"
    return "failed" if attempts or status == _FAULT else "refused"


def _to_ms(seconds: float) -> float:
    return round(seconds * 1000, 2)
