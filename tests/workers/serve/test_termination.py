"""The termination message always fits kubelet's 4096 bytes and always says what matters."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from llmos.api.reasons import Reason
from llmos_workers.serve.failures import Failure
from llmos_workers.serve.termination import MAX_BYTES, build_termination_message, write_termination_message

any_text = st.text(st.characters(), max_size=3000)


@given(any_text, st.lists(any_text, max_size=30), any_text)
def test_it_is_json_of_at_most_4096_bytes_whatever_was_printed(cause: str, lines: list[str], telling: str) -> None:
    message = build_termination_message(Failure(Reason.EngineCrashed, cause, tuple(lines), telling))
    assert len(message) <= MAX_BYTES
    assert json.loads(message)["reason"] == "EngineCrashed"


def test_a_short_failure_is_told_whole(tmp_path: Path) -> None:
    path = tmp_path / "termination-log"
    write_termination_message(path, Failure(Reason.EngineCrashed, "It ended.", ("one", "", "två")))
    told = json.loads(path.read_bytes())
    assert told["message"].startswith("It ended. ")
    assert told["detail"] == "one\ntvå"


def test_the_oldest_lines_give_way_and_the_telling_one_stays() -> None:
    lines = tuple(f"line {number} {'ä' * 200}" for number in range(60))
    detail = json.loads(build_termination_message(Failure(Reason.OutOfMemory, "x", lines, lines[3])))["detail"]
    kept = detail.split("\n")
    assert kept[0] == lines[3]
    assert kept[1] == "..."
    assert kept[-1] == lines[-1]
    assert 3 < len(kept) < 20


def test_an_endless_cause_leaves_the_reason_readable() -> None:
    told = json.loads(build_termination_message(Failure(Reason.OutOfMemory, "\x00" * 9000, ("line",))))
    assert told["reason"] == "OutOfMemory"
    assert told["detail"] == ""
