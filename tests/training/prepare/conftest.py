from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, disable_progress_bars, load_from_disk
from transformers import PreTrainedTokenizerBase

from llmos_workers.prepare.manifest import DatasetManifest
from llmos_workers.prepare.preparing import Places, prepare
from tests.training.prepare.values import build_job, build_tokenizer, write_lines

BASE_DIGEST = "sha256:base"


@dataclass
class Desk:
    """A claim and a model, to prepare datasets with."""

    places: Places
    tokenizer: PreTrainedTokenizerBase

    def use(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Take another tokenizer for the model."""
        tokenizer.save_pretrained(self.places.model)
        self.tokenizer = tokenizer

    def put(self, lines: Iterable[Mapping[str, Any] | bytes], name: str = "dataset", file: str = "train.jsonl") -> None:
        """Put lines where the fetch step would."""
        write_lines(self.places.source(name) / "data" / file, lines)

    def prepare(self, **dataset: Any) -> DatasetManifest:
        """Run the gate."""
        return prepare(build_job(**dataset), self.places, BASE_DIGEST, io.StringIO())

    def load(self, name: str = "train") -> Dataset:
        """Open what was written, as a trainer does."""
        return load_from_disk(str(self.places.dataset / name))

    def say(self, ids: Iterable[int]) -> str:
        """Text of tokens."""
        return str(self.tokenizer.decode(list(ids)))

    def learned(self, row: Mapping[str, Any]) -> str:
        """Text of what is learned of a row."""
        return self.say(label for label in row["labels"] if label != -100)


@pytest.fixture(scope="session", autouse=True)
def _quiet() -> None:
    disable_progress_bars()


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerBase:
    return build_tokenizer()


@pytest.fixture
def desk(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> Desk:
    tokenizer.save_pretrained(tmp_path / "model")
    return Desk(Places(tmp_path / "model", tmp_path / "work"), tokenizer)
