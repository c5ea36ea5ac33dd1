"""Writes examples as folders that `datasets.load_from_disk` opens: one Arrow file, batch by batch, hashed on its way.

`Dataset.save_to_disk` would need a dataset that exists already, and write everything twice. The two small files beside
the data are the ones it writes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from datasets import DatasetInfo, Features, List, Value

from llmos_workers.prepare.tokenizing import Rows

DATA_NAME: Final = "data-00000-of-00001.arrow"
_TRAINED: Final = {"input_ids": List(Value("int32")), "labels": List(Value("int32"))}
_OTHER: Final = {"other_ids": List(Value("int32")), "other_labels": List(Value("int32"))}
_ASKED: Final = {"prompt_ids": List(Value("int32")), "completion": Value("string")}
_WRITE_BYTES: Final = 1 << 20


class HashingFile:
    """The file that pyarrow writes to: one that knows the sha256 of what it holds."""

    def __init__(self, path: Path) -> None:
        """Open the file."""
        self._file = path.open("wb", buffering=_WRITE_BYTES)
        self.sha256 = hashlib.sha256()
        self.closed = False

    def write(self, data: bytes) -> int:
        """Write, and hash."""
        self.sha256.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        """Give everything to the system."""
        self._file.flush()

    def close(self) -> None:
        """Give everything to the disk."""
        if not self.closed:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self.closed = True

    def abandon(self) -> None:
        """Give the file back, whatever is in it."""
        self.closed = True
        with contextlib.suppress(OSError):
            self._file.close()


class Store:
    """A folder of examples that is being written.

    `is_asked` adds the columns of suites: the prompt and its answer; `is_paired` those of the second one of a pair.
    """

    def __init__(self, folder: Path, *, is_asked: bool, is_paired: bool = False) -> None:
        """Make the folder and open its file."""
        folder.mkdir(parents=True)
        self._folder, self._is_asked = folder, is_asked
        columns = _TRAINED | (_OTHER if is_paired else {}) | (_ASKED if is_asked else {})
        self._features = Features(columns)
        self._file = HashingFile(folder / DATA_NAME)
        self._writer = pa.ipc.new_stream(pa.PythonFile(self._file, mode="w"), self._features.arrow_schema)
        self._content = hashlib.sha256()
        self.count = 0
        self.tokens = 0

    def write(self, rows: Rows, answers: list[str | None]) -> None:
        """Write a batch; `answers` are the completions, None where nothing is asked."""
        if not len(rows.prompts):
            return
        sides = [rows] if rows.other is None else [rows, rows.other]
        arrays = [_build_lists(values, side.bounds) for side in sides for values in (side.ids, side.labels)]
        if self._is_asked:
            widths = np.where([answer is None for answer in answers], 0, rows.prompts)
            starts = rows.bounds[:-1]
            kept = np.concatenate(
                [np.arange(start, start + width) for start, width in zip(starts, widths, strict=True)]
            )
            bounds = np.concatenate([[0], np.cumsum(widths)])
            arrays += [_build_lists(rows.ids[kept.astype(np.int64)], bounds), pa.array(answers, pa.string())]
        self._writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=self._features.arrow_schema))
        for part in (part for side in sides for part in (np.diff(side.bounds), side.ids, side.labels)):
            self._content.update(part.tobytes())
        self.count += len(rows.prompts)
        self.tokens += sum(len(side.ids) for side in sides)

    def finish(self) -> tuple[str, dict[str, str]]:
        """Complete the folder; return the digest of the examples, and the sha256 of each file by its name."""
        self._writer.close()
        self._file.close()
        content = self._content.hexdigest()
        DatasetInfo(features=self._features).write_to_directory(str(self._folder))
        state: dict[str, Any] = {
            "_data_files": [{"filename": DATA_NAME}],
            "_fingerprint": content[:16],
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": None,
        }
        (self._folder / "state.json").write_text(json.dumps(state, indent=2, sort_keys=True))
        names = {DATA_NAME: self._file.sha256.hexdigest()}
        for path in sorted(self._folder.iterdir()):
            if path.name not in names:
                names[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
                _sync(path)
        _sync(self._folder)
        return content, {f"{self._folder.name}/{name}": sha256 for name, sha256 in sorted(names.items())}

    def close(self) -> None:
        """Give the file back, whatever is in it."""
        self._file.abandon()


def _build_lists(values: npt.NDArray[np.int32], bounds: npt.NDArray[np.int64]) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(bounds.astype(np.int32)), pa.array(values, pa.int32()))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
