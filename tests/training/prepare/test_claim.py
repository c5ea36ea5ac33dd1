"""The claim: from the fetch step to the gate and back, and when it is full."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from datasets import List, Value, load_from_disk

from llmos.api import Reason
from llmos_workers.fetch.main import main as fetch
from llmos_workers.prepare import preparing
from llmos_workers.prepare.errors import ClaimFullError
from llmos_workers.prepare.preparing import translate_disk_errors
from llmos_workers.prepare.storing import HashingFile, Store
from llmos_workers.prepare.tokenizing import Rows
from tests.training.prepare.conftest import Desk
from tests.training.prepare.values import chat, write_lines


def test_what_is_fetched_is_prepared_and_then_not_fetched_again(desk: Desk, tmp_path: Path) -> None:
    write_lines(tmp_path / "mount/set/train.jsonl", [chat(f"q {number}", f"a {number}") for number in range(30)])
    dest = desk.places.source("dataset")
    arguments = ["dataset", "--source", "pvc://claim/set", "--dest", str(dest), "--pvc-mount", str(tmp_path / "mount")]
    assert fetch(arguments) == 0
    report = desk.prepare(validate={"maxErrorRate": 0}).report
    assert report.lines == 30
    assert [path.name for path in dest.iterdir()] == [preparing.PREPARED_NAME]
    (tmp_path / "mount/set/train.jsonl").unlink()
    assert fetch(arguments) == 0
    assert desk.prepare(validate={"maxErrorRate": 0}).report == report


def fill(file: HashingFile) -> None:
    batch = pa.RecordBatch.from_arrays([pa.array(np.arange(1 << 20))], ["a"])
    with translate_disk_errors(), pa.ipc.new_stream(pa.PythonFile(file, mode="w"), batch.schema) as writer:
        writer.write_batch(batch)


def test_a_full_claim_is_named_with_the_field_that_makes_it_larger() -> None:
    file = HashingFile(Path("/dev/full"))  # the device that is always full makes the real error
    with pytest.raises(ClaimFullError, match=r"spec\.checkpoint\.storage\.size") as info:
        fill(file)
    file.abandon()
    assert info.value.reason == Reason.DiskFull


def test_columns_are_small_integers(tmp_path: Path) -> None:
    store = Store(tmp_path / "train", is_asked=False)
    ids = np.arange(5, dtype=np.int32)
    store.write(Rows(ids, ids, np.array([0, 2, 5]), np.array([1, 1])), [None, None])
    content, files = store.finish()
    assert len(content) == 64
    assert set(files) == {"train/data-00000-of-00001.arrow", "train/dataset_info.json", "train/state.json"}
    dataset = load_from_disk(str(tmp_path / "train"))
    assert dataset.features == {"input_ids": List(Value("int32")), "labels": List(Value("int32"))}
    assert dataset["input_ids"][:] == [[0, 1], [2, 3, 4]]
