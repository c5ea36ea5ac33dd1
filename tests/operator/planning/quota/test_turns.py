"""A gang that its own tenant's limit keeps out gets its turn before what its tenant asks for later."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.api.reasons import Reason
from llmos_operator.planning.quota import (
    GangKind,
    GangState,
    Ledger,
    Node,
    Placement,
    Quota,
    QuotaRules,
    Reservation,
    Stop,
)
from llmos_operator.planning.quota.turns import compute_turn
from tests.operator.planning.quota.world import World, nodes, tenant

RULES = QuotaRules(patience_s=60, reservation_s=100)


def world_at_its_limit() -> World:
    """Tenant a holds 4 of at most 4 in small gangs, and waits longer than it has patience for one of 4."""
    world = World([tenant("a", 4, borrow=0), tenant("b", 4)], nodes(1), rules=RULES)
    for number in range(4):
        world.place(world.want("a", name=f"old-{number}"), "h100-000")
    world.want("a", 4, name="large")
    world.pass_time(RULES.patience_s)
    return world


def starts_beside(world: World, size: int) -> bool:
    """Whether a small gang starts though a large one of its tenant waits beyond patience."""
    world.want("a", size, name="large")
    world.pass_time(RULES.patience_s)
    small = world.want("a")
    return admitted(world) == [small]


def admitted(world: World) -> list[str]:
    return [admit.gang_id for admit in world.step().admit]


@settings(max_examples=40, deadline=None)
@given(longest_s=st.integers(1, 400), seed=st.integers(0, 2**16), limit=st.integers(2, 8), borrowed=st.integers(0, 8))
def test_small_gangs_that_never_stop_coming_starve_no_large_one_of_their_own_tenant(
    longest_s: int, seed: int, limit: int, borrowed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311 - it decides nothing but what the test does
    borrow = min(borrowed, limit)
    world = World([tenant("a", limit - borrow, borrow=borrow), tenant("b", 0)], nodes(2), rules=RULES)
    ledger, ends = Ledger(world.snapshot()), dict[str, float]()
    large = world.want("a", limit, name="large")
    begin_s = world.now_s
    ledger.observe(world.gangs[large])
    # It is seen only after the first small ones have taken all there is.
    world.change(large, retry_at_s=world.now_s + 2)
    ledger.observe(world.gangs[large])
    while world.gangs[large].state is GangState.WAITING:
        for name in [name for name, end_s in ends.items() if end_s <= world.now_s]:
            del ends[name]
            world.finish(name)
            ledger.forget(name)
        while sum(gang.state is GangState.WAITING for gang in world.gangs.values()) < limit + 1:
            ledger.observe(world.gangs[world.want("a")])
        plan = ledger.plan(world.now_s)
        for write in world.writes(plan):
            write()
        for admit in plan.admit:
            ends[admit.gang_id] = world.now_s + chance.uniform(1, longest_s)
        world.check_quota()
        assert world.now_s - begin_s <= RULES.patience_s + 5 * max(longest_s, RULES.reservation_s) + 2
        world.pass_time(1)


@given(st.floats(0, 1e8))
def test_turns_and_breaks_alternate_are_of_one_length_and_grow_up_to_a_length(waited_s: float) -> None:
    is_turn, until_s = compute_turn(waited_s, RULES)
    assert until_s > waited_s
    length_s = 100.0
    begin_s = 60.0
    while begin_s + 2 * length_s <= waited_s:
        begin_s, length_s = begin_s + 2 * length_s, min(2 * length_s, 4096 * 100.0)
    assert is_turn == (begin_s <= waited_s < begin_s + length_s)
    assert until_s in (60.0, begin_s + length_s, begin_s + 2 * length_s)


def test_what_comes_later_waits_in_the_turn_starts_in_the_break_and_says_so() -> None:
    world = world_at_its_limit()
    world.finish("old-0")
    world.want("a", name="small")
    assert admitted(world) == []
    told = {each.gang_id: each for each in Ledger(world.snapshot()).report().waiting}
    assert told["small"].reason is Reason.WaitsForRoom
    assert "Tenant a's large needs 4 h100, waits since 00:16:40 UTC and comes first: until 00:19:20 UTC" in (
        told["small"].message
    )
    assert "Tenant a holds 3 of at most 4 h100; this needs 4" in told["large"].message
    world.pass_time(99)
    assert admitted(world) == []
    world.pass_time(1)
    assert admitted(world) == ["small"]
    world.finish("old-1")
    world.pass_time(100)
    world.want("a", name="later")
    assert admitted(world) == []
    world.pass_time(199)
    assert admitted(world) == []


def test_whoever_plans_on_looks_again_when_the_turn_ends() -> None:
    world = world_at_its_limit()
    world.finish("old-0")
    small = world.want("a", name="small")
    ledger = Ledger(world.snapshot())
    moment_s, plan = world.now_s, ledger.plan(world.now_s)
    while not plan.admit:
        assert plan.next_s is not None
        moment_s, plan = plan.next_s, ledger.plan(plan.next_s)
    assert [admit.gang_id for admit in plan.admit] == [small]
    assert moment_s == world.now_s + 100


def test_it_starts_as_soon_as_the_limit_allows_and_then_so_does_what_waited_behind_it() -> None:
    world = World([tenant("a", 6, borrow=0)], nodes(1), rules=RULES)
    for number in range(4):
        world.place(world.want("a", name=f"old-{number}"), "h100-000")
    world.want("a", 4, name="large")
    world.pass_time(60)
    small = [world.want("a") for _ in range(3)]
    ledger = Ledger(world.snapshot())
    assert ledger.plan(world.now_s).admit == ()
    for name in ("old-0", "old-1"):
        ledger.forget(name)
    assert [admit.gang_id for admit in ledger.plan(world.now_s).admit] == ["large"]
    ledger.forget("old-2")
    assert [admit.gang_id for admit in ledger.plan(world.now_s).admit] == small[:1]


def test_it_ends_when_the_gang_is_deleted() -> None:
    world = world_at_its_limit()
    world.finish("old-0")
    small = world.want("a")
    ledger = Ledger(world.snapshot())
    assert ledger.plan(world.now_s).admit == ()
    ledger.forget("large")
    assert [admit.gang_id for admit in ledger.plan(world.now_s).admit] == [small]


def test_it_holds_back_nobody_else() -> None:
    world = world_at_its_limit()
    world.finish("old-0")
    more_important = world.want("a", priority=100)
    others = [world.want("b") for _ in range(4)]
    assert sorted(admitted(world)) == sorted([more_important, *others])


def test_another_class_is_open() -> None:
    each = tenant("a", 4, borrow=0, l4=Quota(4))
    world = World([each], [*nodes(1), *nodes(1, class_name="l4")], rules=RULES)
    for _ in range(3):
        world.place(world.want("a"), "h100-000")
    world.want("a", 4, name="large")
    world.pass_time(60)
    either = world.want("a", classes=("h100", "l4"))
    assert admitted(world) == [either]
    placement = world.gangs[either].placement
    assert placement is not None
    assert placement.class_name == "l4"


@pytest.mark.parametrize("kind", [GangKind.REPLICA, GangKind.BURST])
def test_nothing_is_kept_back_for_what_replicas_that_stay_keep_out(kind: GangKind) -> None:
    world = World([tenant("a", 4, borrow=0)], nodes(1), rules=RULES)
    world.place(world.want("a", kind=kind), "h100-000")
    assert starts_beside(world, 4)


def test_nor_for_what_replicas_of_another_tenant_keep_out_by_their_guarantee() -> None:
    world = World([tenant("a", 4, borrow=4), tenant("b", 4)], nodes(1), rules=RULES)
    for _ in range(4):
        world.place(world.want("b", kind=GangKind.REPLICA), "h100-000")
    world.place(world.want("a"), "h100-000")
    assert starts_beside(world, 8)


def test_a_replica_that_its_pool_needs_does_not_wait_for_another_pool_s_turn() -> None:
    world = World([tenant("a", 8, borrow=0)], nodes(1), rules=RULES)
    world.place(world.want("a", 5, min_runtime_s=1e6), "h100-000")
    world.want("a", 4, kind=GangKind.REPLICA)
    world.pass_time(60)
    other = world.want("a", kind=GangKind.REPLICA)
    assert admitted(world) == [other]


def test_several_that_are_kept_out_take_no_more_turns_than_one() -> None:
    world = World([tenant("a", 8, borrow=0)], nodes(1), rules=RULES)
    world.place(world.want("a", 4, name="long"), "h100-000")
    for size in (8, 7, 6, 5):
        world.want("a", size)
        world.pass_time(75)
    world.want("a", name="small")
    barred = 0
    for _ in range(600):
        barred += not Ledger(world.snapshot()).plan(world.now_s).admit
        world.pass_time(10)
    assert 250 <= barred <= 350


def test_what_others_take_meanwhile_changes_no_turn_unnoticed() -> None:
    """A ledger that is kept looked no more at those who waited when the turn had ended with another tenant's gain."""
    world = World([tenant("a", 0, borrow=4), tenant("b"), tenant("c")], nodes(2), rules=RULES)
    for number in range(2):
        world.place(world.want("b", min_runtime_s=1e6), f"h100-00{number}")
    world.place(world.want("a", 2, name="old"), "h100-000", state=GangState.STOPPING)
    world.change("old", stop=Stop("x", world.now_s, world.now_s + 1e6))
    world.want("c", 8)
    world.want("a", 4, name="large")
    world.pass_time(60)
    world.want("a", name="small")
    ledger = Ledger(world.snapshot())
    for _ in range(2):
        for write in world.writes(ledger.plan(world.now_s)):
            write()
    ledger.observe(world.gangs[world.want("b", 5)])
    for _ in range(3):
        plan = ledger.plan(world.now_s)
        assert plan == Ledger(world.snapshot()).plan(world.now_s)
        for write in world.writes(plan):
            write()
        world.pass_time(10)


