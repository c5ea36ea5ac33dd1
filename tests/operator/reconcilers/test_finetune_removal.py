"""A job that is told to takes along what it put into its object store, and its deletion never waits for ever."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest

from llmos_operator.kube.errors import Forbidden, Unavailable
from llmos_operator.kube.resources import FINE_TUNE_JOBS, LLM_MODELS, PODS
from tests.operator.reconcilers.job_world import JOB, JobWorld
from tests.operator.reconcilers.world import NAMESPACE, build_model

STORE = {"uri": "s3://bucket/ml/", "secretRef": {"name": "s3"}}
PLACE = "s3://bucket/ml/team-a/tune"
TIDY = "tune-tidy-objects"
HELD = ["llmos.dev/objects"]


class RemovalWorld(JobWorld):
    """Delete a job, and play the pod that removes."""

    def __init__(self, **checkpoint: Any) -> None:
        super().__init__(checkpoint={"storage": STORE, "keepWhenDeleted": False, **checkpoint})

    async def delete(self) -> None:
        await self.kube.delete(FINE_TUNE_JOBS, JOB, NAMESPACE)

    async def look(self, passes: int = 2) -> None:
        """Passes of which the job need not be there any more."""
        for _ in range(passes):
            await self.reconcile("FineTuneJob", JOB)

    @property
    def is_gone(self) -> bool:
        return self.kube.all(FINE_TUNE_JOBS) == []

    def finalizers(self) -> list[str]:
        return list(self.kube.stored(FINE_TUNE_JOBS, NAMESPACE, JOB)["metadata"].get("finalizers", []))

    def end_tidy(self, phase: str = "Succeeded", **message: Any) -> None:
        state = {"terminated": {"exitCode": 0 if phase == "Succeeded" else 1, "message": json.dumps(message)}}
        self.kube.set_status(PODS, TIDY, NAMESPACE, phase=phase, containerStatuses=[{"name": "tidy", "state": state}])

    def tidy_command(self) -> list[str]:
        return list(self.pod(TIDY)["spec"]["containers"][0]["command"])

    def last_words(self) -> tuple[str, str]:
        event = self.kube.events[-1]
        return event["reason"], event["note"]


async def finished() -> RemovalWorld:
    """A job with a result that an LLMModel reads from the object store."""
    world = RemovalWorld()
    await world.prepare()
    await world.train()
    world.complete()
    await world.go()
    return world


async def test_a_job_with_an_object_store_is_held_and_one_without_is_not() -> None:
    world, plain = RemovalWorld(), JobWorld()
    await world.step()
    await plain.step()
    assert world.finalizers() == HELD
    assert "finalizers" not in plain.kube.stored(FINE_TUNE_JOBS, NAMESPACE, JOB)["metadata"]
    world.kube.forget_writes()
    await world.go()
    world.kube.forget_writes()
    await world.go()
    assert world.kube.changes == []


async def test_a_job_does_not_touch_its_bucket_unless_it_is_told_to() -> None:
    world = JobWorld(checkpoint={"storage": STORE})
    await world.go()
    assert "finalizers" not in world.kube.stored(FINE_TUNE_JOBS, NAMESPACE, JOB)["metadata"]


async def test_its_pods_end_then_its_objects_go_then_the_job() -> None:
    world = RemovalWorld()
    await world.prepare()
    await world.train()
    await world.delete()
    await world.look()
    assert "deletionTimestamp" in world.pod("tune-train-1")["metadata"]
    assert TIDY not in world.job_pods()
    assert world.ready() == ("False", "Deleting")
    world.kube.finish_deletion(PODS, "tune-train-1", NAMESPACE)
    await world.look()
    pod = world.pod(TIDY)
    assert world.tidy_command() == ["python", "-m", "llmos_workers.offsite", "remove", "--uri", PLACE]
    assert pod["spec"]["containers"][0]["envFrom"] == [{"secretRef": {"name": "s3"}}]
    assert pod["metadata"]["labels"]["llmos.dev/fetches"] == "true"
    assert "ownerReferences" not in pod["metadata"], "a deletion in the foreground would take it away"
    assert (pod["spec"]["restartPolicy"], pod["spec"]["activeDeadlineSeconds"]) == ("Never", 600)
    world.kube.forget_writes()
    await world.look()
    assert world.kube.changes == [], "it waits, and writes nothing"
    world.end_tidy()
    await world.look()
    assert world.is_gone
    assert TIDY not in world.job_pods()


async def test_a_result_that_a_model_reads_stays() -> None:
    world = await finished()
    await world.delete()
    await world.look()
    assert world.tidy_command()[-1] == "--keep=output"


async def test_a_model_of_another_namespace_keeps_its_result_too() -> None:
    world = RemovalWorld()
    await world.step()
    model = build_model("copy", source={"uri": f"{PLACE}/trials/3/output/"})
    world.kube.put({**model, "metadata": {"name": "copy", "namespace": "production"}})
    near = build_model("near", source={"uri": f"{PLACE}-2/output"})
    world.kube.put(near)
    await world.delete()
    for name in world.job_pods():
        world.kube.finish_deletion(PODS, name, NAMESPACE)
    await world.look()
    assert world.tidy_command()[-1] == "--keep=trials/3/output"


async def test_a_model_that_names_one_object_keeps_it() -> None:
    world = RemovalWorld()
    await world.step()
    world.kube.put(build_model("copy", source={"uri": f"{PLACE}/output/model.gguf"}))
    await world.delete()
    for name in world.job_pods():
        world.kube.finish_deletion(PODS, name, NAMESPACE)
    await world.look()
    assert world.tidy_command()[-1] == "--keep=output/model.gguf"


async def test_with_its_model_gone_everything_goes() -> None:
    world = await finished()
    world.kube.finish_deletion(LLM_MODELS, "support", NAMESPACE)
    await world.delete()
    await world.look()
    assert not [word for word in world.tidy_command() if word.startswith("--keep")]


@pytest.mark.parametrize("is_late", [False, True], ids=["from the beginning", "after the deletion"])
async def test_what_is_to_be_kept_is_kept(*, is_late: bool) -> None:
    world = RemovalWorld(keepWhenDeleted=not is_late)
    await world.go()
    assert world.finalizers() == (HELD if is_late else [])
    if is_late:
        await world.delete()
        world.change(checkpoint={"storage": STORE, "keepWhenDeleted": True})
        await world.look()
    else:
        world.change(checkpoint={"storage": STORE, "keepWhenDeleted": False})
        await world.step()
        assert world.finalizers() == HELD
        world.change(checkpoint={"storage": STORE, "keepWhenDeleted": True})
        await world.step()
        assert world.finalizers() == []
        await world.delete()
    assert world.is_gone
    assert TIDY not in world.job_pods()


async def test_what_could_not_be_removed_is_told_and_the_job_goes() -> None:
    world = await finished()
    await world.delete()
    await world.look()
    world.end_tidy("Failed", reason="AccessDenied", message=f"The object store {PLACE}: access denied.")
    await world.look()
    assert world.is_gone
    reason, note = world.last_words()
    assert reason == "ObjectsLeft"
    assert f"The object store {PLACE}: access denied. What is left is in {PLACE}." in note
    assert f"aws s3 rm --recursive {PLACE} --exclude 'output' --exclude 'output/*'" in note
    assert TIDY not in world.job_pods()


async def test_a_result_of_a_model_that_is_deleted_and_still_used_stays() -> None:
    world = await finished()
    model = world.kube.stored(LLM_MODELS, NAMESPACE, "support")
    in_use = {
        "type": "Ready",
        "status": "False",
        "reason": "InUse",
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    metadata = {**model["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["test/held"]}
    world.kube.put({**model, "metadata": metadata, "status": {**model.get("status", {}), "conditions": [in_use]}})
    await world.delete()
    await world.look()
    assert world.tidy_command()[-1] == "--keep=output"


async def test_an_operator_that_was_away_for_long_removes_all_the_same() -> None:
    world = await finished()
    await world.delete()
    world.pass_time(5000)
    await world.look()
    assert not world.is_gone
    assert TIDY in world.job_pods()
    world.end_tidy()
    world.pass_time(5000)
    await world.look()
    assert world.is_gone
    assert "ObjectsLeft" not in [event["reason"] for event in world.kube.events]


async def test_a_secret_that_is_gone_is_waited_for_no_longer_than_a_minute() -> None:
    world = await finished()
    await world.delete()
    await world.look()
    waiting = {"reason": "CreateContainerConfigError", "message": 'secret "s3" not found'}
    statuses = [{"name": "tidy", "state": {"waiting": waiting}}]
    world.kube.set_status(PODS, TIDY, NAMESPACE, phase="Pending", containerStatuses=statuses)
    world.pass_time(59)
    await world.look()
    assert not world.is_gone
    assert 'secret "s3" not found' in world.status_now()["conditions"][-1]["message"]
    world.pass_time(2)
    await world.look()
    assert world.is_gone
    assert world.last_words()[0] == "ObjectsLeft"


async def test_a_pod_that_never_gets_done_holds_no_job_for_ever() -> None:
    world = await finished()
    await world.delete()
    await world.look()
    world.pass_time(899)
    await world.look()
    assert not world.is_gone
    world.pass_time(1)
    await world.look()
    assert world.is_gone
    assert "did not get done in time" in world.last_words()[1]


async def test_a_pod_that_is_refused_is_tried_again_and_not_for_ever() -> None:
    world = await finished()
    await world.delete()
    world.kube.fail_next("apply", "Pod", Forbidden("exceeded quota: pods"))
    await world.look(1)
    assert "exceeded quota: pods" in world.status_now()["conditions"][-1]["message"]
    await world.look(1)
    assert TIDY in world.job_pods()


async def test_a_namespace_that_is_going_is_not_held() -> None:
    world = await finished()
    await world.delete()
    for _ in range(2):
        words = "namespace team-a is being terminated"
        world.kube.fail_next("apply", "Pod", Forbidden(words))
        await world.look(1)
    assert world.is_gone
    assert world.last_words()[0] == "ObjectsLeft"


async def test_a_job_that_cannot_be_read_any_more_is_not_held() -> None:
    world = RemovalWorld()
    await world.step()
    job = world.kube.stored(FINE_TUNE_JOBS, NAMESPACE, JOB)
    world.kube.put({**job, "spec": {**job["spec"], "method": {"task": "of-a-newer-version"}}})
    await world.delete()
    await world.look()
    assert world.is_gone


@pytest.mark.parametrize(
    ("verb", "kind"),
    [("apply", "Pod"), ("apply_status", "FineTuneJob"), ("delete", "Pod"), ("patch_metadata", "FineTuneJob")],
)
async def test_an_operator_that_is_cut_off_anywhere_is_followed_by_one_that_goes_on(verb: str, kind: str) -> None:
    world = await finished()
    await world.delete()
    for _ in range(6):
        world.kube.fail_next(verb, kind, Unavailable("killed"))
        with contextlib.suppress(Unavailable):
            await world.look(1)
        world.kube._failures.clear()
        await world.look(1)
        if TIDY in world.job_pods() and "phase" not in world.pod(TIDY).get("status", {}):
            world.end_tidy()
    assert world.is_gone
    assert TIDY not in world.job_pods()
