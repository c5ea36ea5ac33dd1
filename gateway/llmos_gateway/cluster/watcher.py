"""Follows one kind of object: list everything once, then hear of each change, for ever.

    list ──> watch ──ended by the server, or cut──> watch on from the last version
      ^        └──410 Expired, or refused──┐
      └────────────────── pause ───────────┘

Nothing is forgotten while the API server is away: what was known stays known until a complete list says otherwise.
Pauses grow from `FIRST_PAUSE_S` to `LONGEST_PAUSE_S` with jitter, so that a returning API server is not run down by
every gateway at once, and shrink back when a watch brings something or lasts. Bookmarks carry the version forward on
quiet watches.

An object that cannot be read is logged and counts as absent, in a list as in an event: a key whose Secret was broken
must not go on opening doors.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from llmos_gateway.cluster.source import Cut, Expired, Object, ReadError, Refused, Source

FIRST_PAUSE_S: Final = 0.2
LONGEST_PAUSE_S: Final = 5.0
PAGE_OBJECTS: Final = 500
_GONE: Final = 410

_logger = logging.getLogger(__name__)

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)

Name = tuple[str, str]
"""Namespace and name."""


class Sink(Protocol[T_contra]):
    """Who wants to know."""

    def replace(self, things: Mapping[Name, T_contra]) -> None:
        """These are all there are."""
        ...

    def put(self, name: Name, thing: T_contra) -> None:
        """This one came or changed."""
        ...

    def remove(self, name: Name) -> None:
        """This one is gone."""
        ...


@dataclass(frozen=True)
class Subject(Generic[T]):
    """What is followed."""

    what: str
    """In words."""
    path: str
    selector: str
    parse: Callable[[Object], T]
    """Raises KeyError, TypeError, ValueError or AttributeError for an object that it cannot read."""


class Watcher(Generic[T]):
    """Keeps a sink up to date with a subject."""

    def __init__(
        self, source: Source, subject: Subject[T], sink: Sink[T], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._source = source
        self._subject = subject
        self._sink = sink
        self._clock = clock
        self._pause_s = FIRST_PAUSE_S
        self._is_lost = False
        self.is_listed = asyncio.Event()
        """Set once everything has been read for the first time."""
        self.last_contact_s = float("-inf")
        """When the API server last said something, by the clock."""

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            try:
                version = await self._list()
                self.is_listed.set()
                await self._follow(version)
            except Expired:
                _logger.info("%s: the version is too old to go on from, reading everything anew", self._subject.what)
            except ReadError as error:
                self._note_loss(error)
            await self._rest()

    async def _list(self) -> str:
        query = self._build_query(limit=str(PAGE_OBJECTS))
        things: dict[Name, T] = {}
        while True:
            try:
                page = await self._source.get(self._subject.path, query)
            except Expired:
                if "limit" not in query:
                    raise
                # The list outlived its version between two pages: read everything at once, as client-go does.
                things, query = {}, self._build_query()
                continue
            for item in page.get("items") or ():
                if (thing := self._read(item)) is not None:
                    things[_find_name(item)] = thing
            token = page["metadata"].get("continue")
            if not token:
                self._note_contact()
                self._sink.replace(things)
                return str(page["metadata"]["resourceVersion"])
            query["continue"] = token

    async def _follow(self, version: str) -> None:
        """Watch from a version on; raises `ReadError` when only a new list helps."""
        while True:
            before_s, before = self._clock(), version
            try:
                query = self._build_query(resourceVersion=version)
                async with aclosing(self._source.watch(self._subject.path, query)) as events:
                    async for event in events:
                        version = self._take(event)
            except Cut as error:
                self._note_loss(error)
                await self._rest()
                continue
            self._note_contact()
            if version == before and self._clock() - before_s < LONGEST_PAUSE_S:
                # A server that ends its watches at once must not be asked without a pause.
                await self._rest()
            else:
                self._pause_s = FIRST_PAUSE_S

    def _take(self, event: Object) -> str:
        """Pass an event on and return the version after it."""
        kind, thing = event.get("type"), event.get("object") or {}
        if kind == "ERROR":
            raise _build_error(self._subject.what, thing)
        self._note_contact()
        self._pause_s = FIRST_PAUSE_S
        if kind != "BOOKMARK":
            known = None if kind == "DELETED" else self._read(thing)
            if known is None:
                self._sink.remove(_find_name(thing))
            else:
                self._sink.put(_find_name(thing), known)
        return str(thing["metadata"]["resourceVersion"])

    def _read(self, item: Object) -> T | None:
        """Return what an object says, None if it cannot be read."""
        try:
            return self._subject.parse(item)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            _logger.error("%s %s/%s cannot be read and is left out: %r", self._subject.what, *_find_name(item), error)
            return None

    def _build_query(self, **further: str) -> dict[str, str]:
        selection = {"labelSelector": self._subject.selector} if self._subject.selector else {}
        return {**selection, **further}

    def _note_contact(self) -> None:
        self.last_contact_s = self._clock()
        if self._is_lost:
            self._is_lost = False
            _logger.info("%s: followed again", self._subject.what)

    def _note_loss(self, error: ReadError) -> None:
        level = logging.DEBUG if self._is_lost else logging.WARNING
        self._is_lost = True
        _logger.log(level, "%s: %s. Going on with what is known; trying again.", self._subject.what, error)

    async def _rest(self) -> None:
        await asyncio.sleep(self._pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load, hides nothing
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)


def _find_name(item: Object) -> Name:
    metadata = item["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def _build_error(what: str, status: Object) -> Refused:
    code = int(status.get("code") or 0)
    message = f"{what}: {status.get('message') or 'the watch failed'} ({code})"
    return Expired(message, code) if code == _GONE else Refused(message, code)
