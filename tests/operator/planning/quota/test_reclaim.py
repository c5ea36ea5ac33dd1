"""How borrowed accelerators come back: who is asked, who is spared, and that nothing happens for nothing."""

from __future__ import annotations

from llmos.api.reasons import Reason
from llmos_operator.planning.quota import GangKind, GangState, Ledger, QuotaRules, Swap
from llmos_operator.planning.quota.reclaim import Swaps
from tests.operator.planning.quota.world import World, nodes, tenant, world_in_which_a_claim_ends


def lend_all(world: World, to: str, count: int, kind: GangKind = GangKind.BURST) -> list[str]:
    """Let a tenant fill the cluster with running gangs of one accelerator."""
    names = [world.want(to, kind=kind, owner=f"{to}-pool") for _ in range(count)]
    world.step()
    world.run_what_starts()
    world.pass_time(100)
    return names


class TestTwoPhases:
    def test_b_borrows_a_asks_b_drains_a_gets_it(self) -> None:
        world = World([tenant("a", 4), tenant("b", 4)], nodes(1))
        lend_all(world, "b", 8)
        mine = world.want("a", kind=GangKind.REPLICA)
        plan = world.step()
        (ask,) = plan.ask
        assert (ask.how, ask.for_id, ask.deadline_s) == ("drain", mine, world.now_s + 60)
        assert plan.admit == (), "nothing starts where somebody still stands"
        assert world.step().is_empty(), "it waits for the answer"
        world.answer(ask.gang_id)
        (end,) = world.step().end
        assert end.gang_id == ask.gang_id
        assert world.step().is_empty(), "its pods still hold it"
        world.clear(ask.gang_id)
        (admit,) = world.step().admit
        assert (admit.gang_id, admit.is_borrowed) == (mine, False)
        world.check()

    def test_who_does_not_answer_is_ended_at_the_deadline(self) -> None:
        world = World([tenant("a", 4), tenant("b", 4)], nodes(1))
        lend_all(world, "b", 8)
        world.want("a")
        plan = world.step()
        assert plan.next_s == plan.ask[0].deadline_s
        world.pass_time(60)
        (end,) = world.step().end
        assert end.why == "It did not answer in 60 s."

    def test_what_does_not_run_yet_is_ended_at_once(self) -> None:
        world = World([tenant("a", 4), tenant("b", 4)], nodes(1))
        for _ in range(8):
            world.want("b")
        world.step()
        world.pass_time(1)
        world.want("a")
        plan = world.step()
        assert (plan.ask, len(plan.end)) == ((), 1)

    def test_what_comes_free_is_kept_for_whom_it_was_taken(self) -> None:
        world = World([tenant("a", 4), tenant("b", 4)], nodes(1))
        lend_all(world, "b", 8)
        mine = world.want("a", 2)
        world.step()
        world.pass_time(1)
        world.want("b", name="thief")
        world.settle()
        assert world.gangs[mine].state is GangState.RUNNING
        assert world.gangs["thief"].state is GangState.WAITING
        assert len(world.asked) == 2

    def test_it_is_said_who_goes_and_when(self) -> None:
        world = World([tenant("a", 4), tenant("b", 4)], nodes(1))
        lend_all(world, "b", 8)
        mine = world.want("a")
        world.step()
        (waiting,) = Ledger(world.snapshot()).report().waiting
        assert (waiting.gang_id, waiting.reason) == (mine, Reason.WaitsForReclaim)
        assert waiting.message.endswith("goes to make room for it, by 00:19:20 UTC at the latest.")

    def test_a_gang_takes_other_room_if_that_is_free_sooner(self) -> None:
        world = World([tenant("a", 4), tenant("b", 4)], nodes(1))
        names = lend_all(world, "b", 8)
        mine = world.want("a")
        (ask,) = world.step().ask
        world.finish(next(name for name in names if name != ask.gang_id))
        assert [admit.gang_id for admit in world.step().admit] == [mine]

    def test_an_operator_that_is_killed_between_any_two_writes_goes_on(self) -> None:
        for killed_after in range(12):
            world = World([tenant("a", 4), tenant("b", 4)], nodes(1))
            lend_all(world, "b", 8)
            mine = world.want("a", 2, pods=2)
            for write in world.writes(Ledger(world.snapshot()).plan(world.now_s))[:killed_after]:
                write()
            world.settle()
            assert world.gangs[mine].state is GangState.RUNNING
            assert len(world.asked) == 4, f"killed after {killed_after} writes"


