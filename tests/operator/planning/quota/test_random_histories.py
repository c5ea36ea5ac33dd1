"""Any order of demands, ends, answers, node losses, quota changes and operator restarts keeps the promises.

Beside a ledger that is told of each change, and the one that an operator keeps from snapshot to snapshot, a new one is
built from what is observed at every step: the three must decide the same. What was planned is carried out write by
write; the operator may be killed between any two writes, and any of them may be refused.

LLMOS_HISTORIES says how many there are; but in CI, each run has others.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmos_operator.planning.quota import (
    Gang,
    GangKind,
    GangState,
    KeptLedger,
    Ledger,
    Node,
    Quota,
    QuotaPlan,
    QuotaRules,
    TenantQuota,
    kept,
    ledger,
)
from llmos_operator.planning.quota.order import Keys, Order
from llmos_operator.planning.quota.queues import Line
from tests.operator.planning.quota.promises import come_to_rest, count_slots, covered, is_over, is_room_enough
from tests.operator.planning.quota.world import H100, STANDING, World, nodes


class CheckedOrder(Order):
    """An order that reckons all keys anew whenever a line is taken."""

    def __init__(self, lines: Iterable[Line], keys: Keys) -> None:
        self.left = {line.shape: line for line in lines}
        self.keys = keys
        super().__init__(self.left.values(), keys)

    def push_served(self, line: Line) -> None:
        self.left[line.shape] = line
        super().push_served(line)

    def push_woken(self, line: Line) -> None:
        self.left[line.shape] = line
        super().push_woken(line)

    def pop(self) -> Line | None:
        line = super().pop()
        anew = Keys(self.keys.holdings, self.keys.lines, self.keys.aging_s)
        heads = {shape: head for shape, other in self.left.items() if (head := other.head()) is not None}
        if line is None:
            assert not heads
        else:
            first = min(heads.values(), key=anew.key_of)
            assert line.head() == first, f"{first.id} is first"
            del self.left[line.shape]
        return line


@pytest.fixture(autouse=True, scope="module")
def _check_the_order_and_keep_ledgers() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "Order", CheckedOrder)
        # Half of what passes time here is longer; a ledger that is kept far beyond it decides the same.
        patch.setattr(kept, "LONGEST_S", 1e6)
        yield


HISTORIES = int(os.environ.get("LLMOS_HISTORIES", "500"))
NAMES = ("a", "b", "c")
CLASSES = ((H100,), (H100,), (H100, "l4"), ("l4", H100))
RULES = QuotaRules(patience_s=200, reservation_s=200, swap_window_s=100, bind_deadline_s=60, aging_s=5)


class History:
    """A world of three tenants, two classes and some nodes, to which things happen by chance."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)  # noqa: S311 - it decides nothing but what the test does
        pick = self.chance.choice
        domains = pick([1, 1, 2])
        supply = [*nodes(pick([1, 2, 3]), pick([4, 8, 8, 1]), domains=domains), *nodes(pick([0, 1, 2]), 4, "l4")]
        tenants = [self.tenant(name) for name in NAMES]
        self.world = World(tenants, supply, costs={H100: 1.0, "l4": 0.3}, rules=RULES, grace_s=30)
        self.ledger = Ledger(self.world.snapshot())
        self.kept = KeptLedger()
        self.seen: dict[str, Gang] = {}
        self.happened: list[str] = []

    def tenant(self, name: str) -> TenantQuota:
        pick = self.chance.choice
        quotas = {class_name: self.quota() for class_name in pick([(H100, "l4"), (H100, "l4"), (H100,)])}
        return TenantQuota(name, pick(["x", "x", "x", "y", ""]), pick([1, 1, 0.5, 3]), quotas)

    def quota(self) -> Quota:
        pick = self.chance.choice
        return Quota(pick([0, 2, 4, 8]), pick([None, None, None, 0, 3]), pick([None, None, None, 0, 2]))

    def go(self, steps: int) -> None:
        for _ in range(steps):
            happening = self.chance.choice(HAPPENINGS)
            self.happened.append(happening.__name__)
            happening(self)
            self.world.check()
            self.plan()

    def some(self, *states: GangState) -> str | None:
        names = self.world.in_state(*states)
        return self.chance.choice(names) if names else None

    def want(self) -> None:
        pick = self.chance.choice
        for _ in range(pick([1, 2, 6])):
            tenant, kind = pick([*NAMES, *NAMES, "nobody"]), pick(list(GangKind))
            self.world.want(
                tenant,
                pick([1, 1, 1, 2, 2, 4, 8]),
                pods=pick([1, 1, 1, 1, 2, 3]),
                kind=kind,
                classes=pick(CLASSES),
                priority=pick([0, 0, 1, 3]),
                owner=f"{tenant}-{kind.name}",
                min_runtime_s=pick([0, 0, 50]),
            )

    def pass_time(self) -> None:
        self.world.pass_time(self.chance.choice([1.0, 10.0, 31.0, 61.0, 250.0]))

    def bind(self) -> None:
        self.world.run_what_starts()

    def finish(self) -> None:
        if self.world.gangs:
            self.world.finish(self.chance.choice(sorted(self.world.gangs)))

    def answer(self) -> None:
        name = self.some(GangState.STOPPING)
        if name:
            self.world.answer(name)

    def clear(self) -> None:
        name = self.some(GangState.ENDING)
        if name:
            self.world.clear(name)

    def lose_a_pod(self) -> None:
        name = self.some(GangState.RUNNING)
        if name:
            self.world.change(name, state=GangState.STARTING, since_s=self.world.now_s)

    def save(self) -> None:
        name = self.some(GangState.RUNNING)
        if name:
            self.world.change(name, saved_s=self.world.now_s)

    def lose_a_node(self) -> None:
        name = self.chance.choice(sorted(self.world.nodes))
        if len(self.world.nodes) == 1:
            return
        del self.world.nodes[name]
        for gang in list(self.world.gangs.values()):
            if gang.placement is not None and name in gang.placement.nodes:
                self.world.finish(gang.id)
        self.restart()

    def add_a_node(self) -> None:
        node = self.chance.choice([Node("new-1", H100, 8, domain="d0"), Node("new-2", "l4", 4)])
        self.world.nodes[node.name] = node
        self.restart()

    def change_a_quota(self) -> None:
        known = self.world.tenants[self.chance.choice(NAMES)]
        self.world.tenants[known.name] = replace(known, quotas={**known.quotas, H100: self.quota()})
        self.restart()

    def restart(self) -> None:
        self.ledger = Ledger(self.world.snapshot())
        self.seen = dict(self.world.gangs)

    def be_killed(self) -> None:
        """Only some of the writes are done, in any order, and a new operator looks at what is there."""
        writes = self.world.writes(Ledger(self.world.snapshot()).plan(self.world.now_s))
        self.chance.shuffle(writes)
        for write in writes[: self.chance.randint(0, len(writes))]:
            write()
        self.restart()

    def turn_into_another(self) -> None:
        """What a gang is changes: with the minimum of its pool, the range of its tenant, whose its namespace is."""
        if not self.world.gangs:
            return
        pick, name = self.chance.choice, self.chance.choice(sorted(self.world.gangs))
        known = self.world.gangs[name]
        happening = pick(["kind", "priority", "tenant", "classes", "size", "age"])
        if happening == "kind" and known.kind is not GangKind.JOB:
            self.world.change(name, kind=pick([GangKind.BURST, GangKind.REPLICA]))
        elif happening == "priority":
            self.world.change(name, priority=pick([0, 1, 3]))
        elif happening == "tenant":
            self.world.change(name, tenant=pick(NAMES))
        elif known.state is GangState.WAITING and known.reservation is None:
            if happening == "classes":
                self.world.change(name, classes=pick(CLASSES))
            elif happening == "size":
                self.world.change(name, accelerators_per_pod=pick([1, 2, 4]))
            else:
                self.world.change(name, created_s=known.created_s - pick([0.0, 10.0]))

    def come_in_another_order(self) -> None:
        """Also as other objects that are equal."""
        names = sorted(self.world.gangs)
        self.chance.shuffle(names)
        self.world.gangs = {name: replace(self.world.gangs[name]) for name in names}

    def be_refused(self) -> None:
        """Only some of the writes are taken, and the same operator goes on."""
        writes = self.world.writes(self.plan_with_kept())
        self.chance.shuffle(writes)
        for write in writes[: self.chance.randint(0, len(writes))]:
            write()
        self.restart()

    def plan_with_kept(self, *, reclaim: bool = True) -> QuotaPlan:
        opened = self.kept.open(self.world.snapshot())
        plan = opened.plan(self.world.now_s, reclaim=reclaim)
        self.kept.keep(opened)
        return plan

    def plan(self) -> None:
        """Observe what changed, in any order; plan, compare with a ledger built anew, carry out, and check."""
        world = self.world
        changed = [gang for name, gang in world.gangs.items() if self.seen.get(name) != gang]
        self.chance.shuffle(changed)
        for gang in changed:
            self.ledger.observe(gang)
        for name in self.seen.keys() - world.gangs.keys():
            self.ledger.forget(name)
        plan = self.ledger.plan(world.now_s)
        assert plan == Ledger(world.snapshot()).plan(world.now_s), "a new operator decides the same"
        if self.chance.random() < 0.2:
            snapshot = world.snapshot()
            hasty = Ledger(snapshot)
            assert hasty.plan(world.now_s, reclaim=False) == self.plan_with_kept(reclaim=False)
        assert plan == self.plan_with_kept(), "so does one that kept its ledger"
        self.carry_out(plan)
        self.seen = dict(world.gangs)
        assert {name: self.ledger.gang(name) for name in world.gangs} == world.gangs, "it knows what it did"

    def carry_out(self, plan: QuotaPlan) -> None:
        world = self.world
        before = dict(world.gangs)
        held = [class_name for class_name in (H100, "l4") if not is_over(world, class_name)]
        was_enough = is_room_enough(world)
        # What a guarantee covers is told by who stands once gangs were withdrawn and admitted.
        for write in world.writes(QuotaPlan(admit=plan.admit, withdraw=plan.withdraw)):
            write()
        covered_before = {name for tenant in NAMES for kind in (H100, "l4") for name in covered(world, tenant, kind)}
        for write in world.writes(replace(plan, admit=(), withdraw=())):
            write()
        asked = [(ask.gang_id, ask.for_id) for ask in plan.ask]
        asked += [(end.gang_id, end.for_id) for end in plan.end if before[end.gang_id].state in STANDING]
        for victim, winner in asked:
            self.check_victim(world.gangs[victim], world.gangs[winner], covered_before)
        for admit in plan.admit:
            self.check_admission(world.gangs[admit.gang_id])
        for class_name in held:
            assert not is_over(world, class_name), "no admission goes over a quota"
        assert is_room_enough(world) or not was_enough, "nobody is asked to go for somebody who then has no room"

    def check_victim(self, victim: Gang, winner: Gang, covered_before: set[str]) -> None:
        assert self.world.now_s - victim.admitted_s >= victim.min_runtime_s
        assert winner.reservation is not None, "room is kept for whom it is made"
        if victim.tenant != winner.tenant:
            assert victim.id not in covered_before, "only what is borrowed goes for others"
            return
        assert victim.kind is not GangKind.REPLICA or winner.kind is GangKind.REPLICA
        if (victim.kind is GangKind.REPLICA) == (winner.kind is GangKind.REPLICA):
            assert victim.priority < winner.priority, "only the less important goes for the own"

    def check_admission(self, gang: Gang) -> None:
        assert gang.placement is not None
        assert len(gang.placement.nodes) == gang.pods
        where = [self.world.nodes[name] for name in gang.placement.nodes]
        assert all(node.class_name == gang.placement.class_name for node in where)
        if len({node.domain for node in where}) > 1 and gang.pods > 1:
            empty = {name: node.accelerators for name, node in self.world.nodes.items()}
            for domain in {node.domain for node in where}:
                assert count_slots(self.world, gang, empty, gang.placement.class_name, domain) < gang.pods


