"""Vectors that are near for texts that belong together."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModel

from llmos_workers.train.dataset import Examples
from llmos_workers.train.embedding import Contrast, TextPairs, compute_recall, embed
from llmos_workers.train.heads import Head
from llmos_workers.train.model import load_model
from tests.training.train.world import World, make_job, make_text_pairs, write_dataset

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

CPU = torch.device("cpu")


@pytest.fixture
def pairs(tmp_path: Path) -> Examples:
    write_dataset(tmp_path / "pairs", {"train": make_text_pairs(9)})
    return Examples(tmp_path / "pairs" / "dataset" / "train", TextPairs())


@pytest.mark.parametrize(("tuning", "kind"), [("lora", None), ("lora", "merged"), ("full", None)])
def test_it_learns_what_belongs_together(base: Path, tmp_path: Path, tuning: str, kind: str | None) -> None:
    job = make_job(
        method={"task": "embedding", "tuning": tuning, "lora": {"rank": 16, "alpha": 32, "dropout": 0.0}},
        dataset={"format": {"type": "pairs"}},
        hyperparameters={"epochs": 20, "batchTokens": 512, "maxLength": 256, "learningRate": 0.005},
        checkpoint={"everySteps": 100},
        output={"kind": kind} if kind else {},
    )
    world = World(base, tmp_path / "work", job)
    rows = make_text_pairs(140)
    write_dataset(world.work, {"train": rows[:120], "eval": rows[120:]})
    message = world.complete()
    metrics = {metric["name"]: metric for metric in message["evaluation"]["metrics"]}
    assert set(metrics) == {"eval_loss", "eval_recall_at_1"}
    assert metrics["eval_loss"]["result"] < 0.7 * metrics["eval_loss"]["base"]
    assert metrics["eval_recall_at_1"]["result"] > metrics["eval_recall_at_1"]["base"]
    output = world.work / "output"
    if tuning == "lora" and kind is None:
        assert message["output"]["kind"] == "adapter"
        model = PeftModel.from_pretrained(AutoModel.from_pretrained(base), output)
    else:
        model = AutoModel.from_pretrained(output)
        assert json.loads((output / "config.json").read_text())["architectures"] == ["LlamaModel"]
        pooling = json.loads((output / "1_Pooling" / "config.json").read_text())
        assert (pooling["pooling_mode_mean_tokens"], pooling["word_embedding_dimension"]) == (True, 32)
        assert [module["path"] for module in json.loads((output / "modules.json").read_text())][1] == "1_Pooling"
        assert "1_Pooling/config.json" in json.loads((output / "manifest.json").read_text())["files"]
    held_out = Examples(world.work / "dataset" / "eval", TextPairs())
    with torch.inference_mode():
        vectors = embed(model.eval(), held_out.build_micro_batch(range(20), 0))
    assert metrics["eval_recall_at_1"]["result"] == pytest.approx(compute_recall(*vectors.chunk(2)), abs=0.051)


def test_the_loss_is_that_of_the_paper(base: Path, pairs: Examples) -> None:
    model = load_model(base, torch.float32, CPU, Head("embedding", (), 0, seed=1))
    vectors: list[list[torch.Tensor]] = [[], []]
    with torch.inference_mode():
        for row in make_text_pairs(9):
            for side, ids in enumerate((row["input_ids"], row["other_ids"])):
                mean = model(torch.tensor([ids])).last_hidden_state[0].mean(0)
                vectors[side].append(mean / mean.norm())
        loss = float(Contrast(0.1).compute_loss_sum(model, pairs.build_micro_batch(range(9), 5)))
    expected = 0.0
    for number, anchor in enumerate(vectors[0]):
        scores = [math.exp(float(anchor @ positive) / 0.1) for positive in vectors[1]]
        expected -= math.log(scores[number] / sum(scores))
    assert pairs.build_micro_batch(range(9), 0).learned == 9
    assert loss == pytest.approx(expected, rel=1e-4)


def test_recall_counts_anchors_whose_own_positive_is_the_nearest() -> None:
    anchors = torch.eye(3)
    positives = torch.tensor([[1.0, 0, 0], [0, 0, 1.0], [0, 1.0, 0]])
    assert compute_recall(anchors, anchors) == 1.0
    assert compute_recall(anchors, positives) == pytest.approx(1 / 3)
    # Equal ones are not nearer.
    assert compute_recall(anchors, torch.ones(3, 3)) == 1.0
