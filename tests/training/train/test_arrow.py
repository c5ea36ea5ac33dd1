"""Folders of examples are read as `datasets` reads them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmos_workers.prepare.storing import Store
from llmos_workers.prepare.tokenizing import Rows
from llmos_workers.train.arrow import ArrowFolder
from llmos_workers.train.dataset import PreparedDataset
from llmos_workers.train.errors import NotPreparedError

_IDS = st.lists(st.integers(-100, 2**31 - 1), max_size=6)
_ROWS = st.lists(
    st.fixed_dictionaries({"input_ids": _IDS, "labels": _IDS, "completion": st.none() | st.text(max_size=4)}),
    min_size=1,
    max_size=12,
)
_INTEGERS = datasets.List(datasets.Value("int32"))
_FEATURES = datasets.Features(input_ids=_INTEGERS, labels=_INTEGERS, completion=datasets.Value("string"))


def _save(folder: Path, rows: Sequence[dict[str, Any]], shards: int = 1) -> None:
    dataset = datasets.Dataset.from_list(list(rows), features=_FEATURES)
    dataset.save_to_disk(str(folder), num_shards=shards)


@pytest.fixture(autouse=True)
def _no_bars() -> None:
    datasets.disable_progress_bars()


@settings(max_examples=40, deadline=None)
@given(rows=_ROWS, shards=st.integers(1, 4), data=st.data())
def test_rows_are_those_of_datasets(rows: list[dict[str, Any]], shards: int, data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=8))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "train"
        _save(folder, rows, min(shards, len(rows)))
        expected, read = datasets.load_from_disk(str(folder)), ArrowFolder(folder)
        assert len(read) == len(expected)
        assert read.table.column_names == expected.column_names
        ours = read.read(chosen)
        for column in ("input_ids", "labels"):
            assert all(each.dtype == np.int64 for each in ours[column])
            assert [each.tolist() for each in ours[column]] == expected[chosen][column]
            numbers = [
                np.asarray(expected.with_format("numpy")[row][column], dtype=np.int64).tolist() for row in chosen
            ]
            assert [each.tolist() for each in ours[column]] == numbers
        assert ours["completion"] == expected[chosen]["completion"]


def test_what_the_step_prepare_writes_in_several_batches_is_read(tmp_path: Path) -> None:
    store = Store(tmp_path / "train", is_asked=True)
    for first in (0, 100):
        ids = np.arange(first, first + 6, dtype=np.int32)
        bounds = np.array([0, 4, 6])
        store.write(Rows(ids=ids, labels=ids, bounds=bounds, prompts=np.array([2, 1])), ["yes", None])
    store.finish()
    read = ArrowFolder(tmp_path / "train")
    rows = read.read([3, 0, 1])
    assert [each.tolist() for each in rows["input_ids"]] == [[104, 105], [0, 1, 2, 3], [4, 5]]
    assert [each.tolist() for each in rows["prompt_ids"]] == [[], [0, 1], []]
    assert rows["completion"] == [None, "yes", None]


def test_the_data_stays_on_the_disk(tmp_path: Path) -> None:
    _save(tmp_path / "train", [{"input_ids": [7] * 1000, "labels": [7] * 1000, "completion": None}] * 500)
    before = pyarrow.total_allocated_bytes()
    read = ArrowFolder(tmp_path / "train")
    assert read.table.nbytes > 2_000_000
    assert pyarrow.total_allocated_bytes() - before < 100_000


@pytest.mark.parametrize("row", [-1, 2])
def test_there_is_no_row_before_the_first_nor_after_the_last(tmp_path: Path, row: int) -> None:
    _save(tmp_path / "train", [{"input_ids": [1], "labels": [1], "completion": None}] * 2)
    with pytest.raises(IndexError):
        ArrowFolder(tmp_path / "train").read([row])


def test_chosen_rows_are_saved_in_their_order(tmp_path: Path) -> None:
    rows = [{"input_ids": [number], "labels": [number], "completion": None} for number in range(5)]
    chosen = datasets.Dataset.from_list(rows, features=_FEATURES).select([4, 2])
    chosen.save_to_disk(str(tmp_path / "train"))
    assert [each.tolist() for each in ArrowFolder(tmp_path / "train").read([0, 1])["input_ids"]] == [[4], [2]]


@pytest.mark.parametrize("name", ["_indices_files", "_indices_data_files"])
def test_a_file_of_indices_is_refused(tmp_path: Path, name: str) -> None:
    digest = "sha256:" + "b" * 64
    _save(tmp_path / "train", [{"input_ids": [1], "labels": [1], "completion": None}])
    (tmp_path / "manifest.json").write_text(json.dumps({"digest": "sha256:d", "baseDigest": digest}))
    assert len(PreparedDataset(tmp_path, digest).train) == 1
    path = tmp_path / "train" / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: [{"filename": "indices.arrow"}]}))
    with pytest.raises(NotPreparedError, match=r"names a file of indices.*Delete"):
        PreparedDataset(tmp_path, digest)


@pytest.mark.parametrize(
    "text", ["", "{}", '{"_data_files": [{"filename": "data-00009.arrow"}]}', '{"_data_files": []}']
)
def test_a_damaged_folder_is_no_prepared_dataset(tmp_path: Path, text: str) -> None:
    digest = "sha256:" + "b" * 64
    _save(tmp_path / "train", [{"input_ids": [1], "labels": [1], "completion": None}])
    (tmp_path / "manifest.json").write_text(json.dumps({"digest": "sha256:d", "baseDigest": digest}))
    (tmp_path / "train" / "state.json").write_text(text)
    with pytest.raises(NotPreparedError, match="cannot be read"):
        PreparedDataset(tmp_path, digest)