def test_nor_for_what_is_larger_than_the_limit_or_all_nodes() -> None:
    for size, supply in ((5, nodes(1)), (4, nodes(2, 3))):
        world = World([tenant("a", 4, borrow=0)], supply, rules=RULES)
        world.place(world.want("a"), "h100-000")
        assert starts_beside(world, size)


def test_nobody_is_asked_to_go_for_what_has_to_wait_for_the_turn() -> None:
    world = World([tenant("a", 4, borrow=4), tenant("b", 0)], nodes(1), rules=RULES)
    for number in range(5):
        world.place(world.want("a", name=f"old-{number}"), "h100-000")
    for _ in range(3):
        world.place(world.want("b", kind=GangKind.BURST), "h100-000")
    world.want("a", 8, name="large")
    world.pass_time(60)
    world.finish("old-0")
    world.finish("old-1")
    world.want("a", name="small")
    plan = world.step()
    assert (plan.admit, plan.ask, plan.reserve) == ((), (), ())


def test_nor_for_what_replicas_leave_no_node_large_enough_for() -> None:
    world = World([tenant("a", 8, borrow=0), tenant("b", 8)], nodes(2), rules=RULES)
    for number in range(2):
        world.place(world.want("b", kind=GangKind.REPLICA), f"h100-00{number}")
    world.place(world.want("a"), "h100-000")
    assert starts_beside(world, 8)


