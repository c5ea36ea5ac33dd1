"""What replicas tell of their load: `GET /load` on the control port of each, once a second, all at the same time.

Few bytes, one deadline, and at most `CONCURRENCY` requests at once. A replica that does not answer is asked again in
the next second, then less and less often up to every `LAST_BACKOFF_S`; until it answers it counts as silent.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import aiohttp
from pydantic import ValidationError

from llmos.api.load import EngineLoad
from llmos_operator.planning.sampling import EngineReading
from llmos_operator.runtime.fetching import FetchError, fetch

CONCURRENCY: Final = 128
DEADLINE_S: Final = 1.0
OLDEST_FIGURES_S: Final = 3.0
"""A replica that knows its engine's figures of so long ago does not know its load."""
LAST_BACKOFF_S: Final = 8.0
MAX_ANSWER_BYTES: Final = 64 * 1024
MOST_COUNT: Final = 2**53
"""No honest count is greater, and status holds 64 bits: whoever writes his own engine must not break a status."""


@dataclass(frozen=True, slots=True)
class _Failing:
    times: int
    again_s: float


class Engines:
    """Asks replicas, and remembers which of them do not answer."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._places = asyncio.Semaphore(CONCURRENCY)
        self._failing: dict[str, _Failing] = {}

    async def read(self, addresses: Mapping[str, str]) -> dict[str, EngineReading | None]:
        """Return what each replica (name -> host:port) says, None for those that do not answer."""
        readings = await asyncio.gather(*(self._read_one(address) for address in addresses.values()))
        return dict(zip(addresses, readings, strict=True))

    def keep(self, addresses: Iterable[str]) -> None:
        """Forget all other replicas."""
        wanted = set(addresses)
        self._failing = {address: failing for address, failing in self._failing.items() if address in wanted}

    async def _read_one(self, address: str) -> EngineReading | None:
        clock = asyncio.get_running_loop().time
        failing = self._failing.get(address)
        if failing is not None and clock() < failing.again_s:
            return None
        try:
            async with self._places:
                body = await fetch(
                    self._session, f"http://{address}/load", timeout_s=DEADLINE_S, limit_bytes=MAX_ANSWER_BYTES
                )
        except FetchError:
            times = failing.times + 1 if failing else 1
            self._failing[address] = _Failing(times, clock() + min(2.0 ** (times - 1) - 1.0, LAST_BACKOFF_S))
            return None
        self._failing.pop(address, None)
        return parse_engine_load(body, clock())


def parse_engine_load(body: bytes, now_s: float) -> EngineReading | None:
    """Return what an answer says, None if it says nothing that can be believed."""
    try:
        load = EngineLoad.model_validate_json(body)
    except ValidationError:
        return None
    figures = [load.age_s, load.kv_usage]
    counts = [value for name in EngineLoad.model_fields if isinstance(value := getattr(load, name), int)]
    if not all(map(math.isfinite, figures)) or max(counts) > MOST_COUNT or load.age_s > OLDEST_FIGURES_S:
        return None
    return EngineReading(now_s - load.age_s, load)
