"""The prepared dataset, and how examples become tensors.

    /job/dataset/manifest.json                 written last: what is there, and for which base model
    /job/dataset/train | eval | suite-NAME     `datasets` folders with input_ids and labels (-100 = not learned); where
                                               there is an answer also prompt_ids and completion; of pairs also
                                               other_ids and other_labels

The folders are memory-mapped Arrow files: their size is no matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import pyarrow
import pyarrow.compute as arrow
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from llmos_workers.train.arrow import ArrowFolder
from llmos_workers.train.errors import BaseModelChangedError, NotPreparedError
from llmos_workers.train.files import MANIFEST, Entry
from llmos_workers.train.order import Lengths

UNLEARNED: Final = -100
_REMEDY: Final = "Delete the claim's folder dataset, so that the step prepare makes it anew."


class DatasetManifest(Entry):
    """The part of the manifest that training reads."""

    digest: str
    base_digest: str
    labels: tuple[str, ...] = ()
    """What a classifier may say; their places are their numbers."""


@dataclass(frozen=True)
class Answer:
    """A question to the model, and the words it should answer with."""

    prompt_ids: tuple[int, ...]
    completion: str


@dataclass(frozen=True)
class MicroBatch:
    """Rows that are computed at once. `positions` are those (of rows x columns) whose next token is learned.

    `targets` are these tokens.
    """

    input_ids: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor

    def to(self, device: torch.device) -> MicroBatch:
        """The same on another device; copies overlap with computing where the memory is pinned."""
        return type(self)(*(tensor.to(device, non_blocking=True) for tensor in vars(self).values()))

    def pin(self) -> MicroBatch:
        """The same in memory that a GPU can read by itself."""
        return type(self)(*(tensor.pin_memory() for tensor in vars(self).values()))

    @property
    def learned(self) -> int:
        """How much is learned, by which the loss is divided: tokens."""
        return len(self.targets)


class Layout(Protocol):
    """How a task's examples become rows of a micro-batch."""

    @property
    def rows(self) -> int:
        """Rows that one example takes."""
        ...

    def count_tokens(self, table: pyarrow.Table) -> tuple[Lengths, Lengths]:
        """Tokens of each example, and tokens that it takes when it is computed alone."""
        ...

    def build(self, rows: Mapping[str, Any], padding: int) -> MicroBatch:
        """A micro-batch of the columns of some examples, padded on the right."""
        ...


class Texts:
    """Texts whose next tokens are learned: one row each."""

    rows: Final = 1

    def count_tokens(self, table: pyarrow.Table) -> tuple[Lengths, Lengths]:
        """Both are the text's."""
        lengths = count_items(table, "input_ids")
        return lengths, lengths

    def build(self, rows: Mapping[str, Any], padding: int) -> MicroBatch:
        """Each token is predicted from those before it."""
        return build_micro_batch(rows["input_ids"], rows["labels"], padding)


def count_items(table: pyarrow.Table, column: str) -> Lengths:
    """Lengths of the lists of a column."""
    return np.asarray(arrow.list_value_length(table.column(column)), dtype=np.int64)


class Examples:
    """One folder of examples. `lengths` are their tokens, `widths` the tokens that each takes when it is computed."""

    def __init__(self, folder: Path, layout: Layout | None = None) -> None:
        """Open the folder; it stays on the disk."""
        self._data = ArrowFolder(folder)
        self._layout = layout or Texts()
        self.lengths, self.widths = self._layout.count_tokens(self._data.table)

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.lengths)

    def build_micro_batch(self, examples: Sequence[int], padding: int) -> MicroBatch:
        """Rows of these examples, padded on the right to the longest."""
        return self._layout.build(self._data.read(examples), padding)

    def read_answer(self, example: int) -> Answer | None:
        """The question of an example, where it has one."""
        row = {name: values[0] for name, values in self._data.read([example]).items()}
        if row.get("completion") is None or row.get("prompt_ids") is None or len(row["prompt_ids"]) == 0:
            return None
        return Answer(tuple(int(token) for token in row["prompt_ids"]), str(row["completion"]))


def build_micro_batch(input_ids: Sequence[Any], labels: Sequence[Any], padding: int) -> MicroBatch:
    """Pad rows on the right, and find what is learned: the token at column c is predicted at column c - 1."""
    tokens = pad_rows(input_ids, padding)
    wanted = pad_rows([np.append(own[1:], UNLEARNED) for own in labels], UNLEARNED)
    return MicroBatch(torch.from_numpy(tokens), *find_learned(wanted))


def pad_rows(rows: Sequence[Any], fill: int) -> NDArray[np.int64]:
    """Rows of numbers, filled on the right."""
    padded = np.full((len(rows), max(len(row) for row in rows)), fill, dtype=np.int64)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = row
    return padded


def find_learned(wanted: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions that are learned, of rows x columns, and what is learned there."""
    flat = wanted.reshape(-1)
    positions = np.flatnonzero(flat != UNLEARNED)
    return torch.from_numpy(positions), torch.from_numpy(flat[positions])


class PreparedDataset:
    """What the step prepare left."""

    def __init__(self, folder: Path, base_digest: str, layout: Layout | None = None) -> None:
        """Open it; its examples become rows as `layout` says.

        Raises:
            NotPreparedError: it is not there, not complete, or has nothing to learn.
            BaseModelChangedError: it was prepared for another base model.
        """
        self._folder, self._layout = folder, layout
        manifest = _read_manifest(folder / MANIFEST)
        if manifest.base_digest != base_digest:
            raise BaseModelChangedError(
                f"The dataset was prepared for the base model {manifest.base_digest}, and the base is now {base_digest}"
            )
        self.digest, self.labels = manifest.digest, manifest.labels
        train = self.open("train")
        if train is None:
            raise NotPreparedError(f"{folder / 'train'} is missing or empty", _REMEDY)
        self.train = train
        self.held_out = self.open("eval")

    def open(self, name: str) -> Examples | None:
        """One folder; None where there is none, or it is empty."""
        folder = self._folder / name
        if not folder.is_dir():
            return None
        try:
            examples = Examples(folder, self._layout)
        except (OSError, ValueError, KeyError) as error:
            raise NotPreparedError(f"{folder} cannot be read: {error}", _REMEDY) from error
        return examples if len(examples) else None


def _read_manifest(path: Path) -> DatasetManifest:
    try:
        return DatasetManifest.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise NotPreparedError(f"There is no prepared dataset: {path} cannot be read: {error}", _REMEDY) from error
