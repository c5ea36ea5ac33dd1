"""The slow clock: every object is looked at again now and then, and the watches themselves are checked.

A reconcile is level-triggered, so that a change which no event told is found the next time its key is due. The keys
are spread over the whole interval at random: a resync costs a steady trickle, never a burst.

A watch can fall silent without an error. So the versions of our objects are listed now and then and compared with what
the events have told. An object that the events said nothing about is enqueued at once; if it happens in two checks in a
row, `is_watch_silent` tells the liveness probe, which has the process restarted.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from llmos_operator.kube.errors import KubeError
from llmos_operator.kube.resources import Resource
from llmos_operator.reconcilers.base import Key
from llmos_operator.reconcilers.quota_board import QUOTA
from llmos_operator.runtime.handlers import Sink
from llmos_operator.runtime.references import DISCOVERY, References, build_work_key, find_missed

WATCH_CHECK_S: Final = 120.0
WATCH_LAG_S: Final = 10.0
"""A watch that is healthy has told a change after so long."""

_logger = logging.getLogger(__name__)


class Versions(Protocol):
    """Lists resource versions by (namespace, name)."""

    async def list_versions(self, resource: Resource) -> dict[tuple[str, str], str]: ...


class Resync:
    """Enqueues all known keys once an interval, each at a random moment of it."""

    def __init__(
        self, references: References, sink: Sink, *, interval_s: float, chance: Callable[[], float] = random.random
    ) -> None:
        self._references = references
        self._sink = sink
        self._interval_s = interval_s
        self._chance = chance

    async def run(self) -> None:
        """Go on until cancelled."""
        while True:
            for key in {DISCOVERY, QUOTA, *map(build_work_key, self._references.keys())}:
                self._sink.add_after(key, self._interval_s * self._chance())
            await asyncio.sleep(self._interval_s)


class WatchCheck:
    """Compares what the watches told with what the API server has."""

    def __init__(
        self,
        references: References,
        sink: Sink,
        versions: Versions,
        kinds: Sequence[Resource],
        *,
        on_missed: Callable[[Key], None] = lambda _key: None,
        interval_s: float = WATCH_CHECK_S,
        lag_s: float = WATCH_LAG_S,
    ) -> None:
        self._references = references
        self._sink = sink
        self._versions = versions
        self._kinds = kinds
        self._on_missed = on_missed
        self._interval_s = interval_s
        self._lag_s = lag_s
        self.is_watch_silent = False
        """Whether two checks in a row found changes that no event had told."""

    async def run(self) -> None:
        """Go on until cancelled."""
        missed_before = False
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                missed = await self.check()
            except KubeError as error:
                _logger.warning("The watches could not be checked: %s", error)
                continue
            self.is_watch_silent = missed_before and bool(missed)
            missed_before = bool(missed)

    async def check(self) -> set[Key]:
        """Return the keys whose latest change no event has told, after enqueuing them."""
        before = self._references.versions()
        listed: dict[Key, str] = {}
        for resource in self._kinds:
            for (namespace, name), version in (await self._versions.list_versions(resource)).items():
                listed[Key(resource.kind, namespace, name)] = version
        await asyncio.sleep(self._lag_s)
        missed = find_missed(before, listed, self._references.versions(), [kind.kind for kind in self._kinds])
        for key in missed:
            _logger.error("No watch event told the latest change of %s; it is reconciled now.", key)
            self._on_missed(key)
            if key not in listed:
                self._references.forget(key)
            self._sink.add(build_work_key(key))
        return missed
