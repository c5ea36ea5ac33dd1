"""What is kept from look to look changes nothing: the snapshot is the one that would be built from the beginning."""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.api import AcceleratorClass, FineTuneJob, InferencePool, Reason, Tenant
from llmos.api.names import (
    ANNOTATION_ACCELERATOR_CLASS,
    ANNOTATION_ACCELERATOR_CLASSES,
    ANNOTATION_QUOTA,
    COMPONENT_TRAIN,
    GATE_QUOTA,
    LABEL_COMPONENT,
    LABEL_GANG_SIZE,
    LABEL_JOB,
    LABEL_POOL,
    LABEL_RANK,
    LABEL_REPLICA,
)
from llmos_operator.planning.claims import Tenants
from llmos_operator.planning.conditions import is_true
from llmos_operator.planning.quota import Placement, QuotaRules, Snapshot, Stop, Swap
from llmos_operator.planning.quota_news import Meter, build_held_news
from llmos_operator.planning.quota_nodes import NodeDrafts
from llmos_operator.planning.quota_pods import show_pod
from llmos_operator.planning.quota_record import QuotaRecord, build_record_annotation
from llmos_operator.planning.quota_roster import Roster
from llmos_operator.planning.quota_view import LastLook, Observed, build_snapshot
from llmos_operator.planning.quota_writes import build_completions

NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
H100: Final = "nvidia-h100"
OTHER: Final = "l40s"
GPU: Final = "nvidia.com/gpu"
REPLICAS: Final = ("chat-0", "chat-1", "code-0")
NODES: Final = ("n1", "n2", "n3")
RANKS: Final = (0, 1, 2, 10)
"""Sorted by name they are in another order."""
PROVISIONS: Final = (
    *("pool", "drop pool", "minimum", "drain", "class of a pool", "tenant", "other tenant"),
    *("class", "no class", "other class", "node", "save"),
)


def build_pod(replica: str, rank: int, size: int, owner: str = "pool") -> dict[str, Any]:
    labels = {LABEL_REPLICA: replica, LABEL_RANK: str(rank), LABEL_GANG_SIZE: str(size)}
    if owner == "pool":
        labels[LABEL_POOL] = replica[:-2]
    elif owner == "job":
        labels |= {LABEL_JOB: replica[:-2], LABEL_COMPONENT: COMPONENT_TRAIN}
    annotations = {"else": "where", ANNOTATION_ACCELERATOR_CLASS: H100}
    metadata = {"name": f"{replica}-{rank}", "namespace": "a", "uid": f"{replica}{rank}", "labels": labels}
    return {
        "metadata": metadata | {"annotations": annotations, "creationTimestamp": NOW.isoformat()},
        "spec": {
            "containers": [{"name": "engine", "image": "x", "resources": {"limits": {GPU: "2"}}}],
            "schedulingGates": [{"name": GATE_QUOTA}],
            "priority": 50,
        },
        "status": {"phase": "Pending", "conditions": []},
    }


def build_class(memory: str = "80Gi", name: str = H100, selector: dict[str, str] | None = None) -> AcceleratorClass:
    spec = {"memory": memory, "nodeSelector": selector or {}}
    return AcceleratorClass.model_validate({"metadata": {"name": name}, "spec": spec})


def build_node(name: str, *, accelerators: int = 8, is_closed: bool = False) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "labels": {"name": name}},
        "spec": {"unschedulable": is_closed},
        "status": {"allocatable": {GPU: str(accelerators)}},
    }


def build_job(saved: int = 0) -> FineTuneJob:
    time = (NOW + timedelta(seconds=saved)).isoformat()
    return FineTuneJob.model_validate(
        {
            "metadata": {"name": "chat", "namespace": "a"},
            "spec": {
                "baseModelRef": {"name": "m"},
                "dataset": {"source": {"uri": "https://data/set"}},
                "trainer": {"accelerator": {"class": H100}},
                "output": {"name": "x"},
            },
            "status": {"lastCheckpoint": {"step": 1, "time": time, "uri": "x", "sha256": "0"}} if saved else {},
        }
    )


def build_tenant(highest: int = 100, name: str = "t") -> Tenant:
    return Tenant.model_validate(
        {"metadata": {"name": name}, "spec": {"namespaces": ["a"], "priorityRange": {"min": 0, "max": highest}}}
    )


def build_pool(name: str, *, class_name: str = H100, drain_s: int = 60, replicas: int = 1) -> InferencePool:
    spec = {
        "modelRef": {"name": "m"},
        "accelerator": {"class": class_name, "count": 2},
        "replicas": replicas,
        "drain": {"timeoutSeconds": drain_s},
    }
    return InferencePool.model_validate({"metadata": {"name": name, "namespace": "a"}, "spec": spec})


