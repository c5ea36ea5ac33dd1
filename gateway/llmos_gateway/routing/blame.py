"""Whose fault an error is that an engine answers with (5xx, or an error in a stream): the replica's, or the request's.

A connection that breaks says something about the replica. An error in an answer may as well say something about the
request: one that trips over a bug of the engine fails wherever it is sent, and its caller sends it again. So an error
is weighed by what became of the same request elsewhere:

    | the same request, on other replicas | counts against this replica                                      |
    |-------------------------------------|------------------------------------------------------------------|
    | succeeded                           | each time                                                        |
    | failed, too                         | never: it is the request's fault, and neither replica is blamed  |
    | was not tried                       | once, however often it is sent again                             |

A replica is guilty if of its last 10 answers (60 s at most) 3 or more count against it and these are 80 % of what
counts, its successes included; but not if they all are one caller's while it served somebody else in the last 10 s: a
caller who sends bad requests only, each another one, fails everywhere.

Envoy's outlier detection is the model (a least volume, a share of failures, errors of the connection apart from those
of the answer); its `max_ejection_percent` is in `circuits`. There is no clock in here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

from llmos_gateway.routing.blocks import PromptBlocks

__all__ = ["ERRORS_TO_BLAME", "MEMORY_S", "RECENT_ANSWERS", "SERVED_WITHIN_S", "Blame", "identify"]

RECENT_ANSWERS: Final = 10
MEMORY_S: Final = 60.0
ERRORS_TO_BLAME: Final = 3
ERROR_SHARE: Final = 0.8
SERVED_WITHIN_S: Final = 10.0
MOST_REQUESTS: Final = 256
MOST_CALLERS: Final = 32


@dataclass(frozen=True, slots=True)
class _Answer:
    time_s: float
    caller: str
    request: int | None
    """Which request failed; None for a success."""


@dataclass(slots=True)
class _Suspect:
    """A request that failed."""

    since_s: float
    addresses: set[str] = field(default_factory=set)
    is_innocent: bool = False
    """Whether it has succeeded since."""

    def is_excuse_for(self, address: str) -> bool:
        return not self.is_innocent and bool(self.addresses - {address})


@dataclass(slots=True)
class _Record:
    """One replica's answers."""

    answers: deque[_Answer] = field(default_factory=lambda: deque(maxlen=RECENT_ANSWERS))
    served: dict[str, float] = field(default_factory=dict)
    """When each caller was last served, in that order."""

    def serves_others(self, callers: Collection[str], now_s: float) -> bool:
        return any(now_s - at_s <= SERVED_WITHIN_S for caller, at_s in self.served.items() if caller not in callers)


def identify(prompt: PromptBlocks) -> int:
    """Return what is equal when a caller sends a request again. Prompts of two tenants are never equal."""
    return hash((prompt.anchor, prompt.tokens, prompt.hashes[-1:]))


class Blame:
    """What the replicas of one pool answered lately, and which requests failed there."""

    def __init__(self) -> None:
        self._records: dict[str, _Record] = {}
        self._suspects: dict[int, _Suspect] = {}

    def note_served(self, address: str, caller: str, now_s: float) -> None:
        """Note that a caller got something from a replica: a first token, or a whole answer."""
        served = self._open_record(address).served
        served.pop(caller, None)
        served[caller] = now_s
        if len(served) > MOST_CALLERS:
            del served[next(iter(served))]

    def note_success(self, address: str, caller: str, prompt: PromptBlocks, now_s: float) -> None:
        """Note an answer that is none of an engine's own errors."""
        self.note_served(address, caller, now_s)
        self._records[address].answers.append(_Answer(now_s, caller, None))
        if self._suspects and (suspect := self._suspects.get(identify(prompt))) is not None:
            suspect.is_innocent = True

    def note_error(self, address: str, caller: str, prompt: PromptBlocks, now_s: float) -> Collection[str]:
        """Note an error; return the other replicas that it speaks for, because the request failed there, too."""
        request = identify(prompt)
        self._open_record(address).answers.append(_Answer(now_s, caller, request))
        suspect = self._suspects.pop(request, None)
        if suspect is None or now_s - suspect.since_s > MEMORY_S:
            suspect = _Suspect(now_s)
        self._suspects[request] = suspect
        suspect.addresses.add(address)
        if len(self._suspects) > MOST_REQUESTS:
            del self._suspects[next(iter(self._suspects))]
        return suspect.addresses - {address} if suspect.is_excuse_for(address) else ()

    def is_guilty(self, address: str, now_s: float) -> bool:
        """Whether what the replica answered lately is its own fault."""
        record = self._records.get(address)
        if record is None:
            return False
        recent = [answer for answer in record.answers if now_s - answer.time_s <= MEMORY_S]
        errors = self._weigh(address, recent)
        successes = sum(answer.request is None for answer in recent)
        if len(errors) < ERRORS_TO_BLAME or len(errors) < ERROR_SHARE * (len(errors) + successes):
            return False
        callers = {answer.caller for answer in errors}
        return len(callers) > 1 or not record.serves_others(callers, now_s)

    def forget(self, address: str) -> None:
        """Let a replica begin anew."""
        self._records.pop(address, None)

    def retain(self, addresses: Collection[str]) -> None:
        """Forget all replicas but these."""
        self._records = {address: record for address, record in self._records.items() if address in addresses}

    def _open_record(self, address: str) -> _Record:
        record = self._records.get(address)
        if record is None:
            record = self._records[address] = _Record()
        return record

    def _weigh(self, address: str, answers: Sequence[_Answer]) -> list[_Answer]:
        """Return the errors that count against a replica."""
        counted: list[_Answer] = []
        seen: set[int] = set()
        for answer in answers:
            if answer.request is None:
                continue
            suspect = self._suspects.get(answer.request)
            is_excused = suspect is not None and suspect.is_excuse_for(address)
            is_known_good = suspect is not None and suspect.is_innocent
            if not is_excused and (is_known_good or answer.request not in seen):
                counted.append(answer)
            seen.add(answer.request)
        return counted
