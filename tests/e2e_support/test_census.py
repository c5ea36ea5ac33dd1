"""The story of the large cluster must not fail to see what is wrong: each rule is broken once, on purpose."""

from __future__ import annotations

import json
from typing import Any

import pytest

from e2e.support.census import Census, Grant, describe_waits

GRANTS = {"a": Grant("one", 4, 4), "b": Grant("one", 4, 8), "c": Grant("two", 4, 8)}


def pod(name: str, tenant: str = "a", *, gpus: int = 1, node: str = "", pin: str = "", gated: bool = False) -> Any:
    record = {"placement": {"class_name": "h100", "nodes": [pin or node]}} if pin or node else {}
    return {
        "metadata": {
            "uid": name,
            "name": name,
            "namespace": tenant,
            "labels": {"llmos.dev/replica": name},
            "annotations": {"llmos.dev/quota": json.dumps(record)},
        },
        "spec": {
            "nodeName": node,
            "schedulingGates": [{"name": "llmos.dev/quota"}] if gated else [],
            "containers": [{"resources": {"limits": {"nvidia.com/gpu": str(gpus)}}}],
        },
        "status": {},
    }


def count(*pods: Any) -> Census:
    census = Census(GRANTS, capacity=16, per_node=8)
    for number, each in enumerate(pods):
        census.see("ADDED", each, float(number))
    return census


@pytest.mark.parametrize(
    ("pods", "problem"),
    [
        ([pod("p", gpus=8, node="n"), pod("q", pin="m")], "a holds 9 of at most 8"),
        ([pod("p", "b", gpus=12, pin="n"), pod("q", "c", gpus=5, pin="n")], "all together hold 17 of 16"),
        ([pod("p", "b", gpus=12, pin="n"), pod("q", "c", gpus=5, pin="n")], "cohorts hold 5 beyond"),
        ([pod("p", gpus=8, node="n"), pod("q", "b", node="n")], "node n has 9 of 8"),
        ([pod("p", node="n", pin="m")], "p is bound to n and was admitted to ('m',)"),
        ([pod("p", node="n", gated=True)], "p is bound to n behind its gate"),
    ],
)
def test_a_broken_rule_is_seen(pods: list[Any], problem: str) -> None:
    assert any(problem in found for found in count(*pods).problems)


def test_what_the_rules_allow_is_no_problem() -> None:
    census = count(pod("w", gated=True), pod("p", gpus=8, node="n"), pod("q", "b", gpus=4, node="m"))
    census.see("DELETED", pod("p", gpus=8, node="n"), 5.0)
    census.see("ADDED", pod("r", "b", gpus=8, node="n"), 6.0)
    assert census.problems == []
    assert (census.used["a"], census.used["b"], census.held) == (0, 12, 12)


def test_waits_are_told_by_what_the_guarantee_covers() -> None:
    census = count(pod("p", gpus=4, gated=True), pod("q", gated=True))
    assert census.find_denied({"a": 5}) == ["a: p wants 4, 0 of 4 are held", "a: q wants 1, 0 of 4 are held"]
    assert census.find_denied({"a": 6})[0] == "a: pods for 5 of 6"
    census.see("MODIFIED", pod("p", gpus=4, pin="n"), 3.0)
    census.see("MODIFIED", pod("q", pin="n"), 11.0)
    assert (census.waits.guaranteed, census.waits.borrowed) == ([3.0], [10.0])
    assert census.find_half_bound(12.0, 5.0) == ["a/p"]
    assert describe_waits([1.0, 2.0, 3.0]).startswith("3 admissions, p50 2.0 s")


def test_the_mean_use_is_reckoned_over_time() -> None:
    census = Census(GRANTS, capacity=16, per_node=8)
    census.begin_use(0.0)
    census.see("ADDED", pod("p", gpus=8, node="n"), 5.0)
    assert census.end_use(10.0) == pytest.approx(0.25)


def test_what_the_watch_missed_shows_in_a_list() -> None:
    census = count(pod("p", node="n"), pod("gone", node="n"))
    assert census.compare([pod("p", node="n"), pod("new", node="n")]) == [
        "a/new is on n",
        "gone (gone) is gone",
    ]
