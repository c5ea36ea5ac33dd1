"""A student learns what its teacher thinks of all tokens, not only which one comes."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from llmos.api import FineTuneJob
from llmos_workers.train.dataset import Examples, Texts
from llmos_workers.train.distillation import Distillation, Teacher
from llmos_workers.train.objective import build_objective
from llmos_workers.train.settings import build_settings
from llmos_workers.train.step import compute_loss_sum
from tests.training.train.conftest import MakeWorld
from tests.training.train.gang_world import complete
from tests.training.train.world import (
    World,
    compare_with_killed,
    make_base,
    make_job,
    make_rows,
    stop_at,
    write_dataset,
)

SUITES = [{"name": "rule", "source": {"uri": "hf://org/rule"}, "metrics": ["loss", "exact_match", "kl"]}]
OTHER_DIGEST = "sha256:" + "e" * 64


def build_method(tuning: str = "lora", **distill: float) -> dict[str, Any]:
    lora = {"rank": 8, "alpha": 16, "dropout": 0.1}
    return {"task": "distill", "tuning": tuning, "lora": lora, "distill": {"teacherRef": {"name": "big"}, **distill}}


@pytest.fixture(scope="session")
def teacher(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wider model that has learned the rule."""
    folder = tmp_path_factory.mktemp("teacher")
    base = make_base(folder / "base", hidden=48)
    shutil.copytree(prepared, folder / "work")
    hyperparameters = {"epochs": 8, "learningRate": 0.01, "batchTokens": 256, "maxLength": 256}
    world = World(base, folder / "work", make_job(method={"tuning": "full"}, hyperparameters=hyperparameters))
    world.complete()
    return folder / "work" / "output"


@pytest.fixture
def make_taught(make_world: MakeWorld, teacher: Path) -> Callable[..., World]:
    """Make worlds with a teacher."""

    def make(name: str = "work", **changes: Any) -> World:
        changes.setdefault("method", build_method())
        return replace(make_world(name, **changes), teacher=teacher)

    return make


@pytest.fixture
def examples(tmp_path: Path) -> Examples:
    write_dataset(tmp_path / "rows", {"train": make_rows(7)})
    return Examples(tmp_path / "rows" / "dataset" / "train", Texts())


@pytest.mark.parametrize(("tuning", "kind"), [("lora", None), ("lora", "merged"), ("full", None)])
def test_a_student_comes_closer_to_its_teacher(
    make_taught: Callable[..., World], tuning: str, kind: str | None
) -> None:
    hyperparameters = {"epochs": 8, "batchTokens": 256, "maxLength": 256, "learningRate": 0.01}
    world = make_taught(
        method=build_method(tuning, alpha=0.9),
        hyperparameters=hyperparameters,
        evaluate={"suites": SUITES},
        output={"kind": kind} if kind else {},
    )
    message = world.complete()
    assert message["output"]["kind"] == ("model" if kind or tuning == "full" else "adapter")
    metrics = {metric["name"]: metric for metric in message["evaluation"]["metrics"]}
    assert sorted(metrics) == ["eval_kl", "eval_loss", "rule_exact_match", "rule_kl", "rule_loss"]
    assert metrics["eval_kl"]["result"] < 0.5 * metrics["eval_kl"]["base"]
    assert metrics["eval_kl"]["teacher"] == pytest.approx(0, abs=1e-6)
    assert metrics["eval_loss"]["result"] < metrics["eval_loss"]["base"]
    # The teacher knows more than the base did, and says so in the same numbers.
    assert metrics["eval_loss"]["teacher"] < 0.5 * metrics["eval_loss"]["base"]
    assert metrics["rule_exact_match"]["teacher"] > metrics["rule_exact_match"]["base"]
    assert metrics["rule_kl"]["examples"] == 30
    # What was learned while it trained is measured by the dataset's tokens alone.
    assert min(world.eval_losses().values()) == pytest.approx(metrics["eval_loss"]["result"], rel=0.05)


def test_a_student_follows_its_teacher_and_not_the_dataset_as_far_as_alpha_says(
    make_taught: Callable[..., World], tmp_path: Path
) -> None:
    """A teacher that knows nothing of the dataset: what is learned from it is not what the dataset says."""
    stranger = make_base(tmp_path / "stranger", hidden=48)
    hyperparameters = {"epochs": 6, "batchTokens": 256, "maxLength": 256, "learningRate": 0.01}
    found = []
    for share in (0.01, 1.0):
        method = build_method("full", alpha=share)
        world = replace(make_taught(f"share-{share}", method=method, hyperparameters=hyperparameters), teacher=stranger)
        found.append({metric["name"]: metric["result"] for metric in world.complete()["evaluation"]["metrics"]})
    of_dataset, of_teacher = found
    assert of_teacher["eval_kl"] < 0.5 * of_dataset["eval_kl"]
    assert of_dataset["eval_loss"] < 0.5 * of_teacher["eval_loss"]


