"""Pools that name several accelerator classes: each replica runs on the first one that has quota and room."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from llmos.api.names import ANNOTATION_ACCELERATOR_CLASS, LABEL_POOL
from llmos_operator.kube.errors import Forbidden, KubeError, Unavailable
from llmos_operator.kube.resources import ACCELERATOR_CLASSES, INFERENCE_POOLS, LLM_MODELS
from llmos_operator.planning.isolation import BACKSTOP_QUOTA
from llmos_operator.planning.quota_record import read_record
from tests.operator.reconcilers.job_world import build_base
from tests.operator.reconcilers.quota_world import CLASS, GPU, Cluster, accelerator, gpu_pool, node, tenant
from tests.operator.reconcilers.test_finetune_classes import (
    OTHER,
    OTHER_GPU,
    other_class,
    other_node,
    tenant_of_both,
)
from tests.operator.reconcilers.world import NAMESPACE, condition

EITHER: dict[str, Any] = {"class": CLASS, "count": 1, "alternatives": [OTHER]}


class TwoClasses(Cluster):
    """A node with two accelerators of the first class, and one with two of the other."""

    def __init__(self, *objects: dict[str, Any], replicas: int = 3, **spec: Any) -> None:
        pool = gpu_pool("chat", replicas=replicas, **{"accelerator": EITHER, **spec})
        super().__init__(other_class(), other_node(), *objects, pool)
        self.kube.put(node(gpus=2))

    def replicas(self) -> dict[str, str]:
        """The class of each pod that holds accelerators, by its name."""
        return {
            pod["metadata"]["name"]: pod["metadata"]["annotations"].get(ANNOTATION_ACCELERATOR_CLASS, "")
            for pod in self.pods()
            if pod["metadata"]["labels"].get(LABEL_POOL) == "chat" and not self.is_gated(pod)
        }

    def counts(self) -> dict[str, int]:
        names = [*self.replicas().values()]
        return {name: names.count(name) for name in (CLASS, OTHER)}

    def by_class(self) -> dict[str, tuple[int, int]]:
        status = self.status("chat")["status"]
        return {each["class"]: (each["replicas"], each["readyReplicas"]) for each in status["acceleratorClasses"]}

    def change(self, **spec: Any) -> None:
        pool = self.kube.stored(INFERENCE_POOLS, NAMESPACE, "chat")
        self.kube.put({**pool, "spec": {**pool["spec"], **spec}})

    async def go_on(self, turns: int = 6) -> None:
        for _ in range(turns):
            await self.settle(1)
            self.end_pods()

    def used(self) -> dict[str, int]:
        told = self.context.quota.tenant("a")
        assert told is not None
        return {each.class_name: each.used for each in told.usage}


async def test_replicas_take_the_first_class_as_far_as_it_goes_and_the_rest_the_next_one() -> None:
    world = TwoClasses(tenant_of_both(guaranteed=(2, 2)))
    await world.go_on()
    assert world.counts() == {CLASS: 2, OTHER: 1}
    assert world.by_class() == {CLASS: (2, 2), OTHER: (1, 1)}
    assert world.used() == {CLASS: 2, OTHER: 1}
    assert condition(world.status("chat"))["reason"] == "Ready"
    assert world.status("chat")["status"]["updatedReplicas"] == 3
    assert world.status("chat")["status"]["accelerators"] == 3


async def test_each_pod_is_made_for_its_class() -> None:
    world = TwoClasses(tenant_of_both(guaranteed=(2, 2)))
    await world.go_on()
    for name, of_class in world.replicas().items():
        pod = next(pod for pod in world.pods() if pod["metadata"]["name"] == name)
        resource, place = {CLASS: (GPU, "n1"), OTHER: (OTHER_GPU, "o1")}[of_class]
        assert pod["spec"]["nodeSelector"] == {"gpu": of_class}
        assert pod["spec"]["containers"][0]["resources"]["limits"][resource] == "1"
        assert world.pin(pod) == place


async def test_the_engine_is_told_what_was_planned_for_its_class() -> None:
    world = TwoClasses(tenant_of_both(guaranteed=(1, 1)), replicas=2, engine={"name": "vllm"})
    world.kube.put(node(gpus=1))
    base = build_base()
    world.kube.put(base)
    assert world.kube.stored(LLM_MODELS, NAMESPACE, "smollm2")["status"]
    await world.go_on()
    assert world.counts() == {CLASS: 1, OTHER: 1}
    plans = {each["class"]: each["plan"] for each in world.status("chat")["status"]["acceleratorClasses"]}
    assert plans[CLASS]["kvCacheTokens"] > plans[OTHER]["kvCacheTokens"]


async def test_what_runs_stays_when_the_first_class_is_free_again_and_a_new_one_goes_there() -> None:
    world = TwoClasses(tenant_of_both(guaranteed=(2, 2)))
    await world.go_on()
    before = world.replicas()
    world.kube.put(node(gpus=4))
    world.context.quota.doubt_nodes()
    await world.go_on(4)
    assert world.replicas() == before
    more = tenant_of_both(guaranteed=(4, 2))
    world.kube.put(more)
    world.change(replicas=4)
    await world.go_on()
    assert world.counts() == {CLASS: 3, OTHER: 1}
    assert before.items() <= world.replicas().items()


async def test_a_second_look_writes_nothing() -> None:
    world = TwoClasses(tenant_of_both(guaranteed=(2, 2)))
    await world.go_on()
    world.kube.forget_writes()
    await world.reconcile("InferencePool", "chat")
    assert world.kube.changes == []


async def test_a_change_rolls_over_replicas_of_all_classes() -> None:
    world = TwoClasses(tenant_of_both(guaranteed=(2, 2)))
    await world.go_on()
    before = set(world.replicas())
    world.change(contextLength=2048)
    await world.go_on(24)
    assert len(world.replicas()) == 3
    assert before.isdisjoint(world.replicas())
    assert condition(world.status("chat"))["reason"] == "Ready"


async def test_a_class_that_does_not_exist_is_left_out_and_named() -> None:
    world = TwoClasses(tenant_of_both(guaranteed=(2, 2)), accelerator={**EITHER, "alternatives": ["b300", OTHER]})
    await world.go_on()
    assert world.counts() == {CLASS: 2, OTHER: 1}
    found = next(each for each in world.status("chat")["status"]["acceleratorClasses"] if each["class"] == "b300")
    assert "no AcceleratorClass b300" in found["message"]
    assert "plan" not in found


async def test_a_first_class_that_does_not_exist_is_no_error_while_another_one_will_do() -> None:
    world = TwoClasses(tenant_of_both(guaranteed=(2, 2)), replicas=1)
    world.kube.finish_deletion(ACCELERATOR_CLASSES, CLASS)
    await world.go_on()
    assert world.counts() == {CLASS: 0, OTHER: 1}
    assert condition(world.status("chat"))["reason"] == "Ready"


async def test_where_none_exists_all_are_named() -> None:
    world = TwoClasses(tenant_of_both(guaranteed=(2, 2)), accelerator={**EITHER, "class": "a", "alternatives": ["b"]})
    await world.go_on(2)
    told = condition(world.status("chat"))
    assert told["reason"] == "AcceleratorClassNotFound"
    assert "no AcceleratorClass a" in told["message"]
    assert "no AcceleratorClass b" in told["message"]
    assert world.replicas() == {}


async def test_replicas_of_all_classes_stay_while_nothing_can_be_planned() -> None:
    world = TwoClasses(tenant_of_both(guaranteed=(2, 2)), rollout={"maxSurge": 0, "maxUnavailable": 1})
    await world.go_on()
    before = world.replicas()
    for name in (CLASS, OTHER):
        world.kube.finish_deletion(ACCELERATOR_CLASSES, name)
    for _ in range(3):
        await world.reconcile("InferencePool", "chat")
        world.end_pods()
    assert condition(world.status("chat"))["reason"] == "AcceleratorClassNotFound"
    assert world.replicas() == before
    assert not any("deletionTimestamp" in pod["metadata"] for pod in world.pods())


async def test_a_class_on_which_a_replica_has_other_pods_is_left_out() -> None:
    world = TwoClasses(tenant_of_both(guaranteed=(2, 2)), replicas=1, accelerator={**EITHER, "count": 2})
    small = other_class()
    world.kube.put({**small, "spec": {**small["spec"], "countPerNode": 1}})
    await world.go_on()
    assert list(world.replicas().values()) == [CLASS]
    found = next(each for each in world.status("chat")["status"]["acceleratorClasses"] if each["class"] == OTHER)
    assert "would have 2 on l40s" in found["message"]


async def test_an_alternative_that_is_added_helps_a_replica_that_waits_already() -> None:
    world = TwoClasses(tenant_of_both(guaranteed=(2, 2)), accelerator={"class": CLASS, "count": 1})
    await world.go_on()
    assert len(world.replicas()) == 2
    world.change(accelerator=EITHER)
    await world.go_on()
    assert len(world.replicas()) == 3
    assert world.by_class() == {CLASS: (2, 2), OTHER: (1, 1)}


async def test_an_alternative_that_is_removed_is_left_by_its_replicas() -> None:
    world = TwoClasses(tenant_of_both(guaranteed=(2, 2)), rollout={"maxSurge": 1, "maxUnavailable": 1})
    await world.go_on()
    world.change(accelerator={"class": CLASS, "count": 1})
    await world.go_on(8)
    assert world.used()[OTHER] == 0
    assert world.used()[CLASS] == 2


async def test_without_tenants_only_the_first_class_is_asked_for_and_it_says_so() -> None:
    world = TwoClasses()
    await world.go_on(3)
    assert set(world.replicas().values()) == {CLASS}
    found = next(each for each in world.status("chat")["status"]["acceleratorClasses"] if each["class"] == OTHER)
    assert "Not asked for" in found["message"]


async def test_a_class_on_which_the_model_does_not_fit_is_left_out() -> None:
    world = TwoClasses(tenant_of_both(guaranteed=(2, 2)), engine={"name": "vllm"})
    world.kube.put(build_base())
    world.kube.put(other_class(memory="64Mi"))
    await world.go_on()
    assert world.counts() == {CLASS: 2, OTHER: 0}
    found = next(each for each in world.status("chat")["status"]["acceleratorClasses"] if each["class"] == OTHER)
    assert found["message"].startswith("Left out.")


@pytest.mark.parametrize("after", range(4))
@pytest.mark.parametrize(("verb", "kind"), [("apply", "Pod"), ("patch", "Pod"), ("delete", "Pod")])
async def test_an_operator_that_is_cut_off_anywhere_gives_nothing_twice(verb: str, kind: str, after: int) -> None:
    world = TwoClasses(tenant_of_both(guaranteed=(2, 2)), tenant("b", "team-b", guaranteed=0), replicas=4)
    world.kube.fail_next(verb, kind, Unavailable("cut off"), after=after)
    for _ in range(10):
        with contextlib.suppress(Unavailable):
            await world.settle(1)
        world.end_pods()
        assert all(count <= 2 for count in world.counts().values())
    assert world.counts() == {CLASS: 2, OTHER: 2}
    assert world.used() == {CLASS: 2, OTHER: 2}


async def test_a_replica_that_gets_the_name_of_one_that_moved_is_another_one() -> None:
    """The ledger must not take it for the one whose room was taken over."""
    world = TwoClasses(tenant_of_both(guaranteed=(3, 2)))
    await world.go_on()
    moved = next(iter(pod for pod, of_class in world.replicas().items() if of_class == OTHER))
    world.kube.put(node(gpus=3))
    world.context.quota.doubt_nodes()
    world.change(replicas=4)
    await world.go_on()
    assert world.counts() == {CLASS: 3, OTHER: 1}
    assert moved in world.replicas()


REFUSED = Forbidden(f"exceeded quota: {BACKSTOP_QUOTA}, requested: {OTHER_GPU}=1")


async def test_room_is_kept_while_the_pod_for_it_is_refused() -> None:
    """What waits fills the backstop, and the pod for the other class is refused until some of it is gone."""
    world = TwoClasses(tenant_of_both(guaranteed=(2, 2)))
    await world.reconcile("InferencePool", "chat")
    await world.quota()
    assert world.used() == {CLASS: 2, OTHER: 1}
    moved = next(pod for pod in world.pods() if read_record(pod["metadata"]).is_moved)
    world.kube.fail_next("apply", "Pod", REFUSED, times=2)
    for _ in range(2):
        await world.reconcile("InferencePool", "chat")
        await world.quota()
        kept = next(pod for pod in world.pods() if pod["metadata"]["uid"] == moved["metadata"]["uid"])
        assert "deletionTimestamp" not in kept["metadata"]
        assert world.used() == {CLASS: 2, OTHER: 1}
    assert condition(world.status("chat"))["reason"] == "QuotaExceeded"
    await world.go_on()
    assert world.counts() == {CLASS: 2, OTHER: 1}


async def test_of_two_that_moved_each_is_succeeded_once_though_the_second_was_refused() -> None:
    world = TwoClasses(tenant_of_both(guaranteed=(2, 2)), replicas=4)
    await world.reconcile("InferencePool", "chat")
    await world.quota()
    world.kube.fail_next("apply", "Pod", REFUSED, times=1, after=1)
    await world.reconcile("InferencePool", "chat")
    await world.reconcile("InferencePool", "chat")
    succeeds = [uid for pod in world.pods() if (uid := read_record(pod["metadata"]).succeeds)]
    assert len(succeeds) == len(set(succeeds)) == 2
    await world.go_on()
    assert world.counts() == {CLASS: 2, OTHER: 2}
    assert world.used() == {CLASS: 2, OTHER: 2}


async def test_a_class_that_cannot_be_read_is_left_out_and_named() -> None:
    world = TwoClasses(tenant_of_both(guaranteed=(2, 2)), replicas=1)
    world.kube.put(other_class(memory="much"))
    await world.go_on()
    assert world.counts() == {CLASS: 1, OTHER: 0}
    assert condition(world.status("chat"))["reason"] == "Ready"
    found = next(each for each in world.status("chat")["status"]["acceleratorClasses"] if each["class"] == OTHER)
    assert found["message"].startswith("Left out.")
    assert f"AcceleratorClass {OTHER}" in found["message"]
    assert "memory" in found["message"]


@pytest.mark.parametrize("error", [Unavailable("cut off"), REFUSED])
async def test_a_successor_whose_making_is_cut_off_keeps_the_room_all_the_same(error: KubeError) -> None:
    world = TwoClasses(tenant_of_both(guaranteed=(1, 2)), replicas=1, accelerator={**EITHER, "count": 2})
    for kind in (accelerator(), other_class()):
        world.kube.put({**kind, "spec": {**kind["spec"], "countPerNode": 1}})
    world.kube.put(node(gpus=1))
    world.kube.put(other_node(gpus=1))
    world.kube.put(other_node("o2", gpus=1))
    await world.reconcile("InferencePool", "chat")
    await world.quota()
    moved = next(pod for pod in world.pods() if read_record(pod["metadata"]).is_moved)
    world.kube.fail_next("apply", "Pod", error, after=1)
    with contextlib.suppress(Unavailable):
        await world.reconcile("InferencePool", "chat")
    assert len(world.pods()) == 3, "a worker of the successor is there, and no leader"
    await world.reconcile("InferencePool", "chat")
    succeeds = [uid for pod in world.pods() if (uid := read_record(pod["metadata"]).succeeds)]
    assert succeeds == [moved["metadata"]["uid"]]
    await world.go_on()
    assert world.used()[OTHER] == 2
    assert set(world.replicas().values()) == {OTHER}


@pytest.mark.parametrize("gone", [CLASS, OTHER])
async def test_what_runs_on_a_class_that_is_deleted_goes_on(gone: str) -> None:
    world = TwoClasses(tenant_of_both(guaranteed=(2, 2)), rollout={"maxSurge": 1, "maxUnavailable": 1})
    await world.go_on()
    before = world.replicas()
    world.kube.finish_deletion(ACCELERATOR_CLASSES, gone)
    await world.go_on(4)
    assert world.replicas() == before
    assert world.status("chat")["status"]["updatedReplicas"] == 3
    assert condition(world.status("chat"))["reason"] == "Ready"
    world.kube.forget_writes()
    await world.reconcile("InferencePool", "chat")
    assert world.kube.changes == []


async def test_what_runs_on_a_class_that_the_model_fits_no_more_goes_on_and_a_new_one_goes_elsewhere() -> None:
    rollout = {"maxSurge": 1, "maxUnavailable": 1}
    world = TwoClasses(tenant_of_both(guaranteed=(2, 4)), engine={"name": "vllm"}, rollout=rollout)
    world.kube.put(other_node(gpus=4))
    world.kube.put(build_base())
    await world.go_on()
    before = world.replicas()
    assert world.counts() == {CLASS: 2, OTHER: 1}
    small = accelerator()
    world.kube.put({**small, "spec": {**small["spec"], "memory": "64Mi"}})
    world.change(replicas=4)
    await world.go_on(6)
    assert world.counts() == {CLASS: 2, OTHER: 2}
    assert before.items() <= world.replicas().items()


async def test_a_replica_that_waits_for_a_class_that_is_deleted_is_made_for_another_one() -> None:
    world = TwoClasses(tenant("a", NAMESPACE, guaranteed=2), replicas=3)
    await world.go_on()
    before = world.replicas()
    assert world.counts() == {CLASS: 2, OTHER: 0}
    world.kube.finish_deletion(ACCELERATOR_CLASSES, CLASS)
    world.kube.put(tenant_of_both(guaranteed=(2, 2)))
    await world.go_on(6)
    assert world.counts() == {CLASS: 2, OTHER: 1}
    assert before.items() <= world.replicas().items()


async def test_a_change_rolls_over_replicas_of_a_class_that_is_deleted_too() -> None:
    world = TwoClasses(tenant_of_both(guaranteed=(2, 2)), rollout={"maxSurge": 1, "maxUnavailable": 1}, replicas=2)
    world.kube.put(node(gpus=1))
    await world.go_on()
    before = world.replicas()
    assert world.counts() == {CLASS: 1, OTHER: 1}
    world.kube.finish_deletion(ACCELERATOR_CLASSES, CLASS)
    await world.go_on(2)
    world.change(contextLength=2048)
    await world.go_on(24)
    assert before.keys().isdisjoint(world.replicas())
    assert world.counts() == {CLASS: 0, OTHER: 2}
