"""Which keys an event makes due, and what kopf is told to watch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from llmos.api.names import LABEL_JOB, LABEL_POOL
from llmos_operator.kube.config import Connection
from llmos_operator.kube.resources import (
    ACCELERATOR_CLASSES,
    FINE_TUNE_JOBS,
    INFERENCE_POOLS,
    JOBS,
    LLM_MODELS,
    NETWORK_POLICIES,
    PODS,
    SERVICES,
    TENANTS,
)
from llmos_operator.reconcilers.base import Key
from llmos_operator.reconcilers.quota_board import QUOTA
from llmos_operator.runtime.handlers import (
    CHILD_KINDS,
    Router,
    build_kopf_settings,
    build_registry,
)
from llmos_operator.runtime.references import DISCOVERY, References, find_missed

POOL = Key("InferencePool", "ns", "p")
MODEL = Key("LLMModel", "ns", "m")
OTHER_MODEL = Key("LLMModel", "ns", "other")


class Sink:
    """Collects keys in place of the queue."""

    def __init__(self) -> None:
        self.added: list[Key] = []
        self.later: list[tuple[Key, float]] = []

    def add(self, key: Key) -> None:
        self.added.append(key)

    def add_after(self, key: Key, delay_s: float) -> None:
        self.later.append((key, delay_s))

    def take(self) -> set[Key]:
        taken = {*self.added, *(key for key, _ in self.later)}
        self.added.clear()
        self.later.clear()
        return taken


def build() -> tuple[Router, Sink]:
    sink = Sink()
    return Router(References(), sink), sink


def own(
    name: str = "p", *, version: str = "1", generation: int = 1, spec: Any = None, **metadata: Any
) -> dict[str, Any]:
    identity = {"name": name, "namespace": "ns", "uid": "u", "resourceVersion": version, "generation": generation}
    return {"metadata": identity | metadata, "spec": spec or {}, "status": {}}


def pool(model: str = "m", **rest: Any) -> dict[str, Any]:
    return own(spec={"modelRef": {"name": model}, "accelerator": {"class": "h100"}}, **rest)


class TestOwnKinds:
    def test_a_new_object_is_due(self) -> None:
        router, sink = build()
        router.see_own(INFERENCE_POOLS, "ADDED", pool())
        assert sink.take() == {POOL}

    def test_a_changed_status_is_no_news(self) -> None:
        router, sink = build()
        router.see_own(INFERENCE_POOLS, "ADDED", pool())
        sink.take()
        router.see_own(INFERENCE_POOLS, "MODIFIED", pool(version="2") | {"status": {"replicas": 1}})
        assert sink.take() == set()

    def test_a_changed_spec_label_or_deletion_is_news(self) -> None:
        router, sink = build()
        router.see_own(INFERENCE_POOLS, "ADDED", pool())
        for change in ({"generation": 2}, {"labels": {"a": "b"}}, {"deletionTimestamp": "now"}):
            sink.take()
            router.see_own(INFERENCE_POOLS, "MODIFIED", pool(**change))
            assert sink.take() == {POOL}

    def test_an_object_of_a_new_list_is_due_whatever_we_knew(self) -> None:
        router, sink = build()
        router.see_own(INFERENCE_POOLS, "ADDED", pool())
        sink.take()
        router.see_own(INFERENCE_POOLS, None, pool())
        assert sink.added == []
        assert sink.later == [(POOL, 0.0)]

    def test_a_model_makes_its_pools_due_even_if_only_its_status_changed(self) -> None:
        router, sink = build()
        router.see_own(INFERENCE_POOLS, "ADDED", pool())
        router.see_own(LLM_MODELS, "ADDED", own("m"))
        sink.take()
        router.see_own(LLM_MODELS, "MODIFIED", own("m", version="2"))
        assert sink.take() == {POOL}
        router.see_own(LLM_MODELS, "DELETED", own("m"))
        assert sink.take() == {POOL, MODEL}

    def test_a_model_that_a_pool_no_longer_uses_is_due(self) -> None:
        router, sink = build()
        router.see_own(INFERENCE_POOLS, "ADDED", pool())
        sink.take()
        router.see_own(INFERENCE_POOLS, "MODIFIED", pool("other", generation=2))
        assert sink.take() == {POOL, MODEL}
        router.see_own(INFERENCE_POOLS, "DELETED", pool("other", generation=2))
        assert sink.take() == {POOL, OTHER_MODEL, DISCOVERY}
        router.see_own(LLM_MODELS, "MODIFIED", own("other", version="2"))
        assert POOL not in sink.take()

    def test_a_change_of_one_tenant_concerns_all_of_them_and_the_quota_and_a_status_nobody(self) -> None:
        router, sink = build()
        concerned = {Key("Tenant", "", "a"), Key("Tenant", "", "b"), QUOTA}
        for name in ("a", "b"):
            router.see_own(TENANTS, "ADDED", own(name, namespace=""))
        assert sink.take() == concerned
        router.see_own(TENANTS, "MODIFIED", own("a", namespace="", version="2"))
        assert sink.take() == set()
        router.see_own(TENANTS, "MODIFIED", own("a", namespace="", version="3", generation=2))
        assert sink.take() == concerned
        router.see_own(TENANTS, "DELETED", own("a", namespace="", generation=2))
        assert sink.take() == concerned

    def test_with_a_tenant_the_quota_is_due_after_all_that_holds_accelerators_and_without_one_never(self) -> None:
        router, sink = build()
        pod = {"metadata": {"name": "x", "namespace": "ns", "labels": {LABEL_POOL: "p"}}}
        node = {"metadata": {"name": "n"}, "status": {}}
        for has_tenant in (False, True):
            if has_tenant:
                router.see_own(TENANTS, "ADDED", own("a", namespace=""))
                sink.take()
            router.see_child(PODS, "MODIFIED", pod)
            assert (QUOTA in sink.take()) is has_tenant
            router.see_node("ADDED", node | {"status": {"capacity": {"gpu": str(has_tenant)}}})
            assert (QUOTA in sink.take()) is has_tenant
            router.see_own(INFERENCE_POOLS, "MODIFIED", pool(generation=7 + has_tenant))
            assert (QUOTA in sink.take()) is has_tenant
        router.see_own(TENANTS, "DELETED", own("a", namespace=""))
        assert QUOTA in sink.take(), "its gates are lifted"

    def test_every_accelerator_class_is_the_same_work(self) -> None:
        router, sink = build()
        router.see_own(INFERENCE_POOLS, "ADDED", pool())
        sink.take()
        router.see_own(ACCELERATOR_CLASSES, "ADDED", {"metadata": {"name": "h100", "uid": "u"}, "spec": {}})
        assert sink.take() == {DISCOVERY, POOL}

    def test_a_pool_without_the_fields_we_index_is_due_all_the_same(self) -> None:
        router, sink = build()
        router.see_own(INFERENCE_POOLS, "ADDED", own(spec={"modelRef": None}))
        assert sink.take() == {POOL}


class TestChildren:
    def test_a_child_makes_its_owner_due(self) -> None:
        router, sink = build()
        for resource, label, owner in (
            (PODS, "llmos.dev/pool", POOL),
            (SERVICES, "llmos.dev/pool", POOL),
            (JOBS, "llmos.dev/model", MODEL),
        ):
            labels = {label: owner.name}
            router.see_child(resource, "MODIFIED", {"metadata": {"name": "c", "namespace": "ns", "labels": labels}})
            assert sink.take() == {owner}

    def test_a_replica_belongs_to_its_pool_not_to_its_model(self) -> None:
        router, sink = build()
        labels = {"llmos.dev/pool": "p", "llmos.dev/model": "m"}
        router.see_child(PODS, "ADDED", {"metadata": {"name": "c", "namespace": "ns", "labels": labels}})
        assert sink.take() == {POOL}

    def test_a_service_that_came_is_no_news_and_one_that_went_is(self) -> None:
        router, sink = build()
        body = {"metadata": {"name": "p", "namespace": "ns", "labels": {"llmos.dev/pool": "p"}}}
        for event_type in (None, "ADDED"):
            router.see_child(SERVICES, event_type, body)
        assert sink.take() == set()
        router.see_child(SERVICES, "DELETED", body)
        assert sink.take() == {POOL}

    def test_every_object_is_told_to_the_memory_before_anything_is_due_by_it(self) -> None:
        told: list[tuple[str, str | None, str, bool]] = []
        _, sink = build()

        def see(kind: str, event_type: str | None, item: Mapping[str, Any]) -> None:
            told.append((kind, event_type, item["metadata"]["resourceVersion"], bool(sink.take())))

        router = Router(References(), sink, on_object=see)
        labels = {"llmos.dev/pool": "p"}
        router.see_child(PODS, "MODIFIED", {"metadata": {"name": "c", "resourceVersion": "7", "labels": labels}})
        assert sink.take()
        router.see_own(INFERENCE_POOLS, "DELETED", pool(version="8"))
        assert told == [("Pod", "MODIFIED", "7", False), ("InferencePool", "DELETED", "8", False)]

    def test_a_child_of_nobody_is_ignored(self) -> None:
        router, sink = build()
        router.see_child(PODS, "ADDED", {"metadata": {"name": "c", "namespace": "ns"}})
        assert sink.take() == set()


class TestNodes:
    NODE: ClassVar[dict[str, Any]] = {
        "metadata": {"name": "n", "labels": {"gpu": "h100"}},
        "spec": {},
        "status": {"capacity": {"nvidia.com/gpu": "8"}, "conditions": [{"lastHeartbeatTime": "1"}]},
    }

    def test_a_heartbeat_is_no_news(self) -> None:
        router, sink = build()
        router.see_node("ADDED", self.NODE)
        assert sink.take() == {DISCOVERY}
        beat = self.NODE | {"status": self.NODE["status"] | {"conditions": [{"lastHeartbeatTime": "2"}]}}
        router.see_node("MODIFIED", beat)
        assert sink.take() == set()

    def test_labels_taints_capacity_and_the_end_are_news(self) -> None:
        router, sink = build()
        router.see_node("ADDED", self.NODE)
        for change in (
            {"metadata": {"name": "n", "labels": {}}},
            {"spec": {"taints": [{"key": "a"}]}},
            {"status": {"capacity": {"nvidia.com/gpu": "4"}}},
        ):
            sink.take()
            router.see_node("MODIFIED", self.NODE | change)
            assert sink.take() == {DISCOVERY}
        router.see_node("DELETED", self.NODE)
        assert sink.take() == {DISCOVERY}

    def test_nodes_are_looked_at_after_a_while_for_they_come_in_groups(self) -> None:
        router, sink = build()
        router.see_node("ADDED", self.NODE)
        assert sink.later == [(DISCOVERY, 1.0)]


class TestMissedChanges:
    def test_nothing_is_missed_when_the_events_told_it(self) -> None:
        assert find_missed({POOL: "1"}, {POOL: "1"}, {POOL: "1"}, ["InferencePool"]) == set()

    def test_a_watch_that_is_merely_late_is_not_blamed(self) -> None:
        assert find_missed({POOL: "1"}, {POOL: "2"}, {POOL: "3"}, ["InferencePool"]) == set()
        assert find_missed({}, {POOL: "1"}, {POOL: "1"}, ["InferencePool"]) == set()

    def test_a_change_a_creation_and_a_deletion_that_nobody_told_are_missed(self) -> None:
        assert find_missed({POOL: "1"}, {POOL: "2"}, {POOL: "1"}, ["InferencePool"]) == {POOL}
        assert find_missed({}, {POOL: "1"}, {}, ["InferencePool"]) == {POOL}
        assert find_missed({POOL: "1"}, {}, {POOL: "1"}, ["InferencePool"]) == {POOL}

    def test_kinds_that_were_not_listed_do_not_count(self) -> None:
        assert find_missed({MODEL: "1"}, {}, {MODEL: "1"}, ["InferencePool"]) == set()


class TestTenants:
    def test_a_change_of_a_class_concerns_all_tenants_for_what_exists_bounds_them(self) -> None:
        router, sink = build()
        for name in ("a", "b"):
            router.see_own(TENANTS, "ADDED", {"metadata": {"name": name, "uid": name, "resourceVersion": "1"}})
        sink.take()
        accelerator = {"metadata": {"name": "h100", "uid": "u", "resourceVersion": "2"}, "status": {"capacity": 8}}
        router.see_own(ACCELERATOR_CLASSES, "MODIFIED", accelerator)
        assert {Key("Tenant", "", "a"), Key("Tenant", "", "b")} <= sink.take()

    def test_a_policy_that_changed_concerns_its_tenant(self) -> None:
        router, sink = build()
        labels = {"llmos.dev/tenant": "a", "llmos.dev/component": "isolation"}
        policy = {"metadata": {"name": "llmos-dns", "namespace": "ns", "labels": labels}}
        router.see_child(NETWORK_POLICIES, "DELETED", policy)
        assert sink.take() == {Key("Tenant", "", "a")}


class TestKopf:
    def test_children_are_selected_by_the_server(self) -> None:
        selectors = build_kopf_settings().watching.label_selectors
        assert len(selectors) == len(CHILD_KINDS)
        assert set(selectors.values()) == {"app.kubernetes.io/managed-by=llmos"}

    def test_kopf_writes_nothing(self) -> None:
        kopf_settings = build_kopf_settings()
        assert kopf_settings.peering.standalone
        assert not kopf_settings.posting.enabled
        assert kopf_settings.scanning.disabled

    async def test_only_events_are_handled(self) -> None:
        async def login() -> Connection:
            raise AssertionError("building the registry logs nobody in")

        registry = build_registry(build()[0], login)
        assert len(registry._watching.get_all_handlers()) == 11
        assert not registry._changing.get_all_handlers()
        assert not registry._spawning.get_all_handlers()
        assert not registry._indexing.get_all_handlers()


class TestAdapters:
    ADAPTER = Key("LLMModel", "ns", "a")

    @staticmethod
    def adapter(*pools: str, **rest: Any) -> dict[str, Any]:
        return own("a", spec={"adapter": {"baseModelRef": {"name": "m"}, "attachTo": list(pools)}}, **rest)

    @staticmethod
    def naming_pool(*adapters: str, **rest: Any) -> dict[str, Any]:
        spec = {"modelRef": {"name": "m"}, "accelerator": {"class": "h100"}}
        return own(spec={**spec, "adapters": {"models": [{"name": name} for name in adapters]}}, **rest)

    def test_any_change_of_an_adapter_makes_its_pools_due(self) -> None:
        router, sink = build()
        router.see_own(LLM_MODELS, "ADDED", self.adapter("p"))
        assert sink.take() == {self.ADAPTER, POOL}
        router.see_own(LLM_MODELS, "MODIFIED", self.adapter("p", version="2"))
        assert sink.take() == {POOL}
        router.see_own(INFERENCE_POOLS, "ADDED", self.naming_pool("a"))
        sink.take()
        router.see_own(LLM_MODELS, "MODIFIED", self.adapter(version="3"))
        assert POOL in sink.take()

    def test_a_pool_that_is_detached_from_is_due_and_so_are_those_of_an_adapter_that_goes(self) -> None:
        router, sink = build()
        router.see_own(LLM_MODELS, "ADDED", self.adapter("p"))
        sink.take()
        router.see_own(LLM_MODELS, "MODIFIED", self.adapter(version="2", generation=2))
        assert sink.take() == {self.ADAPTER, POOL}
        router.see_own(LLM_MODELS, "MODIFIED", self.adapter("p", version="3", generation=3))
        sink.take()
        router.see_own(LLM_MODELS, "DELETED", self.adapter("p", version="4"))
        assert sink.take() == {self.ADAPTER, POOL}

    def test_a_pool_that_comes_changes_or_goes_makes_its_adapters_due_and_its_status_does_not(self) -> None:
        router, sink = build()
        router.see_own(LLM_MODELS, "ADDED", self.adapter("p"))
        sink.take()
        router.see_own(INFERENCE_POOLS, "ADDED", self.naming_pool("named"))
        named = Key("LLMModel", "ns", "named")
        assert sink.take() == {POOL, self.ADAPTER, named}
        router.see_own(INFERENCE_POOLS, "MODIFIED", self.naming_pool("named", version="2"))
        assert sink.take() == set()
        router.see_own(INFERENCE_POOLS, "MODIFIED", self.naming_pool(version="3", generation=2))
        assert named in sink.take()
        router.see_own(INFERENCE_POOLS, "DELETED", self.naming_pool(version="4", generation=2))
        assert {POOL, self.ADAPTER} <= sink.take()


def test_a_job_looks_again_when_a_pool_comes_changes_or_goes_that_is_to_load_its_adapter() -> None:
    router, sink = build()
    spec = {"baseModelRef": {"name": "m"}, "output": {"name": "a", "attachTo": [{"pool": "p"}]}}
    router.see_own(FINE_TUNE_JOBS, "ADDED", own("j", spec=spec))
    sink.take()
    job = Key("FineTuneJob", "ns", "j")
    router.see_own(INFERENCE_POOLS, "ADDED", pool())
    assert sink.take() == {POOL, job}
    router.see_own(INFERENCE_POOLS, "MODIFIED", pool(version="2") | {"status": {"replicas": 1}})
    assert sink.take() == set()
    router.see_own(INFERENCE_POOLS, "DELETED", pool(version="3"))
    assert job in sink.take()


def test_a_job_is_looked_for_when_a_model_comes_that_it_made_also_if_it_is_gone() -> None:
    router, sink = build()
    made = own("result")
    made["metadata"]["labels"] = {LABEL_JOB: "gone"}
    router.see_own(LLM_MODELS, None, made)
    assert Key("FineTuneJob", "ns", "gone") in sink.take()
