"""Pods as kubelet, scheduler and Job controller write them, for tests, and a strategy for any junk within the API's
types."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def stamp(seconds_ago: float = 0) -> str:
    return (NOW - timedelta(seconds=seconds_ago)).strftime("%Y-%m-%dT%H:%M:%SZ")


def build_pod(
    replica: str = "chat-abc-0",
    *,
    name: str = "",
    rank: int = 0,
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
    deleted: str = "",
    node: str = "node-1",
    **status: Any,
) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "name": name or (replica if rank == 0 else f"{replica}-{rank}"),
        "creationTimestamp": stamp(600),
        "annotations": annotations or {},
        "labels": {
            "llmos.dev/replica": replica,
            "llmos.dev/rank": str(rank),
            "llmos.dev/revision": "abc",
            "llmos.dev/serving": "true",
            **(labels or {}),
        },
    }
    if deleted:
        metadata["deletionTimestamp"] = deleted
    return {"metadata": metadata, "spec": {"nodeName": node} if node else {}, "status": status}


def ready(*, since_s: float, value: str = "True") -> dict[str, Any]:
    return {"type": "Ready", "status": value, "lastTransitionTime": stamp(since_s)}


def running(since_s: float, name: str = "engine") -> dict[str, Any]:
    return {"name": name, "state": {"running": {"startedAt": stamp(since_s)}}}


def waiting(reason: str, message: str = "", name: str = "engine") -> dict[str, Any]:
    return {"name": name, "image": "registry/image:1", "state": {"waiting": {"reason": reason, "message": message}}}


def terminated(
    *, started_s: float = 300, finished_s: float = 0, code: int = 1, name: str = "engine", **more: Any
) -> dict[str, Any]:
    times = {"startedAt": stamp(started_s), "finishedAt": stamp(finished_s)}
    return {"name": name, "state": {"terminated": {"exitCode": code, **times, **more}}}


_text = st.text(max_size=12)
_time = st.one_of(
    st.none(),
    st.datetimes(min_value=datetime(2000, 1, 1), max_value=datetime(2100, 1, 1)).map(  # noqa: DTZ001 - the API server writes UTC
        lambda moment: moment.strftime("%Y-%m-%dT%H:%M:%SZ")
    ),
)
_message = st.one_of(
    _text,
    st.sampled_from(['{"reason": "OutOfMemory", "message": "m"}', '{"reason": []}', "[]", "null", "[" * 4000]),
)
_word = st.one_of(
    _text,
    st.sampled_from(["OOMKilled", "ErrImagePull", "CreateContainerConfigError", "Unschedulable", "Evicted"]),
)
_state = st.fixed_dictionaries(
    {},
    optional={
        "running": st.fixed_dictionaries({}, optional={"startedAt": _time}),
        "waiting": st.fixed_dictionaries({}, optional={"reason": _word, "message": _message}),
        "terminated": st.fixed_dictionaries(
            {"exitCode": st.integers(-1, 255)},
            optional={"reason": _word, "message": _message, "startedAt": _time, "finishedAt": _time},
        ),
    },
)
_container = st.fixed_dictionaries(
    {"name": st.sampled_from(["engine", "fetch", "inspect", "sidecar"])},
    optional={"state": _state, "lastState": _state, "image": _text},
)
_condition = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["Ready", "PodScheduled", "DisruptionTarget", "Initialized"]),
        "status": st.sampled_from(["True", "False", "Unknown"]),
    },
    optional={"reason": _word, "message": _text, "lastTransitionTime": _time},
)
any_status = st.fixed_dictionaries(
    {},
    optional={
        "phase": st.sampled_from(["Pending", "Running", "Succeeded", "Failed", "Unknown", ""]),
        "reason": _word,
        "message": _text,
        "startTime": _time,
        "conditions": st.lists(_condition, max_size=3),
        "initContainerStatuses": st.lists(_container, max_size=2),
        "containerStatuses": st.lists(_container, max_size=2),
    },
)
_annotation = st.one_of(_text, st.sampled_from(["0", "7", "9" * 5000, "2026-01-01T00:00:00", "-1"]))
any_pod = st.builds(
    lambda status, annotations, labels, deleted, node: build_pod(
        annotations=annotations, labels=labels, deleted=deleted or "", node=node, **status
    ),
    any_status,
    st.dictionaries(
        st.sampled_from(["llmos.dev/attempt", "llmos.dev/drain-started", "llmos.dev/failure"]), _annotation
    ),
    st.dictionaries(
        st.sampled_from(["llmos.dev/replica", "llmos.dev/rank", "llmos.dev/serving"]),
        st.one_of(_text, st.sampled_from(["chat-abc-1", "chat", "false"])),
    ),
    _time,
    st.sampled_from(["", "node-1"]),
)
