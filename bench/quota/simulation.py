"""The clock: jobs arrive, run, are asked to go, save and come back. Only the policy's own time is measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import TypeVar

from bench.quota.policies import Policy
from bench.quota.workload import Job, Workload

T = TypeVar("T")

SAVE_S = 5.0
"""How long a job needs to save its work; it goes on later from where it stopped."""

ARRIVE, FINISH, ANSWER, LEAVE, LOOK = range(5)


@dataclass
class Track:
    """One job's way through the simulation."""

    job: Job
    left_s: float
    admitted_s: float | None = None
    """First admission."""
    started_s: float | None = None
    """Of the present run."""
    run: int = 0
    finished_s: float | None = None
    stops: int = 0

    @property
    def waited_s(self) -> float:
        """From the creation to the first admission."""
        return (self.admitted_s or 0.0) - self.job.gang.created_s


@dataclass
class Result:
    """What came out."""

    workload: Workload
    tracks: list[Track]
    admissions: int = 0
    asked: int = 0
    moments: int = 0
    """Times at which the policy was asked to decide."""
    cpu_s: float = 0.0
    """Processor time in the policy."""
    slowest_s: float = 0.0
    """Longest single decision."""

    @property
    def makespan_s(self) -> float:
        """From the first arrival to the end of the last job."""
        return max(track.finished_s or 0.0 for track in self.tracks) - self.tracks[0].job.gang.created_s

    @property
    def use(self) -> float:
        """Mean part of the accelerators that did work."""
        return self.workload.work_s / (self.makespan_s * self.workload.accelerators)


class Simulation:
    """Runs one workload under one policy."""

    def __init__(self, workload: Workload, policy: Policy) -> None:
        self._policy = policy
        self._tracks = {job.gang.id: Track(job, job.runtime_s) for job in workload.jobs}
        self._result = Result(workload, list(self._tracks.values()))
        self._events: list[tuple[float, int, int, str, int]] = []
        self._count = 0
        self._unfinished = len(self._tracks)
        self._look_s = float("inf")
        for job in workload.jobs:
            self._at(job.gang.created_s, ARRIVE, job.gang.id)

    def run(self) -> Result:
        """Run until the last job is done."""
        while self._unfinished:
            now_s = self._events[0][0]
            while self._events and self._events[0][0] <= now_s:
                _, _, kind, gang_id, run = heappop(self._events)
                self._happen(now_s, kind, gang_id, run)
            self._decide(now_s)
        return self._result

    def _at(self, moment_s: float, kind: int, gang_id: str = "", run: int = 0) -> None:
        self._count += 1
        heappush(self._events, (moment_s, self._count, kind, gang_id, run))

    def _happen(self, now_s: float, kind: int, gang_id: str, run: int) -> None:
        if kind == LOOK:
            self._look_s = float("inf")
            return
        track = self._tracks[gang_id]
        if track.finished_s is not None:
            return
        if kind == ARRIVE:
            self._measure(lambda: self._policy.arrive(track.job.gang))
        elif kind == ANSWER:
            self._measure(lambda: self._policy.answer(gang_id))
        elif kind == LEAVE:
            self._measure(lambda: self._policy.leave(gang_id))
        elif run == track.run and track.started_s is not None:  # it was not stopped meanwhile
            track.finished_s, track.started_s = now_s, None
            self._unfinished -= 1
            self._measure(lambda: self._policy.finish(gang_id))

    def _decide(self, now_s: float) -> None:
        before_s = time.perf_counter()
        outcome = self._measure(lambda: self._policy.decide(now_s))
        result = self._result
        result.slowest_s = max(result.slowest_s, time.perf_counter() - before_s)
        result.moments += 1
        result.admissions += len(outcome.admitted)
        result.asked += len(outcome.asked)
        for gang_id in outcome.admitted:
            self._start(now_s, self._tracks[gang_id])
        for gang_id in outcome.asked:
            self._at(now_s + SAVE_S, ANSWER, gang_id)
        for gang_id in outcome.ended:
            self._stop(now_s, self._tracks[gang_id])
            self._at(now_s, LEAVE, gang_id)
        if outcome.next_s is not None and outcome.next_s < self._look_s:
            self._look_s = outcome.next_s
            self._at(outcome.next_s, LOOK)

    def _start(self, now_s: float, track: Track) -> None:
        track.run += 1
        track.started_s = now_s
        track.admitted_s = now_s if track.admitted_s is None else track.admitted_s
        self._at(now_s + track.left_s, FINISH, track.job.gang.id, track.run)

    @staticmethod
    def _stop(now_s: float, track: Track) -> None:
        if track.started_s is not None:
            track.left_s -= now_s - track.started_s
            track.started_s = None
            track.stops += 1

    def _measure(self, call: Callable[[], T]) -> T:
        before_s = time.process_time()
        value = call()
        self._result.cpu_s += time.process_time() - before_s
        return value
