"""What an attempt is started with."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from llmos.api import FineTuneJob
from llmos_workers.train.meeting import Place
from llmos_workers.train.model import Device, observe_device


@dataclass(frozen=True)
class Options:
    """What the pod was started with."""

    job: FineTuneJob
    base: Path
    work: Path
    base_digest: str
    attempt: int
    accelerators: int
    metrics_port: int
    place: Place = field(default_factory=Place)
    local_rank: int = 0
    """Which accelerator of the pod is this process's."""
    processes: int = 1
    """Ranks in each pod."""
    is_sharded: bool = False
    """Whether the model is cut over the ranks."""
    teacher: Path | None = None
    """The model that teaches, for task distill. Each rank holds all of it."""
    teacher_digest: str = ""
    trial: int = 0
    """Number of the trial of a search; 0 for a job that trains once."""
    store_uri: str = ""
    """Folder of the job in an object store; empty where nothing is kept there."""

    @property
    def folder(self) -> Path:
        """Where checkpoints and result are."""
        return self.work / "trials" / str(self.trial) if self.trial else self.work


def observe_rank_device(options: Options) -> Device:
    """What this rank computes on."""
    device = observe_device(options.job.spec.trainer.precision, options.local_rank)
    return replace(device, caches=not options.is_sharded)
