"""Loops and losses that other schedulers had, played through this one. Each test names the issue."""

from __future__ import annotations

from llmos_operator.planning.quota import GangKind, GangState, Ledger
from tests.operator.planning.quota.world import World, nodes, tenant


def play(world: World, seconds: float = 4000.0, step_s: float = 20.0) -> int:
    """Let time pass while whoever lost its place asks for it again; return how many were asked to go."""
    asked = len(world.asked)
    for _ in range(int(seconds / step_s)):
        world.step()
        world.check()
        world.run_what_starts()
        world.let_go_who_leaves()
        world.pass_time(step_s)
    return len(world.asked) - asked


def test_kueue_3779_a_borrower_of_greater_share_does_not_displace_a_smaller_one_again_and_again() -> None:
    world = World([tenant("a", 3), tenant("b", 3), tenant("best-effort", 0)], nodes(1, 6))
    world.want("a", 5, name="a1")
    world.settle()
    world.want("best-effort", 1, name="be1", kind=GangKind.JOB)
    world.settle()
    world.want("a", 1, name="a2")
    assert play(world) == 0
    assert sorted(world.in_state(GangState.RUNNING)) == ["a1", "be1"]


def test_kueue_6774_tenants_without_weight_do_not_displace_each_other_for_ever() -> None:
    world = World([tenant("a", weight=0), tenant("b", weight=0)], nodes(1))
    for name in "ab":
        for _ in range(8):
            world.want(name, priority=ord(name))
    assert play(world) <= 8
    assert play(world) == 0
    assert len(world.in_state(GangState.RUNNING)) == 8


def test_kueue_6774_nor_do_tenants_of_so_great_a_weight_that_shares_hardly_differ() -> None:
    world = World([tenant("a", weight=10_000_000), tenant("b", weight=10_000_000)], nodes(1))
    for _ in range(8):
        world.want("a")
    world.settle()
    for _ in range(8):
        world.want("b")
    assert play(world) == 4
    assert play(world) == 0
    assert (world.used("a"), world.used("b")) == (4, 4)


def test_kueue_7101_a_gang_that_makes_shares_equal_gets_its_place_and_one_that_cannot_does_not_flap() -> None:
    def project_1_fills_the_cluster() -> World:
        world = World([tenant("p1"), tenant("p2")], nodes(8, 1))
        for _ in range(4):
            world.want("p1", 1, pods=2)
        world.settle()
        return world

    for pods, expected in ((6, 0), (5, 0), (4, 4), (3, 3)):
        world = project_1_fills_the_cluster()
        world.want("p2", 1, pods=pods)
        asked = play(world)
        assert world.used("p2") == expected, f"a gang of {pods}"
        assert asked == (0 if expected == 0 else 2)
        assert play(world) == 0


def test_kueue_14543_after_giving_back_no_victim_is_left_whom_the_rule_does_not_allow() -> None:
    # The taker's own small gangs go first, which lowers its share and would make the other tenant's gang fair game;
    # then they are given back, which raises it again.
    world = World([tenant("p"), tenant("t")], nodes(10, 1))
    for _ in range(4):
        world.want("p", 1, priority=0)
    world.want("p", 1, pods=2, priority=50)
    world.want("t", 1, pods=4)
    world.settle()
    world.want("p", 1, pods=4, name="hero", priority=10)
    world.settle()
    for victim, winner in world.asked:
        assert not (victim.startswith("t") and winner == "hero"), "p would hold more than t"
    assert play(world) <= 4
    assert play(world) == 0


def test_kueue_14543_a_victim_that_giving_back_made_illegal_drops_the_whole_plan() -> None:
    # With p's own small gang gone, both of t's on the first node are fair game. But its own is on the other node and is
    # given back, and then p would hold 3 by a weight of 2, and t 1: so nobody is asked to go.
    world = World([tenant("p", weight=2), tenant("t")], nodes(2, 2))
    for name, node in (("t", 0), ("t", 0), ("t", 1), ("p", 1)):
        world.place(world.want(name), f"h100-00{node}")
    world.want("p", 2, name="hero", priority=10)
    assert play(world) == 0


def test_kueue_14543_what_is_given_back_goes_to_whom_it_was_taken_for_and_not_to_the_victim() -> None:
    world = World([tenant("a", 4), tenant("b", 0)], nodes(1, 4))
    for _ in range(4):
        world.want("b", kind=GangKind.JOB, priority=100)
    world.settle()
    world.want("a", 4, name="mine")
    asked = play(world)
    assert asked == 4
    assert world.in_state(GangState.RUNNING) == ["mine"]


