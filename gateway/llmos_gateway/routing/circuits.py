"""Passive health: a replica that fails repeatedly gets no requests for a while, then one to see whether it is back.

    closed --- 3 failures in a row, ---> open for 1 s --- pause over ---> half-open: one request at a time
       ^       or guilty of errors         ^                                |                  |
       |                                   +--- fails: twice the pause, at most 30 s ----------+
       +-------------------------------------- succeeds --------------------+

A failure is a connection that could not be made or that broke. Errors that a replica answers with may be the fault of
requests; `blame` says when they are not. For such errors never more than half of a pool are left out (Envoy's
`max_ejection_percent`): what most replicas answer to most requests is hardly the fault of each of them, and with a
wrong verdict half of the pool is still there. A replica that cannot be reached is of no use, however many there are.

Failures while a circuit is open belong to requests that were sent before, and change nothing. A probe whose outcome is
never told stops counting after 30 s, so that a replica cannot be lost for good. There is no clock in here.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

__all__ = [
    "FAILURES_TO_OPEN",
    "FIRST_PAUSE_S",
    "LONGEST_PAUSE_S",
    "LONGEST_PROBE_S",
    "MOST_CIRCUITS",
    "MOST_EJECTED_SHARE",
    "Circuits",
]

FAILURES_TO_OPEN: Final = 3
MOST_EJECTED_SHARE: Final = 0.5
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 30.0
LONGEST_PROBE_S: Final = 30.0
MOST_CIRCUITS: Final = 1024


@dataclass(slots=True)
class _Circuit:
    failures: int = 0
    pause_s: float = 0.0
    open_until_s: float = 0.0
    probed_until_s: float = 0.0
    is_for_errors: bool = False
    """Whether it opened for what the replica answered."""

    @property
    def is_closed(self) -> bool:
        return self.pause_s == 0


class Circuits:
    """One circuit for each replica that failed since its last success; the others need none."""

    def __init__(self) -> None:
        self._circuits: dict[str, _Circuit] = {}

    def __len__(self) -> int:
        """Return how many replicas failed since their last success."""
        return len(self._circuits)

    def admits(self, address: str, now_s: float) -> bool:
        """Whether the replica may get a request now."""
        circuit = self._circuits.get(address)
        if circuit is None or circuit.is_closed:
            return True
        return now_s >= circuit.open_until_s and now_s >= circuit.probed_until_s

    def begin(self, address: str, now_s: float) -> bool:
        """Note that the replica gets a request; return whether that is a probe, which must be told how it ended."""
        circuit = self._circuits.get(address)
        if circuit is None or circuit.is_closed:
            return False
        circuit.probed_until_s = now_s + LONGEST_PROBE_S
        return True

    def give_up_probe(self, address: str) -> None:
        """Note that a probe ended without saying anything about the replica: its client went away."""
        if circuit := self._circuits.get(address):
            circuit.probed_until_s = 0.0

    def fail(self, address: str, now_s: float) -> bool:
        """Note that the replica was not reached or broke off; return whether the circuit opened with it."""
        circuit = self._get(address)
        if now_s < circuit.open_until_s:
            return False
        circuit.failures += 1
        if circuit.is_closed and circuit.failures < FAILURES_TO_OPEN:
            return False
        _open(circuit, now_s)
        return True

    def eject(self, address: str, now_s: float, replicas: int) -> bool:
        """Open the circuit for what the replica answers, within the share of `replicas`; return whether it opened."""
        circuit = self._get(address)
        if now_s < circuit.open_until_s:
            return False
        if circuit.is_closed and self._count_open() + 1 > MOST_EJECTED_SHARE * replicas:
            return False
        circuit.is_for_errors = circuit.is_closed or circuit.is_for_errors
        _open(circuit, now_s)
        return True

    def succeed(self, address: str) -> bool:
        """Note a success: the circuit is closed and forgets its pauses. Return whether it was not closed."""
        circuit = self._circuits.pop(address, None)
        return circuit is not None and not circuit.is_closed

    def pardon(self, address: str) -> None:
        """Close a circuit that opened for errors, because they were not the replica's."""
        if (circuit := self._circuits.get(address)) is not None and circuit.is_for_errors:
            del self._circuits[address]

    def is_closed(self, address: str) -> bool:
        """Whether the replica gets requests as ever."""
        circuit = self._circuits.get(address)
        return circuit is None or circuit.is_closed

    def retain(self, addresses: Collection[str]) -> None:
        """Forget all replicas but these."""
        self._circuits = {address: circuit for address, circuit in self._circuits.items() if address in addresses}

    def get_retry_s(self, address: str) -> float:
        """Return when the replica's pause ends, on the caller's clock; 0 if it has none."""
        circuit = self._circuits.get(address)
        return circuit.open_until_s if circuit else 0.0

    def _get(self, address: str) -> _Circuit:
        if address not in self._circuits and len(self._circuits) >= MOST_CIRCUITS:
            del self._circuits[next(iter(self._circuits))]
        return self._circuits.setdefault(address, _Circuit())

    def _count_open(self) -> int:
        return sum(not circuit.is_closed for circuit in self._circuits.values())


def _open(circuit: _Circuit, now_s: float) -> None:
    circuit.pause_s = min(2 * circuit.pause_s or FIRST_PAUSE_S, LONGEST_PAUSE_S)
    circuit.open_until_s = now_s + circuit.pause_s
    circuit.probed_until_s = 0.0
