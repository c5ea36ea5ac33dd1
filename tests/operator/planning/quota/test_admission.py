"""Who is admitted, in which order, and where."""

from __future__ import annotations

from collections import Counter

import pytest

from llmos.api.reasons import Reason
from llmos_operator.planning.quota import GangKind, GangState, Ledger, Node, Quota, QuotaRules, order
from llmos_operator.planning.quota.books import Book
from tests.operator.planning.quota.world import H100, World, nodes, tenant, world_in_which_a_claim_ends


def admitted(world: World) -> list[str]:
    return [admit.gang_id for admit in world.step().admit]


def reason(world: World, name: str) -> tuple[Reason, str]:
    report = Ledger(world.snapshot()).report()
    found = next(each for each in report.waiting if each.gang_id == name)
    return found.reason, found.message


class TestQuota:
    def test_a_guarantee_is_used_at_once_and_never_more_than_the_limit(self) -> None:
        world = World([tenant("a", 4, borrow=2)], nodes(2))
        for _ in range(8):
            world.want("a")
        assert len(world.step().admit) == 6
        assert world.step().is_empty(), "a second look changes nothing"

    def test_idle_guarantees_are_lent_within_the_cohort(self) -> None:
        world = World([tenant("a", 8), tenant("b", 0)], nodes(1))
        for _ in range(10):
            world.want("b")
        assert len(world.step().admit) == 8

    def test_what_may_not_be_lent_is_kept(self) -> None:
        world = World([tenant("a", 8, lend=3), tenant("b", 0)], nodes(1))
        for _ in range(10):
            world.want("b")
        assert len(world.step().admit) == 3
        for _ in range(6):
            world.want("a")
        assert len(world.step().admit) == 5

    def test_another_cohort_lends_nothing_but_what_is_guaranteed_to_nobody_is_for_all(self) -> None:
        world = World([tenant("a", 5, cohort="x"), tenant("b", 0, cohort="y"), tenant("c", 0, cohort="")], nodes(1))
        for _ in range(3):
            world.want("b")
            world.want("c")
        plan = world.step()
        assert len(plan.admit) == 3
        assert all(admit.is_borrowed for admit in plan.admit)

    def test_a_class_without_an_entry_cannot_be_used(self) -> None:
        world = World([tenant("a", 8)], nodes(1, class_name="l4"))
        name = world.want("a", classes=("l4",))
        assert admitted(world) == []
        assert reason(world, name) == (
            Reason.QuotaExceeded,
            "Tenant a has no quota of l4. Add an entry to its spec.quota.",
        )

    def test_a_namespace_of_no_tenant_gets_nothing_unless_the_installation_allows_it(self) -> None:
        world = World([tenant("a", 4)], nodes(1))
        name = world.want("")
        assert admitted(world) == []
        assert reason(world, name)[0] is Reason.NoTenant
        world.tenants[""] = tenant("", 0, borrow=2, cohort="")
        assert admitted(world) == [name]

    def test_more_guarantees_than_accelerators_are_said_and_nobody_gets_too_much(self) -> None:
        world = World([tenant("a", 8), tenant("b", 8)], nodes(1))
        for _ in range(8):
            world.want("a")
            world.want("b")
        plan = world.step()
        assert len(plan.admit) == 8
        assert [(over.class_name, over.guaranteed, over.capacity) for over in plan.overcommitted] == [(H100, 16, 8)]
        world.check()

    def test_accelerators_of_pods_that_are_none_of_ours_are_not_given_away(self) -> None:
        world = World([tenant("a", 8)], [Node("n", H100, 8, taken=5)])
        for _ in range(8):
            world.want("a")
        assert len(world.step().admit) == 3