@dataclass
class World:
    """Objects keep their identity until they change, as those that are remembered do."""

    pods: dict[str, dict[str, Any]] = field(default_factory=dict)
    pools: dict[str, InferencePool] = field(default_factory=lambda: {n: build_pool(n) for n in ("chat", "code")})
    tenant: Tenant | None = field(default_factory=build_tenant)
    accelerator: AcceleratorClass | None = field(default_factory=build_class)
    other: AcceleratorClass | None = None
    nodes: dict[str, dict[str, Any]] = field(default_factory=lambda: {name: build_node(name) for name in NODES})
    job: FineTuneJob = field(default_factory=build_job)

    def observe(self) -> Observed:
        tenants = Tenants((self.tenant,) if self.tenant else (), {})
        pods = tuple(self.pods[name] for name in sorted(self.pods))
        classes = tuple(each for each in (self.accelerator, self.other) if each)
        nodes = tuple(self.nodes.values())
        return Observed(NOW, tenants, classes, tuple(self.pools.values()), nodes, pods, (self.job,))

    def do(self, action: str, replica: str, number: int) -> None:
        if action in {"make", "train", "make of nobody", "stranger"}:
            self.make(action, replica, number)
        elif action == "gone":
            self.pods.pop(f"{replica}-{RANKS[number % 4]}", None)
        elif action in PROVISIONS:
            self.provide(action, replica[:-2], number)
        elif (name := f"{replica}-{RANKS[number % 4]}") in self.pods:
            self.pods[name] = self.change(copy.deepcopy(self.pods.pop(name)), action)

    def make(self, action: str, replica: str, number: int) -> None:
        if action == "stranger":
            pod = build_pod("x", number, 1)
            pod["metadata"]["labels"], pod["spec"]["nodeName"] = {}, NODES[number % 3]
        else:
            owner = {"make": "pool", "train": "job"}.get(action, "")
            pod = build_pod(replica, RANKS[number % 4], 1 + number // 4, owner)
            pod["spec"]["nodeSelector"] = {"name": NODES[number % 3]} if number > 5 else {}
            if number % 2:
                pod["metadata"]["annotations"][ANNOTATION_ACCELERATOR_CLASSES] = f"{H100},{OTHER}"
        self.pods[pod["metadata"]["name"]] = show_pod(pod)

    def provide(self, action: str, pool: str, number: int) -> None:
        known = self.pools.get(pool) or build_pool(pool)
        class_name, drain_s = known.spec.accelerator.class_name, known.spec.drain.timeout_seconds
        replicas = known.spec.replicas or 0
        if action in {"pool", "minimum", "drain", "class of a pool"}:
            replicas = number if action == "minimum" else replicas
            drain_s = 60 + number if action == "drain" else drain_s
            class_name = (H100, OTHER)[number % 2] if action == "class of a pool" else class_name
            self.pools[pool] = build_pool(pool, class_name=class_name, drain_s=drain_s, replicas=replicas)
        elif action == "drop pool":
            self.pools.pop(pool, None)
        else:
            self.provide_ground(action, number)

    def provide_ground(self, action: str, number: int) -> None:
        if action == "tenant":
            self.tenant = build_tenant(40 + number) if number else None
        elif action == "other tenant":
            self.tenant = build_tenant(name="u")
        elif action == "class":
            self.accelerator = build_class(f"{80 + number}Gi")
        elif action == "no class":
            self.accelerator = None
        elif action == "other class":
            self.other = build_class("48Gi", OTHER, selector={"name": NODES[number]}) if number < len(NODES) else None
        elif action == "node":
            name = NODES[number % 3]
            self.nodes[name] = build_node(name, accelerators=8 + number, is_closed=number % 2 == 1)
        else:
            self.job = build_job(saved=number)

    @staticmethod
    def change(pod: dict[str, Any], action: str) -> dict[str, Any]:
        placement = Placement(H100, ("n1", "n2"))
        if action == "admit":
            swaps = (Swap("a/chat-0", "a/chat", "a/code-0", "a/code", 5.0),)
            pod["metadata"]["annotations"] |= build_record_annotation(QuotaRecord(placement, 5.0, swaps=swaps))
            del pod["spec"]["schedulingGates"][:]
        elif action == "bind":
            pod["spec"]["nodeName"] = "n1"
        elif action == "ask":
            stop = Stop("a/x-0", 6.0, 7.0)
            pod["metadata"]["annotations"] |= build_record_annotation(QuotaRecord(placement, 5.0, stop=stop))
        elif action == "delete":
            pod["metadata"]["deletionTimestamp"] = NOW.isoformat()
        else:
            pod["status"]["phase"] = "Succeeded"
        return pod


ACTIONS: Final = (
    *["make"] * 6,
    *("train", "make of nobody", "stranger"),
    *["admit", "bind"] * 3,
    *("ask", "delete", "end", "gone", "gone"),
    *PROVISIONS,
)


def build(world: World, last: LastLook | None = None) -> Snapshot:
    return build_snapshot(world.observe(), rules=QuotaRules(), untenanted={H100: 4}, last=last)


def in_order(snapshot: Snapshot) -> Snapshot:
    """With gangs and swaps in an order of their own, but for gangs of one id: of those the last one counts."""
    gangs = tuple(sorted(snapshot.gangs, key=lambda gang: gang.id))
    return replace(snapshot, gangs=gangs, swaps=tuple(sorted(snapshot.swaps, key=str)))


@settings(max_examples=400, deadline=None)
@given(seed=st.integers(0, 2**32), steps=st.integers(20, 80))
def test_whatever_changes_the_snapshot_is_as_without_a_last_look(seed: int, steps: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - it decides nothing but what the test does
    world, last = World(), LastLook()
    for _ in range(steps):
        world.do(chance.choice(ACTIONS), chance.choice(REPLICAS), chance.randrange(12))
        assert in_order(build(world, last)) == in_order(build(world))
        assert show_roster(last.roster) == show_roster(Roster(world.observe().pods))
        writes = [build_completions(gangs) for gangs in (last.roster.unfinished, last.roster.gangs)]
        assert set(map(str, writes[0])) == set(map(str, writes[1]))


def show_roster(roster: Roster) -> tuple[object, ...]:
    loose = sorted(pod["metadata"]["name"] for pod in roster.loose)
    return dict(roster.gangs), {key: dict(replicas) for key, replicas in roster.pools.items()}, roster.attempts, loose


def test_what_was_handed_out_stays_as_it_is() -> None:
    world, roster = World(), Roster()
    world.do("make", "chat-0", 0)
    roster.follow(world.observe().pods)
    replicas, members = roster.pools["a", "chat"], roster.gangs["a/chat-0"]
    world.do("make", "chat-0", 1)
    world.do("make", "chat-1", 0)
    roster.follow(world.observe().pods)
    assert (list(replicas), len(members)) == (["chat-0"], 1)
    assert (list(roster.pools["a", "chat"]), len(roster.gangs["a/chat-0"])) == (["chat-0", "chat-1"], 2)
    roster.follow(())
    assert (roster.pools, roster.gangs, roster.attempts, roster.unfinished) == ({}, {}, {}, {})


def test_the_pods_of_a_gang_are_in_the_order_of_their_ranks() -> None:
    pods = [build_pod("chat-0", rank, 3) for rank in (10, 0, 2)]
    roster = Roster(pods[:1])
    roster.follow(pods)
    assert [pod["metadata"]["name"] for pod in roster.gangs["a/chat-0"]] == ["chat-0-0", "chat-0-2", "chat-0-10"]


def test_after_a_look_that_failed_midway_the_next_one_begins_anew() -> None:
    world, roster = World(), Roster()
    for replica in REPLICAS:
        world.do("make", replica, 0)
    good = world.observe().pods
    roster.follow(good[:2])
    nodes, classes = NodeDrafts(), (build_class(),)
    nodes.build((build_node("n1"), build_node("n2")), classes, (), (), roster)
    broken = (build_node("n1"), {**build_node("n3"), "status": {"allocatable": {GPU: "many"}}})
    for _ in range(2):
        with pytest.raises(ArithmeticError):
            nodes.build(broken, classes, (), (), roster)
    with pytest.raises(KeyError):
        roster.follow((good[2], {"metadata": {}}))
    roster.follow(good)
    assert show_roster(roster) == show_roster(Roster(good))


def test_only_the_gang_whose_pod_changed_is_drawn_anew() -> None:
    world, last = World(), LastLook()
    for replica in REPLICAS:
        world.do("make", replica, 0)
    before = build(world, last)
    world.do("admit", "code-0", 0)
    after = build(world, last)
    drawn = {gang.id: gang for gang in after.gangs}
    assert [gang.id for gang in before.gangs if drawn[gang.id] is not gang] == ["a/code-0"]
    assert after.nodes is before.nodes


def test_what_is_gone_is_forgotten() -> None:
    world, last = World(), LastLook()
    world.do("make", "chat-0", 0)
    first = build(world, last).gangs[0]
    kept, world.pods = world.pods, {}
    for _ in range(2):
        assert build(world, last).gangs == ()
    world.pods = kept
    assert build(world, last).gangs == (first,)
    assert build(world, last).gangs[0] is not first


def test_the_ledger_is_shown_what_it_reads_and_no_more() -> None:
    pod = build_pod("chat-0", 0, 1)
    pod["metadata"]["annotations"] |= {ANNOTATION_QUOTA: "{}"}
    shown = show_pod(pod)
    assert shown["metadata"]["annotations"] == {ANNOTATION_QUOTA: "{}", ANNOTATION_ACCELERATOR_CLASS: H100}
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
