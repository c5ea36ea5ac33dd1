"""What status and metrics tell: usage, what is lent, shares, and why each gang waits, how far down, what helps."""

from __future__ import annotations

import pytest

from llmos.api.reasons import Reason
from llmos_operator.planning.quota import GangKind, Ledger, QuotaReport
from tests.operator.planning.quota.world import H100, World, nodes, tenant


def report(world: World) -> QuotaReport:
    return Ledger(world.snapshot()).report()


def usage(world: World) -> dict[str, tuple[int, int, int, int]]:
    """By tenant: used, borrowed, lent, waiting."""
    return {each.tenant: (each.used, each.borrowed, each.lent, each.waiting) for each in report(world).tenants}


def test_what_is_borrowed_is_lent_by_those_who_leave_most_idle() -> None:
    world = World([tenant("a", 6), tenant("b", 2), tenant("c", 0)], nodes(1))
    for _ in range(3):
        world.want("c")
    world.want("b")
    world.settle()
    assert usage(world) == {"a": (0, 0, 3, 0), "b": (1, 0, 0, 0), "c": (3, 3, 0, 0)}


def test_nothing_is_lent_while_what_is_guaranteed_to_nobody_suffices() -> None:
    world = World([tenant("a", 4), tenant("c", 0)], nodes(1))
    for _ in range(6):
        world.want("c")
    world.settle()
    assert usage(world) == {"a": (0, 0, 2, 0), "c": (6, 6, 0, 0)}


def test_what_waits_is_counted_with_its_tenant_and_its_preferred_class() -> None:
    world = World([tenant("a", 4, borrow=0)], nodes(1))
    for _ in range(3):
        world.want("a", 2)
    world.settle()
    assert usage(world) == {"a": (4, 0, 0, 2)}


def test_a_share_is_the_borrowed_part_of_the_cluster_by_weight() -> None:
    world = World([tenant("a", weight=2), tenant("b", 2)], nodes(1))
    for _ in range(6):
        world.want("a")
    world.want("b")
    world.settle()
    assert dict(report(world).shares) == {"a": pytest.approx(6 / 8 / 2), "b": 0.0}


def test_positions_follow_the_order_of_service() -> None:
    world = World([tenant("a", 8), tenant("b", 0)], nodes(1))
    world.want("a", 8)
    world.settle()
    world.want("b", name="poor")
    world.pass_time(1)
    world.want("b", name="minimum", kind=GangKind.REPLICA)
    world.want("b", name="urgent", priority=50)
    waiting = report(world).waiting
    assert [(each.gang_id, each.position, each.of) for each in waiting] == [
        ("minimum", 1, 3),
        ("urgent", 2, 3),
        ("poor", 3, 3),
    ]
    assert waiting[2].message.endswith("It is number 3 of 3 that wait.")


def why(world: World) -> tuple[Reason, str]:
    (only,) = report(world).waiting
    return only.reason, only.message


class TestWords:
    def test_at_the_own_limit(self) -> None:
        world = World([tenant("a", 2, borrow=1)], nodes(1))
        for _ in range(4):
            world.want("a")
        world.settle()
        assert why(world) == (
            Reason.QuotaExceeded,
            f"Tenant a holds 3 of at most 3 {H100}; this needs 1. Stop something of the tenant's, or raise guaranteed "
            "or borrowLimit.",
        )

    def test_where_others_borrow_what_there_is(self) -> None:
        world = World([tenant("a", 4), tenant("b"), tenant("c")], nodes(1, 4))
        for _ in range(2):
            world.want("b")
            world.want("c")
        world.settle()
        world.want("b")
        reason, message = why(world)
        assert reason is Reason.QuotaExceeded
        assert message.startswith(
            f"Tenant b would borrow 3 {H100}, and others leave fewer idle. Borrowed by others: c (2)."
        )

    def test_where_no_node_is_large_enough(self) -> None:
        world = World([tenant("a", 16)], nodes(2))
        world.want("a", 16)
        assert why(world) == (
            Reason.WaitsForRoom,
            f"It needs 16 {H100} on one node, and the largest has 8. Ask for fewer, or add larger nodes.",
        )

    def test_where_no_node_has_the_class(self) -> None:
        world = World([tenant("a", 0)], nodes(1, class_name="l4"))
        world.want("a")
        assert why(world)[0] is Reason.QuotaExceeded

    def test_where_all_nodes_together_are_too_small(self) -> None:
        world = World([tenant("a", 24)], nodes(2))
        world.want("a", 8, pods=3)
        assert "more than the nodes that it may use have" in why(world)[1]

    def test_where_room_is_kept(self) -> None:
        world = World([tenant("a", 8)], nodes(1))
        world.want("a")
        world.settle()
        world.want("a", 8)
        world.pass_time(world.rules.patience_s)
        world.step()
        reason, message = why(world)
        assert reason is Reason.WaitsForRoom
        assert message.endswith("room is kept for it as it comes free on h100-000.")
