"""A ledger that is kept from one snapshot to the next, as long as they stand on the same ground.

Building one takes time for each gang, following what changed only for what changed, and both decide the same
(`ledger`). It is built anew when tenants, nodes, costs or rules changed, when the clock went back, when a plan was cut
off, and each minute: so what it collects on its way is bounded, and a mistake in following would not last.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from llmos_operator.planning.quota.ledger import Ledger
from llmos_operator.planning.quota.values import Snapshot

LONGEST_S: Final = 60.0


class KeptLedger:
    """Gives out a ledger for each snapshot, one at a time."""

    def __init__(self) -> None:
        self._ledger: Ledger | None = None
        self._ground: Snapshot | None = None
        """That it was built from, without gangs."""
        self._last_s = 0.0

    def open(self, snapshot: Snapshot) -> Ledger:
        """Return a ledger that knows the snapshot. Whoever has planned with it gives it back with `keep`."""
        ledger, self._ledger = self._ledger, None
        if ledger is None or not self._stands_on(snapshot):
            ledger, self._ground = Ledger(snapshot), replace(snapshot, gangs=(), swaps=())
        else:
            ledger.follow(snapshot)
        self._last_s = snapshot.now_s
        return ledger

    def keep(self, ledger: Ledger) -> None:
        """Take a ledger back whose plan is whole."""
        self._ledger = ledger

    def _stands_on(self, snapshot: Snapshot) -> bool:
        ground = self._ground
        return (
            ground is not None
            and self._last_s <= snapshot.now_s < ground.now_s + LONGEST_S
            and ground == replace(snapshot, now_s=ground.now_s, gangs=(), swaps=())
        )
