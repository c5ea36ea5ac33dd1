"""When and how often a request to a source is repeated.

Only `TemporaryError` is repeated. The pause grows exponentially with full jitter (so that a hundred pods that were
refused together do not come back together), unless the source asked for a pause with Retry-After: then that one is
kept. A pause longer than `longest_wait_s` is not slept through: the step ends with exit code 75 and its pod's back-off,
which holds no memory and can be seen, does the waiting.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt
from tenacity.nap import sleep_using_event
from tenacity.wait import wait_base, wait_random_exponential

from llmos_workers.fetch.errors import ChecksumMismatchError, TemporaryError
from llmos_workers.fetch.redaction import redact

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class RetryPolicy:
    """Bounds on repetition; every number is an upper bound."""

    attempts: int = 8
    first_wait_s: float = 1.0
    longest_wait_s: float = 120.0

    def call(self, action: Callable[[], T], stop: threading.Event | None = None) -> T:
        """Run the action until it succeeds, fails for good, or the attempts are used up; the last error goes through.

        `stop` ends a pause early; the action then has to look at it.
        """
        retrying = Retrying(
            stop=stop_after_attempt(self.attempts),
            wait=_AskedForOrExponential(self),
            retry=retry_if_exception(self._is_worth_repeating),
            sleep=sleep_using_event(stop or threading.Event()),
            before_sleep=_report_pause,
            reraise=True,
        )
        return retrying(action)

    def _is_worth_repeating(self, error: BaseException) -> bool:
        if isinstance(error, ChecksumMismatchError):
            return False  # the same bytes come again; the downloader starts over once by itself
        return isinstance(error, TemporaryError) and (error.retry_after_s or 0) <= self.longest_wait_s


DEFAULT_RETRY: Final = RetryPolicy()


class _AskedForOrExponential(wait_base):
    def __init__(self, policy: RetryPolicy) -> None:
        self._exponential = wait_random_exponential(multiplier=policy.first_wait_s, max=policy.longest_wait_s)

    def __call__(self, retry_state: RetryCallState) -> float:
        error = retry_state.outcome.exception() if retry_state.outcome else None
        asked_for_s = error.retry_after_s if isinstance(error, TemporaryError) else None
        return self._exponential(retry_state) if asked_for_s is None else asked_for_s


def _report_pause(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    pause_s = state.next_action.sleep if state.next_action else 0.0
    log.warning("attempt %d failed, next in %.1f s: %s", state.attempt_number, pause_s, redact(str(error)))