class TestWhoGoes:
    def test_a_burst_replica_before_a_saved_job_before_a_job_before_a_replica_of_the_minimum(self) -> None:
        world = World([tenant("a", 4), tenant("b", 0)], nodes(1, 4))
        for name, kind in (
            ("minimum", GangKind.REPLICA),
            ("job", GangKind.JOB),
            ("saved", GangKind.JOB),
            ("burst", GangKind.BURST),
        ):
            world.want("b", name=name, kind=kind)
        world.step()
        world.run_what_starts()
        world.pass_time(1000)
        world.change("saved", saved_s=world.now_s - 10)
        for _ in range(4):
            world.want("a")
        assert [ask.gang_id for ask in world.step().ask] == ["burst", "saved", "job", "minimum"]

    def test_then_lower_priority_then_less_lost_then_the_newest(self) -> None:
        world = World([tenant("a", 5), tenant("b", 0)], nodes(1, 5))
        world.want("b", name="dear", priority=5)
        world.settle()
        world.pass_time(100)
        world.want("b", name="long")
        world.settle()
        world.pass_time(100)
        world.want("b", name="short")
        for name in ("older", "newer"):
            world.want("b", name=name, kind=GangKind.BURST)
            world.settle()
        for _ in range(5):
            world.want("a")
        assert [ask.gang_id for ask in world.step().ask] == ["newer", "older", "short", "long", "dear"]

    def test_no_more_go_than_are_needed(self) -> None:
        world = World([tenant("a", 8), tenant("b", 8)], nodes(2))
        small = [world.want("b", 1, kind=GangKind.BURST) for _ in range(8)]
        large = world.want("b", 8, kind=GangKind.BURST)
        world.settle()
        mine = world.want("a", 8)
        world.settle()
        assert world.gangs[mine].state is GangState.RUNNING
        gone = {name for name, _ in world.asked}
        assert gone in ({large}, set(small)), "one node was cleared, not both"

    def test_what_a_guarantee_pays_for_never_goes_for_others(self) -> None:
        world = World([tenant("a", 4), tenant("b", 4)], nodes(1))
        kept = [world.want("b", kind=GangKind.REPLICA, owner="chat") for _ in range(4)]
        burst = [world.want("b", kind=GangKind.BURST, owner="chat", priority=99) for _ in range(4)]
        world.settle()
        for _ in range(20):
            world.want("a")
        world.settle()
        assert {name for name, _ in world.asked} == set(burst)
        assert set(kept) <= set(world.in_state(GangState.RUNNING))

    def test_nobody_goes_before_its_minimum_run_time(self) -> None:
        world = World([tenant("a", 1), tenant("b", 0)], nodes(1, 1))
        world.want("b", min_runtime_s=300)
        world.step()
        world.run_what_starts()
        started_s = world.now_s
        world.pass_time(10)
        world.want("a")
        plan = world.step()
        assert plan.is_empty()
        assert plan.next_s == started_s + 300
        world.pass_time(290)
        assert len(world.step().ask) == 1


class TestNothingForNothing:
    def test_nobody_goes_if_the_gang_would_not_fit_after_all(self) -> None:
        world = World([tenant("a", 8), tenant("b", 8)], nodes(2))
        for number in range(2):
            world.place(world.want("b", 2, kind=GangKind.REPLICA), f"h100-00{number}")
            world.place(world.want("b", 6, kind=GangKind.BURST), f"h100-00{number}")
        world.want("a", 8)
        assert world.step().is_empty(), "each node keeps two that a guarantee pays for"

    def test_nobody_goes_for_a_gang_larger_than_any_node(self) -> None:
        world = World([tenant("a", 16), tenant("b", 0)], nodes(2))
        lend_all(world, "b", 16)
        world.want("a", 16)
        assert world.step().is_empty()

    def test_nobody_goes_while_enough_is_going_anyway(self) -> None:
        world = World([tenant("a", 4), tenant("b", 4)], nodes(1))
        names = lend_all(world, "b", 8, GangKind.JOB)
        for name in names[:2]:
            world.change(name, state=GangState.ENDING)
        world.want("a", 2)
        assert world.step().ask == ()

    def test_nobody_is_let_in_only_to_go_for_a_gang_that_was_before_it(self) -> None:
        world = world_in_which_a_claim_ends(9)
        world.step()
        world.settle(seconds=5)
        assert "small" in world.in_state(GangState.RUNNING)
        assert all(winner == "borrower" for _, winner in world.asked), "b rearranges what it has, nobody else does"


class TestWithinATenant:
    def test_a_replica_of_the_minimum_takes_the_place_of_an_own_burst_replica(self) -> None:
        world = World([tenant("a", 4, borrow=0)], nodes(1))
        for _ in range(4):
            world.want("a", kind=GangKind.BURST, owner="chat", priority=50)
        world.settle()
        mine = world.want("a", kind=GangKind.REPLICA, owner="code")
        world.settle()
        assert world.gangs[mine].state is GangState.RUNNING
        assert len(world.asked) == 1

    def test_equals_do_not_displace_each_other(self) -> None:
        world = World([tenant("a", 4, borrow=0)], nodes(1))
        for _ in range(8):
            world.want("a", priority=5)
        assert world.settle() == 0

    def test_a_borrower_s_own_go_before_it_takes_more_than_its_share_from_others(self) -> None:
        world = World([tenant("a", 0), tenant("b", 0)], nodes(1))
        for name in "ab":
            for _ in range(4):
                world.want(name)
        world.settle()
        world.want("a", 2, name="urgent", priority=50)
        world.settle()
        assert world.gangs["urgent"].state is GangState.RUNNING
        assert {name[0] for name, _ in world.asked} == {"a"}