def test_kueue_6947_a_gang_that_can_never_fit_holds_nobody_up() -> None:
    world = World([tenant("a", 3), tenant("b", 0)], nodes(1, 3))
    world.want("b", 1)
    world.settle()
    world.want("a", 4, name="too-large")
    world.want("a", 3, name="fits")
    assert play(world) == 1
    assert world.in_state(GangState.RUNNING) == ["fits"]


def test_kueue_12541_a_tenant_alone_in_its_cohort_does_not_stop_the_ledger() -> None:
    world = World([tenant("alone", 2, cohort="")], nodes(1, 2))
    for _ in range(4):
        world.want("alone", priority=1)
    world.settle()
    world.want("alone", priority=5)
    assert play(world) == 1


def test_volcano_5026_a_search_that_fails_leaves_no_trace() -> None:
    world = World([tenant("a", 8), tenant("b", 8, cohort="all")], nodes(2))
    for number in range(2):
        world.place(world.want("b", 1, kind=GangKind.REPLICA), f"h100-00{number}")
        for _ in range(7):
            world.place(world.want("b", 1, kind=GangKind.BURST), f"h100-00{number}")
    world.pass_time(60)  # Nobody is spared for having only just begun: they are really looked at.
    ledger = Ledger(world.snapshot())
    before = ledger.report()
    world.want("a", 4, pods=2, name="too-much")
    ledger.observe(world.gangs["too-much"])
    world.want("a", 8, name="no-node")
    ledger.observe(world.gangs["no-node"])
    ledger.forget("too-much")
    assert ledger.plan(world.now_s).is_empty()
    ledger.forget("no-node")
    assert ledger.report() == before
    world.finish("no-node")
    world.want("a", 4, pods=2, name="too-much-again", priority=1)
    world.want("a", 1, name="small")
    ledger.observe(world.gangs["too-much-again"])
    ledger.observe(world.gangs["small"])
    assert [ask.for_id for ask in ledger.plan(world.now_s).ask] == ["small"], "those who were looked at have not gone"


def test_volcano_5805_a_gang_that_lost_a_pod_keeps_its_room_and_is_withdrawn_whole_if_it_cannot_be_mended() -> None:
    world = World([tenant("a", 2), tenant("filler", 0)], nodes(3, 1))
    gang = world.want("a", 1, pods=2)
    world.want("filler")
    world.settle()
    world.want("filler", name="thief")
    # A node is drained and one pod of the gang with it; then the node returns.
    world.change(gang, state=GangState.STARTING, since_s=world.now_s)
    assert world.step().is_empty(), "the free accelerator is still the gang's"
    assert world.gangs["thief"].state is GangState.WAITING
    world.pass_time(world.rules.bind_deadline_s)
    assert [withdrawn.gang_id for withdrawn in world.step().withdraw] == [gang]
    world.clear(gang)
    play(world)
    assert gang in world.in_state(GangState.RUNNING), "it comes back whole: its guarantee is first"


def test_volcano_4643_a_tight_gang_can_be_reclaimed_as_a_whole() -> None:
    world = World([tenant("a", 8), tenant("b", 0)], nodes(2))
    gang = world.want("b", 8, pods=2)
    world.settle()
    world.want("a", 8, name="mine")
    play(world)
    assert "mine" in world.in_state(GangState.RUNNING)
    assert world.gangs[gang].state is GangState.WAITING


def test_kai_1750_reclaim_finds_the_borrower_though_a_protected_tenant_of_lower_priority_exists() -> None:
    world = World([tenant("reclaimer", 2), tenant("batch", 0), tenant("protected", 4)], nodes(1, 6))
    for _ in range(2):
        world.want("batch", priority=50)
    for _ in range(4):
        world.want("protected", priority=1)
    world.settle()
    for _ in range(2):
        world.want("reclaimer", priority=100)
    play(world)
    assert (world.used("reclaimer"), world.used("protected"), world.used("batch")) == (2, 4, 0)


def test_kai_1750_more_guarantees_than_accelerators_end_fairness_but_cause_no_loop() -> None:
    world = World([tenant("a", 5), tenant("b", 5)], nodes(1, 7))
    for name in "ab":
        for _ in range(8):
            world.want(name)
    assert play(world) <= 7
    assert play(world) == 0
    assert len(world.in_state(GangState.RUNNING)) == 7
    assert world.step().overcommitted[0].guaranteed == 10


def test_kai_1934_siblings_reach_their_fair_share_though_both_are_over_their_guarantee() -> None:
    world = World([tenant("a", 1), tenant("b", 1), tenant("idle", 6)], nodes(1))
    for _ in range(8):
        world.want("a")
    world.settle()
    for _ in range(8):
        world.want("b")
    play(world)
    assert (world.used("a"), world.used("b")) == (4, 4)
