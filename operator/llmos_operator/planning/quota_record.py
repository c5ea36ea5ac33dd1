"""What the ledger decided about a gang, as it stands in an annotation of the gang's leader pod.

Everything that a new operator needs to go on stands here or in the pod itself. The annotation is written in the same
patch that carries a decision out, so the two cannot disagree. What somebody else wrote into it counts as nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from llmos.api.names import ANNOTATION_QUOTA
from llmos_operator.planning.quota import Placement, Reservation, Stop, Swap


@dataclass(frozen=True, slots=True)
class QuotaRecord:
    """Times in seconds since 1970."""

    placement: Placement | None = None
    """Where the gang was admitted to."""
    admitted_s: float = 0.0
    reservation: Reservation | None = None
    stop: Stop | None = None
    attempts: int = 0
    retry_at_s: float = 0.0
    is_withdrawn: bool = False
    """The gang was not bound in time: its pool makes another in its place, which carries `attempts` and
    `retry_at_s` on, and then deletes this one."""
    swaps: tuple[Swap, ...] = ()
    """Who was asked to go for this gang, so that a new operator does not undo it."""
    is_moved: bool = False
    """The placement is of another class than the pods were made for. They stay gated; their owner makes others for
    that class, which go on from this record, and then deletes these."""
    succeeds: str = ""
    """Uid of the leader of the moved gang in whose place this one was made: as soon as it is whole it holds that one's
    room. Not its name, which another one may get later."""

    def for_successor(self) -> QuotaRecord:
        """Return what the gang that takes a withdrawn one's place begins with."""
        return QuotaRecord(attempts=self.attempts, retry_at_s=self.retry_at_s, swaps=self.swaps)

    def for_other_class(self, uid: str, now_s: float) -> QuotaRecord:
        """Return what the gang begins with that is made for the class that the gang of leader `uid` was admitted to."""
        successor = self.for_successor()
        return replace(successor, placement=self.placement, admitted_s=now_s, succeeds=uid)


_ADAPTER = TypeAdapter(QuotaRecord)
_NOTHING = QuotaRecord()
_LONGEST_KEPT = 2048
"""Characters: somebody else may write a quarter of a megabyte."""


def read_record(metadata: Mapping[str, Any]) -> QuotaRecord:
    """Read the annotation from a pod's metadata; an empty record if there is none that can be understood."""
    text = (metadata.get("annotations") or {}).get(ANNOTATION_QUOTA)
    if not text:
        return _NOTHING
    return _recall(text) if len(text) <= _LONGEST_KEPT else _read(text)


@lru_cache(maxsize=8192)
def _recall(text: str) -> QuotaRecord:
    """Each pass reads the records of all gangs that hold something, and few of them are new."""
    return _read(text)


def _read(text: str) -> QuotaRecord:
    try:
        return _ADAPTER.validate_json(text)
    except ValidationError:
        return _NOTHING


def build_record_annotation(record: QuotaRecord) -> dict[str, str]:
    """Return the annotation; what is as it is by default is left out."""
    return {ANNOTATION_QUOTA: _ADAPTER.dump_json(record, exclude_defaults=True).decode()}
