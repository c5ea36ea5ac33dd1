"""Starts, recognises and ends the long-running programs of a cluster.

A program outlives the command that started it, so it is known by a pid file. A pid alone says nothing after a crash or
a restart of the machine: the file also holds the boot id and the start time that the kernel gave the process, and only
a process with the same three is ours. The file is written by the new process itself right before it becomes the
program (`exec` keeps pid and start time): there is no moment at which the program runs and is not recorded, whenever
its starter is killed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from e2e.cluster.errors import ClusterError

# On a leash (see Processes) the shell runs under it already, so a parent that died before is noticed here.
_RECORD_THEN_EXEC = (
    '[ -z "$LLMOS_LEASH_HOLDER" ] || [ "$PPID" = "$LLMOS_LEASH_HOLDER" ] || exit 1; '
    "cd / && read -r stat </proc/self/stat && read -r boot </proc/sys/kernel/random/boot_id && "
    'printf "%s\\n%s\\n" "$boot" "$stat" >"$0" && exec "$@"'
)
_START_TIME_FIELD = 19  # counted after the process name, which may itself hold blanks (man 5 proc, field 22)
_POLL_S = 0.05
STOP_GRACE_S = 3.0  # kube-apiserver would wait a minute for its watchers; nothing here needs a longer good-bye.


@dataclass(frozen=True)
class Component:
    """A program with its arguments and the files it reads. Two equal components need no restart."""

    name: str
    argv: tuple[str, ...]
    files: Mapping[Path, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)

    def as_record(self) -> str:
        digest = hashlib.sha256()
        for path, text in sorted(self.files.items()):
            digest.update(f"{path}\0{text}\0".encode())
        return json.dumps(
            {"argv": list(self.argv), "env": dict(self.env), "files_sha256": digest.hexdigest()}, indent=1
        )


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def parse_stat(stat: str) -> tuple[int, str, str]:
    """Pid, state letter and start time (clock ticks since boot) of a `/proc/PID/stat` line."""
    pid, _, rest = stat.partition(" ")
    fields = rest.rpartition(")")[2].split()
    return int(pid), fields[0], fields[_START_TIME_FIELD]


class Processes:
    """The programs of one cluster: definitions and pid files in `run_dir`, output in `log_dir`."""

    def __init__(self, run_dir: Path, log_dir: Path, *, die_with_parent: bool = False) -> None:
        """With `die_with_parent` the kernel ends the programs with the thread that started them (where util-linux's
        `setpriv` exists): for test fixtures, which must not leave anything even when they are killed."""
        self._run_dir = run_dir
        self._log_dir = log_dir
        self._setpriv = shutil.which("setpriv") if die_with_parent else None
        self._children: set[int] = set()

    def names(self) -> list[str]:
        """Every program that was started and not stopped on purpose, running or not."""
        return sorted(path.stem for path in self._run_dir.glob("*.pid"))

    def log_file(self, name: str) -> Path:
        return self._log_dir / f"{name}.log"

    def pid(self, name: str) -> int | None:
        """The pid of our running program; None when it has ended or when the pid now belongs to another process."""
        try:
            boot, _, stat = (self._run_dir / f"{name}.pid").read_text().strip().partition("\n")
            pid, _, started = parse_stat(stat)
            if pid in self._children:
                self._reap(pid)
            now_pid, state, now_started = parse_stat(Path(f"/proc/{pid}/stat").read_text())
        except (FileNotFoundError, ProcessLookupError, ValueError, IndexError):
            return None
        ours = (boot, pid, started) == (boot_id(), now_pid, now_started)
        return pid if ours and state not in "ZX" else None

    def start(self, component: Component) -> bool:
        """Make `component` run as defined. True when it was (re)started, False when it ran like this already."""
        self._run_dir.mkdir(parents=True, exist_ok=True)
        definition = self._run_dir / f"{component.name}.json"
        if self.pid(component.name) and definition.exists() and definition.read_text() == component.as_record():
            return False
        self.stop(component.name)
        for path, text in component.files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        definition.write_text(component.as_record())
        self._spawn(component.name, component.argv, component.env)
        return True

    def restart(self, name: str) -> None:
        """Start a program again as it was defined last."""
        definition = self._run_dir / f"{name}.json"
        if not definition.exists():
            known = ", ".join(sorted(path.stem for path in self._run_dir.glob("*.json"))) or "none"
            raise ClusterError(f"There is no component {name!r} in this cluster. Choose one of: {known}.")
        if self.pid(name) is None:
            record = json.loads(definition.read_text())
            self._spawn(name, tuple(record["argv"]), record["env"])

    def stop(self, name: str, *, grace_s: float = STOP_GRACE_S) -> None:
        """End a program: SIGTERM, and SIGKILL after `grace_s`. Does nothing when it does not run."""
        if pid := self.pid(name):
            os.kill(pid, signal.SIGTERM)
            if not self._wait_until_gone(name, grace_s):
                os.kill(pid, signal.SIGKILL)
                if not self._wait_until_gone(name, 10.0):
                    raise ClusterError(f"{name} (pid {pid}) does not end, even on SIGKILL. Look at /proc/{pid}/stack.")
        (self._run_dir / f"{name}.pid").unlink(missing_ok=True)

    def stop_all(self, order: tuple[str, ...], *, grace_s: float = STOP_GRACE_S) -> None:
        """Stop the programs named in `order` first, then whatever else was started."""
        for name in (*order, *self.names()):
            self.stop(name, grace_s=grace_s)

    def ensure_alive(self, name: str) -> None:
        """Raise with the end of its log when a program has ended by itself."""
        if self.pid(name) is None:
            raise ClusterError(f"{name} has ended. The last lines of {self.log_file(name)}:\n{self.log_tail(name)}")

    def log_tail(self, name: str, lines: int = 8) -> str:
        try:
            text = self.log_file(name).read_text(errors="replace")
        except FileNotFoundError:
            return "(no log)"
        return "\n".join(text.splitlines()[-lines:])

    def _spawn(self, name: str, argv: tuple[str, ...], env: Mapping[str, str]) -> None:
        self._log_dir.mkdir(parents=True, exist_ok=True)
        pid_file = self._run_dir / f"{name}.pid"
        pid_file.unlink(missing_ok=True)
        command = ["/bin/sh", "-c", _RECORD_THEN_EXEC, str(pid_file), *argv]
        env = {**env, "LLMOS_LEASH_HOLDER": ""}
        if self._setpriv:
            command = [self._setpriv, "--pdeathsig", "KILL", "--", *command]
            env = {**env, "LLMOS_LEASH_HOLDER": str(os.getpid())}
        # Not a Popen object: that would insist on being waited for, and these are meant to outlive us.
        pid = os.posix_spawn(
            command[0],
            command,
            {**os.environ, **env},
            setsid=True,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(self.log_file(name)), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
        )
        self._children.add(pid)
        deadline = time.monotonic() + 10.0
        while not pid_file.exists() or not pid_file.read_text().endswith("\n"):
            if self._reap(pid) or time.monotonic() > deadline:
                raise ClusterError(f"{name} could not be started:\n{self.log_tail(name)}")
            time.sleep(0.002)

    def _reap(self, pid: int) -> bool:
        """Take note of a child's end, so that it does not stay as a zombie. True when it has ended."""
        try:
            ended = os.waitpid(pid, os.WNOHANG)[0] == pid
        except ChildProcessError:
            ended = True
        if ended:
            self._children.discard(pid)
        return ended

    def _wait_until_gone(self, name: str, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while self.pid(name) is not None:
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
        return True