def test_one_that_fits_the_limit_and_lacks_room_takes_no_turn_from_one_that_the_limit_keeps_out() -> None:
    zone = frozenset({("zone", "x")})
    supply = (Node("n0", "h100", 8, labels=zone), Node("n1", "h100", 8))
    world = World([tenant("a", 8, borrow=0), tenant("b", 8)], supply, rules=RULES)
    world.place(world.want("b", 7, min_runtime_s=1e6), "n0")
    world.place(world.want("a", name="old"), "n1")
    world.want("a", 2, selector=zone, name="first")
    world.want("a", 8, name="large")
    world.pass_time(60)
    world.want("a", name="small")
    ledger = Ledger(world.snapshot())
    assert ledger.plan(world.now_s, reclaim=False).admit == ()
    told = next(each for each in ledger.report().waiting if each.gang_id == "small")
    assert "Tenant a's large needs 8 h100" in told.message


def test_whom_the_limit_keeps_out_by_itself_is_told_so_and_not_of_turns() -> None:
    world = world_at_its_limit()
    world.want("a", name="small")
    told = next(each for each in Ledger(world.snapshot()).report().waiting if each.gang_id == "small")
    assert told.reason is Reason.QuotaExceeded
    assert "Tenant a holds 4 of at most 4 h100" in told.message


def test_one_that_loses_its_reservation_in_a_look_has_its_turn_in_the_same_look() -> None:
    world = World([tenant("a", 8, borrow=0), tenant("b", 8)], nodes(2), rules=RULES)
    world.place(world.want("a", name="old"), "h100-000")
    for number in range(2):
        world.place(world.want("b", 4), f"h100-00{number}")
    world.want("a", 6, name="L")
    world.want("a", 2, name="M")
    world.pass_time(270)
    world.change("L", reservation=Reservation(Placement("h100", ("h100-000",)), world.now_s - 50))
    world.want("a", name="small")
    ledger = Ledger(world.snapshot())
    for write in world.writes(ledger.plan(world.now_s)):
        write()
    world.pass_time(51)
    assert ledger.plan(world.now_s) == Ledger(world.snapshot()).plan(world.now_s)


def test_a_turn_whose_gang_became_less_important_is_another_one() -> None:
    world = World([tenant("a", 4, borrow=0, l4=Quota(4, 0))], [*nodes(1), *nodes(1, 8, "l4")], rules=RULES)
    world.place(world.want("a"), "h100-000")
    world.place(world.want("a", classes=("l4",)), "l4-000")
    world.want("a", 4, name="L1")
    world.want("a", 4, name="L2", classes=("l4",), priority=10)
    world.pass_time(70)
    world.want("a", name="sh")
    world.want("a", name="sl", classes=("l4",))
    ledger = Ledger(world.snapshot())
    assert ledger.plan(world.now_s).admit == ()
    world.pass_time(1)
    world.change("L1", since_s=world.now_s)
    world.change("L2", priority=-10)
    for name in ("L1", "L2"):
        ledger.observe(world.gangs[name])
    plan = ledger.plan(world.now_s)
    assert [admit.gang_id for admit in plan.admit] == ["sl"]
