"""Runs short commands and waits for conditions: the two things that every other module here needs."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from e2e.cluster.errors import ClusterError


def run(
    *argv: str | Path,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout_s: float = 120.0,
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end. With `check`, a failure becomes a ClusterError with what the command said."""
    command = [str(part) for part in argv]
    try:
        done = subprocess.run(
            command,
            input=stdin,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError as error:
        raise ClusterError(f"{command[0]} is not installed or not on PATH. Install it and try again.") from error
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"`{shlex.join(command)}` did not end within {timeout_s:.0f} s.") from error
    if check and done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip())[-2000:]
        raise ClusterError(f"`{shlex.join(command)}` failed with status {done.returncode}:\n{said}")
    return done


def wait_for(
    what: str, condition: Callable[[], bool], *, timeout_s: float, poll_s: float = 0.1, hint: str = ""
) -> None:
    """Poll until `condition` holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise ClusterError(f"{what} took longer than {timeout_s:.0f} s. {hint}".rstrip())
        time.sleep(poll_s)
