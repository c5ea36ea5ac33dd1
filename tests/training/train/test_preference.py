"""Which of two answers is the better one."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from llmos.api import FineTuneJob
from llmos_workers.pulse import Activity, Pulse
from llmos_workers.train.arguments import build_parser
from llmos_workers.train.attempt import Attempt
from llmos_workers.train.dataset import Examples
from llmos_workers.train.main import build_options
from llmos_workers.train.model import get_learned, load_trainable, observe_device
from llmos_workers.train.preference import Pairs, Preference, Reference, compute_log_probabilities
from llmos_workers.train.settings import build_settings
from tests.training.train.world import World, make_job, make_pairs, write_dataset

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

DPO: dict[str, Any] = {"dataset": {"format": {"type": "preference"}}, "checkpoint": {"everySteps": 10}}
SUITES = [{"name": "pairs", "source": {"uri": "hf://org/pairs"}, "metrics": ["reward_accuracy"]}]


def build_method(tuning: str) -> dict[str, Any]:
    return {"task": "dpo", "tuning": tuning, "lora": {"rank": 8, "alpha": 16, "dropout": 0.0}}


@pytest.fixture
def pairs(tmp_path: Path) -> Examples:
    write_dataset(tmp_path / "pairs", {"train": make_pairs(7)})
    return Examples(tmp_path / "pairs" / "dataset" / "train", Pairs())


def test_a_model_goes_on_training_after_its_reference_failed(base: Path) -> None:
    """As with the step that is done again when memory did not suffice."""
    settings = build_settings(FineTuneJob.model_validate(make_job(method=build_method("lora"), **DPO)))
    model = load_trainable(base, settings, observe_device("float32"))
    model.train()
    with pytest.raises(MemoryError), Reference(lambda: None).of(model):
        raise MemoryError
    assert model.training


def test_that_the_reference_is_loaded_in_the_middle_of_a_step_is_a_sign_of_life(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks = {"now": 1000.0, "used": 0.0}

    def load_slowly(*_arguments: object) -> str:
        clocks["now"], clocks["used"] = clocks["now"] + 600, clocks["used"] + 300
        activity.look()
        return "the base model"

    monkeypatch.setattr("llmos_workers.train.attempt.load_model", load_slowly)
    activity = Activity(lambda: clocks["now"], lambda: clocks["used"])
    world = make_world(method=build_method("full"), **DPO)
    attempt = Attempt(build_options(build_parser().parse_args(world.arguments)), Pulse(io.StringIO(), "", activity))
    reference = attempt._objective._reference  # type: ignore[attr-defined]
    with activity.by_effort(False), reference.of(torch.nn.Linear(1, 1)) as loaded:
        assert loaded == "the base model"
        assert activity.at.timestamp() == 1600


@pytest.mark.parametrize(("tuning", "kind"), [("lora", None), ("lora", "merged"), ("full", None)])
def test_it_learns_what_is_preferred(base: Path, tmp_path: Path, tuning: str, kind: str | None) -> None:
    hyperparameters = {"epochs": 10, "batchTokens": 256, "maxLength": 256, "learningRate": 0.003, "beta": 0.5}
    output = {"kind": kind} if kind else {}
    job = make_job(
        method=build_method(tuning), hyperparameters=hyperparameters, evaluate={"suites": SUITES}, output=output, **DPO
    )
    world = World(base, tmp_path / "work", job)
    rows = make_pairs(60)
    write_dataset(world.work, {"train": rows[:50], "eval": rows[50:], "suite-pairs": rows[:20]})
    message = world.complete()
    assert message["output"]["kind"] == ("model" if kind or tuning == "full" else "adapter")
    metrics = {metric["name"]: metric for metric in message["evaluation"]["metrics"]}
    # The base model is its own reference: all rewards are 0, and the loss is log 2.
    assert metrics["eval_loss"]["base"] == pytest.approx(math.log(2), rel=1e-5)
    assert metrics["eval_loss"]["result"] < 0.5
    assert metrics["eval_reward_accuracy"]["base"] == 0
    assert metrics["eval_reward_accuracy"]["result"] >= 0.9
    assert metrics["eval_reward_accuracy"]["examples"] == 10
    assert metrics["eval_reward_margin"]["base"] == pytest.approx(0, abs=1e-5)
    assert metrics["eval_reward_margin"]["result"] > 0.5
    assert metrics["pairs_reward_accuracy"]["result"] == 1.0
    assert message["progress"]["loss"] < math.log(2)


def test_the_loss_is_that_of_the_paper(base: Path, pairs: Examples) -> None:
    policy, reference = (AutoModelForCausalLM.from_pretrained(base).eval() for _ in range(2))
    with torch.no_grad():
        policy.model.layers[0].mlp.up_proj.weight += 0.3
    batch = pairs.build_micro_batch(range(7), 0)
    expected = []
    for row in make_pairs(7):
        rewards = []
        for ids, labels in (("input_ids", "labels"), ("other_ids", "other_labels")):
            learned = [place for place, label in enumerate(row[labels]) if label != -100]
            sums = []
            for model in (policy, reference):
                with torch.inference_mode():
                    logs = model(torch.tensor([row[ids]])).logits[0].log_softmax(-1)
                sums.append(sum(float(logs[place - 1, row[ids][place]]) for place in learned))
            rewards.append(0.3 * (sums[0] - sums[1]))
        expected.append(-math.log(1 / (1 + math.exp(rewards[1] - rewards[0]))))
    with torch.inference_mode():
        loss = Preference(0.3, Reference(lambda: reference)).compute_loss_sum(policy, batch)
    assert batch.learned == 7
    assert float(loss) == pytest.approx(sum(expected), rel=1e-4)


def test_an_adapter_needs_no_copy_of_the_base_model_and_stays_switched_on(base: Path, pairs: Examples) -> None:
    job = FineTuneJob.model_validate(make_job(method=build_method("lora"), **DPO))
    model = load_trainable(base, build_settings(job), observe_device("float32"))
    learned = get_learned(model)
    with torch.no_grad():
        for name, parameter in learned.items():
            parameter.add_(0.1 if "lora_B" in name else 0.0)
    batch = pairs.build_micro_batch(range(7), 0)

    def refuse() -> None:
        raise AssertionError("a copy was loaded")

    before = compute_log_probabilities(model, batch)
    loss = Preference(0.3, Reference(refuse)).compute_loss_sum(model, batch)
    loss.backward()
    assert float(loss.detach()) != pytest.approx(7 * math.log(2), rel=1e-4)
    assert model.training
    assert get_learned(model).keys() == learned.keys()
    assert all(parameter.grad is not None for parameter in learned.values())
    torch.testing.assert_close(compute_log_probabilities(model, batch), before)


def test_a_pair_takes_twice_its_longer_answer(pairs: Examples) -> None:
    for row, length, width in zip(make_pairs(7), pairs.lengths, pairs.widths, strict=True):
        sides = [len(row["input_ids"]), len(row["other_ids"])]
        assert (sum(sides), 2 * max(sides)) == (length, width)
