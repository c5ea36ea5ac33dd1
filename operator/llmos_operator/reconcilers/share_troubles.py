"""What the API server refused of share pods and their Services, for the pools whose adapters wait for them."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from llmos_operator.planning.failures import Failure

LIMIT: Final = 1000
"""What was noted longest ago is forgotten first; its model's next pass notes it again."""


class ShareTroubles:
    """By namespace and name of the adapter."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str], Failure] = OrderedDict()

    def note(self, namespace: str, name: str, failure: Failure | None) -> None:
        """Remember what was refused in the last pass; None if nothing was."""
        self._known.pop((namespace, name), None)
        if failure is not None:
            self._known[namespace, name] = failure
            if len(self._known) > LIMIT:
                self._known.popitem(last=False)

    def find(self, namespace: str, name: str) -> Failure | None:
        """Return what was refused, if anything."""
        return self._known.get((namespace, name))
