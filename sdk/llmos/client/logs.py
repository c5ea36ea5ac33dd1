"""The flow that reads and follows the logs of an object's pods: over containers, attempts and replicas.

Which pods are meant is found by their labels, and looked up again and again while following, because each attempt of a
job and each replica of a pool is a new pod. A container's log is opened as a stream if it is the only one that still
grows, and read in turn with the others if there are several. Either way it goes on at the time of its last line, so
that a lost connection repeats nothing and loses nothing that the node still has.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Generic, TypeVar

from llmos.api import FineTuneJob, InferencePool, LLMModel
from llmos.api.names import LABEL_COMPONENT
from llmos.client.answers import check
from llmos.client.errors import ForbiddenError, NotFoundError, NotReadyError, OverloadedError, UnreachableError
from llmos.client.flow import Emit, Flow, Open, Read, Request, Send, Sleep
from llmos.client.pods import LABELS, MOST_PODS, Pod, choose_pods, parse_pod
from llmos.client.readiness import Verdict, judge, ready_condition
from llmos.client.resources import ResourceFlows

L = TypeVar("L", LLMModel, InferencePool, FineTuneJob)

_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 5.0
_LONGEST_RETRY_PAUSE_S: Final = 30.0
_LONGEST_STREAM_S: Final = 15.0
"""Longest stream, and longest silence of one, before the pods are looked up again."""
_GONE: Final = frozenset({400, 404})
"""The container has not started, or the pod has gone meanwhile."""
_RIGHTS: Final = "Ask the cluster's administrator for `list` on pods and `get` on pods/log in the namespace."
_STAMP: Final = re.compile(r"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d) ?(.*)$", re.DOTALL)


@dataclass(frozen=True)
class LogOptions:
    """What is wanted of a log."""

    follow: bool = False
    """Go on as lines and pods come."""
    tail: int | None = None
    """Lines of each container at the beginning; None = all."""
    since_s: int | None = None
    """Only what is younger, at the beginning."""
    previous: bool = False
    """The attempt before the last, if its pod is still there."""
    container: str | None = None
    """Instead of the one that runs or ran last."""


WHOLE_LOG: Final = LogOptions()


@dataclass(frozen=True)
class LogLine:
    """One line, without its time."""

    pod: str
    container: str
    time: str
    """As the node wrote it (RFC 3339); empty if the line has none."""
    text: str


@dataclass(frozen=True)
class LogNotice:
    """What is to be said while there is nothing to read."""

    text: str


@dataclass
class Cursor:
    """How far one container's log was read. Reads begin at a whole second, so some lines come again."""

    pod: str
    container: str
    options: LogOptions
    started_s: float
    is_done: bool = False
    last: tuple[datetime, str] | None = None
    _seen_at_last: int = 0
    _repeats: int = 0
    _is_catching_up: bool = False
    _is_repeat: bool = False
    _since: str = ""
    _was_read: bool = field(default=False)

    def begin(self, now_s: float) -> dict[str, str]:
        """The parameters of the next read."""
        self._repeats, self._is_catching_up, self._is_repeat = self._seen_at_last, self.last is not None, False
        if self._since:
            return {"sinceTime": self._since}
        params = {}
        if self.options.since_s is not None:
            elapsed_s = math.ceil(now_s - self.started_s) if self._was_read else 0
            params["sinceSeconds"] = str(self.options.since_s + elapsed_s)
        if self.options.tail is not None and not self._was_read:
            params["tailLines"] = str(self.options.tail)
        return params

    def end(self) -> None:
        """Note that a read came to its end."""
        self._was_read = True

    def accept(self, raw: str) -> LogLine | None:
        """The line, or None if it was given already."""
        match = _STAMP.match(raw)
        if match is None:
            return None if self._is_repeat else LogLine(self.pod, self.container, "", raw)
        second, fraction, zone, text = match.groups()
        moment = (datetime.fromisoformat(second + zone), (fraction or "").ljust(9, "0"))
        self._is_repeat = self._is_known(moment)
        if self._is_repeat:
            return None
        # A clock that was set back must not hide what follows.
        if self.last is None or moment >= self.last:
            self._seen_at_last = self._seen_at_last + 1 if moment == self.last else 1
            self.last, self._since = moment, second + zone
        return LogLine(self.pod, self.container, raw[: match.start(4)].rstrip(), text)

    def _is_known(self, moment: tuple[datetime, str]) -> bool:
        if not self._is_catching_up or self.last is None:
            return False
        if moment == self.last:
            self._repeats -= 1
            self._is_catching_up = self._repeats > 0
            return self._repeats >= 0
        self._is_catching_up = moment < self.last
        return self._is_catching_up


