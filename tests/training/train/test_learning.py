"""What is learned, from what, and when it ends."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmos_workers.train.dataset import Examples, build_micro_batch
from llmos_workers.train.errors import LossNotFiniteError
from llmos_workers.train.model import observe_device
from llmos_workers.train.order import Order
from llmos_workers.train.step import Stepper, compute_loss_sum
from tests.training.train.world import World, make_base, make_job, make_rows, stop_at, write_dataset

MakeWorld = Callable[..., World]

RULE = [{"name": "rule", "source": {"uri": "hf://org/rule"}, "metrics": ["loss", "exact_match"]}]
LEARN = {"epochs": 60, "batchTokens": 64, "learningRate": 0.005}

# peft asks transformers by a former name.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_it_learns_twenty_examples_by_heart(base: Path, tmp_path: Path, tuning: str) -> None:
    method = {"tuning": tuning, "lora": {"rank": 16, "alpha": 32, "dropout": 0.0}}
    world = World(base, tmp_path / "work", make_job(method=method, hyperparameters=LEARN, evaluate={"suites": RULE}))
    write_dataset(world.work, {"train": make_rows(20), "suite-rule": make_rows(20)})
    metrics = {metric["name"]: metric for metric in world.complete()["evaluation"]["metrics"]}
    assert metrics["rule_exact_match"] == {"name": "rule_exact_match", "base": 0.0, "result": 1.0, "examples": 20}
    assert metrics["rule_loss"]["result"] < 0.5 < metrics["rule_loss"]["base"]


def test_the_adapter_gives_the_same_answers_when_it_is_loaded_from_the_disk(make_world: MakeWorld, base: Path) -> None:
    world = make_world()
    message = world.complete()
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), world.work / "output").eval()
    assert message["output"]["kind"] == "adapter"
    config = json.loads((world.work / "output" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny"
    assert config["target_modules"] == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    held_out = Examples(world.work / "dataset" / "eval")
    batch = held_out.build_micro_batch(range(len(held_out)), 0)
    with torch.inference_mode():
        loss = float(compute_loss_sum(adapted, batch)) / batch.learned
        with adapted.disable_adapter():
            base_loss = float(compute_loss_sum(adapted, batch)) / batch.learned
    (metric,) = message["evaluation"]["metrics"]
    assert metric["result"] == pytest.approx(loss, rel=1e-5)
    assert metric["base"] == pytest.approx(base_loss, rel=1e-5)


def test_a_whole_model_loads_by_itself(make_world: MakeWorld, base: Path) -> None:
    world = make_world(method={"tuning": "full"})
    message = world.complete()
    output = world.work / "output"
    model = AutoModelForCausalLM.from_pretrained(output)
    tokenizer = AutoTokenizer.from_pretrained(output)
    held_out = Examples(world.work / "dataset" / "eval")
    batch = held_out.build_micro_batch(range(len(held_out)), 0)
    with torch.inference_mode():
        loss = float(compute_loss_sum(model, batch)) / batch.learned
    assert message["evaluation"]["metrics"][0]["result"] == pytest.approx(loss, rel=1e-5)
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(base).chat_template
    assert model.dtype == AutoModelForCausalLM.from_pretrained(base).dtype
    assert json.loads((output / "config.json").read_text()).get("use_cache", True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_merged_model_loads_by_itself_and_says_what_the_adapter_says(
    make_world: MakeWorld, tmp_path: Path, dtype: torch.dtype
) -> None:
    base = make_base(tmp_path / "base", dtype=dtype)
    adapter = replace(make_world("adapter"), base=base)
    merged = replace(make_world("merged", output={"kind": "merged"}), base=base)
    messages = [world.complete() for world in (adapter, merged)]
    assert [message["output"]["kind"] for message in messages] == ["adapter", "model"]
    output = merged.work / "output"
    assert not (output / "adapter_config.json").exists()
    model = AutoModelForCausalLM.from_pretrained(output)
    assert (model.dtype, type(model)) == (dtype, type(AutoModelForCausalLM.from_pretrained(base)))
    held_out = Examples(merged.work / "dataset" / "eval")
    batch = held_out.build_micro_batch(range(len(held_out)), 0)
    with torch.inference_mode():
        loss = float(compute_loss_sum(model.float(), batch)) / batch.learned
    losses = [message["evaluation"]["metrics"][0] for message in messages]
    assert losses[1]["result"] == pytest.approx(loss, rel=1e-5)
    assert losses[1]["result"] == pytest.approx(losses[0]["result"], rel=1e-5 if dtype == torch.float32 else 0.02)
    assert losses[1]["base"] == pytest.approx(losses[0]["base"], rel=1e-5)
    assert losses[1]["result"] < losses[1]["base"]


def test_an_adapter_of_shared_embeddings_is_not_merged_and_no_step_is_done(make_world: MakeWorld) -> None:
    method = {"lora": {"targetModules": ["q_proj", "lm_head"]}}
    world = make_world(output={"kind": "merged"}, method=method)
    assert world.run() == 1
    assert world.message["reason"] == "TrainingFailed"
    assert "targetModules" in world.message["message"]
    assert world.checkpoints() == []


def test_early_stopping_ends_the_run_and_outlives_a_restart(make_world: MakeWorld) -> None:
    rule = {"patience": 2, "minDelta": 100.0}
    world = make_world(
        earlyStopping=rule, evaluate={"everySteps": 2}, hyperparameters={"epochs": 50}, checkpoint={"everySteps": 1000}
    )
    stop_at(world, 5)
    message = world.complete()
    # The first value is the one to beat, two do not beat it by a hundred.
    assert sorted(world.eval_losses()) == [2, 4, 6]
    assert message["progress"]["step"] == 6


def test_an_infinite_loss_ends_at_once_with_step_and_remedy(make_world: MakeWorld) -> None:
    world = make_world()
    weights = world.base.with_name("broken")
    model = AutoModelForCausalLM.from_pretrained(world.base)
    with torch.no_grad():
        model.model.norm.weight.fill_(math.inf)
    model.save_pretrained(weights)
    AutoTokenizer.from_pretrained(world.base).save_pretrained(weights)
    assert World(weights, world.work, world.job).run() == 1
    assert world.message["reason"] == "LossNotFinite"
    assert "at step 1" in world.message["message"]
    assert "learningRate" in world.message["message"]
    assert world.checkpoints() == []


def test_a_target_that_no_module_has_is_said(make_world: MakeWorld) -> None:
    world = make_world(method={"tuning": "lora", "lora": {"targetModules": ["nothing"]}})
    assert world.run() == 1
    assert world.message["reason"] == "TrainingFailed"
    assert "targetModules" in world.message["message"]


def test_without_a_prepared_dataset_it_says_so(make_world: MakeWorld) -> None:
    world = make_world()
    (world.work / "dataset" / "manifest.json").unlink()
    assert world.run() == 1
    assert world.message["reason"] == "TrainingFailed"
    assert "prepare" in world.message["message"]


def _build_stepper(base: Path, rate: float = 0.1) -> tuple[torch.nn.Module, Stepper]:
    model = AutoModelForCausalLM.from_pretrained(base).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    return model, Stepper(model, optimizer, scheduler, observe_device("float32"), max_grad_norm=1e9)


def test_each_learned_token_weighs_the_same_however_the_step_is_cut(base: Path) -> None:
    rows = make_rows(12, answers=1)[:8] + make_rows(20, answers=6)[8:]
    batches = {
        "whole": [rows],
        "cut": [rows[:1], rows[1:7], rows[7:]],
    }
    weights = {}
    for name, parts in batches.items():
        model, stepper = _build_stepper(base)
        micro = [build_micro_batch([r["input_ids"] for r in part], [r["labels"] for r in part], 0) for part in parts]
        loss = stepper.run(1, micro)
        weights[name] = (loss, torch.cat([parameter.flatten() for parameter in model.parameters()]))
    assert weights["cut"][0].learned == weights["whole"][0].learned
    assert weights["cut"][0].total == pytest.approx(weights["whole"][0].total, rel=1e-6)
    torch.testing.assert_close(weights["cut"][1], weights["whole"][1], rtol=1e-5, atol=1e-6)


def test_a_row_sees_nothing_of_what_it_is_padded_with(base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    rows = make_rows(9)
    with torch.inference_mode():
        alone = sum(
            float(compute_loss_sum(model, build_micro_batch([row["input_ids"]], [row["labels"]], 0))) for row in rows
        )
        together = float(
            compute_loss_sum(
                model, build_micro_batch([row["input_ids"] for row in rows], [row["labels"] for row in rows], 5)
            )
        )
    assert together == pytest.approx(alone, rel=1e-5)


def test_a_gradient_that_is_no_number_changes_no_weight(base: Path) -> None:
    model, stepper = _build_stepper(base)
    row = make_rows(1)[0]
    batch = build_micro_batch([row["input_ids"]], [row["labels"]], 0)
    hook = model.get_output_embeddings().weight.register_hook(lambda gradient: gradient * math.nan)
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(LossNotFiniteError, match="gradient's length is nan at step 3"):
        stepper.run(3, [batch])
    hook.remove()
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def test_padding_wastes_little() -> None:
    lengths = np.random.default_rng(0).lognormal(5, 0.7, 5000).clip(16, 2048).astype(np.int64)
    order = Order(lengths, seed=1, batch_tokens=16384, max_length=2048)
    real = padded = position = 0
    while position < 5000:
        plan = order.plan_step(position, 5000)
        position = plan.position
        real += plan.tokens
        padded += sum(len(batch) * int(lengths[list(batch)].max()) for batch in plan.micro_batches)
    assert real / padded > 0.85
