"""Several accelerators in one pod: a process for each, which are ranks of one gang like those of other pods.

    SIGTERM                   goes to all of them
    all ended well            what the first one said
    one failed                the others learn it from each other (`meeting.py`) and end; who does not is killed
    one was killed            128 + the signal, and no message, as if the only process had been killed

The pod says what one process would: the reason of the first that failed by itself, with the progress that the first
rank told.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

from llmos.api import Reason
from llmos_workers.train.termination import build_message, write_message

log = logging.getLogger(__name__)

FOLLOW_S: Final = 60.0
"""Longest life of the others after one has failed."""
_LOOK_S: Final = 0.2
_IN_ORDER: Final = frozenset({0, 143})
_FACTS: Final = ("progress", "lastCheckpoint", "lostAcceleratorSeconds")


@dataclass
class _Rank:
    """One process, and where it says how it ended."""

    process: subprocess.Popen[bytes]
    message_path: Path
    code: int | None = None

    @property
    def message(self) -> dict[str, Any]:
        try:
            message = json.loads(self.message_path.read_text())
        except (OSError, ValueError):
            return {}
        return message if isinstance(message, dict) else {}


def launch(arguments: Sequence[str], count: int) -> int:
    """Run `count` ranks of this pod with these arguments, and return the exit code of the pod."""
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
        ranks = [_start(arguments, number, Path(folder)) for number in range(count)]

        def pass_on(number: int, _frame: FrameType | None) -> None:
            for rank in ranks:
                if rank.code is None:
                    rank.process.send_signal(number)

        signal.signal(signal.SIGTERM, pass_on)
        return _conclude(ranks, _wait(ranks))


def _start(arguments: Sequence[str], number: int, folder: Path) -> _Rank:
    path = folder / f"rank-{number}"
    command = [sys.executable, "-m", "llmos_workers.train", *arguments, f"--local-rank={number}"]
    environment = {**os.environ, "LLMOS_TERMINATION_LOG": str(path), "LLMOS_LAUNCHED": "true"}
    return _Rank(subprocess.Popen(command, env=environment), path)


def _wait(ranks: Sequence[_Rank]) -> list[_Rank]:
    """Wait for all, and return them in the order in which they ended."""
    ended: list[_Rank] = []
    deadline_s: float | None = None
    while len(ended) < len(ranks):
        for rank in ranks:
            if rank.code is None and (code := rank.process.poll()) is not None:
                rank.code = code
                ended.append(rank)
        if deadline_s is None and any(rank.code not in _IN_ORDER for rank in ended):
            deadline_s = time.monotonic() + FOLLOW_S
        if deadline_s is not None and time.monotonic() > deadline_s:
            for rank in ranks:
                if rank.code is None:
                    rank.process.kill()
        time.sleep(_LOOK_S)
    return ended


def _conclude(ranks: Sequence[_Rank], ended: Sequence[_Rank]) -> int:
    failed = [rank for rank in ended if rank.code not in _IN_ORDER]
    if not failed:
        write_message(json.dumps(ranks[0].message))
        return ranks[0].code or 0
    own = [rank for rank in failed if rank.message.get("reason") != Reason.PeerLost]
    first = (own or failed)[0]
    log.error("a rank of this pod ended with %s", first.code)
    if not first.message:
        return 128 - first.code if first.code is not None and first.code < 0 else first.code or 1
    facts = {name: value for name, value in ranks[0].message.items() if name in _FACTS}
    write_message(build_message({**first.message, **facts}))
    return first.code or 1