def test_the_loss_is_that_of_the_paper(base: Path, teacher: Path, examples: Examples) -> None:
    student, wise = (AutoModelForCausalLM.from_pretrained(folder).eval() for folder in (base, teacher))
    share, temperature = 0.3, 2.5
    expected = 0.0
    for row in make_rows(7):
        with torch.inference_mode():
            said, wanted = (model(torch.tensor([row["input_ids"]])).logits[0].double() for model in (student, wise))
        for place, token in enumerate(row["labels"]):
            if token == -100:
                continue
            own, soft = said[place - 1], (said[place - 1] / temperature).softmax(-1)
            taught = (wanted[place - 1] / temperature).softmax(-1)
            distance = sum(float(p * (p.log() - q.log())) for p, q in zip(taught, soft, strict=True))
            expected += share * temperature**2 * distance - (1 - share) * float(own.log_softmax(-1)[token])
    objective = Distillation(share, temperature, Teacher(lambda: wise))
    batch = examples.build_micro_batch(range(7), 0)
    loss = objective.compute_loss_sum(student, batch)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)
    assert torch.equal(objective.compute_eval_loss_sum(student, batch), compute_loss_sum(student, batch))
    loss.backward()
    assert all(parameter.grad is None for parameter in wise.parameters()), "the teacher learned"


def test_a_student_that_says_what_its_teacher_says_has_nothing_to_learn(base: Path, examples: Examples) -> None:
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    loss = Distillation(1.0, 4.0, Teacher(lambda: model)).compute_loss_sum(model, examples.build_micro_batch([0, 1], 0))
    assert float(loss.detach()) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("padded", ["student", "teacher"])
def test_rows_that_pad_a_vocabulary_say_nothing(base: Path, teacher: Path, examples: Examples, padded: str) -> None:
    student, wise = (AutoModelForCausalLM.from_pretrained(folder).eval() for folder in (base, teacher))
    batch = examples.build_micro_batch(range(7), 0)
    plain = Distillation(1.0, 2.0, Teacher(lambda: wise)).compute_loss_sum(student, batch)
    model = {"student": student, "teacher": wise}[padded]
    model.resize_token_embeddings(model.config.vocab_size + 10)
    loss = Distillation(1.0, 2.0, Teacher(lambda: wise)).compute_loss_sum(student, batch)
    assert math.isfinite(float(loss.detach()))
    assert float(loss.detach()) == pytest.approx(float(plain.detach()), rel=1e-4)


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_kills_change_no_bit_of_what_a_student_learns(make_taught: Callable[..., World], tuning: str) -> None:
    calm, killed = (make_taught(name, method=build_method(tuning)) for name in ("calm", "killed"))
    compare_with_killed(calm, killed, tuning, kills=4)


def test_two_ranks_with_a_teacher_each_learn_what_one_learns(make_world: MakeWorld, tmp_path: Path) -> None:
    stranger = make_base(tmp_path / "stranger", hidden=48)
    method = build_method()
    method["lora"]["dropout"] = 0.0
    one, two = (replace(make_world(name, method=method), teacher=stranger) for name in ("one", "two"))
    alone = one.complete()
    leader, worker = complete(two)
    assert worker["outcome"] == "finished"
    losses, shared = one.losses(), two.losses()
    assert losses.keys() == shared.keys()
    assert all(shared[step] == pytest.approx(losses[step], rel=1e-4) for step in losses)
    for own, other in zip(alone["evaluation"]["metrics"], leader["evaluation"]["metrics"], strict=True):
        assert other["name"] == own["name"]
        assert other["result"] == pytest.approx(own["result"], rel=1e-3)
        assert other["teacher"] == pytest.approx(own["teacher"], rel=1e-4)


def test_shares_of_a_student_are_asked_for_nothing_but_the_distance(base: Path, tmp_path: Path) -> None:
    stranger = make_base(tmp_path / "stranger", hidden=48)
    suite = {"name": "rule", "source": {"uri": "hf://org/rule"}, "metrics": ["kl", "loss"], "limit": 8}
    rows, found = make_rows(60), []
    for name, size in (("one", 1), ("two", 2)):
        work = tmp_path / name
        write_dataset(work, {"train": rows[:50], "suite-rule": rows[50:]})
        job = make_job(method=build_method("full"), evaluate={"suites": [suite]})
        world = World(base, work, job, teacher=stranger)
        message = complete(world, size, is_sharded=True)[0] if size > 1 else world.complete()
        found.append({each["name"]: each["result"] for each in message["evaluation"]["metrics"]})
    assert found[0].keys() == {"rule_kl", "rule_loss"}
    assert found[1] == pytest.approx(found[0], rel=1e-3)


def test_another_teacher_is_refused_by_name(make_taught: Callable[..., World]) -> None:
    world = make_taught()
    stop_at(world, 4)
    before = world.checkpoints()
    changed = replace(world, teacher_digest=OTHER_DIGEST)
    assert changed.run() == 1
    assert changed.message["reason"] == "CheckpointMismatch"
    assert f"teacher: {world.teacher_digest}, now {OTHER_DIGEST}" in changed.message["message"]
    assert world.checkpoints() == before
    world.complete()


def test_a_teacher_that_is_not_told_is_missed_before_anything_is_learned(make_world: MakeWorld) -> None:
    world = make_world(method=build_method())
    assert world.run() == 1
    assert "--teacher" in world.message["message"]
    assert world.checkpoints() == []


def test_only_the_student_depends_on_the_teacher() -> None:
    job = FineTuneJob.model_validate(make_job(method=build_method(temperature=3, alpha=0.25)))
    settings = build_settings(job, OTHER_DIGEST)
    assert (settings.teacher, settings.teacher_temperature, settings.teacher_share) == (OTHER_DIGEST, 3, 0.25)
    assert build_settings(FineTuneJob.model_validate(make_job()), OTHER_DIGEST).teacher == ""
    # It is loaded when it is first asked.
    objective = build_objective(settings, lambda: None, lambda: "a model")
    assert objective.teacher == "a model"