@dataclass(frozen=True)
class LogFlows(Generic[L]):
    """Logs of the objects of one kind."""

    resources: ResourceFlows[L]
    clock: Callable[[], float] = time.monotonic

    @property
    def _are_replicas(self) -> bool:
        return self.resources.model is InferencePool

    def read(self, namespace: str, name: str, options: LogOptions) -> Flow[None]:
        """Emit the lines; with `follow` also notices, until there will be no more.

        Raises:
            NotFoundError: there is no such object, or no pod of it is left.
            NotReadyError: no pod of it has started, and it is not to be followed.
        """
        try:
            if options.follow:
                yield from self._follow(namespace, name, options)
            else:
                yield from self._read_once(namespace, name, options)
        except ForbiddenError as error:
            raise ForbiddenError(error.cause, _RIGHTS) from error

    def _read_once(self, namespace: str, name: str, options: LogOptions) -> Flow[None]:
        thing = yield from self.resources.get(namespace, name)
        pods = yield from self._list_pods(namespace, name)
        chosen = choose_pods(pods, are_replicas=self._are_replicas, previous=options.previous)
        found = [(pod, container) for pod in chosen if (container := pod.find_container(options.container))]
        if not found:
            raise _explain_nothing(thing, pods, chosen, options)
        for pod, container in found:
            cursor = Cursor(pod.name, container.name, options, self.clock())
            yield from self._advance(namespace, cursor, follow=False)

    def _follow(self, namespace: str, name: str, options: LogOptions) -> Flow[None]:
        """Look up the pods, read on, and pause, in turn; the first time decides which old pods are of no interest."""
        follower = Follower(options)
        pause_s = _FIRST_PAUSE_S
        yield from self.resources.get(namespace, name)
        while True:
            try:
                pods = yield from self._list_pods(namespace, name)
                came = yield from self._advance_all(namespace, follower, pods)
                if follower.is_idle and (yield from self._tell_state(namespace, name, follower)):
                    return
                pause_s = _FIRST_PAUSE_S if came else min(2 * pause_s, _LONGEST_PAUSE_S)
            except (UnreachableError, OverloadedError) as error:
                pause_s = min(2 * pause_s, _LONGEST_RETRY_PAUSE_S)
                yield from follower.tell(f"{error.cause} Trying again.")
            yield Sleep(pause_s)

    def _advance_all(self, namespace: str, follower: Follower, pods: tuple[Pod, ...]) -> Flow[bool]:
        cursors = follower.update(pods, are_replicas=self._are_replicas, now_s=self.clock())
        came = False
        for cursor, is_running in cursors:
            got = yield from self._advance(namespace, cursor, follow=is_running and len(cursors) == 1)
            # What had ended before this read was read to its end.
            cursor.is_done = cursor.is_done or not is_running
            came = came or got
        return came

    def _tell_state(self, namespace: str, name: str, follower: Follower) -> Flow[bool]:
        """Say what holds the object up; True if it will have no more pods."""
        thing = yield from self.resources.get(namespace, name)
        condition = ready_condition(thing)
        words = f"{condition.reason}: {condition.message}" if condition else "waiting for the operator"
        yield from follower.tell(f"{thing.kind} {name}: {words.removesuffix(': ')}")
        return not self._are_replicas and judge(thing) is not Verdict.WAIT

    def _list_pods(self, namespace: str, name: str) -> Flow[tuple[Pod, ...]]:
        label, components = LABELS[self.resources.model]
        selector = f"{label}={name},{LABEL_COMPONENT} in ({','.join(components)})"
        reply = yield Send(Request("GET", f"/api/v1/namespaces/{namespace}/pods", {"labelSelector": selector}))
        return tuple(parse_pod(item) for item in check(reply, "Pod").as_object().get("items", ()))

    def _advance(self, namespace: str, cursor: Cursor, *, follow: bool) -> Flow[bool]:
        """Emit the lines that are new; whether there were any."""
        began_s = self.clock()
        params = {"container": cursor.container, "timestamps": "true", **cursor.begin(began_s)}
        params |= {"follow": "true"} if follow else {}
        path = f"/api/v1/namespaces/{namespace}/pods/{cursor.pod}/log"
        reply = yield Open(Request("GET", path, params, read_timeout_s=_LONGEST_STREAM_S))
        if reply.status in _GONE:
            cursor.is_done = reply.status == 404
            return False
        check(reply, f"Pod {namespace}/{cursor.pod}")
        came = False
        while not follow or self.clock() - began_s < _LONGEST_STREAM_S:
            try:
                raw = yield Read()
            except UnreachableError:
                if not follow:
                    raise
                break  # Silence, or a lost connection: the next look at the pods tells.
            if raw is None:
                break
            if line := cursor.accept(raw):
                came = True
                yield Emit(line)
        cursor.end()
        return came


