"""The identity of one unit of work."""

from __future__ import annotations

from typing import NamedTuple


class Key(NamedTuple):
    """The identity of one unit of work: at most one worker reconciles a key at a time."""

    kind: str
    namespace: str
    """Empty for cluster-scoped kinds."""
    name: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.namespace}/{self.name}" if self.namespace else f"{self.kind}/{self.name}"
