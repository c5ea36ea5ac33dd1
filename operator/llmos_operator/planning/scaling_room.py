"""How many replicas the cluster has room for, as far as replicas that cannot start tell. Pure.

A replica that starts counts as coming supply. One that is stuck does so too, until some have been stuck for a while:
then the pool has as much room as it has replicas that are not stuck, and asks for no more. It tries again with one
replica after a back-off that doubles, and at once when something changes: another replica became ready, or one went.
Room only ever lowers what is asked for; it never holds a pool back from shrinking.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from llmos_operator.planning.scaling_inputs import PoolSample

FIRST_BACKOFF_S: Final = 60.0
LAST_BACKOFF_S: Final = 900.0


@dataclass(frozen=True, slots=True)
class Room:
    """What is remembered of replicas that found no place."""

    stuck_since_s: float | None = None
    """Since when there have been stuck replicas at every moment."""
    replicas: int | None = None
    """Replicas there is room for; None while nothing speaks against more."""
    serving: int = 0
    """Replicas that served when this was found out."""
    retry_at_s: float = 0.0
    backoff_s: float = FIRST_BACKOFF_S
    is_retrying: bool = False

    @property
    def limit(self) -> int | None:
        """Most replicas to ask for: one more than there is room for while trying again."""
        return None if self.replicas is None else self.replicas + self.is_retrying


def count_serving(sample: PoolSample) -> int:
    """Return the replicas that answer requests, whether or not their figures came."""
    return len(sample.replicas) + sample.silent


def compute_quota_limit(sample: PoolSample) -> int | None:
    """Return the most replicas to ask for under a quota: one more than were admitted, so that one always waits for the
    next place and no others stand in line behind it. None without a quota."""
    if not sample.has_quota:
        return None
    return count_serving(sample) + sum(not replica.is_gated for replica in sample.starting) + 1


def observe_room(room: Room, sample: PoolSample, unschedulable_after_s: float) -> Room:
    """Return what is known of the room after one more sample."""
    now_s, serving = sample.now_s, count_serving(sample)
    stuck = [replica for replica in sample.starting if replica.is_stuck]
    since_s = None if not stuck else now_s if room.stuck_since_s is None else room.stuck_since_s
    room = replace(room, stuck_since_s=since_s)
    free = serving + len(sample.starting) - len(stuck)
    if since_s is not None and now_s - since_s >= unschedulable_after_s:
        return _close(room, free, serving, now_s)
    if room.replicas is None:
        return room
    if serving > room.replicas:
        # The one that was tried found a place, so there may be more.
        return Room(stuck_since_s=since_s)
    if serving < room.serving and not room.is_retrying:
        return replace(room, is_retrying=True, serving=serving)
    if now_s >= room.retry_at_s and not room.is_retrying:
        return replace(room, is_retrying=True)
    return room


def _close(room: Room, free: int, serving: int, now_s: float) -> Room:
    """Ask for no more than what is not stuck; wait longer with each try that failed."""
    if room.replicas is not None and not room.is_retrying:
        # The surplus is on its way out.
        return replace(room, replicas=min(room.replicas, free))
    backoff_s = FIRST_BACKOFF_S if room.replicas is None else min(LAST_BACKOFF_S, room.backoff_s * 2)
    return Room(room.stuck_since_s, free, serving, now_s + backoff_s, backoff_s)


def reopen_room(room: Room, wanted: int, now_s: float) -> Room:
    """Forget what is known of the room once it is old and no longer in the way."""
    if (
        room.replicas is not None
        and room.stuck_since_s is None
        and wanted <= room.replicas
        and now_s >= room.retry_at_s
    ):
        return Room()
    return room