@dataclass
class Follower:
    """Whose logs are followed, and what was said last."""

    options: LogOptions
    _cursors: dict[tuple[str, str], Cursor] = field(default_factory=dict)
    _ignored: frozenset[str] | None = None
    _told: str = ""

    @property
    def is_idle(self) -> bool:
        """Whether no log is left that may still grow."""
        return all(cursor.is_done for cursor in self._cursors.values())

    def tell(self, text: str) -> Flow[None]:
        """Emit a notice unless it is the last one again."""
        if text != self._told:
            self._told = text
            yield Emit(LogNotice(text))

    def update(self, pods: tuple[Pod, ...], *, are_replicas: bool, now_s: float) -> list[tuple[Cursor, bool]]:
        """The logs to read now, the oldest pod first, and whether their containers still run."""
        options = self.options
        if self._ignored is None:
            chosen = {pod.name for pod in choose_pods(pods, are_replicas=are_replicas)}
            self._ignored = frozenset(pod.name for pod in pods if pod.containers and pod.name not in chosen)
        else:
            options = LogOptions(follow=True, container=options.container)
        running = set()
        for pod in sorted(pods, key=lambda pod: (pod.born, pod.name)):
            if pod.name in self._ignored or pod.rank != "0":
                continue
            running |= {(pod.name, each.name) for each in pod.containers if each.is_running}
            if (container := pod.find_container(self.options.container)) and len(self._live()) < MOST_PODS:
                key = pod.name, container.name
                self._cursors.setdefault(key, Cursor(*key, options, now_s))
        return [(cursor, key in running) for key, cursor in self._cursors.items() if not cursor.is_done]

    def _live(self) -> list[Cursor]:
        return [cursor for cursor in self._cursors.values() if not cursor.is_done]


def _explain_nothing(
    thing: LLMModel | InferencePool | FineTuneJob,
    pods: tuple[Pod, ...],
    chosen: tuple[Pod, ...],
    options: LogOptions,
) -> NotFoundError | NotReadyError:
    """Why there is no log, and where to look instead."""
    title = f"{thing.kind} {thing.metadata.namespace}/{thing.metadata.name}"
    names = sorted({each.name for pod in chosen for each in pod.containers})
    if options.container and names:
        return NotFoundError(
            f"No container {options.container} of {title} has started.", f"There are logs of: {', '.join(names)}."
        )
    if options.previous:
        return NotFoundError(
            f"{title}: no pod of an earlier attempt is left.", "What it said last stands in the conditions: llmos get."
        )
    if not pods:
        return NotFoundError(
            f"{title} has no pods now.", "Its conditions say why: llmos get; with -f the next one is waited for."
        )
    waits = next((pod.waits_for for pod in pods if pod.waits_for), "")
    return NotReadyError(
        f"{title}: pod {pods[-1].name} has not started{f' ({waits})' if waits else ''}.",
        "Wait for it with -f; llmos get shows what holds it up.",
        reason="NotStarted",
        message=waits,
    )
