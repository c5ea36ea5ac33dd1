"""Ranks of one attempt as processes on this machine, that meet over the loopback device."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tests.training.train.world import DEADLINE_S, World, count_attempts, finish, steps_done, wait_for

END_S = 40.0
"""So long a rank may live that has lost another one."""


@dataclass(frozen=True)
class Rank(World):
    """One of several ranks on the same claim."""

    rank: int = 0
    size: int = 2
    port: int = 0
    meet_timeout_s: float = DEADLINE_S
    silence_s: float = 30.0
    is_sharded: bool = False
    processes: int = 1

    @property
    def arguments(self) -> list[str]:
        """Command line of the rank."""
        return [
            *super().arguments,
            f"--nodes={self.size // self.processes}",
            f"--rank={self.rank // self.processes}",
            f"--processes={self.processes}",
            f"--local-rank={self.rank % self.processes}",
            "--leader=127.0.0.1",
            f"--gang-port={self.port}",
            f"--meet-timeout={self.meet_timeout_s}",
            f"--accelerators={self.size}",
            f"--silence={self.silence_s}",
            *(["--sharded"] if self.is_sharded else []),
        ]

    @property
    def message_path(self) -> Path:
        """Stand-in for the termination log."""
        return self.work.with_name(f"{self.work.name}-termination-{self.rank}")

    @property
    def log_path(self) -> Path:
        """Standard output and error of the rank."""
        return self.work.with_name(f"{self.work.name}-log-{self.rank}")


def build_ranks(world: World, size: int = 2, **options: Any) -> list[Rank]:
    """The ranks of an attempt in a world, at a port that is free."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    same = {each.name: getattr(world, each.name) for each in fields(World)}
    return [Rank(**same, rank=rank, size=size, port=port, **options) for rank in range(size)]


def complete(world: World, size: int = 2, **options: Any) -> list[dict[str, Any]]:
    """Make an attempt of several ranks that must succeed, and return what each said."""
    ranks = build_ranks(world, size, **options)
    processes = [rank.start() for rank in ranks]
    codes = [finish(process) for process in processes]
    assert codes == [0] * size, [rank.log_path.read_text()[-3000:] for rank in ranks]
    return [rank.message for rank in ranks]


def start(ranks: Sequence[Rank]) -> list[BaseProcess]:
    """Begin an attempt, and return when it trains."""
    before = count_attempts(ranks[0])
    processes = [rank.start() for rank in ranks]
    begun = wait_for(lambda: count_attempts(ranks[0]) > before and steps_done(ranks[0]) > 0, processes[0])
    assert begun, [rank.log_path.read_text()[-2000:] for rank in ranks]
    return processes


def end_soon(process: BaseProcess) -> int:
    """Wait until a rank has ended by itself, and return its exit code."""
    began_s = time.monotonic()
    code = finish(process)
    assert time.monotonic() - began_s < END_S
    return code
