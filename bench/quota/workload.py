"""The demand: shaped like the baseline of Kueue's scheduler performance test.

`test/performance/scheduler/configs/baseline/generator.yaml` of kubernetes-sigs/kueue, commit ff69552e: 5 cohorts of 6
queues with a nominal quota of 20 and a borrowing limit of 100; each queue gets 350 small workloads (1 unit, 200 ms,
priority 50, one each 100 ms), 100 medium (5 units, 500 ms, priority 100, one each 500 ms) and 50 large (20 units, 1 s,
priority 200, one each 1.2 s). One unit is an accelerator here, and all times are stretched a thousandfold, so that a
small gang runs for 200 s and the ledger's own times (aging, patience, minimum run time) have their usual meaning.
Tenants begin a few seconds apart: all at the same instant would let the ledger decide for thirty at once.

At full use of the quota a queue's work takes (350 x 1 x 200 + 100 x 5 x 500 + 50 x 20 x 1000) / 20 = 66,000 s.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmos_operator.planning.quota import Gang, GangKind, Node, Quota, TenantQuota

STRETCH = 1000.0
ACCELERATOR = "gpu"
QUOTA = 20
BORROW_LIMIT = 100
GRACE_S = 10.0
MIN_RUNTIME_S = 60.0
OFFSET_S = 3.1
NODE = 8


@dataclass(frozen=True)
class Size:
    """One class of workloads of the generator; times in seconds, not stretched."""

    name: str
    count: int
    interval_s: float
    runtime_s: float
    accelerators: int
    priority: int


SIZES = (
    Size("small", 350, 0.1, 0.2, 1, 50),
    Size("medium", 100, 0.5, 0.5, 5, 100),
    Size("large", 50, 1.2, 1.0, 20, 200),
)
BURST_SIZE = Size("small", 500, 0.0, 0.001, 1, 50)


@dataclass(frozen=True)
class Job:
    """One workload: the gang that it asks for, and how long it runs."""

    gang: Gang
    size: str
    runtime_s: float


@dataclass(frozen=True)
class Workload:
    """Tenants, nodes and jobs in the order of their creation."""

    tenants: tuple[TenantQuota, ...]
    nodes: tuple[Node, ...]
    jobs: tuple[Job, ...]

    @property
    def accelerators(self) -> int:
        """Accelerators of all nodes."""
        return sum(node.accelerators for node in self.nodes)

    @property
    def work_s(self) -> float:
        """Seconds for which an accelerator is needed, summed over all jobs."""
        return sum(job.runtime_s * job.gang.accelerators for job in self.jobs)


def build_workload(
    *,
    cohorts: int = 5,
    queues: int = 6,
    part: float = 1.0,
    whole_nodes: bool = False,
    rush: bool = False,
    burst: bool = False,
) -> Workload:
    """Return the baseline, or a variant of it.

    Args:
        cohorts: cohorts of `queues` tenants each.
        queues: tenants of a cohort.
        part: part of the jobs of each tenant, for a short run.
        whole_nodes: nodes of 8 accelerators instead of one large node for each cohort; a medium gang is one pod of 5, a
            large one 5 pods of 4.
        rush: the first tenant of each cohort asks for all that it wants at the very beginning.
        burst: instead, each tenant asks for 500 small gangs at the very beginning, and the quota is far above need.
    """
    if burst:
        return _build_burst(cohorts * queues, max(1, round(BURST_SIZE.count * part)))
    names = [(f"t{cohort}-{queue}", f"cohort-{cohort}") for cohort in range(cohorts) for queue in range(queues)]
    quotas = {ACCELERATOR: Quota(QUOTA, BORROW_LIMIT)}
    tenants = tuple(TenantQuota(name, cohort, 1.0, quotas) for name, cohort in names)
    size = NODE if whole_nodes else queues * QUOTA
    nodes = tuple(Node(f"node-{number:04}", ACCELERATOR, size) for number in range(len(tenants) * QUOTA // size))
    jobs = [
        _build_job(
            tenant.name, each, number, offset * OFFSET_S, whole_nodes=whole_nodes, rush=rush and is_first(tenant.name)
        )
        for offset, tenant in enumerate(tenants)
        for each in SIZES
        for number in range(max(1, round(each.count * part)))
    ]
    return Workload(tenants, nodes, tuple(sorted(jobs, key=lambda job: (job.gang.created_s, job.gang.id))))


def _build_burst(tenants: int, count: int) -> Workload:
    quotas = {ACCELERATOR: Quota(2 * BURST_SIZE.count, 0)}
    nodes = tuple(Node(f"node-{number:04}", ACCELERATOR, 2 * BURST_SIZE.count) for number in range(tenants))
    jobs = [
        _build_job(f"t{number}", BURST_SIZE, each, 0.0, whole_nodes=False, rush=True)
        for number in range(tenants)
        for each in range(count)
    ]
    return Workload(
        tuple(TenantQuota(f"t{number}", "all", 1.0, quotas) for number in range(tenants)), nodes, tuple(jobs)
    )


def is_first(tenant: str) -> bool:
    """Whether it is the first tenant of its cohort, the one that may rush."""
    return tenant.endswith("-0")


def _build_job(tenant: str, size: Size, number: int, offset_s: float, *, whole_nodes: bool, rush: bool) -> Job:
    is_spread = whole_nodes and size.accelerators > NODE
    name = f"{tenant}-{size.name}-{number}"
    gang = Gang(
        id=name,
        tenant=tenant,
        owner=name,
        kind=GangKind.JOB,
        classes=(ACCELERATOR,),
        pods=size.accelerators // 4 if is_spread else 1,
        accelerators_per_pod=4 if is_spread else size.accelerators,
        priority=size.priority,
        created_s=0.0 if rush else STRETCH * size.interval_s * (number + 1) + offset_s,
        min_runtime_s=MIN_RUNTIME_S,
        grace_s=GRACE_S,
    )
    return Job(gang, size.name, STRETCH * size.runtime_s)
