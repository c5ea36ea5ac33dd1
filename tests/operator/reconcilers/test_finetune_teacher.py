"""A job with a teacher: looked at before anything is made, and pinned like the base model."""

from __future__ import annotations

from typing import Any

import pytest

from llmos.api import Reason
from llmos_operator.planning.finetune_models import PADDING
from llmos_operator.reconcilers.base import Key
from llmos_operator.runtime.references import References
from tests.operator.reconcilers.job_world import JOB, JobWorld, build_base, build_job
from tests.operator.reconcilers.search_world import SearchWorld
from tests.operator.reconcilers.world import NAMESPACE

METHOD = {"task": "distill", "distill": {"teacherRef": {"name": "big"}}}


def build_teacher(digest: str = "sha256:4567", *, vocabulary: int = 49152) -> dict[str, Any]:
    teacher = build_base(digest)
    teacher["metadata"] = {**teacher["metadata"], "name": "big"}
    resolved = teacher["status"]["resolved"]
    config = {**resolved["config"], "vocabularySize": vocabulary}
    return {**teacher, "status": {**teacher["status"], "resolved": {**resolved, "config": config}}}


async def test_its_digest_is_pinned_and_told_to_the_trainer() -> None:
    world = JobWorld(build_teacher(), method=METHOD)
    await world.prepare()
    status = world.status_now()
    assert (status["baseDigest"], status["teacherDigest"]) == ("sha256:0123", "sha256:4567")
    command = world.pod("tune-train-1")["spec"]["containers"][0]["command"]
    assert command[command.index("--teacher-digest") + 1] == "sha256:4567"
    await world.train()
    world.complete()
    assert (await world.go())["phase"] == "Succeeded"


async def test_another_teacher_is_not_gone_on_with() -> None:
    world = JobWorld(build_teacher(), method=METHOD)
    await world.prepare()
    await world.train()
    world.end_pod("tune-train-1", code=137)
    await world.go()
    world.kube.put(build_teacher("sha256:other"))
    world.pass_time(60)
    status = await world.go()
    assert (status["phase"], world.ready()) == ("Failed", ("False", "TeacherChanged"))
    message = next(each["message"] for each in status["conditions"] if each["type"] == "Ready")
    assert "LLMModel big has sha256:other, the job began with sha256:4567" in message
    assert world.job_pods() == ["tune-train-1"]
    world.kube.put(build_teacher())
    assert (await world.go())["phase"] == "Training"


async def test_a_teacher_that_changed_after_training_does_not_matter_any_more() -> None:
    world = JobWorld(build_teacher(), method=METHOD)
    await world.prepare()
    await world.train()
    world.kube.put(build_teacher("sha256:other"))
    world.complete()
    assert (await world.go())["phase"] == "Succeeded"


@pytest.mark.parametrize(
    ("teacher", "reason", "says"),
    [
        (None, Reason.ModelNotFound, "There is no LLMModel big"),
        (build_teacher(vocabulary=49152 + PADDING), Reason.TeacherMismatch, "has 49664 tokens, that of the base model"),
        ({**build_teacher(), "status": {}}, Reason.ModelNotReady, "LLMModel big is being looked at"),
    ],
)
async def test_a_teacher_that_cannot_teach_is_told_before_anything_is_made(
    teacher: dict[str, Any] | None, reason: Reason, says: str
) -> None:
    world = JobWorld(*([teacher] if teacher else ()), method=METHOD)
    status = await world.go()
    assert (status["phase"], world.ready()) == ("Pending", ("False", reason))
    assert says in next(each["message"] for each in status["conditions"] if each["type"] == "Ready")
    assert world.job_pods() == []
    world.kube.put(build_teacher())
    await world.go()
    assert world.job_pods() == ["tune-prepare-1"]


async def test_an_adapter_teaches_nobody() -> None:
    adapter = {"source": {"uri": "hf://a/b"}, "adapter": {"baseModelRef": {"name": "x"}}}
    world = JobWorld({**build_teacher(), "spec": adapter}, method=METHOD)
    status = await world.go()
    assert world.ready() == ("False", "InvalidSpec")
    assert "method.distill.teacherRef" in next(e["message"] for e in status["conditions"] if e["type"] == "Ready")
    assert world.job_pods() == []


async def test_padding_is_left_to_the_comparison_of_the_tokenizers() -> None:
    world = JobWorld(build_teacher(vocabulary=49152 + PADDING - 1), method=METHOD)
    await world.go()
    assert world.job_pods() == ["tune-prepare-1"]


async def test_tokenizers_that_differ_end_the_job_for_good_without_an_accelerator() -> None:
    world = JobWorld(build_teacher(), method=METHOD)
    await world.go()
    world.run_pod("tune-prepare-1")
    await world.step()
    world.end_pod("tune-prepare-1", code=1, reason="TeacherMismatch", message="It has 3 tokens, the base model 4.")
    status = await world.go()
    assert (status["phase"], world.ready()) == ("Failed", ("False", "TeacherMismatch"))
    assert world.condition("DatasetReady") == ("False", "TeacherMismatch")
    world.pass_time(400)
    await world.go()
    assert world.job_pods() == ["tune-prepare-1"]


async def test_trials_have_the_jobs_teacher() -> None:
    world = SearchWorld(maxTrials=2, parallelism=1)
    world.kube.put(build_teacher())
    world.change(method=METHOD)
    await world.begin()
    command = world.pod("tune-train-1-1")["spec"]["containers"][0]["command"]
    assert command[command.index("--teacher-digest") + 1] == "sha256:4567"
    world.run_pod("tune-train-1-1")
    world.finish("1-1", 1.0)
    await world.go()
    assert world.trial_pods()[-1] == "tune-train-2-1"


def test_a_change_of_the_teacher_has_the_job_looked_at() -> None:
    references, job = References(), Key("FineTuneJob", NAMESPACE, JOB)
    references.see(job, build_job(method=METHOD))
    assert references.referrers(Key("LLMModel", NAMESPACE, "big")) == (job,)
