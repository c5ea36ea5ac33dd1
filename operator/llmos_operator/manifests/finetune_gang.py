"""What the pods of an attempt on several nodes have beside what every train pod has: how many they are, who is who, and
where they meet.

Rank 0 has the name of the attempt, as a single pod has, and others have their rank behind it. It is found by a headless
Service of the job's, from the moment it has an address.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from llmos.api import FineTuneJob
from llmos.api.names import (
    COMPONENT_TRAIN,
    CPU_CLASS,
    GANG_PORT,
    LABEL_GANG_SIZE,
    LABEL_JOB,
    LABEL_RANK,
    LABEL_REPLICA,
)
from llmos_operator.manifests.common import Manifest
from llmos_operator.manifests.gang import build_meeting_service
from llmos_operator.planning.quota_nodes import DOMAIN_LABELS

HOST_LABEL: Final = "kubernetes.io/hostname"


@dataclass(frozen=True)
class Member:
    """One of the pods of an attempt."""

    attempt: str
    rank: int = 0
    size: int = 1

    @property
    def name(self) -> str:
        """Name of the pod."""
        return f"{self.attempt}-{self.rank}" if self.rank else self.attempt


def compute_peers_name(job: FineTuneJob) -> str:
    """Return the name of the Service by which the ranks of a job's attempts find rank 0."""
    return f"{job.metadata.name}-train"


def build_peers_service(job: FineTuneJob) -> Manifest:
    """Return the headless Service of the leaders of a job's attempts, which are found before they are ready."""
    return build_meeting_service(job, compute_peers_name(job), LABEL_JOB, COMPONENT_TRAIN, {"gang": GANG_PORT})


def build_member_labels(member: Member) -> dict[str, str]:
    """Return the labels that tell which pod of its attempt it is."""
    size = {LABEL_GANG_SIZE: str(member.size)} if member.size > 1 else {}
    return {LABEL_REPLICA: member.attempt, LABEL_RANK: str(member.rank), **size}


def build_member_args(job: FineTuneJob, member: Member, meet_timeout_s: float) -> tuple[str, ...]:
    """Return what the trainer is told about its gang, and the ranks of its pod; nothing where it trains alone."""
    count = job.spec.trainer.accelerators_per_node
    processes = ("--processes", str(count)) if count > 1 else ()
    if member.size == 1:
        return processes
    leader = f"{member.attempt}.{compute_peers_name(job)}.{job.metadata.namespace}.svc"
    return (
        *("--nodes", str(member.size)),
        *("--rank", str(member.rank)),
        *("--leader", leader),
        *("--meet-timeout", f"{meet_timeout_s:g}"),
        *processes,
    )


def build_member_placement(job: FineTuneJob, member: Member) -> Manifest:
    """Return what the spec of a pod says about its place in the gang."""
    if member.size == 1:
        return {}
    on_processor = job.spec.trainer.accelerator.class_name == CPU_CLASS
    # Accelerators want a fast network between them; on the processor two pods of one node would share its cores.
    kind, keys = ("podAntiAffinity", (HOST_LABEL,)) if on_processor else ("podAffinity", DOMAIN_LABELS)
    peers = {"matchLabels": {LABEL_JOB: job.metadata.name, LABEL_REPLICA: member.attempt}}
    preferred = [{"weight": 100, "podAffinityTerm": {"topologyKey": key, "labelSelector": peers}} for key in keys]
    name: Manifest = {"hostname": member.name, "subdomain": compute_peers_name(job)} if member.rank == 0 else {}
    return {**name, "affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}}
