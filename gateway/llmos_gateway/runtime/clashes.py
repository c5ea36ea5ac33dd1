"""Says in the log where the name of an adapter means a pool: the pool goes first, and callers need the longer name."""

from __future__ import annotations

import logging
from typing import Final

from llmos_gateway.catalog import Catalog

MAX_TOLD: Final = 1000

_logger = logging.getLogger(__name__)


class Clashes:
    """Remembers what was said, so that a status that changes every second says nothing again."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._told: set[tuple[str, str]] = set()

    def tell(self, pool_id: str) -> None:
        """Say what is new after a change of a pool."""
        for clash in self._catalog.find_clashes(pool_id):
            if clash in self._told:
                continue
            if len(self._told) >= MAX_TOLD:
                self._told.clear()
            self._told.add(clash)
            adapter, pool = clash
            _logger.warning(
                "The name %s means that pool, so an adapter of this name can only be called %s. Rename one of them.",
                pool,
                adapter,
            )