class TestFairness:
    def test_a_late_borrower_gets_its_share_and_then_there_is_peace(self) -> None:
        world = World([tenant("a"), tenant("b")], nodes(1))
        lend_all(world, "a", 8)
        for _ in range(8):
            world.want("b", kind=GangKind.BURST)
        world.settle()
        assert (world.used("a"), world.used("b")) == (4, 4)
        asked = len(world.asked)
        for _ in range(50):
            world.want("a", kind=GangKind.BURST, owner="a-pool")
            world.pass_time(100)
            world.settle()
        assert len(world.asked) == asked

    def test_weights_divide_what_is_borrowed(self) -> None:
        world = World([tenant("a", weight=1), tenant("b", weight=3)], nodes(2))
        lend_all(world, "a", 16)
        for _ in range(16):
            world.want("b", kind=GangKind.BURST)
        world.settle()
        assert (world.used("a"), world.used("b")) == (4, 12)

    def test_a_dear_class_weighs_more_than_a_cheap_one(self) -> None:
        world = World(
            [tenant("a", l4=tenant("x").quotas["h100"]), tenant("b", l4=tenant("x").quotas["h100"])],
            [*nodes(1, 4), *nodes(1, 8, "l4")],
            costs={"h100": 1.0, "l4": 0.25},
        )
        for _ in range(8):
            world.want("a", classes=("l4",))
        for _ in range(4):
            world.want("b")
        world.settle()
        world.want("a", name="more")
        # a holds 8 x 0.25 = 2 units, b holds 4: with one H100 more a has 3, and b without it has 3.
        world.settle()
        assert world.gangs["more"].state is GangState.RUNNING
        assert (world.used("a"), world.used("b")) == (1, 3)

    def test_two_gangs_that_changed_places_do_not_change_back_within_the_window(self) -> None:
        world = World([tenant("a", 1), tenant("b", 1)], nodes(1, 2), rules=QuotaRules(swap_window_s=300))
        world.want("a", name="a1")
        world.want("a", name="a2")
        world.settle()
        world.want("b", name="b1")
        world.settle()
        (lost,) = {name for name, _ in world.asked}
        world.finish("b1")
        world.settle()
        assert world.gangs[lost].state is GangState.RUNNING, "it may come back when there is room"
        world.want("b", name="b1")
        world.pass_time(1)
        world.settle()
        assert world.gangs["b1"].state is GangState.RUNNING, "the same winner may win again"

    def test_of_two_swaps_between_the_same_the_last_one_counts_in_any_order(self) -> None:
        world = World([tenant("a", 1)], nodes(1))
        lost, won = (world.gangs[world.want("a", name=name, owner=f"{name}-pool")] for name in ("lost", "won"))
        swaps = [Swap(won.id, won.owner, lost.id, lost.owner, at_s) for at_s in (0.0, 200.0)]
        for order in (swaps, swaps[::-1]):
            known = Swaps(order, window_s=300.0)
            known.forget_old(350.0)
            assert known.would_reverse(lost, won, owners=True)
            known.forget_old(500.0)
            assert not known.would_reverse(lost, won, owners=True)

    def test_not_even_if_the_guarantees_changed_hands_meanwhile(self) -> None:
        world = World([tenant("a", 1), tenant("b", 0)], nodes(1, 1), rules=QuotaRules(swap_window_s=300))
        world.want("b", name="lost")
        world.settle()
        world.want("a", name="won")
        world.settle()
        assert world.asked == [("lost", "won")]
        world.tenants |= {each.name: each for each in (tenant("a", 0), tenant("b", 1))}
        world.pass_time(200)
        world.settle()
        assert world.in_state(GangState.RUNNING) == ["won"], "the window is not over"
        world.pass_time(100)
        world.settle()
        assert world.in_state(GangState.RUNNING) == ["lost"], "then the guarantee holds"

    def test_nor_if_their_priorities_did(self) -> None:
        world = World([tenant("a", 1)], nodes(1, 1), rules=QuotaRules(swap_window_s=300))
        world.want("a", name="lost", priority=1)
        world.settle()
        world.want("a", name="won", priority=50)
        world.settle()
        assert world.asked == [("lost", "won")]
        world.change("lost", priority=90)
        world.pass_time(200)
        world.settle()
        assert world.in_state(GangState.RUNNING) == ["won"], "the window is not over"
        world.pass_time(100)
        world.settle()
        assert world.in_state(GangState.RUNNING) == ["lost"]
