"""What is trained in the benchmark: a model on disk, a job, and made-up examples."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import datasets
import numpy as np

from llmos.api import FineTuneJob
from llmos_workers.train.dataset import UNLEARNED
from llmos_workers.train.options import Options

BASE_DIGEST: Final = "sha256:" + "b" * 64
DEFAULT_EVERY_STEPS: Final = 200


@dataclass(frozen=True)
class Load:
    """A model on disk, and made-up examples of lengths as conversations have them."""

    model: Path
    tuning: str
    steps: int
    batch_tokens: int
    max_length: int

    def make_job(self, every_steps: int) -> FineTuneJob:
        """The job, with default settings but for what makes it short."""
        hyperparameters = {
            "maxSteps": self.steps,
            "batchTokens": self.batch_tokens,
            "maxLength": self.max_length,
        }
        spec: dict[str, Any] = {
            "baseModelRef": {"name": "base"},
            "method": {"tuning": self.tuning},
            "dataset": {"source": {"uri": "hf://org/data"}},
            "trainer": {"accelerator": {"class": "cpu"}, "hyperparameters": hyperparameters},
            "checkpoint": {"everySteps": every_steps},
            "output": {"name": "tuned"},
        }
        return FineTuneJob.model_validate({"metadata": {"name": "bench", "namespace": "bench"}, "spec": spec})

    def write_dataset(self, work: Path) -> None:
        """Examples of which the second half of each is learned."""
        chance = np.random.default_rng(0)
        lengths = chance.lognormal(4.5, 0.7, 2000).clip(16, self.max_length).astype(int)
        vocabulary = load_vocabulary(self.model)
        rows = []
        for length in lengths:
            tokens = chance.integers(2, vocabulary, length).tolist()
            rows.append({"input_ids": tokens, "labels": [UNLEARNED] * (length // 2) + tokens[length // 2 :]})
        integers = datasets.List(datasets.Value("int32"))
        features = datasets.Features(input_ids=integers, labels=integers)
        folder = work / "dataset"
        datasets.Dataset.from_list(rows, features=features).save_to_disk(str(folder / "train"))
        (folder / "manifest.json").write_text(json.dumps({"digest": "sha256:bench", "baseDigest": BASE_DIGEST}))

    def make_options(self, work: Path, every_steps: int) -> Options:
        """One attempt."""
        return Options(self.make_job(every_steps), self.model, work, BASE_DIGEST, 1, 1, metrics_port=0)


def load_vocabulary(model: Path) -> int:
    """Number of the model's tokens."""
    return int(json.loads((model / "config.json").read_text())["vocab_size"])


def copy_prepared(prepared: Path) -> Path:
    """A work folder of its own with the prepared dataset, beside it."""
    work = Path(tempfile.mkdtemp(prefix="work-", dir=prepared.parent))
    shutil.copytree(prepared, work, dirs_exist_ok=True)
    return work
