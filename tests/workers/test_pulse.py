"""Signs of life: what counts as one, and that they are said."""

from __future__ import annotations

import io
import json
import time
from dataclasses import dataclass

import pytest

from llmos_workers import pulse
from llmos_workers.pulse import Activity, Pulse


@dataclass
class Machine:
    """A clock, and the processor time that the process used."""

    now_s: float = 1000.0
    used_s: float = 1.0

    def activity(self) -> Activity:
        return Activity(lambda: self.now_s, lambda: self.used_s)

    def pass_time(self, seconds: float, *, working: float = 0.0) -> None:
        """Let time pass; the process works this share of it."""
        self.now_s += seconds
        self.used_s += seconds * working


def test_using_the_processor_is_a_sign_of_life_while_something_is_loaded() -> None:
    machine = Machine()
    activity = machine.activity()
    machine.pass_time(60, working=0.5)
    assert activity.look().timestamp() == 1060
    machine.pass_time(60)
    assert activity.look().timestamp() == 1060, "it waits for a storage that does not answer"


def test_what_the_thread_itself_uses_is_no_sign_of_life() -> None:
    machine = Machine()
    activity = machine.activity()
    for _ in range(200):
        machine.pass_time(pulse.INTERVAL_S, working=pulse.EFFORT / 10)
        activity.look()
    assert activity.at.timestamp() == 1000


def test_waiting_busily_for_an_accelerator_is_no_sign_of_life_but_a_step_is() -> None:
    machine = Machine()
    activity = machine.activity()
    with activity.by_effort(False):
        machine.pass_time(60, working=1.0)
        assert activity.look().timestamp() == 1000
        activity.touch()
        assert activity.look().timestamp() == 1060
        with activity.by_effort():
            machine.pass_time(60, working=1.0)
            assert activity.look().timestamp() == 1120
        machine.pass_time(60, working=1.0)
        assert activity.look().timestamp() == 1120


def test_lines_come_from_the_start_on_while_the_task_is_deep_in_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "INTERVAL_S", 0.01)
    out = io.StringIO()
    told = Pulse(out, "loading")
    told.start()
    deadline_s = time.monotonic() + 10
    while len(out.getvalue().splitlines()) < 3 and time.monotonic() < deadline_s:
        time.sleep(0.01)
    told.close()
    written = out.getvalue()
    time.sleep(0.05)
    assert out.getvalue() == written, "nothing comes after it was closed"
    lines = [json.loads(line) for line in written.splitlines()]
    assert len(lines) >= 3
    assert {(line["event"], line["phase"]) for line in lines} == {("progress", "loading")}
    assert all(line["activeAt"].endswith("+00:00") for line in lines)


def test_whoever_has_more_to_say_takes_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "INTERVAL_S", 0.01)
    out, said = io.StringIO(), []
    told = Pulse(out, "loading")
    told.speak = lambda: said.append("more")
    told.start()
    deadline_s = time.monotonic() + 10
    while len(said) < 3 and time.monotonic() < deadline_s:
        time.sleep(0.01)
    told.close()
    assert len(said) >= 3
    assert out.getvalue() == ""
