"""The pod that shares an adapter's files: one while a pool wants it, of the right version, and again if it is lost."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from llmos_operator.planning.shares import failure_of_share, is_wanted_by, plan_share
from tests.operator.planning.test_adapters import ONE, TWO, adapter
from tests.operator.reconcilers.world import build_pool

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
LONG_AGO = "2026-01-01T10:00:00Z"


def share(attempt: int = 0, digest: str = ONE, phase: str = "Running", **metadata: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": f"share-{digest[7]}-{attempt}",
            "labels": {"llmos.dev/revision": digest[7:15]},
            "annotations": {"llmos.dev/attempt": str(attempt)},
            "creationTimestamp": LONG_AGO,
            **metadata,
        },
        "status": {"phase": phase},
    }


def plan(*pods: dict[str, Any], is_wanted: bool = True, digest: str = ONE) -> tuple[int | None, list[tuple[str, bool]]]:
    found = plan_share(pods, digest=digest, is_wanted=is_wanted, now=NOW)
    return found.create_attempt, [(removal.pod["metadata"]["name"], removal.is_lost) for removal in found.delete]


def test_one_is_made_when_it_is_wanted_and_taken_away_when_it_is_not() -> None:
    assert plan() == (0, [])
    assert plan(share()) == (None, [])
    assert plan(is_wanted=False) == (None, [])
    assert plan(share(), is_wanted=False) == (None, [("share-1-0", False)])


def test_another_version_has_a_pod_of_its_own() -> None:
    assert plan(share(), digest=TWO) == (0, [("share-1-0", False)])
    assert plan(share(), share(digest=TWO), digest=TWO) == (None, [("share-1-0", False)])


def test_one_that_was_evicted_or_deleted_has_a_successor_of_another_name() -> None:
    assert plan(share(phase="Failed")) == (1, [("share-1-0", False)])
    assert plan(share(3, deletionTimestamp="2026-01-01T12:00:10Z")) == (4, [])


def test_one_whose_node_is_gone_is_removed_at_once() -> None:
    assert plan(share(deletionTimestamp=LONG_AGO)) == (1, [("share-1-0", True)])
    assert plan(share(deletionTimestamp=LONG_AGO), is_wanted=False) == (None, [("share-1-0", True)])


@pytest.mark.parametrize(
    ("change", "is_wanted"),
    [
        ({}, True),
        ({"adapters": {"models": [{"name": "a"}]}}, True),
        ({"adapters": None}, False),
    ],
)
def test_who_wants_an_adapter(change: dict[str, Any], is_wanted: bool) -> None:
    assert is_wanted_by(build_pool(**{"adapters": {}, **change}), adapter()) is is_wanted


def test_pools_of_other_names_and_namespaces_do_not_want_it() -> None:
    assert not is_wanted_by(build_pool("other", adapters={}), adapter())
    foreign = build_pool(adapters={})
    assert not is_wanted_by({**foreign, "metadata": {**foreign["metadata"], "namespace": "team-b"}}, adapter())


def test_a_source_that_cannot_be_had_is_told_in_the_words_of_the_fetch_step() -> None:
    message = json.dumps({"reason": "AccessDenied", "message": "The hub answered 401. Put a token there."})
    ended = {"terminated": {"exitCode": 1, "message": message}}
    status = {
        "phase": "Pending",
        "initContainerStatuses": [
            {"name": "fetch", "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": ended}
        ],
    }
    failure = failure_of_share([{**share(), "status": status}], NOW, 10)
    assert failure is not None
    assert failure.reason.value == "AccessDenied"
    assert failure_of_share([share()], NOW, 10) is None
