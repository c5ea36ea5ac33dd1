"""When a ledger is kept, and when it is built anew."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from llmos_operator.planning.quota import KeptLedger, Ledger, QuotaRules, Snapshot, Swap
from llmos_operator.planning.quota.kept import LONGEST_S
from tests.operator.planning.quota.world import H100, World, nodes, tenant


def open_world() -> World:
    world = World([tenant("a", 8), tenant("b", 2)], nodes(1, 16))
    for name in ("a", "a", "b"):
        world.want(name)
    return world


def look(kept: KeptLedger, snapshot: Snapshot) -> Ledger:
    ledger = kept.open(snapshot)
    ledger.plan(snapshot.now_s)
    kept.keep(ledger)
    return ledger


def test_it_is_kept_while_gangs_and_swaps_come_and_go() -> None:
    world, kept = open_world(), KeptLedger()
    first = look(kept, world.snapshot())
    world.want("b")
    world.finish("a-1")
    world.swaps.append(Swap("b-3", "b-3", "a-2", "a-2", world.now_s))
    world.pass_time(1)
    assert look(kept, world.snapshot()) is first
    assert first.gang("a-1") is None
    assert first.gang("b-4") is not None


@pytest.mark.parametrize(
    "changed",
    [
        {"tenants": (tenant("a", 7), tenant("b", 2))},
        {"nodes": nodes(2, 16)},
        {"costs": {H100: 2.0}},
        {"rules": QuotaRules(patience_s=1.0)},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_it_is_built_anew_when_the_ground_changed(changed: dict[str, Any]) -> None:
    world, kept = open_world(), KeptLedger()
    first = look(kept, world.snapshot())
    moved = replace(world.snapshot(), **changed)
    second = look(kept, moved)
    assert second is not first
    assert look(kept, moved) is second


def test_it_is_built_anew_each_minute_and_when_the_clock_went_back() -> None:
    world, kept = open_world(), KeptLedger()
    first = look(kept, world.snapshot())
    world.pass_time(LONGEST_S - 1)
    assert look(kept, world.snapshot()) is first
    world.pass_time(1)
    second = look(kept, world.snapshot())
    assert second is not first
    world.pass_time(-0.1)
    assert look(kept, world.snapshot()) is not second


def test_one_whose_plan_was_cut_off_is_not_used_again() -> None:
    world, kept = open_world(), KeptLedger()
    cut_off = kept.open(world.snapshot())
    assert look(kept, world.snapshot()) is not cut_off


def test_what_was_decided_and_not_written_is_decided_again() -> None:
    world, kept = open_world(), KeptLedger()
    snapshot = world.snapshot()
    plans = []
    for _ in range(2):
        ledger = kept.open(snapshot)
        plans.append(ledger.plan(snapshot.now_s))
        kept.keep(ledger)
    assert {admit.gang_id for admit in plans[0].admit} == {"a-1", "a-2", "b-3"}
    assert plans[0] == plans[1]


def test_whom_the_records_name_as_winner_is_not_asked_for_the_loser_and_is_when_they_are_gone() -> None:
    world, kept = World([tenant("a", 1)], nodes(1, 1)), KeptLedger()
    world.place(world.want("a", name="won", priority=50), "h100-000", admitted_s=0.0)
    world.want("a", name="lost", priority=90)
    swap = Swap("won", "won", "lost", "lost", world.now_s)
    for swaps, asked in (([], ["won"]), ([swap], []), ([], ["won"])):
        world.swaps = list(swaps)
        snapshot = world.snapshot()
        ledger = kept.open(snapshot)
        assert [ask.gang_id for ask in ledger.plan(snapshot.now_s).ask] == asked
        kept.keep(ledger)
