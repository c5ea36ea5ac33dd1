"""The parts of the fake that a real server has no say in: records, injected failures, other writers."""

from __future__ import annotations

from typing import Any

import pytest

from llmos_operator.kube.errors import Unavailable
from llmos_operator.kube.resources import INFERENCE_POOLS, PODS
from tests.operator.fake_kube import FakeKube, Write


def pod(name: str = "a", **metadata: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "ns", **metadata}, "spec": {}}


async def test_a_second_equal_apply_is_a_write_but_not_a_change() -> None:
    kube = FakeKube()
    await kube.apply(pod())
    await kube.apply(pod())
    assert kube.writes == [Write("apply", "Pod", "ns/a")] * 2
    assert kube.changes == [Write("apply", "Pod", "ns/a")]


async def test_an_injected_failure_hits_once_and_changes_nothing() -> None:
    kube = FakeKube()
    kube.fail_next("apply", "Pod", Unavailable("gone"))
    with pytest.raises(Unavailable, match="gone"):
        await kube.apply(pod())
    assert kube.all(PODS) == []
    await kube.apply(pod())
    assert len(kube.all(PODS)) == 1


async def test_what_others_write_is_not_recorded() -> None:
    kube = FakeKube(pod())
    kube.set_status(PODS, "a", "ns", phase="Running")
    assert kube.stored(PODS, "ns", "a")["status"] == {"phase": "Running"}
    assert not kube.writes
    assert not kube.changes


async def test_garbage_collection_takes_children_of_missing_owners_only() -> None:
    owner = {"apiVersion": "llmos.dev/v1alpha1", "kind": "InferencePool", "metadata": {"name": "p", "namespace": "ns"}}
    kube = FakeKube(owner)
    uid = kube.stored(INFERENCE_POOLS, "ns", "p")["metadata"]["uid"]
    kube.put(pod("child", ownerReferences=[{"uid": uid}]))
    kube.put(pod("orphan", ownerReferences=[{"uid": "other"}]))
    kube.put(pod("free"))
    kube.collect_garbage()
    assert [item["metadata"]["name"] for item in kube.all(PODS)] == ["child", "free"]


async def test_the_last_lines_of_a_log_are_read() -> None:
    kube = FakeKube()
    kube.logs["ns", "a", "fetch", False] = "one\ntwo\nthree\n"
    assert await kube.tail_log("a", "ns", "fetch", lines=2) == "two\nthree\n"
    assert await kube.tail_log("a", "ns", "fetch", previous=True) == ""


async def test_what_a_caller_does_with_an_answer_does_not_reach_the_store() -> None:
    kube = FakeKube(pod())
    (listed,) = await kube.list(PODS)
    listed["metadata"]["labels"] = {"a": "b"}
    assert "labels" not in kube.stored(PODS, "ns", "a")["metadata"]
