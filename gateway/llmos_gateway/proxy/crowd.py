"""How many requests are on the road, in all and of one caller.

Requests are held while a pool wakes, so whoever sends many could fill the gateway for everybody: one caller may have
half of what there may be at the same time.
"""

from __future__ import annotations

from collections import Counter

from llmos_gateway.catalog import ANONYMOUS, ApiKey
from llmos_gateway.protocol.errors import TooManyRequestsError, UnavailableError
from llmos_gateway.proxy.call import Call


class Crowd:
    """Who is on the road."""

    def __init__(self, max_in_flight: int) -> None:
        self.calls: set[Call] = set()
        self._limit = max_in_flight
        self._limit_of_one = max(1, max_in_flight // 2)
        self._by_caller: Counter[str] = Counter()

    def enter(self, call: Call) -> None:
        """Count a request of somebody who is not known yet.

        Raises:
            UnavailableError: there is no room; it counts nevertheless until it leaves.
        """
        self.calls.add(call)
        if len(self.calls) > self._limit:
            message = f"{self._limit} requests are in flight, the limit."
            raise UnavailableError(message, "overloaded", retry_after_s=1.0)

    def identify(self, call: Call, key: ApiKey) -> None:
        """Count it as this caller's.

        Raises:
            TooManyRequestsError: the caller has as many as one may.
        """
        if key is ANONYMOUS:
            return
        if self._by_caller[key.identity] >= self._limit_of_one:
            message = f"{self._limit_of_one} requests of this tenant or API key are in flight here, the limit for one."
            raise TooManyRequestsError(f"{message} Try again later.", "too_many_in_flight", retry_after_s=1.0)
        self._by_caller[key.identity] += 1
        call.caller = key.identity

    def leave(self, call: Call) -> None:
        """Forget a request that has ended."""
        self.calls.discard(call)
        if call.caller:
            self._by_caller[call.caller] -= 1
            if not self._by_caller[call.caller]:
                del self._by_caller[call.caller]
            call.caller = ""
