"""FineTuneJobs that name several accelerator classes: each attempt trains on the first one that has quota and room."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from llmos.api.names import ANNOTATION_ACCELERATOR_CLASS, KUEUE_GATE
from llmos_operator.kube.errors import Forbidden, Unavailable
from llmos_operator.kube.resources import ACCELERATOR_CLASSES, TENANTS
from llmos_operator.planning.quota_record import read_record
from llmos_operator.planning.settings import Admitter, Settings
from tests.operator.reconcilers.job_world import CHECKPOINT
from tests.operator.reconcilers.quota_world import CLASS, accelerator, gpu_pool, node, tenant
from tests.operator.reconcilers.test_finetune_quota import GpuWorld
from tests.operator.reconcilers.world import NAMESPACE, condition

OTHER = "l40s"
OTHER_GPU = "example.com/gpu"
ON_EITHER: dict[str, Any] = {"accelerator": {"class": CLASS, "alternatives": [OTHER]}}


def other_class(memory: str = "48Gi") -> dict[str, Any]:
    first = accelerator()
    spec = {"memory": memory, "resourceName": OTHER_GPU, "nodeSelector": {"gpu": OTHER}}
    return {**first, "metadata": {"name": OTHER}, "spec": spec}


def other_node(name: str = "o1", gpus: int = 2) -> dict[str, Any]:
    first = node(name)
    status = {**first["status"], "allocatable": {OTHER_GPU: str(gpus)}}
    return {**first, "metadata": {"name": name, "labels": {"gpu": OTHER}}, "status": status}


def tenant_of_both(name: str = "a", namespace: str = NAMESPACE, guaranteed: tuple[int, int] = (1, 1)) -> dict[str, Any]:
    made = tenant(name, namespace)
    quota = [{"class": each, "guaranteed": n} for each, n in zip((CLASS, OTHER), guaranteed, strict=True)]
    return {**made, "spec": {**made["spec"], "quota": quota}}


class TwoClasses(GpuWorld):
    """One node of each class; the other one has room for two."""

    def __init__(self, *objects: dict[str, Any], settings: Settings | None = None, **spec: Any) -> None:
        more = (other_class(), other_node())
        super().__init__(*more, *objects, settings=settings, **{"trainer": ON_EITHER, **spec})

    def class_of(self, name: str) -> str:
        return str(self.pod(name)["metadata"]["annotations"][ANNOTATION_ACCELERATOR_CLASS])

    async def go_on(self, turns: int = 4) -> None:
        await self.settle(turns + 1)

    def used(self, name: str = "a") -> dict[str, int]:
        told = self.context.quota.tenant(name)
        assert told is not None
        return {each.class_name: each.used for each in told.usage}


async def fill_the_first_class(world: TwoClasses) -> None:
    world.kube.put(gpu_pool("chat"))
    await world.settle(3)
    assert world.held(NAMESPACE)


async def test_an_attempt_takes_the_first_class_that_has_room() -> None:
    world = TwoClasses(tenant_of_both())
    await world.prepare()
    await world.go_on()
    assert world.job_pods() == ["tune-train-1"]
    assert world.pin(world.pod("tune-train-1")) == "n1"
    assert world.status_now()["acceleratorClass"] == CLASS
    assert "moves" not in world.status_now()["attempts"]


async def test_where_the_first_class_is_full_another_pod_is_made_for_the_one_that_has_room() -> None:
    world = TwoClasses(tenant_of_both())
    await fill_the_first_class(world)
    await world.prepare()
    await world.go_on()
    assert world.job_pods() == ["tune-train-2"]
    pod = world.pod("tune-train-2")
    assert world.class_of("tune-train-2") == OTHER
    assert pod["spec"]["nodeSelector"] == {"gpu": OTHER}
    assert pod["spec"]["containers"][0]["resources"]["limits"] == {OTHER_GPU: "1"}
    assert world.pin(pod) == "o1"
    status = world.status_now()
    assert (status["phase"], status["acceleratorClass"]) == ("Training", OTHER)
    assert status["attempts"] == {"user": 0, "infrastructure": 0, "preemptions": 0, "moves": 1}
    assert status.get("history", []) == []
    assert world.used() == {CLASS: 1, OTHER: 1}


async def test_one_without_quota_of_the_first_class_takes_the_second() -> None:
    world = TwoClasses(tenant_of_both(guaranteed=(0, 1)))
    other = world.kube.stored(TENANTS, "", "a")
    world.kube.put({**other, "spec": {**other["spec"], "quota": [{"class": OTHER, "guaranteed": 1}]}})
    await world.prepare()
    await world.go_on()
    assert world.class_of("tune-train-2") == OTHER


async def test_room_of_the_other_class_is_kept_while_the_pod_for_it_is_made() -> None:
    """Between the decision and the new pod a pool of another tenant asks for the same accelerators."""
    world = TwoClasses(tenant_of_both(), tenant_of_both("b", "team-b", guaranteed=(0, 0)))
    world.kube.put(other_node(gpus=1))
    await fill_the_first_class(world)
    await world.prepare()
    await world.quota()
    assert world.is_gated(world.pod("tune-train-1")), "it was admitted to a class that it is not made for"
    world.kube.put(gpu_pool("late", "team-b", accelerator={"class": OTHER, "count": 1}))
    await world.reconcile("InferencePool", "late", "team-b")
    for _ in range(3):
        await world.quota()
    assert world.held("team-b") == []
    assert world.used()[OTHER] == 1
    await world.go_on()
    assert world.class_of("tune-train-2") == OTHER
    assert world.held("team-b") == []


async def test_the_next_pod_is_there_before_the_former_goes() -> None:
    world = TwoClasses(tenant_of_both())
    await fill_the_first_class(world)
    await world.prepare()
    await world.quota()
    seen = set()
    for _ in range(5):
        await world.step()
        alive = [name for name in world.job_pods() if "deletionTimestamp" not in world.pod(name)["metadata"]]
        assert alive, "somebody else could take the room"
        seen |= set(alive)
    assert seen == {"tune-train-1", "tune-train-2"}


async def test_both_pods_together_hold_the_room_once() -> None:
    world = TwoClasses(tenant_of_both())
    await fill_the_first_class(world)
    await world.prepare()
    await world.quota()
    await world.step()
    world.kube.fail_next("delete", "Pod", Unavailable("cut off"))
    with pytest.raises(Unavailable):
        await world.step()
    assert set(world.job_pods()) == {"tune-train-1", "tune-train-2"}
    await world.quota()
    assert world.used() == {CLASS: 1, OTHER: 1}


async def test_what_runs_stays_when_the_first_class_is_free_again_and_the_next_attempt_goes_back() -> None:
    world = TwoClasses(tenant_of_both())
    await fill_the_first_class(world)
    await world.prepare()
    await world.go_on()
    assert world.class_of("tune-train-2") == OTHER
    world.kube.put(gpu_pool("chat", replicas=0))
    for _ in range(3):
        await world.settle(1)
        world.end_pods()
    await world.go_on()
    assert world.job_pods() == ["tune-train-2"]
    assert world.status_now()["phase"] == "Training"
    world.end_pod("tune-train-2", code=137, lastCheckpoint=CHECKPOINT)
    await world.step()
    world.pass_time(11)
    await world.go_on()
    assert world.class_of("tune-train-3") == CLASS
    assert world.status_now()["acceleratorClass"] == CLASS


async def test_a_class_on_which_it_does_not_fit_is_left_out_with_the_reason() -> None:
    world = TwoClasses(tenant_of_both())
    world.kube.put(other_class(memory="1Gi"))
    await fill_the_first_class(world)
    await world.prepare()
    await world.go_on()
    assert world.job_pods() == ["tune-train-1"]
    assert world.is_gated(world.pod("tune-train-1"))
    warning = next(each for each in world.status_now()["warnings"] if OTHER in each)
    assert "left out" in warning
    assert "GiB" in warning


async def test_a_first_class_on_which_it_does_not_fit_is_no_error_while_another_one_will_do() -> None:
    world = TwoClasses(tenant_of_both())
    small = accelerator()
    world.kube.put({**small, "spec": {**small["spec"], "memory": "1Gi"}})
    await world.prepare()
    await world.go_on()
    assert world.job_pods() == ["tune-train-1"], "made for it at once"
    assert world.class_of("tune-train-1") == OTHER
    assert world.status_now()["acceleratorClass"] == OTHER


async def test_where_none_fits_nothing_is_made_and_each_is_named() -> None:
    world = TwoClasses(tenant_of_both())
    small = accelerator()
    world.kube.put({**small, "spec": {**small["spec"], "memory": "1Gi"}})
    world.kube.put(other_class(memory="1Gi"))
    await world.go()
    assert world.ready() == ("False", "DoesNotFit")
    message = condition({"status": world.status_now()})["message"]
    assert CLASS in message
    assert OTHER in message
    assert world.job_pods() == []


async def test_a_class_that_does_not_exist_is_named() -> None:
    world = TwoClasses(tenant_of_both(), trainer={"accelerator": {"class": CLASS, "alternatives": ["b300"]}})
    await world.prepare()
    assert any("no AcceleratorClass b300" in each for each in world.status_now()["warnings"])
    other = TwoClasses(tenant_of_both())
    other.kube.finish_deletion(ACCELERATOR_CLASSES, CLASS)
    await other.prepare()
    assert other.class_of("tune-train-1") == OTHER
    assert any(f"no AcceleratorClass {CLASS}" in each for each in other.status_now()["warnings"])


def unreadable(manifest: dict[str, Any]) -> dict[str, Any]:
    """A class as a newer version of LLMOS may have written it."""
    return {**manifest, "spec": {**manifest["spec"], "memory": {"perChip": "80Gi"}}}


async def test_a_first_class_that_cannot_be_read_is_no_error_while_another_one_will_do() -> None:
    world = TwoClasses(tenant_of_both())
    world.kube.put(unreadable(accelerator()))
    await world.prepare()
    await world.go_on()
    assert world.job_pods() == ["tune-train-1"]
    assert world.class_of("tune-train-1") == OTHER
    assert (world.status_now()["phase"], world.status_now()["acceleratorClass"]) == ("Training", OTHER)
    (warning,) = [each for each in world.status_now()["warnings"] if CLASS in each]
    assert f"class {CLASS} is left out" in warning
    assert "spec.memory" in warning


async def test_where_no_class_can_be_read_nothing_is_made_and_each_is_named() -> None:
    world = TwoClasses(tenant_of_both())
    world.kube.put(unreadable(accelerator()))
    world.kube.put(unreadable(other_class()))
    await world.go()
    assert world.ready() == ("False", "InvalidSpec")
    message = condition({"status": world.status_now()})["message"]
    assert f"AcceleratorClass {CLASS}: spec.memory" in message
    assert f"Alternative {OTHER}: " in message
    assert world.job_pods() == []
    world.kube.put(other_class())
    await world.prepare()
    assert world.class_of("tune-train-1") == OTHER


async def test_an_attempt_that_runs_goes_on_while_its_class_cannot_be_read() -> None:
    world = TwoClasses(tenant_of_both(), trainer={"accelerator": {"class": CLASS}})
    await world.prepare()
    await world.go_on()
    world.kube.put(unreadable(accelerator()))
    await world.go_on()
    assert world.job_pods() == ["tune-train-1"]
    assert world.status_now()["phase"] == "Training"
    assert world.used()[CLASS] == 1, "nobody else is given what it holds"


async def test_a_gang_moves_as_one() -> None:
    storage: dict[str, Any] = {"checkpoint": {"storage": {"accessMode": "ReadWriteMany"}}}
    world = TwoClasses(tenant_of_both(guaranteed=(1, 2)), trainer={**ON_EITHER, "nodes": 2}, **storage)
    await world.prepare()
    await world.go_on()
    assert world.job_pods() == ["tune-train-2", "tune-train-2-1"]
    assert {world.class_of(name) for name in world.job_pods()} == {OTHER}
    assert not any(world.is_gated(world.pod(name)) for name in world.job_pods())
    assert world.used() == {CLASS: 0, OTHER: 2}


async def test_one_that_is_suspended_while_it_moves_holds_nothing() -> None:
    world = TwoClasses(tenant_of_both())
    await fill_the_first_class(world)
    await world.prepare()
    await world.quota()
    world.change(suspend=True)
    await world.go_on()
    assert world.job_pods() == []
    assert world.used() == {CLASS: 1, OTHER: 0}


async def test_without_anybody_who_gives_out_accelerators_it_runs_on_the_first_class_and_says_so() -> None:
    world = TwoClasses()
    await world.prepare()
    assert world.class_of("tune-train-1") == CLASS
    assert any("no Tenant" in each for each in world.status_now()["warnings"])


async def test_where_kueue_admits_only_the_first_class_is_asked_for_and_it_says_so() -> None:
    world = TwoClasses(tenant_of_both(), settings=Settings(admission=Admitter.KUEUE))
    await world.prepare()
    assert world.pod("tune-train-1")["spec"]["schedulingGates"] == [{"name": KUEUE_GATE}]
    assert world.class_of("tune-train-1") == CLASS
    assert any("Kueue" in each for each in world.status_now()["warnings"])


async def test_the_prepare_pod_may_go_to_nodes_of_any_class() -> None:
    world = TwoClasses(tenant_of_both())
    await world.go()
    spec = world.pod("tune-prepare-1")["spec"]
    assert "nodeSelector" not in spec
    required = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    values = [term["matchExpressions"][0]["values"] for term in required["nodeSelectorTerms"]]
    assert values == [["h100"], [OTHER]]


@pytest.mark.parametrize("after", range(4))
@pytest.mark.parametrize(("verb", "kind"), [("apply", "Pod"), ("apply_status", "FineTuneJob"), ("delete", "Pod")])
async def test_an_operator_that_is_cut_off_while_it_moves_is_followed_by_one_that_goes_on(
    verb: str, kind: str, after: int
) -> None:
    storage: dict[str, Any] = {"checkpoint": {"storage": {"accessMode": "ReadWriteMany"}}}
    world = TwoClasses(tenant_of_both(guaranteed=(1, 2)), trainer={**ON_EITHER, "nodes": 2}, **storage)
    await world.prepare()
    await world.quota()
    world.kube.fail_next(verb, kind, Unavailable("cut off"), after=after)
    for _ in range(6):
        with contextlib.suppress(Unavailable):
            await world.step()
        held = [pod for pod in world.pods() if not world.is_gated(pod) and "-train-" in pod["metadata"]["name"]]
        assert not held, "pods are released by the quota alone"
    await world.go_on(5)
    assert world.used() == {CLASS: 0, OTHER: 2}
    pods = [world.pod(name) for name in world.job_pods()]
    assert [world.is_gated(pod) for pod in pods] == [False, False]
    assert world.status_now()["attempts"]["moves"] == 1
    assert world.status_now()["phase"] == "Training"


async def test_an_alternative_that_is_added_helps_an_attempt_that_waits_already() -> None:
    world = TwoClasses(tenant_of_both(), trainer={"accelerator": {"class": CLASS}})
    await fill_the_first_class(world)
    await world.prepare()
    await world.go_on(2)
    assert world.is_gated(world.pod("tune-train-1"))
    world.change(trainer=ON_EITHER)
    await world.go_on()
    assert world.class_of("tune-train-2") == OTHER
    assert world.status_now()["phase"] == "Training"


async def test_room_is_kept_while_the_pod_for_it_is_refused() -> None:
    world = TwoClasses(tenant_of_both())
    await fill_the_first_class(world)
    await world.prepare()
    await world.quota()
    world.kube.fail_next("apply", "Pod", Forbidden("exceeded quota: llmos-quota, requested: x"), times=3)
    for _ in range(3):
        await world.step()
        await world.quota()
        assert "deletionTimestamp" not in world.pod("tune-train-1")["metadata"]
        assert world.used() == {CLASS: 1, OTHER: 1}
        world.pass_time(15)
    await world.go_on()
    assert world.job_pods() == ["tune-train-2"]
    assert world.class_of("tune-train-2") == OTHER
    assert world.status_now()["attempts"] == {"user": 0, "infrastructure": 0, "preemptions": 0, "moves": 1}


async def wait_for_the_first_class(**trainer: Any) -> TwoClasses:
    """An attempt that waits for the first class, which is full; of the other one there is no quota."""
    world = TwoClasses(tenant("a", NAMESPACE, guaranteed=1), trainer=trainer or ON_EITHER)
    await fill_the_first_class(world)
    await world.prepare()
    await world.go_on(2)
    assert world.is_gated(world.pod("tune-train-1"))
    assert world.class_of("tune-train-1") == CLASS
    return world


async def test_an_attempt_that_waits_for_a_class_that_is_deleted_goes_for_another_one() -> None:
    world = await wait_for_the_first_class()
    world.kube.finish_deletion(ACCELERATOR_CLASSES, CLASS)
    world.kube.put(tenant_of_both(guaranteed=(0, 1)))
    await world.go_on(6)
    assert world.job_pods() == ["tune-train-2"]
    assert world.class_of("tune-train-2") == OTHER
    assert world.status_now()["phase"] == "Training"
    assert world.status_now()["attempts"] == {"user": 0, "infrastructure": 0, "preemptions": 0, "moves": 1}


@pytest.mark.parametrize("accelerator", [{"class": OTHER}, {"class": OTHER, "alternatives": ["b300"]}])
async def test_an_attempt_that_waits_for_a_class_that_is_taken_out_goes_for_another_one(
    accelerator: dict[str, Any],
) -> None:
    world = await wait_for_the_first_class(accelerator={"class": CLASS})
    world.change(trainer={"accelerator": accelerator})
    world.kube.put(tenant_of_both(guaranteed=(1, 1)))
    await world.go_on(6)
    assert world.job_pods() == ["tune-train-2"]
    assert world.class_of("tune-train-2") == OTHER
    assert world.status_now()["phase"] == "Training"


async def test_an_attempt_that_waits_moves_no_more_once_there_are_no_alternatives() -> None:
    world = await wait_for_the_first_class()
    world.change(trainer={"accelerator": {"class": CLASS}})
    await world.step()
    world.kube.put(tenant_of_both(guaranteed=(1, 1)))
    await world.go_on(4)
    assert world.job_pods() == ["tune-train-1"]
    assert world.is_gated(world.pod("tune-train-1"))


async def test_a_gang_that_moves_and_is_cut_off_keeps_the_room_all_the_same() -> None:
    storage: dict[str, Any] = {"checkpoint": {"storage": {"accessMode": "ReadWriteMany"}}}
    world = TwoClasses(tenant_of_both(guaranteed=(1, 2)), trainer={**ON_EITHER, "nodes": 2}, **storage)
    await world.prepare()
    await world.quota()
    moved = world.pod("tune-train-1")["metadata"]["uid"]
    await world.step()
    world.kube.fail_next("apply", "Pod", Unavailable("cut off"), after=1)
    with pytest.raises(Unavailable):
        await world.step()
    assert "tune-train-2" not in world.job_pods()
    assert "tune-train-2-1" in world.job_pods()
    await world.step()
    record = read_record(world.pod("tune-train-2")["metadata"])
    assert record.succeeds == moved
    assert record.placement is not None
