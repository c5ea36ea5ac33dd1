"""Reads a folder of `datasets` (`Dataset.save_to_disk`) without that library, whose import takes a second.

    state.json         names the Arrow files, in their order
    data-*.arrow       streams of record batches; they are memory-mapped, so that their size is no matter

Rows are looked up batch by batch: pyarrow's `take` may copy a column whole where it has several batches.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow

_STATE: Final = "state.json"
_INDICES: Final = ("_indices_files", "_indices_data_files")
"""Under these names older versions of the library kept a choice of rows beside the data."""


class ArrowFolder:
    """One folder. Lists of numbers become int64 arrays, all else what Python has for it."""

    def __init__(self, folder: Path) -> None:
        """Map its files.

        Raises:
            OSError, ValueError, KeyError: it cannot be read, or has rows chosen or reordered beside the data.
        """
        self.table = pyarrow.concat_tables(_map(folder / name) for name in _read_names(folder / _STATE))
        self._batches = self.table.to_batches()
        self._ends = list(accumulate(batch.num_rows for batch in self._batches))

    def __len__(self) -> int:
        """Number of rows."""
        return int(self.table.num_rows)

    def read(self, rows: Sequence[int]) -> dict[str, list[Any]]:
        """The columns of some rows.

        Raises:
            IndexError: there is no such row.
        """
        places = [self._find(int(row)) for row in rows]
        return {
            name: [_convert(batch.column(column)[row]) for batch, row in places]
            for column, name in enumerate(self.table.column_names)
        }

    def _find(self, row: int) -> tuple[pyarrow.RecordBatch, int]:
        if not 0 <= row < len(self):
            raise IndexError(row)
        number = bisect_right(self._ends, row)
        batch = self._batches[number]
        return batch, row - (self._ends[number] - batch.num_rows)


def _read_names(path: Path) -> list[str]:
    state = json.loads(path.read_bytes())
    if any(state.get(name) for name in _INDICES):
        raise ValueError(f"{path.name} names a file of indices: the rows have to be written in their order")
    return [str(each["filename"]) for each in state["_data_files"]]


def _map(path: Path) -> pyarrow.Table:
    return pyarrow.ipc.open_stream(pyarrow.memory_map(str(path), "r")).read_all()


def _convert(scalar: pyarrow.Scalar) -> Any:
    if not isinstance(scalar, pyarrow.ListScalar | pyarrow.LargeListScalar):
        return scalar.as_py()
    values = scalar.values
    return None if values is None else values.to_numpy(zero_copy_only=False).astype(np.int64)
