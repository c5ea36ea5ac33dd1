"""A small cluster in which the ledger's plans are carried out: gangs as values, and what a cluster would do to them.

It checks on its own, by counting, what must hold at every moment; none of the ledger's code is used for that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial

from llmos_operator.planning.quota import (
    Gang,
    GangKind,
    GangState,
    Ledger,
    Node,
    Placement,
    Quota,
    QuotaPlan,
    QuotaRules,
    Snapshot,
    Stop,
    Swap,
    TenantQuota,
)

H100 = "h100"
HOLDING = {GangState.STARTING, GangState.RUNNING, GangState.STOPPING, GangState.ENDING}
STANDING = {GangState.STARTING, GangState.RUNNING}
LEAVING = {GangState.STOPPING, GangState.ENDING}
Write = Callable[[], None]


def tenant(
    name: str,
    guaranteed: int = 0,
    *,
    borrow: int | None = None,
    lend: int | None = None,
    cohort: str = "all",
    weight: float = 1.0,
    **more: Quota,
) -> TenantQuota:
    """A tenant with a quota of h100, and of further classes by name."""
    return TenantQuota(name, cohort, weight, {H100: Quota(guaranteed, borrow, lend), **more})


def nodes(count: int, accelerators: int = 8, class_name: str = H100, *, domains: int = 1) -> tuple[Node, ...]:
    """Equal nodes, spread over some domains."""
    return tuple(
        Node(
            f"{class_name}-{number:03}", class_name, accelerators, domain=f"d{number % domains}" if domains > 1 else ""
        )
        for number in range(count)
    )


class World:
    """Gangs, nodes and tenants, and a clock that stands until it is moved."""

    def __init__(
        self,
        tenants: Iterable[TenantQuota],
        supply: Iterable[Node],
        *,
        costs: Mapping[str, float] | None = None,
        rules: QuotaRules | None = None,
        grace_s: float = 60.0,
    ) -> None:
        self.now_s = 1000.0
        self.tenants = {each.name: each for each in tenants}
        self.nodes = {each.name: each for each in supply}
        self.costs = dict(costs or {})
        self.rules = rules or QuotaRules()
        self.grace_s = grace_s
        self.gangs: dict[str, Gang] = {}
        self.swaps: list[Swap] = []
        self.asked: list[tuple[str, str]] = []
        """Who was asked to go for whom, in order."""
        self.born = 0

    # What users and the cluster do

    def want(
        self,
        tenant_name: str,
        accelerators: int = 1,
        *,
        pods: int = 1,
        kind: GangKind = GangKind.JOB,
        name: str = "",
        owner: str = "",
        priority: int = 0,
        classes: tuple[str, ...] = (H100,),
        min_runtime_s: float = 0.0,
        selector: frozenset[tuple[str, str]] = frozenset(),
    ) -> str:
        """Ask for a gang of `pods` pods with so many accelerators each; return its id."""
        self.born += 1
        name = name or f"{tenant_name}-{self.born}"
        self.gangs[name] = Gang(
            id=name,
            tenant=tenant_name,
            owner=owner or name,
            kind=kind,
            classes=classes,
            pods=pods,
            accelerators_per_pod=accelerators,
            priority=priority,
            created_s=self.now_s,
            node_selector=selector,
            min_runtime_s=min_runtime_s,
            grace_s=self.grace_s,
        )
        return name

    def change(self, name: str, **fields: object) -> None:
        self.gangs[name] = replace(self.gangs[name], **fields)  # type: ignore[arg-type]  # test data

    def finish(self, name: str) -> None:
        del self.gangs[name]

    def pass_time(self, seconds: float) -> None:
        self.now_s += seconds

    def in_state(self, *states: GangState) -> list[str]:
        return [name for name, gang in self.gangs.items() if gang.state in states]

    def run_what_starts(self) -> None:
        for name in self.in_state(GangState.STARTING):
            self.change(name, state=GangState.RUNNING, since_s=self.now_s)

    def answer(self, name: str) -> None:
        stop = self.gangs[name].stop
        assert stop is not None
        self.change(name, stop=replace(stop, is_answered=True), saved_s=self.now_s)

    def clear(self, name: str) -> None:
        """The pods of an ending gang are gone: a job or a withdrawn gang waits again, a replica is no more."""
        gang = self.gangs[name]
        if gang.kind is GangKind.JOB or gang.stop is None:
            fields = {"state": GangState.WAITING, "placement": None, "stop": None, "reservation": None}
            self.change(name, **fields, since_s=self.now_s)
        else:
            self.finish(name)

    def let_go_who_leaves(self) -> None:
        """Everybody who was asked answers, and everybody who ends is gone."""
        for name in self.in_state(GangState.STOPPING):
            self.answer(name)
        for name in self.in_state(GangState.ENDING):
            self.clear(name)

    # The operator

    def snapshot(self) -> Snapshot:
        return Snapshot(
            now_s=self.now_s,
            tenants=tuple(self.tenants.values()),
            nodes=tuple(self.nodes.values()),
            gangs=tuple(self.gangs.values()),
            costs=self.costs,
            swaps=tuple(self.swaps),
            rules=self.rules,
        )

    def step(self) -> QuotaPlan:
        """Plan from what is seen, and carry it out."""
        plan = Ledger(self.snapshot()).plan(self.now_s)
        for write in self.writes(plan):
            write()
        return plan

    def settle(self, rounds: int = 60, *, seconds: float = 1.0) -> int:
        """Let everything succeed until nothing is left to do; return how many gangs were asked to go."""
        before = len(self.asked)
        for _ in range(rounds):
            plan = self.step()
            self.check()
            self.run_what_starts()
            moving = self.in_state(*LEAVING)
            self.let_go_who_leaves()
            if plan.is_empty() and not moving:
                return len(self.asked) - before
            self.pass_time(seconds)
        raise AssertionError(f"the plans never come to rest: {self.asked[before:][-8:]}")

    def writes(self, plan: QuotaPlan) -> list[Write]:
        """The single writes of a plan; an operator may be killed between any two of them."""
        writes: list[Write] = [partial(self.swaps.append, swap) for swap in plan.swaps]
        writes += [self._write(unreserve.gang_id, reservation=None) for unreserve in plan.unreserve]
        for ask in plan.ask:
            stop = Stop(ask.for_id, self.now_s, ask.deadline_s)
            writes.append(self._write_stop(ask.gang_id, ask.for_id, GangState.STOPPING, stop))
        for end in plan.end:
            known = self.gangs[end.gang_id].stop
            stop = known or Stop(end.for_id, self.now_s, self.now_s, is_answered=True)
            writes.append(self._write_stop(end.gang_id, "" if known else end.for_id, GangState.ENDING, stop))
        for withdraw in plan.withdraw:
            fields: dict[str, object] = {"attempts": withdraw.attempts, "retry_at_s": withdraw.retry_at_s, "stop": None}
            writes.append(self._write(withdraw.gang_id, state=GangState.ENDING, since_s=self.now_s, **fields))
        writes += [self._write(reserve.gang_id, reservation=reserve.reservation) for reserve in plan.reserve]
        for admit in plan.admit:
            fields = {"placement": admit.placement, "admitted_s": self.now_s, "reservation": None}
            writes.append(self._write(admit.gang_id, state=GangState.STARTING, since_s=self.now_s, **fields))
        return writes

    def _write(self, name: str, **fields: object) -> Write:
        return lambda: self.change(name, **fields) if name in self.gangs else None

    def _write_stop(self, name: str, for_id: str, state: GangState, stop: Stop) -> Write:
        def write() -> None:
            if for_id:
                self.asked.append((name, for_id))
            self.change(name, state=state, since_s=self.now_s, stop=stop)

        return write

    # What must always hold

    def check(self) -> None:
        """No node holds more than it has, and no class more than all nodes."""
        held: Counter[str] = Counter()
        for gang in self.gangs.values():
            if gang.state in HOLDING and gang.placement is not None:
                held.update(dict.fromkeys(gang.placement.nodes, 0))
                for name in gang.placement.nodes:
                    held[name] += gang.accelerators_per_pod
        for name, count in held.items():
            if name in self.nodes:
                assert count <= self.nodes[name].accelerators - self.nodes[name].taken, f"{name} holds {count}"

    def used(self, tenant_name: str, class_name: str = H100, states: Iterable[GangState] = HOLDING) -> int:
        """Accelerators that a tenant holds."""
        return sum(
            gang.accelerators
            for gang in self.gangs.values()
            if gang.tenant == tenant_name
            and gang.state in states
            and gang.placement is not None
            and gang.placement.class_name == class_name
        )

    def check_quota(self, class_name: str = H100) -> None:
        """The sums of the quota, counted from the gangs."""
        capacity = sum(n.accelerators - n.taken for n in self.nodes.values() if n.class_name == class_name)
        quotas = {name: each.quotas.get(class_name, Quota(0, 0)) for name, each in self.tenants.items()}
        used = {name: self.used(name, class_name) for name in self.tenants}
        spare = max(0, capacity - sum(quota.guaranteed for quota in quotas.values()))
        over: Counter[str] = Counter()
        lent: Counter[str] = Counter()
        for name, quota in quotas.items():
            if quota.borrow_limit is not None:
                assert used[name] <= quota.guaranteed + quota.borrow_limit, f"{name} is over its limit"
            lendable = quota.guaranteed if quota.lend_limit is None else min(quota.lend_limit, quota.guaranteed)
            cohort = self.tenants[name].cohort or f"alone {name}"
            over[cohort] += max(0, used[name] - (quota.guaranteed - lendable))
            lent[cohort] += lendable
        excess = sum(max(0, over[cohort] - lent[cohort]) for cohort in over)
        assert excess <= spare, f"{excess} borrowed beyond what is lent, {spare} are spare"

    def share(self, tenant_name: str, states: Iterable[GangState] = STANDING) -> float:
        """Borrowed accelerators by cost and weight."""
        each = self.tenants[tenant_name]
        units = sum(
            self.costs.get(name, 1.0) * max(0, self.used(tenant_name, name, states) - quota.guaranteed)
            for name, quota in each.quotas.items()
        )
        return units / each.weight

    def place(self, name: str, *on: str, state: GangState = GangState.RUNNING, admitted_s: float | None = None) -> None:
        """Put a gang onto nodes as if it had been there before."""
        since_s = self.now_s if admitted_s is None else admitted_s
        class_name = self.nodes[on[0]].class_name
        self.change(name, state=state, placement=Placement(class_name, on), admitted_s=since_s, since_s=since_s)


def world_in_which_a_claim_ends(size: int) -> World:
    """When "top" is served nothing is left of a's guarantee beside it for "claim", so "small" is behind nobody."""
    world = World([tenant("a", 8), tenant("b", 2)], nodes(1, size))
    world.place(world.want("a", 4, name="low"), "h100-000")
    world.place(world.want("b", 2, name="b-low"), "h100-000")
    world.want("a", 8, priority=5, name="claim")
    world.want("a", 1, priority=10, name="top")
    world.want("a", 1, name="small")
    world.want("b", 2, priority=9, name="borrower")
    return world