class TestOrder:
    def test_within_the_guarantee_comes_before_any_priority(self) -> None:
        world = World([tenant("a", 1), tenant("b", 0)], nodes(1, 1))
        world.want("b", priority=100)
        mine = world.want("a")
        assert admitted(world) == [mine]

    def test_the_most_important_of_a_tenant_comes_first_though_the_guarantee_has_less_left_than_it_needs(self) -> None:
        world = World([tenant("a", 8), tenant("b", 8)], nodes(1, 16))
        for _ in range(4):
            world.place(world.want("b"), "h100-000")
        world.place(world.want("a"), "h100-000")
        for _ in range(8):
            world.want("a")
        large = world.want("a", 8, priority=10)
        served = admitted(world)
        assert (served[0], len(served)) == (large, 4)

    def test_what_is_left_of_other_guarantees_comes_before_it(self) -> None:
        world = World([tenant("a", 8), tenant("b", 8)], nodes(1, 16))
        world.place(world.want("a"), "h100-000")
        small = {world.want("a") for _ in range(8)}
        world.want("a", 8, priority=10)
        others = {world.want("b") for _ in range(8)}
        served = admitted(world)
        assert set(served[:8]) == others
        assert set(served[8:]) < small

    def test_it_is_not_before_one_of_its_tenant_that_waited_long_nor_one_as_important(self) -> None:
        world = World([tenant("a", 8), tenant("b", 8)], nodes(1, 16), rules=QuotaRules(aging_s=10))
        for _ in range(7):
            world.place(world.want("b"), "h100-000")
        world.place(world.want("a", priority=10), "h100-000")
        old = world.want("a")
        world.pass_time(101)
        world.want("a", 8, priority=10)
        assert admitted(world) == [old]
        world.finish(old)
        first, _ = world.want("a", priority=10), world.want("a", 8, priority=10)
        assert admitted(world) == [first]

    @pytest.mark.parametrize(("size", "expected"), [(9, ["top", "small"]), (10, ["top", "small", "borrower"])])
    def test_what_a_claim_held_back_comes_before_borrowers_as_soon_as_the_claim_ends(
        self, size: int, expected: list[str]
    ) -> None:
        assert admitted(world_in_which_a_claim_ends(size)) == expected

    def test_what_waits_behind_a_claim_and_becomes_one_itself_is_served_like_one(self) -> None:
        world = World([tenant("a", 8), tenant("b", 6)], nodes(2, 8))
        world.place(world.want("a", 3, name="low"), "h100-000")
        world.place(world.want("b", 3, name="b-low"), "h100-001")
        world.want("a", 6, priority=9, name="claim")
        world.want("a", 1, priority=10, name="top")
        world.want("a", 1, priority=10, name="top-2")
        world.want("a", 4, priority=5, name="behind")
        world.want("b", 4, priority=1, name="claim of another")
        assert admitted(world) == ["top", "top-2", "behind"]

    @pytest.mark.parametrize("claims", [0, 20])
    def test_the_cost_of_a_look_and_a_report_grows_like_the_lines(
        self, claims: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        looked_up: Counter[str] = Counter()

        def count(of: object, name: str) -> None:
            real = getattr(of, name)

            def counted(*args: object) -> object:
                looked_up[name] += 1
                return real(*args)

            monkeypatch.setattr(of, name, counted)

        count(Book, "is_within_guarantee")
        count(Book, "quota")
        count(order, "compute_key")
        world = World([tenant("a", 100)], nodes(50, 2))
        for number in range(50):
            world.place(world.want("a", name=f"held-{number}", priority=number % 5), f"h100-{number:03}")
        for number in range(40):
            world.want("a", 1 if number < claims else 2, pods=60 if number < claims else 1, priority=number)
        ledger = Ledger(world.snapshot())
        ledger.plan(world.now_s, reclaim=False)
        ledger.report()
        assert looked_up.total() < 10 * 40, "and not like their square"

    def test_a_gang_that_no_node_could_hold_holds_nobody_of_its_tenant_back(self) -> None:
        world = World([tenant("a", 8), tenant("b", 1)], nodes(2, 4))
        world.place(world.want("a"), "h100-000")
        world.place(world.want("b"), "h100-000")
        world.want("a", 8, priority=10, name="impossible")
        world.want("b", priority=9, name="borrower")
        for _ in range(6):
            world.want("a")
        served = admitted(world)
        assert len(served) == 6
        assert "borrower" not in served

    def test_a_claim_holds_back_only_what_could_take_the_class_in_which_it_is_one(self) -> None:
        world = World([tenant("a", 8, l4=Quota(2)), tenant("b", 1, l4=Quota(0))], [*nodes(1, 8), *nodes(1, 3, "l4")])
        world.place(world.want("a"), "h100-000")
        world.place(world.want("b", classes=("l4",)), "l4-000")
        world.want("a", 8, priority=10, classes=("l4", H100), name="claim")
        world.want("b", 1, priority=100, classes=("l4",), name="borrower")
        mine = [world.want("a", classes=("l4",)) for _ in range(2)]
        assert admitted(world) == mine

    def test_then_the_lower_share_counting_weight_and_the_cost_of_a_class(self) -> None:
        world = World(
            [tenant("a", weight=1, l4=Quota()), tenant("b", weight=2, l4=Quota()), tenant("c", l4=Quota())],
            [*nodes(1, 6), *nodes(1, 8, "l4")],
            costs={H100: 1.0, "l4": 0.25},
        )
        for name in "ab":
            for _ in range(6):
                world.want(name)
        world.step()
        assert (world.used("a"), world.used("b")) == (2, 4)
        for name in "ac":
            for _ in range(9):
                world.want(name, classes=("l4",))
        world.step()
        # a borrows 2 units already: c has 8 x 0.25 = 2 units before a is its equal.
        assert (world.used("a", "l4"), world.used("c", "l4")) == (0, 8)

    def test_then_priority_then_age(self) -> None:
        world = World([tenant("a", 2)], nodes(1, 1))
        world.want("a", name="old")
        world.pass_time(1)
        world.want("a", name="urgent", priority=10)
        world.want("a", name="young")
        for expected in ("urgent", "old", "young"):
            assert admitted(world) == [expected]
            world.finish(expected)

    def test_waiting_counts_as_priority_so_that_nobody_waits_for_ever(self) -> None:
        world = World([tenant("a", 1)], nodes(1, 1), rules=QuotaRules(aging_s=10))
        world.want("a", name="poor", priority=0)
        served = []
        for number in range(100):
            world.want("a", name=f"urgent-{number}", priority=20)
            (name,) = admitted(world)
            served.append(name)
            world.finish(name)
            world.pass_time(10)
            if name == "poor":
                break
        assert served[-1] == "poor"
        assert len(served) <= 22

    def test_the_preferred_class_is_taken_while_it_lasts(self) -> None:
        world = World([tenant("a", 2, l4=Quota(8))], [*nodes(1, 2), *nodes(1, 8, "l4")])
        for _ in range(4):
            world.want("a", classes=(H100, "l4"))
        placed = [admit.placement.class_name for admit in world.step().admit]
        assert placed == [H100, H100, "l4", "l4"]


class TestGangs:
    def test_all_pods_of_a_gang_are_admitted_or_none(self) -> None:
        world = World([tenant("a", 18), tenant("b", 6)], nodes(3))
        for number in range(2):
            world.place(world.want("a"), f"h100-00{number}")
        large = world.want("a", 8, pods=2)
        assert admitted(world) == []
        kind, message = reason(world, large)
        assert kind is Reason.WaitsForRoom
        assert "22 h100 are free, at most 8 on one node, and it needs 2 x 8" in message

    def test_a_gang_stays_in_one_domain_where_labels_tell(self) -> None:
        world = World([tenant("a", 48)], nodes(6, domains=3))
        world.want("a", 8, pods=2)
        world.want("a", 8, pods=2)
        for admit in world.step().admit:
            assert len({world.nodes[name].domain for name in admit.placement.nodes}) == 1

    def test_a_gang_waits_for_a_domain_rather_than_span_two(self) -> None:
        world = World([tenant("a", 32)], nodes(4, domains=2))
        for node in ("h100-000", "h100-001"):
            world.place(world.want("a"), node)
        large = world.want("a", 8, pods=2)
        assert admitted(world) == []
        assert reason(world, large)[0] is Reason.WaitsForRoom

    def test_a_gang_that_no_domain_can_hold_spans_domains(self) -> None:
        world = World([tenant("a", 32)], nodes(4, domains=2))
        large = world.want("a", 8, pods=3)
        assert admitted(world) == [large]

    def test_a_gang_goes_into_the_smallest_domain_that_holds_it(self) -> None:
        supply = [*nodes(4), Node("small-0", H100, 8, domain="s"), Node("small-1", H100, 8, domain="s")]
        world = World([tenant("a", 48)], supply)
        world.want("a", 8, pods=2)
        (admit,) = world.step().admit
        assert set(admit.placement.nodes) == {"small-0", "small-1"}

    def test_a_gang_that_is_not_bound_in_time_is_withdrawn_whole_with_growing_pauses(self) -> None:
        world = World([tenant("a", 8)], nodes(1))
        name = world.want("a", 4, pods=2)
        pauses = []
        for _ in range(4):
            assert admitted(world) == [name]
            world.pass_time(world.rules.bind_deadline_s - 1)
            assert world.step().is_empty()
            world.pass_time(1)
            (withdrawn,) = world.step().withdraw
            assert world.used("a") == 8, "its pods hold what they hold until they are gone"
            world.clear(name)
            pauses.append(withdrawn.retry_at_s - world.now_s)
            assert world.step().is_empty()
            assert reason(world, name)[0] is Reason.NotBoundInTime
            world.pass_time(pauses[-1])
        assert pauses == [10, 20, 40, 80]

    def test_a_node_selector_is_kept(self) -> None:
        eu = frozenset({("zone", "eu")})
        world = World([tenant("a", 8)], [Node("n-us", H100, 4), Node("n-eu", H100, 4, labels=eu)])
        for _ in range(5):
            world.want("a", selector=eu)
        plan = world.step()
        assert [admit.placement.nodes for admit in plan.admit] == [("n-eu",)] * 4


class TestPlacement:
    def test_small_gangs_are_packed_so_that_whole_nodes_stay_free(self) -> None:
        world = World([tenant("a", 32)], nodes(4))
        for _ in range(8):
            world.want("a")
        plan = world.step()
        assert len({admit.placement.nodes for admit in plan.admit}) == 1
        (usage,) = Ledger(world.snapshot()).report().classes
        assert (usage.used, usage.fragmentation) == (8, 0.0)

    def test_fragmentation_is_the_part_of_the_free_that_lies_on_nodes_in_use(self) -> None:
        world = World([tenant("a", 32)], nodes(4))
        for number in range(3):
            world.place(world.want("a", 4), f"h100-00{number}")
        (usage,) = Ledger(world.snapshot()).report().classes
        assert usage.fragmentation == pytest.approx(12 / 20)

    def test_replicas_of_a_pool_do_not_all_stand_on_one_node(self) -> None:
        world = World([tenant("a", 16)], nodes(2))
        for _ in range(4):
            world.want("a", kind=GangKind.REPLICA, owner="chat")
        plan = world.step()
        assert len({admit.placement.nodes for admit in plan.admit}) == 2

    def test_they_do_if_there_is_only_one(self) -> None:
        world = World([tenant("a", 16)], nodes(1))
        for _ in range(4):
            world.want("a", kind=GangKind.REPLICA, owner="chat")
        assert len(world.step().admit) == 4


class TestPatience:
    def test_a_large_gang_is_not_starved_by_small_ones_that_never_stop_coming(self) -> None:
        rules = QuotaRules(patience_s=60)
        world = World([tenant("a", 16), tenant("b", 0)], nodes(2), rules=rules)
        large = None
        for second in range(200):
            for _ in range(4):
                world.want(("a", "b")[second % 2])
            if second == 10:
                large = world.want("a", 8, pods=2)
            world.settle()
            for name in world.in_state(GangState.RUNNING):
                if name != large and world.now_s - world.gangs[name].admitted_s >= 5:
                    world.finish(name)
            world.pass_time(1)
            if large is not None and world.gangs[large].state is GangState.RUNNING:
                break
        assert large is not None
        assert world.gangs[large].state is GangState.RUNNING
        assert world.now_s - world.gangs[large].created_s < 120

    def test_room_is_kept_for_one_gang_of_a_class_only(self) -> None:
        world = World([tenant("a", 16)], nodes(2), rules=QuotaRules(patience_s=60))
        for number in range(2):
            world.place(world.want("a"), f"h100-00{number}")
        for _ in range(3):
            world.want("a", 8)
        world.pass_time(61)
        assert len(world.step().reserve) == 1
        small = world.want("a")
        assert admitted(world) == [small], "the other node is for whoever comes"

    def test_a_guarantee_does_not_wait_behind_a_borrower_s_patience(self) -> None:
        world = World([tenant("a", 8), tenant("b", 0)], nodes(1), rules=QuotaRules(patience_s=60))
        world.place(world.want("b"), "h100-000")
        world.want("b", 8, name="large")
        world.pass_time(61)
        assert [reserve.gang_id for reserve in world.step().reserve] == ["large"]
        mine = world.want("a")
        world.step()
        assert admitted(world) == [mine]

    def test_no_room_is_kept_for_a_gang_that_its_own_tenant_s_limit_keeps_out(self) -> None:
        world = World([tenant("a", 4, borrow=0), tenant("b", 0)], nodes(1), rules=QuotaRules(patience_s=60))
        world.place(world.want("a", 4), "h100-000")
        over = world.want("a", 4, name="over")
        world.pass_time(61)
        assert world.step().reserve == ()
        for _ in range(4):
            world.want("b")
        assert len(admitted(world)) == 4, "it holds nobody back"
        told, message = reason(world, over)
        assert told is Reason.QuotaExceeded
        assert "Tenant a holds 4 of at most 4 h100; this needs 4" in message

    def test_room_that_was_kept_is_let_go_when_the_tenant_s_limit_is_lowered(self) -> None:
        world = World([tenant("a", 16), tenant("b", 0)], nodes(2), rules=QuotaRules(patience_s=60))
        for number in range(2):
            world.place(world.want("a"), f"h100-00{number}")
        large = world.want("a", 8, name="large")
        world.pass_time(61)
        assert [reserve.gang_id for reserve in world.step().reserve] == [large]
        world.tenants["a"] = tenant("a", 4, borrow=0)
        assert [unreserve.gang_id for unreserve in world.step().unreserve] == [large]
        assert world.step().reserve == ()
