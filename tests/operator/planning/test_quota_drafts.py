"""Gangs that are drawn anew only where something changed are those that would be drawn from the beginning."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.api import AcceleratorClass, InferencePool, Reason, Tenant
from llmos.api.names import (
    ANNOTATION_ACCELERATOR_CLASS,
    ANNOTATION_ACCELERATOR_CLASSES,
    ANNOTATION_QUOTA,
    GATE_QUOTA,
    LABEL_GANG_SIZE,
    LABEL_POOL,
    LABEL_RANK,
    LABEL_REPLICA,
)
from llmos_operator.planning.claims import Tenants
from llmos_operator.planning.conditions import is_true
from llmos_operator.planning.quota import Placement, QuotaRules, Snapshot, Stop
from llmos_operator.planning.quota_drafts import Drafts
from llmos_operator.planning.quota_news import Meter, build_held_news
from llmos_operator.planning.quota_pods import show_pod
from llmos_operator.planning.quota_record import QuotaRecord, build_record_annotation
from llmos_operator.planning.quota_view import Observed, build_snapshot

NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
H100: Final = "nvidia-h100"
OTHER: Final = "l40s"
GPU: Final = "nvidia.com/gpu"
REPLICAS: Final = ("chat-0", "chat-1", "code-0")


def build_pod(replica: str, rank: int, size: int) -> dict[str, Any]:
    labels = {LABEL_POOL: replica[:-2], LABEL_REPLICA: replica, LABEL_RANK: str(rank), LABEL_GANG_SIZE: str(size)}
    metadata = {"name": f"{replica}-{rank}", "namespace": "a", "uid": f"{replica}{rank}", "labels": labels}
    return {
        "metadata": metadata | {"annotations": {"else": "where"}, "creationTimestamp": NOW.isoformat()},
        "spec": {
            "containers": [{"name": "engine", "image": "x", "resources": {"limits": {GPU: "2"}}}],
            "schedulingGates": [{"name": GATE_QUOTA}],
            "priority": 50,
        },
        "status": {"phase": "Pending", "conditions": []},
    }


def build_class(memory: str = "80Gi", name: str = H100) -> AcceleratorClass:
    return AcceleratorClass.model_validate({"metadata": {"name": name}, "spec": {"memory": memory}})


def build_tenant(highest: int = 100) -> Tenant:
    return Tenant.model_validate(
        {"metadata": {"name": "t"}, "spec": {"namespaces": ["a"], "priorityRange": {"min": 0, "max": highest}}}
    )


def build_pool(name: str, count: int = 2, replicas: int = 1) -> InferencePool:
    return InferencePool.model_validate(
        {
            "metadata": {"name": name, "namespace": "a"},
            "spec": {"modelRef": {"name": "m"}, "accelerator": {"class": H100, "count": count}, "replicas": replicas},
        }
    )


@dataclass
class World:
    """Objects keep their identity until they change, as those that are remembered do."""

    pods: dict[str, dict[str, Any]] = field(default_factory=dict)
    pools: dict[str, InferencePool] = field(default_factory=lambda: {n: build_pool(n) for n in ("chat", "code")})
    tenant: Tenant | None = field(default_factory=build_tenant)
    accelerator: AcceleratorClass = field(default_factory=build_class)

    def observe(self) -> Observed:
        tenants = Tenants((self.tenant,) if self.tenant else (), {})
        pods = tuple(self.pods[name] for name in sorted(self.pods))
        return Observed(NOW, tenants, (self.accelerator,), tuple(self.pools.values()), (), pods)

    def do(self, action: str, replica: str, number: int) -> None:
        if action == "make":
            pod = build_pod(replica, number % 2, 1 + number // 2)
            self.pods[pod["metadata"]["name"]] = show_pod(pod)
        elif action == "pool":
            self.pools[replica[:-2]] = build_pool(replica[:-2], 1 + number, number)
        elif action == "drop pool":
            self.pools.pop(replica[:-2], None)
        elif action == "tenant":
            self.tenant = build_tenant(40 + number) if number else None
        elif action == "class":
            self.accelerator = build_class(f"{80 + number}Gi")
        elif (name := f"{replica}-{number % 2}") in self.pods:
            self.pods[name] = self.change(copy.deepcopy(self.pods.pop(name)), action)

    @staticmethod
    def change(pod: dict[str, Any], action: str) -> dict[str, Any]:
        placement = Placement(H100, ("n1", "n2"))
        if action == "admit":
            pod["metadata"]["annotations"] = build_record_annotation(QuotaRecord(placement, 5.0))
            del pod["spec"]["schedulingGates"][:]
        elif action == "bind":
            pod["spec"]["nodeName"] = "n1"
        elif action == "ask":
            stop = Stop("a/x-0", 6.0, 7.0)
            pod["metadata"]["annotations"] = build_record_annotation(QuotaRecord(placement, 5.0, stop=stop))
        elif action == "delete":
            pod["metadata"]["deletionTimestamp"] = NOW.isoformat()
        else:
            pod["status"]["phase"] = "Succeeded"
        return pod


ACTIONS: Final = (
    "make",
    "make",
    "make",
    "admit",
    "bind",
    "ask",
    "delete",
    "end",
    "pool",
    "drop pool",
    "tenant",
    "class",
)


def build(world: World, drafts: Drafts | None = None) -> Snapshot:
    return build_snapshot(world.observe(), rules=QuotaRules(), untenanted={H100: 4}, drafts=drafts)


@given(st.lists(st.tuples(st.sampled_from(ACTIONS), st.sampled_from(REPLICAS), st.integers(0, 3)), max_size=40))
def test_whatever_changes_the_gangs_are_as_without_drafts(history: list[tuple[str, str, int]]) -> None:
    world, drafts = World(), Drafts()
    for action, replica, number in history:
        world.do(action, replica, number)
        assert build(world, drafts) == build(world)


def test_only_the_gang_whose_pod_changed_is_drawn_anew() -> None:
    world, drafts = World(), Drafts()
    for replica in REPLICAS:
        world.do("make", replica, 0)
    before = {gang.id: gang for gang in build(world, drafts).gangs}
    world.do("admit", "code-0", 0)
    after = {gang.id: gang for gang in build(world, drafts).gangs}
    assert [name for name in before if before[name] is not after[name]] == ["a/code-0"]


def test_what_is_gone_is_forgotten() -> None:
    world, drafts = World(), Drafts()
    world.do("make", "chat-0", 0)
    first = build(world, drafts).gangs[0]
    kept, world.pods = world.pods, {}
    for _ in range(2):
        assert build(world, drafts).gangs == ()
    world.pods = kept
    assert build(world, drafts).gangs == (first,)
    assert build(world, drafts).gangs[0] is not first


def test_the_ledger_is_shown_what_it_reads_and_no_more() -> None:
    pod = build_pod("chat-0", 0, 1)
    pod["metadata"]["annotations"] |= {ANNOTATION_QUOTA: "{}"}
    shown = show_pod(pod)
    assert shown["metadata"]["annotations"] == {ANNOTATION_QUOTA: "{}"}
    assert shown["spec"]["containers"] == [{"resources": {"limits": {GPU: "2"}}}]
    assert shown["status"] == {"phase": "Pending"}


def show_held(*classes: str, made_for: str = OTHER) -> Observed:
    """A replica that was admitted to a class that is no more, of a pool that prefers another one that is no more."""
    pod = build_pod("chat-0", 0, 1)
    named = {ANNOTATION_ACCELERATOR_CLASS: made_for, ANNOTATION_ACCELERATOR_CLASSES: ",".join((H100, OTHER))}
    placement = Placement(OTHER, ("n1",))
    pod["metadata"]["annotations"] = {**named, **build_record_annotation(QuotaRecord(placement, 5.0))}
    pod["spec"]["schedulingGates"] = []
    pod["spec"]["nodeName"] = "n1"
    known = tuple(build_class(name=name) for name in classes)
    return Observed(NOW, Tenants((build_tenant(),), {}), known, (build_pool("chat"),), (), (show_pod(pod),))


def test_a_replica_of_classes_that_are_gone_still_names_one() -> None:
    (gang,) = build_snapshot(show_held(made_for=H100), rules=QuotaRules()).gangs
    assert gang.classes == (H100,)
    assert gang.placement == Placement(OTHER, ("n1",))


@pytest.mark.parametrize("known", [(), (H100,), (H100, OTHER)])
@pytest.mark.parametrize("made_for", [H100, OTHER])
def test_what_is_held_counts_under_the_class_that_is_held(known: tuple[str, ...], made_for: str) -> None:
    observed = show_held(*known, made_for=made_for)
    gangs = build_snapshot(observed, rules=QuotaRules()).gangs
    meters = {"t": Meter("2026-01", 0.0, 0.0)}
    told = build_held_news(observed.tenants.readable, gangs, meters, is_true("Ready", Reason.Ready))
    assert [(each.class_name, each.used) for each in told["t"].usage] == [(OTHER, 2)]


def test_news_of_a_gang_that_names_no_class_are_no_error() -> None:
    observed = show_held()
    gangs = [replace(each, classes=(), placement=None) for each in build_snapshot(observed, rules=QuotaRules()).gangs]
    meters = {"t": Meter("2026-01", 0.0, 0.0)}
    told = build_held_news(observed.tenants.readable, gangs, meters, is_true("Ready", Reason.Ready))
    assert told["t"].usage == ()
