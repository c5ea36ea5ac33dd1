"""The witness of the story of kills: it sees every step, and that two attempts did not do the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from e2e.support.trainers import build_reader, parse_run, read_recorded_step


def tell(*files: list[list[float]]) -> str:
    return json.dumps({"files": files, "output": {"adapter_model.safetensors": "abc"}})


def test_steps_that_were_done_again_count_once_and_the_slowest_is_known() -> None:
    run = parse_run(tell([[1, 2.5, 10.0], [2, 2.25, 11.0], [3, 2.0, 14.0]], [], [[3, 2.0, 90.0], [4, 1.5, 91.0]]))
    assert run.losses == {1: 2.5, 2: 2.25, 3: 2.0, 4: 1.5}
    assert run.slowest_step_s == 3.0, "the pause between attempts is no step"
    assert run.output == {"adapter_model.safetensors": "abc"}


def test_another_loss_of_the_same_step_is_named() -> None:
    run = parse_run(tell([[3, 2.0, 1.0]], [[3, 2.5, 2.0]]))
    with pytest.raises(AssertionError, match=r"step 3 was 2\.0 in one attempt and 2\.5"):
        assert run.losses


def test_the_step_of_an_attempt_is_read_from_its_own_record(tmp_path: Path) -> None:
    for number, (attempt, step) in enumerate([(1, 7), (3, 9)], start=1):
        record = json.dumps({"attempt": attempt, "step": step})
        (tmp_path / f"{number:05d}.json").write_text(record.ljust(4095) + "\n")
    (tmp_path / "00003.json").write_text("")  # An attempt has opened it, and written nothing yet.
    assert read_recorded_step(tmp_path, 3) == 9
    assert read_recorded_step(tmp_path, 1) == 7
    assert read_recorded_step(tmp_path, 4) == -1
    assert read_recorded_step(tmp_path / "nowhere", 1) == -1


def test_the_reader_only_reads() -> None:
    spec = build_reader("ns", "calm-work")["spec"]
    assert spec["restartPolicy"] == "Never"
    claim, temporary = spec["volumes"]
    assert claim == {"name": "work", "persistentVolumeClaim": {"claimName": "calm-work"}}
    assert temporary == {"name": "tmp", "emptyDir": {}}
    mounts = {mount["name"]: mount.get("readOnly") for mount in spec["containers"][0]["volumeMounts"]}
    assert mounts == {"work": True, "tmp": None}