HAPPENINGS: list[Callable[[History], None]] = [
    *[History.want] * 4,
    *[History.bind] * 4,
    *[History.pass_time] * 3,
    *[History.answer] * 3,
    *[History.clear] * 4,
    *[History.finish] * 2,
    History.save,
    History.lose_a_pod,
    History.lose_a_node,
    History.add_a_node,
    History.change_a_quota,
    History.restart,
    History.be_killed,
    History.be_refused,
    History.turn_into_another,
    History.come_in_another_order,
]


@pytest.mark.timeout(max(300, HISTORIES))
@settings(max_examples=HISTORIES, deadline=None)
@given(seed=st.integers(0, 2**32), steps=st.integers(1, 60))
def test_any_history_keeps_the_promises_and_comes_to_rest(seed: int, steps: int) -> None:
    history = History(seed)
    history.go(steps)
    come_to_rest(history.world)


@settings(max_examples=150, deadline=None)
@given(
    weights=st.lists(st.sampled_from([0.5, 1, 2, 3]), min_size=2, max_size=4),
    guarantees=st.lists(st.integers(0, 4), min_size=4, max_size=4),
    size=st.integers(4, 24),
    seed=st.integers(0, 2**16),
)
def test_shares_of_all_who_want_more_differ_by_less_than_a_gang_however_they_came(
    weights: list[float], guarantees: list[int], size: int, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311 - it decides nothing but what the test does
    tenants = [
        TenantQuota(f"t{number}", "x", weight, {H100: Quota(guaranteed)})
        for number, (weight, guaranteed) in enumerate(zip(weights, guarantees, strict=False))
    ]
    world = World(tenants, nodes(size, 1))
    for each in chance.sample(tenants, len(tenants)):
        for _ in range(size):
            world.want(each.name, kind=GangKind.BURST, owner=each.name)
        world.settle()
        world.pass_time(1000)
    world.settle()
    promised = sum(each.quotas[H100].guaranteed for each in tenants)
    for each in tenants:
        if promised <= size:
            assert world.used(each.name) >= each.quotas[H100].guaranteed, "a guarantee is never worth less than a part"
        for other in tenants:
            if promised <= size and world.used(other.name) > other.quotas[H100].guaranteed:
                assert world.share(each.name) + 1 / each.weight > world.share(other.name) - 1 / other.weight
    assert sum(world.used(each.name) for each in tenants) == size
