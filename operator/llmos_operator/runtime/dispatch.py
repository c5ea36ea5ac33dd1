"""From a key to its reconcile, with a deadline, a log context and metrics around it. No decisions about content."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from llmos_operator.kube.errors import Conflict, KubeError
from llmos_operator.reconcilers.base import Context, Key, Result
from llmos_operator.runtime.logs import current_key
from llmos_operator.runtime.metrics import Metrics

Reconcile = Callable[[Context, Key], Awaitable[Result]]

RECONCILE_TIMEOUT_S: Final = 120.0

_logger = logging.getLogger(__name__)


class Dispatcher:
    """Reconciles keys by their kind. `process`, `take_rest_s` and `on_failure` are what the work queue wants."""

    def __init__(
        self,
        context: Context,
        reconcilers: Mapping[str, Reconcile],
        metrics: Metrics,
        *,
        timeout_s: float = RECONCILE_TIMEOUT_S,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._context = context
        self._reconcilers = reconcilers
        self._metrics = metrics
        self._timeout_s = timeout_s
        self._clock = clock
        self._rests: dict[Key, float] = {}
        """Of keys that were just reconciled, where one asked for some."""

    async def process(self, key: Key) -> float | None:
        """Reconcile one key; return after how many seconds it is due again even if nothing changes."""
        token = current_key.set(key)
        began_s = self._clock()
        try:
            async with asyncio.timeout(self._timeout_s):
                result = await self._reconcilers[key.kind](self._context, key)
        finally:
            self._metrics.observe_reconcile(key.kind, self._clock() - began_s)
            current_key.reset(token)
        if result.rest_s:
            self._rests[key] = result.rest_s
        return result.requeue_after_s

    def take_rest_s(self, key: Key) -> float:
        """Return how long a key asked to rest when it was reconciled last; it is told once."""
        return self._rests.pop(key, 0.0)

    def on_failure(self, key: Key, error: Exception, delay_s: float) -> None:
        """Count and log a reconcile that failed; it is tried again after the delay."""
        self._metrics.count_error(key.kind, type(error).__name__)
        token = current_key.set(key)
        if isinstance(error, Conflict):
            _logger.info("Someone else wrote first, again in %.1f s: %s", delay_s, error)
        elif isinstance(error, KubeError):
            _logger.warning("The reconcile failed, again in %.1f s: %s", delay_s, error)
        elif isinstance(error, TimeoutError):
            _logger.warning("The reconcile took more than %g s, again in %.1f s.", self._timeout_s, delay_s)
        else:
            _logger.error("The reconcile failed, again in %.1f s.", delay_s, exc_info=error)
        current_key.reset(token)
