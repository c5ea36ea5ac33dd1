"""Programs are recognised by more than their pid, and end when they should. Real processes, no mocks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.cluster.errors import ClusterError
from e2e.cluster.processes import Component, Processes, parse_stat

SLEEP = Component("sleeper", ("/bin/sleep", "300"))


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    started = Processes(tmp_path / "run", tmp_path / "logs")
    yield started
    started.stop_all(())


def wait_until_gone(pid: int) -> None:
    for _ in range(100):
        try:
            if parse_stat(Path(f"/proc/{pid}/stat").read_text())[1] in "ZX":
                return
        except (FileNotFoundError, ProcessLookupError):
            return
        time.sleep(0.05)
    pytest.fail(f"process {pid} still runs")


def test_a_program_that_runs_as_defined_is_left_alone(processes: Processes) -> None:
    assert processes.start(SLEEP)
    pid = processes.pid("sleeper")
    assert not processes.start(SLEEP)
    assert processes.pid("sleeper") == pid


def test_a_program_whose_definition_or_files_changed_is_restarted(processes: Processes, tmp_path: Path) -> None:
    processes.start(SLEEP)
    before = processes.pid("sleeper")
    config = tmp_path / "config"
    assert processes.start(Component("sleeper", SLEEP.argv, files={config: "new"}))
    assert config.read_text() == "new"
    assert processes.pid("sleeper") not in {None, before}


def test_another_starter_recognises_the_program(processes: Processes, tmp_path: Path) -> None:
    processes.start(SLEEP)
    assert Processes(tmp_path / "run", tmp_path / "logs").pid("sleeper") == processes.pid("sleeper")


def test_a_pid_that_now_belongs_to_a_foreign_process_is_never_killed(processes: Processes, tmp_path: Path) -> None:
    processes.start(SLEEP)
    ours = processes.pid("sleeper")
    time.sleep(0.05)  # The kernel counts start times in hundredths of a second.
    with subprocess.Popen(["/bin/sleep", "300"]) as foreign:
        record = tmp_path / "run" / "sleeper.pid"
        original = record.read_text()
        record.write_text(original.replace(f"\n{ours} ", f"\n{foreign.pid} "))
        try:
            assert processes.pid("sleeper") is None
            processes.stop("sleeper")
            assert foreign.poll() is None
        finally:
            foreign.kill()
            record.write_text(original)


def test_a_record_from_before_a_restart_of_the_machine_counts_for_nothing(processes: Processes, tmp_path: Path) -> None:
    processes.start(SLEEP)
    record = tmp_path / "run" / "sleeper.pid"
    original = record.read_text()
    record.write_text("another-boot\n" + original.partition("\n")[2])
    assert processes.pid("sleeper") is None
    record.write_text(original)


def test_a_program_that_ignores_sigterm_is_killed(processes: Processes) -> None:
    script = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(300)"
    )
    processes.start(Component("stubborn", (sys.executable, "-c", script)))
    while "on" not in processes.log_tail("stubborn"):
        time.sleep(0.02)
    processes.stop("stubborn", grace_s=0.2)
    assert processes.pid("stubborn") is None


def test_a_program_that_ended_by_itself_is_reported_with_its_last_words(processes: Processes) -> None:
    processes.start(Component("failing", ("/bin/sh", "-c", "echo no disk >&2; exit 3")))
    for _ in range(100):
        if processes.pid("failing") is None:
            break
        time.sleep(0.02)
    with pytest.raises(ClusterError, match="no disk"):
        processes.ensure_alive("failing")


def test_an_unknown_program_is_refused_with_the_known_names(processes: Processes) -> None:
    processes.start(SLEEP)
    with pytest.raises(ClusterError, match="Choose one of: sleeper"):
        processes.restart("nonsense")


def test_on_a_leash_a_program_ends_with_the_starter_even_when_that_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from e2e.cluster.processes import Component, Processes\n"
        f"p = Processes(Path({str(tmp_path)!r}), Path({str(tmp_path)!r}), die_with_parent=True)\n"
        "p.start(Component('sleeper', ('/bin/sleep', '300')))\n"
        "print(p.pid('sleeper'), flush=True); time.sleep(300)"
    )
    repository = Path(__file__).resolve().parents[2]
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=repository) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        os.kill(starter.pid, signal.SIGKILL)
    wait_until_gone(pid)


def test_process_names_with_blanks_and_parentheses_are_read_right() -> None:
    fields = " ".join(str(number) for number in range(4, 53))
    assert parse_stat(f"42 (a) b (c) S {fields}") == (42, "S", "22")
