"""How kopf is kept to carrying watches: the state that it would keep for handlers which detect changes.

For every event kopf extracts what it calls the essence of an object and compares it with the one that it stored in an
annotation when it was handled last. No handler of ours asks for that, but the copies are made nevertheless, and they
are half of what an event costs. These storages say that nothing was stored and nothing is essential.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import kopf


class NoEssence(kopf.DiffBaseStorage):
    """Nothing of an object is compared with anything."""

    def build(self, *, body: kopf.Body, extra_fields: Iterable[Any] | None = None) -> kopf.BodyEssence:
        """Return the part of an object that matters to change detection: none."""
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        """Return the essence that was handled last: none ever was."""
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        """Never write into an object."""


class NoProgress(kopf.ProgressStorage):
    """No handler of ours has several tries whose progress would have to be kept."""

    def fetch(self, *, key: Any, body: kopf.Body) -> None:
        """Return the progress of a handler: there is none."""

    def store(self, *, key: Any, record: Any, body: kopf.Body, patch: kopf.Patch) -> None:
        """Never write into an object."""

    def purge(self, *, key: Any, body: kopf.Body, patch: kopf.Patch) -> None:
        """Never write into an object."""

    def touch(self, *, body: kopf.Body, patch: kopf.Patch, value: str | None) -> None:
        """Never write into an object."""

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        """Return the essence without traces of progress, of which there are none."""
        return essence
