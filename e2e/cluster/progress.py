"""Says on stderr what is going on, so that stdout stays free for `--json` and `env`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

console = Console(stderr=True, highlight=False)

Update = Callable[[str], None]


def say(text: str) -> None:
    console.print(text, markup=False)


@contextmanager
def step(title: str, *, heartbeat_s: float = 15.0) -> Iterator[Update]:
    """One line per step with its duration. Yields a function that shows detail: live on a terminal, and at most once
    in `heartbeat_s` in a log file."""
    began = reported = time.monotonic()
    with console.status(title) as status:

        def update(detail: str) -> None:
            nonlocal reported
            now = time.monotonic()
            status.update(f"{title}: {detail}")
            if not console.is_terminal and now - reported >= heartbeat_s:
                reported = now
                say(f"  … {title}: {detail} ({now - began:.0f} s)")

        try:
            yield update
        except BaseException:
            say(f"  ✗ {title} ({time.monotonic() - began:.1f} s)")
            raise
    say(f"  ✓ {title} ({time.monotonic() - began:.1f} s)")
