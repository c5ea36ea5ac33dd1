"""Labels of words and of texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    BertModel,
    pipeline,
)

from llmos_workers.train.classification import Classification, Sentences, Words, compute_scores
from llmos_workers.train.dataset import Examples
from llmos_workers.train.heads import Head
from llmos_workers.train.model import load_model, load_tokenizer
from tests.training.train.world import WORDS, World, make_base, make_job, make_texts, make_words, write_dataset

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

WORD_LABELS, TEXT_LABELS = ("even", "odd"), ("0", "1", "2")
TASKS: dict[str, tuple[str, Any, tuple[str, ...], Any]] = {
    "token-classification": ("tokens-labels", make_words, WORD_LABELS, AutoModelForTokenClassification),
    "sequence-classification": ("text-label", make_texts, TEXT_LABELS, AutoModelForSequenceClassification),
}
LAYOUTS = {"token-classification": Words(), "sequence-classification": Sentences()}
CPU = torch.device("cpu")


def test_a_run_stops_and_keeps_the_best_by_the_metric_that_the_job_names(base: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    rows = make_texts(220)
    write_dataset(work, {"train": rows[:200], "eval": rows[200:]}, TEXT_LABELS)
    job = make_job(
        method={"task": "sequence-classification", "tuning": "lora", "lora": {"rank": 16, "alpha": 32, "dropout": 0.0}},
        dataset={"format": {"type": "text-label"}},
        hyperparameters={"epochs": 50, "batchTokens": 256, "maxLength": 256, "learningRate": 0.005},
        checkpoint={"everySteps": 1000},
        evaluate={"everySteps": 10},
        earlyStopping={"metric": "eval_f1", "patience": 3},
    )
    message = World(base, work, job).complete()
    values = {each["step"]: each["value"] for each in message["evaluations"]}
    best = max(values.values())
    first = min(step for step, value in values.items() if value == best)
    assert message["progress"]["step"] == max(values) == first + 30, "three evaluations were no better"
    metrics = {metric["name"]: metric["result"] for metric in message["evaluation"]["metrics"]}
    assert metrics["eval_f1"] == pytest.approx(best, rel=1e-5)
    assert json.loads((work / "output" / "llmos.json").read_text())["step"] == first


def build_world(base: Path, work: Path, task: str, tuning: str, kind: str | None = None) -> World:
    form, make, labels, _ = TASKS[task]
    job = make_job(
        method={"task": task, "tuning": tuning, "lora": {"rank": 16, "alpha": 32, "dropout": 0.0}},
        dataset={"format": {"type": form}},
        hyperparameters={"epochs": 20, "batchTokens": 256, "maxLength": 256, "learningRate": 0.005},
        checkpoint={"everySteps": 100},
        evaluate={"suites": [{"name": "again", "metrics": ["f1"]}]},
        output={"kind": kind} if kind else {},
    )
    rows = make(220)
    write_dataset(work, {"train": rows[:200], "eval": rows[200:]}, labels)
    return World(base, work, job)


@pytest.mark.parametrize(
    ("task", "tuning", "kind"),
    [
        ("token-classification", "lora", None),
        ("token-classification", "lora", "merged"),
        ("sequence-classification", "lora", None),
        ("sequence-classification", "full", None),
    ],
)
def test_it_learns_labels_and_the_result_says_them(
    base: Path, tmp_path: Path, task: str, tuning: str, kind: str | None
) -> None:
    world = build_world(base, tmp_path / "work", task, tuning, kind)
    message = world.complete()
    metrics = {metric["name"]: metric for metric in message["evaluation"]["metrics"]}
    assert set(metrics) == {"eval_loss", "eval_accuracy", "eval_f1", "again_f1"}
    assert metrics["eval_accuracy"]["result"] > 0.9 > metrics["eval_accuracy"]["base"]
    assert metrics["eval_f1"]["result"] > 0.9
    assert metrics["again_f1"] == {**metrics["eval_f1"], "name": "again_f1"}
    assert metrics["eval_loss"]["result"] < metrics["eval_loss"]["base"]
    output, labels, load = world.work / "output", TASKS[task][2], TASKS[task][3]
    if tuning == "lora" and kind is None:
        assert message["output"]["kind"] == "adapter"
        padding = load_tokenizer(base).pad_token_id
        model = PeftModel.from_pretrained(Head(task, labels, padding, seed=1).load(base, torch.float32), output)
    else:
        assert message["output"]["kind"] == "model"
        model = load.from_pretrained(output)
        assert model.config.id2label == dict(enumerate(labels))
        assert json.loads((output / "config.json").read_text())["architectures"] == [type(model).__name__]
    held_out = Examples(world.work / "dataset" / "eval", LAYOUTS[task])
    batch = held_out.build_micro_batch(range(len(held_out)), 0)
    with torch.inference_mode():
        loss = float(Classification(LAYOUTS[task]).compute_loss_sum(model.eval(), batch)) / batch.learned
    assert metrics["eval_loss"]["result"] == pytest.approx(loss, rel=1e-4)
    if tuning == "full":
        see_what_transformers_says(output)


def see_what_transformers_says(model: Path) -> None:
    """A text classifier is served by their own pipeline."""
    say = pipeline("text-classification", model=str(model), device=-1)
    texts = [" ".join(WORDS[word - 2] for word in row["input_ids"]) for row in make_texts(20)]
    said = [answer["label"] for answer in say(texts, batch_size=1)]
    right = [str(row["labels"][0]) for row in make_texts(20)]
    assert sum(one == other for one, other in zip(said, right, strict=True)) >= 18


@pytest.mark.parametrize("task", TASKS)
def test_the_loss_is_what_transformers_computes_for_each_text_alone(base: Path, tmp_path: Path, task: str) -> None:
    _, make, labels, _ = TASKS[task]
    write_dataset(tmp_path, {"train": make(9)}, labels)
    examples = Examples(tmp_path / "dataset" / "train", LAYOUTS[task])
    model = load_model(base, torch.float32, CPU, Head(task, labels, 0, seed=3))
    batch = examples.build_micro_batch(range(9), 0)
    expected, count = 0.0, 0
    for row in make(9):
        wanted = row["labels"] if task == "token-classification" else row["labels"][:1]
        told = torch.tensor([wanted] if task == "token-classification" else wanted)
        known = sum(label != -100 for label in wanted)
        with torch.inference_mode():
            expected += known * float(model(torch.tensor([row["input_ids"]]), labels=told).loss)
        count += known
    with torch.inference_mode():
        loss = float(Classification(LAYOUTS[task]).compute_loss_sum(model, batch))
    assert batch.learned == count
    assert loss == pytest.approx(expected, rel=1e-5)


def test_a_model_that_looks_in_both_directions_sees_nothing_of_what_rows_are_filled_with(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=62, initializer_range=0.2, **shape)).save_pretrained(base)
    write_dataset(tmp_path, {"train": make_words(9)}, WORD_LABELS)
    examples = Examples(tmp_path / "dataset" / "train", Words())
    model = load_model(base, torch.float32, CPU, Head("token-classification", WORD_LABELS, 0, seed=3))
    loss = Classification(Words()).compute_loss_sum
    with torch.inference_mode():
        alone = sum(float(loss(model, examples.build_micro_batch([number], 0))) for number in range(9))
        together = float(loss(model, examples.build_micro_batch(range(9), 5)))
    assert together == pytest.approx(alone, rel=1e-4)


def test_a_base_model_without_such_a_head_is_said(tmp_path: Path) -> None:
    from transformers import MambaConfig, MambaForCausalLM  # noqa: PLC0415

    base = make_base(tmp_path / "base")
    MambaForCausalLM(MambaConfig(vocab_size=62, hidden_size=16, num_hidden_layers=1)).save_pretrained(base)
    world = build_world(base, tmp_path / "work", "token-classification", "full")
    assert world.run() == 1
    assert world.message["reason"] == "TrainingFailed"
    assert "cannot be a classifier (token-classification)" in world.message["message"]


def test_equal_seeds_give_equal_heads(base: Path) -> None:
    first, same, other = (
        Head("token-classification", WORD_LABELS, 0, seed).load(base, torch.float32).score.weight for seed in (1, 1, 2)
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_f1_is_averaged_over_the_labels_that_occur() -> None:
    # True labels are rows: 3 of the first (2 right), 1 of the second (right), none of the third, never said the fourth.
    confusion = np.array([[2, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    accuracy, f1 = compute_scores(confusion)
    assert accuracy == pytest.approx(3 / 4)
    assert f1 == pytest.approx((0.8 + 1.0 + 0.0) / 3)
