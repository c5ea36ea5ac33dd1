"""What a plan becomes: the patches of each pod, in an order that somebody else can go on from."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from llmos.api import Reason, Tenant
from llmos.api.names import ANNOTATION_QUOTA, GATE_QUOTA, LABEL_POOL, LABEL_RANK, LABEL_REPLICA, LABEL_SERVING
from llmos_operator.planning.quota import (
    Gang,
    GangKind,
    GangState,
    Placement,
    QuotaPlan,
    Swap,
)
from llmos_operator.planning.quota.plan import Admit, Ask, End, Waiting
from llmos_operator.planning.quota_news import (
    SECONDS_S,
    USAGE_S,
    Meter,
    PoolNews,
    TenantNews,
    advance_meter,
    begin_meter,
    is_pool_news,
    is_tenant_news,
)
from llmos_operator.planning.quota_record import QuotaRecord, build_record_annotation, read_record
from llmos_operator.planning.quota_roster import Roster
from llmos_operator.planning.quota_writes import (
    Decision,
    PodWrite,
    build_completions,
    build_decisions,
    build_liftings,
    build_release,
)

NOW = datetime(2026, 1, 31, 23, 59, tzinfo=UTC)
NOW_S = NOW.timestamp()
PLACE = Placement("h100", ("n1", "n2"))


def pod(replica: str, rank: int = 0, *, gates: tuple[str, ...] = (GATE_QUOTA,), **record: Any) -> dict[str, Any]:
    annotations = build_record_annotation(QuotaRecord(**record)) if record else {}
    return {
        "metadata": {
            "name": f"{replica}-{rank}",
            "namespace": "ns",
            "uid": f"uid-{replica}-{rank}",
            "labels": {LABEL_POOL: "p", LABEL_REPLICA: replica, LABEL_RANK: str(rank)},
            "annotations": annotations,
        },
        "spec": {"containers": [], **({"schedulingGates": [{"name": name} for name in gates]} if gates else {})},
    }


def gang(name: str, **fields: Any) -> Gang:
    given = {"tenant": "a", "owner": "ns/p", "kind": GangKind.BURST, "classes": ("h100",), "pods": 2}
    return Gang(**{"id": f"ns/{name}", **given, "accelerators_per_pod": 4, "priority": 0, "created_s": 0.0, **fields})


def decide(plan: QuotaPlan, *pods: dict[str, Any], window_s: float = 300.0) -> tuple[Decision, ...]:
    groups = Roster(pods).gangs
    return build_decisions(plan, {name: gang(name[3:]) for name in groups}, groups, NOW, window_s)


def patched(write: PodWrite) -> QuotaRecord:
    assert write.patch is not None
    return read_record(write.patch["metadata"])


def test_a_gang_is_released_leader_first_with_its_record_and_each_pod_goes_to_its_node() -> None:
    (decision,) = decide(QuotaPlan(admit=(Admit("ns/r", PLACE, is_borrowed=True),)), pod("r", 1), pod("r", 0))
    leader, worker = decision.writes
    assert (leader.name, worker.name) == ("r-0", "r-1")
    assert (patched(leader).placement, patched(leader).admitted_s) == (PLACE, NOW_S)
    assert worker.patch is not None
    assert ANNOTATION_QUOTA not in worker.patch["metadata"].get("annotations", {})
    assert [write.patch and write.patch["metadata"]["uid"] for write in decision.writes] == ["uid-r-0", "uid-r-1"]
    assert worker.patch["spec"] == build_release(pod("r", 1), "n2")
    assert decision.audit.why == "It borrows what others leave idle."


def test_who_finds_only_the_leader_released_lifts_the_rest() -> None:
    half = [pod("r", 0, gates=(), placement=PLACE), pod("r", 1)]
    (write,) = build_completions(Roster(half).gangs)
    assert (write.name, write.patch and write.patch["spec"]) == ("r-1", build_release(half[1], "n2"))
    assert build_completions(Roster([pod("r", 0), pod("r", 1)]).gangs) == ()


def test_a_pod_is_pinned_by_its_rank_whichever_of_the_others_is_missing() -> None:
    place = Placement("h100", ("n0", "n1", "n2"))
    leader, last = pod("r", 0, gates=(), placement=place), pod("r", 2)
    (write,) = build_completions(Roster([last, leader]).gangs)
    assert (write.name, write.patch and write.patch["spec"]) == ("r-2", build_release(last, "n2"))
    admit = QuotaPlan(admit=(Admit("ns/r", place, is_borrowed=False),))
    (decision,) = decide(admit, pod("r", 0), pod("r", 2), pod("r", 7))
    pinned = [(write.name, write.patch and write.patch["spec"]) for write in decision.writes]
    assert pinned == [("r-0", build_release(leader, "n0")), ("r-2", build_release(last, "n2"))]


def test_other_gates_and_an_affinity_that_is_there_already_are_kept() -> None:
    held = pod("r", gates=("other", GATE_QUOTA))
    terms = [{"matchExpressions": [{"key": "zone", "operator": "Exists"}]}, {"matchFields": [{"key": "x"}]}]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    held["spec"]["affinity"] = {"nodeAffinity": required}
    release = build_release(held, "n1")
    name = {"key": "metadata.name", "operator": "In", "values": ["n1"]}
    assert release["schedulingGates"] == [{"name": "other"}]
    pinned = release["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert pinned == [{**terms[0], "matchFields": [name]}, {"matchFields": [{"key": "x"}, name]}]
    (lifted,) = build_liftings([held, pod("s", gates=())])
    assert lifted.patch is not None
    assert lifted.patch["spec"] == {"schedulingGates": [{"name": "other"}]}


def test_for_whom_somebody_goes_is_written_before_anybody_is_asked_and_old_swaps_are_dropped() -> None:
    old, kept, new = (
        Swap("ns/w", "ns/p", f"ns/{n}", "ns/q", NOW_S - ago) for n, ago in (("x", 301), ("y", 9), ("l", 0))
    )
    plan = QuotaPlan(swaps=(new,), ask=(Ask("ns/l", "ns/w", "drain", NOW_S + 30, "why"),))
    first, second = decide(plan, pod("w", swaps=(old, kept)), pod("l", gates=()))
    assert patched(first.writes[0]).swaps == (kept, new)
    asked = second.writes[0]
    stop = patched(asked).stop
    assert stop is not None
    assert (stop.for_id, stop.deadline_s, second.audit.for_gang) == ("ns/w", NOW_S + 30, "ns/w")
    assert asked.patch is not None
    assert asked.patch["metadata"]["labels"] == {LABEL_SERVING: "false"}


def test_a_gang_that_ends_is_deleted_with_all_its_pods_after_it_was_written_for_whom() -> None:
    (decision,) = decide(QuotaPlan(end=(End("ns/r", "ns/w", "why"),)), pod("r", 0), pod("r", 1))
    written, *deleted = decision.writes
    assert patched(written).stop is not None
    assert [(write.name, write.patch) for write in deleted] == [("r-0", None), ("r-1", None)]


def test_a_decision_about_pods_that_are_gone_becomes_nothing() -> None:
    assert decide(QuotaPlan(end=(End("ns/gone", "ns/w", "why"),))) == ()


def tenant(**status: Any) -> Tenant:
    metadata = {"name": "a", "creationTimestamp": "2026-01-31T22:59:00Z"}
    return Tenant.model_validate({"metadata": metadata, "spec": {"namespaces": ["ns"]}, "status": status})


def held(admitted_s: float) -> Gang:
    return gang("r", state=GangState.RUNNING, placement=PLACE, admitted_s=admitted_s)


def test_seconds_count_from_when_they_were_last_counted_or_the_gang_was_admitted() -> None:
    meter = advance_meter(Meter("2026-01", 100.0, NOW_S - 10), [held(NOW_S - 60), held(NOW_S - 5)], NOW)
    assert meter == Meter("2026-01", 100.0 + 8 * 10 + 8 * 5, NOW_S)
    assert advance_meter(meter, [held(NOW_S - 60)], NOW - timedelta(seconds=9)) == meter, "a clock that jumps back"


def test_a_month_begins_with_nothing_and_counts_from_its_first_second() -> None:
    later = NOW + timedelta(minutes=2)
    meter = advance_meter(Meter("2026-01", 1e6, NOW_S), [held(NOW_S - 60)], later)
    assert meter == Meter("2026-02", 8 * 60.0, later.timestamp())


def test_a_new_operator_goes_on_from_status_and_a_new_tenant_from_its_creation() -> None:
    month = {"month": "2026-01", "gpuSeconds": 70, "countedUntil": "2026-01-31T23:00:00Z"}
    assert begin_meter(tenant(thisMonth=month), NOW) == Meter("2026-01", 70.0, NOW_S - 59 * 60)
    assert begin_meter(tenant(), NOW) == Meter("2026-01", 0.0, NOW_S - 60 * 60)


def test_only_what_changes_what_a_person_would_do_is_told_at_once() -> None:
    first = PoolNews(Waiting("ns/r", Reason.QuotaExceeded, 1, 3, "x"), 1)
    moved = PoolNews(Waiting("ns/r", Reason.QuotaExceeded, 2, 3, "y"), 2)
    other = PoolNews(Waiting("ns/r", Reason.WaitsForRoom, 1, 3, "x"), 1)
    told = [is_pool_news(before, after) for before, after in ((None, first), (first, None), (first, other))]
    assert told == [True, True, True]
    assert not is_pool_news(first, moved)
    assert not is_pool_news(None, None)


def test_a_tenant_is_written_at_a_pace_and_at_rest_not_at_all() -> None:
    rest = TenantNews((), 0.0, (), Meter("2026-01", 5.0, 0.0))
    busy = TenantNews((), 0.5, (), rest.meter)
    counted = TenantNews((), 0.0, (), Meter("2026-01", 9.0, 0.0))
    assert is_tenant_news(None, rest, 0.0)
    assert [is_tenant_news(rest, busy, ago_s) for ago_s in (USAGE_S - 1, USAGE_S)] == [False, True]
    assert [is_tenant_news(rest, counted, ago_s) for ago_s in (USAGE_S, SECONDS_S)] == [False, True]
    assert not is_tenant_news(rest, rest, 1e9)
