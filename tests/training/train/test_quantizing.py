"""An adapter learns on a base model of four bits."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmos.api import FineTuneJob
from llmos_workers.train.errors import TrainError
from llmos_workers.train.heads import Head
from llmos_workers.train.model import get_learned, load_quantized, load_trainable, observe_device
from llmos_workers.train.quantizing import check_device
from llmos_workers.train.settings import build_settings
from tests.training.train.gang_world import complete
from tests.training.train.test_gang import assert_alike
from tests.training.train.world import World, make_base, make_job, make_pairs, make_texts, stop_at, write_dataset

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

MakeWorld = Callable[..., World]

QLORA = {"method": {"tuning": "qlora", "lora": {"rank": 4, "alpha": 8, "dropout": 0.0}}}
DROPPING = {"method": {"tuning": "qlora", "lora": {"rank": 4, "alpha": 8, "dropout": 0.2}}}
IDS = torch.arange(2, 34).reshape(4, 8)


def compute_gradient(model: Any) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(input_ids=IDS, labels=IDS).loss.backward()
    return {name: each.grad.clone() for name, each in get_learned(model).items() if each.grad is not None}


def test_it_learns_and_the_result_is_an_adapter_like_any_other(make_world: MakeWorld) -> None:
    world, plain = make_world(**QLORA), make_world("plain", method={"tuning": "lora", "lora": {"rank": 4}})
    message, _ = world.complete(), plain.complete()
    (metric,) = message["evaluation"]["metrics"]
    assert metric["result"] < 0.8 * metric["base"]
    assert message["output"]["kind"] == "adapter"
    config, other = (json.loads((each.work / "output" / "adapter_config.json").read_text()) for each in (world, plain))
    assert {key for key in config if config[key] != other[key]} == {"lora_alpha", "lora_dropout"}
    whole = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(world.base), world.work / "output")
    with torch.no_grad():
        assert math.isfinite(float(whole(input_ids=IDS, labels=IDS).loss))


def test_base_and_result_are_asked_on_the_same_four_bits(make_world: MakeWorld) -> None:
    """The base model's number is that of four bits: the same as the result's before anything was learned."""
    nothing = {"hyperparameters": {"learningRate": 1e-12, "maxSteps": 1}}
    message = make_world(**QLORA, **nothing).complete()
    unquantized = make_world("lora", method={"tuning": "lora", "lora": {"rank": 4}}, **nothing).complete()
    (metric,), (other,) = (each["evaluation"]["metrics"] for each in (message, unquantized))
    assert metric["result"] == pytest.approx(metric["base"], rel=1e-6)
    assert metric["base"] != pytest.approx(other["base"], rel=1e-3)


def test_a_run_that_was_stopped_goes_on_with_the_same_bits(make_world: MakeWorld) -> None:
    calm, world = make_world("calm", **DROPPING), make_world("stopped", **DROPPING)
    calm.complete()
    for step in (2, 7):
        stop_at(world, step)
    world.complete()
    assert world.losses() == calm.losses()
    assert world.eval_losses() == calm.eval_losses()
    assert world.result_files() == calm.result_files()


def test_two_ranks_learn_what_one_learns(make_world: MakeWorld) -> None:
    one, two = make_world("one", **QLORA), make_world("two", **QLORA)
    one.complete()
    complete(two)
    assert_alike(one, two)


def test_gradients_come_through_all_layers_also_after_an_evaluation(base: Path) -> None:
    """Processors with AVX512-BF16 rearrange the weights when they are asked, and gradients would end there."""
    model = load_trainable(
        base, build_settings(FineTuneJob.model_validate(make_job(**QLORA))), observe_device("float32")
    )
    before = compute_gradient(model)
    # The second matrix of each adapter begins at 0, so only it has a gradient that is not 0.
    assert all(float(gradient.abs().max()) > 0 for name, gradient in before.items() if "lora_B" in name)
    model.eval()
    with torch.no_grad():
        model(input_ids=IDS)
    model.train()
    after = compute_gradient(model)
    assert after.keys() == before.keys()
    for name, gradient in after.items():
        assert torch.equal(gradient, before[name]), name


def test_linear_layers_take_about_half_a_byte_for_each_parameter(tmp_path: Path) -> None:
    model = load_quantized(make_base(tmp_path, hidden=256), observe_device("float32"))
    layers = [module for module in model.modules() if isinstance(module, Linear4bit)]
    parameters = sum(layer.in_features * layer.out_features for layer in layers)
    held = [(layer.weight, layer.weight.quant_state) for layer in layers]
    constants = sum(state.absmax.nbytes + state.state2.absmax.nbytes for _, state in held)
    # The formula of planning/finetune_memory.py.
    assert sum(weight.nbytes for weight, _ in held) + constants == pytest.approx(
        (4 + 8 / 64 + 32 / 16384) / 8 * parameters
    )
    assert model.get_output_embeddings().weight.dtype == torch.float32


def test_preferences_are_held_against_the_base_model_of_four_bits(base: Path, tmp_path: Path) -> None:
    job = make_job(
        method={"task": "dpo", **QLORA["method"]},
        dataset={"format": {"type": "preference"}},
        hyperparameters={"epochs": 4, "batchTokens": 256, "maxLength": 64},
    )
    world = World(base, tmp_path / "work", job)
    rows = make_pairs(60)
    write_dataset(world.work, {"train": rows[:50], "eval": rows[50:]})
    metrics = {metric["name"]: metric for metric in world.complete()["evaluation"]["metrics"]}
    assert metrics["eval_loss"]["base"] == pytest.approx(math.log(2), rel=1e-5)
    assert metrics["eval_loss"]["result"] < metrics["eval_loss"]["base"]


def test_a_head_is_not_quantized_and_is_learned_whole(base: Path, tmp_path: Path) -> None:
    job = make_job(
        method={"task": "sequence-classification", **QLORA["method"]},
        dataset={"format": {"type": "text-label"}},
        hyperparameters={"epochs": 10, "batchTokens": 256, "maxLength": 64},
    )
    settings = build_settings(FineTuneJob.model_validate(job))
    head = Head(settings.task, ("0", "1", "2"), 0, settings.seed)
    model = load_trainable(base, settings, observe_device("float32"), head)
    assert [parameter.dtype for name, parameter in get_learned(model).items() if "score" in name] == [torch.float32]
    world = World(base, tmp_path / "work", job)
    rows = make_texts(120)
    write_dataset(world.work, {"train": rows[:100], "eval": rows[100:]}, ("0", "1", "2"))
    metrics = {metric["name"]: metric for metric in world.complete()["evaluation"]["metrics"]}
    assert metrics["eval_loss"]["result"] < metrics["eval_loss"]["base"]


def test_a_base_model_that_is_quantized_already_is_refused_with_the_remedy(
    make_world: MakeWorld, tmp_path: Path
) -> None:
    world, quantized = make_world(**QLORA), tmp_path / "quantized"
    load_quantized(world.base, observe_device("float32")).save_pretrained(quantized)
    config = json.loads((quantized / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 32}
    (quantized / "config.json").write_text(json.dumps(config))
    AutoTokenizer.from_pretrained(world.base).save_pretrained(quantized)
    world = replace(world, base=quantized)
    assert world.run() == 1
    assert "The base model cannot be quantized" in world.message["message"]
    assert "method.tuning lora" in world.message["message"]


def test_a_device_that_cannot_compute_with_four_bits_says_so() -> None:
    with pytest.raises(TrainError, match=r"cannot be computed with on this xpu: .*Use method.tuning lora"):
        check_device(torch.device("xpu"), torch.float32)
