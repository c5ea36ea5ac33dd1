"""What SIGTERM does before a program listens to it. Imported first, so it imports nothing of ours.

The kernel ignores signals of PID 1 for which it has no handler, so a pod that is deleted while Python still imports, or
while a step runs that never listens, would hold its accelerator until the end of its grace period.
"""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import NoReturn


def end_on_sigterm() -> None:
    """End at once on SIGTERM, until somebody installs a handler that knows better."""
    signal.signal(signal.SIGTERM, _end)


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    # Not SystemExit: that waits for threads. What a step leaves half done, the next one continues or removes.
    os._exit(128 + number)
