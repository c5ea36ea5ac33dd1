"""What reconcilers may rest on, told to the fake and to a real kube-apiserver alike."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from llmos_operator.kube.client import Kube
from llmos_operator.kube.errors import Conflict, NotFound
from llmos_operator.kube.resources import INFERENCE_POOLS, PODS, SERVICES
from tests.operator.fake_kube import FakeKube

pytestmark = pytest.mark.apiserver

NOW = datetime(2026, 1, 1, tzinfo=UTC).isoformat()


def pool(namespace: str, name: str = "p", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "llmos.dev/v1alpha1",
        "kind": "InferencePool",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"modelRef": {"name": "m"}, "accelerator": {"class": "cpu"}, "replicas": 1, **spec},
    }


def pool_status(namespace: str, **status: Any) -> dict[str, Any]:
    return {key: value for key, value in pool(namespace).items() if key != "spec"} | {"status": status}


def condition(kind: str, status: str = "True") -> dict[str, Any]:
    return {
        "type": kind,
        "status": status,
        "reason": "Because",
        "message": "",
        "observedGeneration": 1,
        "lastTransitionTime": NOW,
    }


def pod(namespace: str, name: str = "a", *, labels: dict[str, str] | None = None, **container: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels or {"app": "x"}},
        "spec": {"containers": [{"name": "engine", "image": "i", **container}], "terminationGracePeriodSeconds": 60},
    }


def scheduled(manifest: dict[str, Any]) -> dict[str, Any]:
    return {**manifest, "spec": {**manifest["spec"], "nodeName": "node-1"}}


async def stored(kube: Kube, namespace: str, name: str = "p") -> dict[str, Any]:
    found = await kube.get(INFERENCE_POOLS, name, namespace)
    assert found is not None
    return found


class TestReading:
    async def test_a_missing_object_is_none(self, kube: Kube, namespace: str) -> None:
        assert await kube.get(PODS, "missing", namespace) is None

    async def test_a_list_has_kinds_but_no_managed_fields(self, kube: Kube, namespace: str) -> None:
        await kube.apply(pod(namespace))
        (found,) = await kube.list(PODS, namespace=namespace)
        assert (found["apiVersion"], found["kind"]) == ("v1", "Pod")
        assert "managedFields" not in found["metadata"]

    @pytest.mark.parametrize(
        ("selector", "names"),
        [
            ("", ["a", "b", "c"]),
            ("tier=front", ["a"]),
            ("tier==front,app=x", ["a"]),
            ("tier!=front", ["b", "c"]),
            ("tier in (front, back)", ["a", "b"]),
            ("tier notin (front)", ["b", "c"]),
            ("tier", ["a", "b"]),
            ("!tier", ["c"]),
            ("tier in (back),app", ["b"]),
        ],
    )
    async def test_labels_select(self, kube: Kube, namespace: str, selector: str, names: list[str]) -> None:
        await kube.apply(pod(namespace, "a", labels={"app": "x", "tier": "front"}))
        await kube.apply(pod(namespace, "b", labels={"app": "x", "tier": "back"}))
        await kube.apply(pod(namespace, "c", labels={"app": "x"}))
        found = await kube.list(PODS, namespace=namespace, label_selector=selector)
        assert sorted(item["metadata"]["name"] for item in found) == names


class TestApply:
    async def test_it_creates_with_identity(self, kube: Kube, namespace: str) -> None:
        created = await kube.apply(pool(namespace))
        assert created["metadata"]["uid"]
        assert created["metadata"]["creationTimestamp"]
        assert created["metadata"]["generation"] == 1

    async def test_an_equal_apply_changes_nothing(self, kube: Kube, namespace: str) -> None:
        first = await kube.apply(pool(namespace))
        second = await kube.apply(pool(namespace))
        assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]

    async def test_a_new_spec_is_a_new_generation(self, kube: Kube, namespace: str) -> None:
        await kube.apply(pool(namespace))
        assert (await kube.apply(pool(namespace, replicas=2)))["metadata"]["generation"] == 2

    async def test_labels_and_status_are_not_a_new_generation(self, kube: Kube, namespace: str) -> None:
        await kube.apply(pool(namespace))
        await kube.patch_metadata(INFERENCE_POOLS, "p", namespace, labels={"a": "b"})
        await kube.apply_status(pool_status(namespace, replicas=1))
        assert (await stored(kube, namespace))["metadata"]["generation"] == 1

    async def test_a_field_that_is_no_longer_named_disappears(self, kube: Kube, namespace: str) -> None:
        await kube.apply(pool(namespace, contextLength=4096))
        assert "contextLength" not in (await kube.apply(pool(namespace)))["spec"]

    async def test_a_field_of_another_manager_stays(self, kube: Kube, namespace: str) -> None:
        await kube.apply(pool(namespace, contextLength=4096), field_manager="someone")
        assert (await kube.apply(pool(namespace)))["spec"]["contextLength"] == 4096

    async def test_a_shared_field_stays_until_nobody_names_it(self, kube: Kube, namespace: str) -> None:
        await kube.apply(pool(namespace, contextLength=4096), field_manager="someone")
        await kube.apply(pool(namespace, contextLength=4096))
        assert (await kube.apply(pool(namespace)))["spec"]["contextLength"] == 4096
        after = await kube.apply(pool(namespace), field_manager="someone")
        assert "contextLength" not in after["spec"]

    async def test_it_takes_a_field_over_from_another_manager(self, kube: Kube, namespace: str) -> None:
        await kube.apply(pool(namespace, replicas=3), field_manager="someone")
        assert (await kube.apply(pool(namespace, replicas=1)))["spec"]["replicas"] == 1

    async def test_keyed_lists_merge_by_key(self, kube: Kube, namespace: str) -> None:
        def env(**variables: str) -> dict[str, Any]:
            listed = [{"name": name, "value": value} for name, value in variables.items()]
            return pool(namespace, engine={"name": "vllm", "env": listed})

        await kube.apply(env(A="1", B="1"))
        await kube.apply(env(C="1"), field_manager="someone")
        after = await kube.apply(env(A="2"))
        found = {item["name"]: item["value"] for item in after["spec"]["engine"]["env"]}
        assert found == {"A": "2", "C": "1"}

    async def test_ports_merge_by_port_and_protocol(self, kube: Kube, namespace: str) -> None:
        def service(*ports: int) -> dict[str, Any]:
            return {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": "s", "namespace": namespace},
                "spec": {"clusterIP": "None", "ports": [{"name": f"p{port}", "port": port} for port in ports]},
            }

        await kube.apply(service(80, 81))
        await kube.apply(service(81, 82))
        found = await kube.get(SERVICES, "s", namespace)
        assert found is not None
        assert [item["port"] for item in found["spec"]["ports"]] == [81, 82]

    async def test_the_uid_of_a_replaced_object_is_a_conflict(self, kube: Kube, namespace: str) -> None:
        await kube.apply(pool(namespace))
        manifest = pool(namespace)
        manifest["metadata"]["uid"] = "11111111-1111-1111-1111-111111111111"
        with pytest.raises(Conflict):
            await kube.apply(manifest)

    async def test_with_a_uid_it_never_creates(self, kube: Kube, namespace: str) -> None:
        manifest = pool(namespace)
        manifest["metadata"]["uid"] = "11111111-1111-1111-1111-111111111111"
        with pytest.raises(Conflict):
            await kube.apply(manifest)
        assert await kube.get(INFERENCE_POOLS, "p", namespace) is None

    async def test_an_old_resource_version_is_a_conflict(self, kube: Kube, namespace: str) -> None:
        first = await kube.apply(pool(namespace))
        await kube.apply(pool(namespace, replicas=2))
        manifest = pool(namespace, replicas=3)
        manifest["metadata"]["resourceVersion"] = first["metadata"]["resourceVersion"]
        with pytest.raises(Conflict):
            await kube.apply(manifest)

    async def test_create_refuses_what_exists(self, kube: Kube, namespace: str) -> None:
        await kube.create(pool(namespace))
        with pytest.raises(Conflict):
            await kube.create(pool(namespace))


class TestStatus:
    async def test_it_leaves_the_spec_alone(self, kube: Kube, namespace: str) -> None:
        await kube.apply(pool(namespace))
        after = await kube.apply_status({**pool(namespace, replicas=9), "status": {"replicas": 1}})
        assert after["spec"]["replicas"] == 1
        assert after["status"]["replicas"] == 1

    async def test_the_main_resource_leaves_the_status_alone(self, kube: Kube, namespace: str) -> None:
        await kube.apply(pool(namespace))
        await kube.apply_status(pool_status(namespace, replicas=1))
        after = await kube.apply({**pool(namespace), "status": {"replicas": 7}})
        assert after["status"]["replicas"] == 1

    async def test_a_missing_object_is_an_error(self, kube: Kube, namespace: str) -> None:
        with pytest.raises(NotFound):
            await kube.apply_status(pool_status(namespace, replicas=1))

    async def test_an_old_resource_version_is_a_conflict(self, kube: Kube, namespace: str) -> None:
        first = await kube.apply(pool(namespace))
        await kube.apply(pool(namespace, replicas=2))
        manifest = pool_status(namespace, replicas=1)
        manifest["metadata"]["resourceVersion"] = first["metadata"]["resourceVersion"]
        with pytest.raises(Conflict):
            await kube.apply_status(manifest)

    async def test_a_uid_is_no_precondition(self, kube: Kube, namespace: str) -> None:
        await kube.apply(pool(namespace))
        manifest = pool_status(namespace, replicas=1)
        manifest["metadata"]["uid"] = "11111111-1111-1111-1111-111111111111"
        assert (await kube.apply_status(manifest))["status"]["replicas"] == 1

    async def test_an_equal_status_changes_nothing(self, kube: Kube, namespace: str) -> None:
        await kube.apply(pool(namespace))
        first = await kube.apply_status(pool_status(namespace, conditions=[condition("Ready")]))
        second = await kube.apply_status(pool_status(namespace, conditions=[condition("Ready")]))
        assert first["metadata"]["resourceVersion"] == second["metadata"]["resourceVersion"]

    async def test_a_condition_that_is_no_longer_named_disappears(self, kube: Kube, namespace: str) -> None:
        await kube.apply(pool(namespace))
        await kube.apply_status(pool_status(namespace, conditions=[condition("Ready"), condition("Planned")]))
        after = await kube.apply_status(pool_status(namespace, conditions=[condition("Ready", "False")]))
        assert [(item["type"], item["status"]) for item in after["status"]["conditions"]] == [("Ready", "False")]

    async def test_the_last_field_of_a_status_can_go(self, kube: Kube, namespace: str) -> None:
        await kube.apply(pool(namespace))
        await kube.apply_status(pool_status(namespace, replicas=1, url="http://p"))
        after = await kube.apply_status(pool_status(namespace, replicas=1))
        assert after["status"] == {"replicas": 1}


class TestPatchMetadata:
    async def test_it_sets_and_removes_labels_and_annotations(self, kube: Kube, namespace: str) -> None:
        await kube.apply(pool(namespace))
        await kube.patch_metadata(INFERENCE_POOLS, "p", namespace, labels={"a": "1", "b": "1"}, annotations={"n": "1"})
        after = await kube.patch_metadata(INFERENCE_POOLS, "p", namespace, labels={"a": None, "c": "1"})
        assert after["metadata"]["labels"] == {"b": "1", "c": "1"}
        assert after["metadata"]["annotations"] == {"n": "1"}

    async def test_a_patched_label_is_no_longer_the_appliers(self, kube: Kube, namespace: str) -> None:
        await kube.apply(pod(namespace, labels={"app": "x", "serving": "true"}))
        await kube.patch_metadata(PODS, "a", namespace, labels={"serving": "false"})
        after = await kube.apply(pod(namespace, labels={"app": "x"}))
        assert after["metadata"]["labels"] == {"app": "x", "serving": "false"}

    async def test_an_old_resource_version_is_a_conflict(self, kube: Kube, namespace: str) -> None:
        first = await kube.apply(pool(namespace))
        await kube.apply(pool(namespace, replicas=2))
        version = first["metadata"]["resourceVersion"]
        with pytest.raises(Conflict):
            await kube.patch_metadata(INFERENCE_POOLS, "p", namespace, finalizers=["a/b"], resource_version=version)

    async def test_a_missing_object_is_an_error(self, kube: Kube, namespace: str) -> None:
        with pytest.raises(NotFound):
            await kube.patch_metadata(INFERENCE_POOLS, "p", namespace, labels={"a": "b"})


class TestMerge:
    async def test_it_lifts_a_gate_and_pins_a_pod_in_one_write(self, kube: Kube, namespace: str) -> None:
        gated = pod(namespace)
        gated["spec"]["schedulingGates"] = [{"name": "llmos.dev/quota"}]
        held = await kube.apply(gated)
        fields = [{"key": "metadata.name", "operator": "In", "values": ["node-7"]}]
        required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchFields": fields}]}}
        after = await kube.merge(
            PODS,
            "a",
            namespace,
            {
                "metadata": {"uid": held["metadata"]["uid"], "annotations": {"n": "1"}},
                "spec": {"schedulingGates": None, "affinity": {"nodeAffinity": required}},
            },
        )
        assert "schedulingGates" not in after["spec"]
        assert after["spec"]["affinity"]["nodeAffinity"] == required
        assert after["metadata"]["annotations"] == {"n": "1"}

    async def test_another_uid_is_a_conflict(self, kube: Kube, namespace: str) -> None:
        await kube.apply(pod(namespace))
        with pytest.raises(Conflict):
            await kube.merge(PODS, "a", namespace, {"metadata": {"uid": "other", "labels": {"a": "b"}}})

    async def test_a_missing_object_is_an_error(self, kube: Kube, namespace: str) -> None:
        with pytest.raises(NotFound):
            await kube.merge(PODS, "a", namespace, {"metadata": {"labels": {"a": "b"}}})


class TestDelete:
    async def test_an_object_that_is_gone_is_fine(self, kube: Kube, namespace: str) -> None:
        await kube.delete(PODS, "missing", namespace)

    async def test_the_uid_of_a_replaced_object_keeps_it(self, kube: Kube, namespace: str) -> None:
        await kube.apply(pool(namespace))
        with pytest.raises(Conflict):
            await kube.delete(INFERENCE_POOLS, "p", namespace, uid="11111111-1111-1111-1111-111111111111")
        assert await kube.get(INFERENCE_POOLS, "p", namespace)

    async def test_a_finalizer_holds_it_back(self, kube: Kube, namespace: str) -> None:
        await kube.apply(pool(namespace))
        await kube.patch_metadata(INFERENCE_POOLS, "p", namespace, finalizers=["llmos.dev/in-use"])
        await kube.delete(INFERENCE_POOLS, "p", namespace)
        assert (await stored(kube, namespace))["metadata"]["deletionTimestamp"]
        await kube.patch_metadata(INFERENCE_POOLS, "p", namespace, finalizers=[])
        assert await kube.get(INFERENCE_POOLS, "p", namespace) is None

    async def test_a_second_delete_changes_nothing(self, kube: Kube, namespace: str) -> None:
        await kube.apply(pool(namespace))
        await kube.patch_metadata(INFERENCE_POOLS, "p", namespace, finalizers=["llmos.dev/in-use"])
        await kube.delete(INFERENCE_POOLS, "p", namespace)
        before = await stored(kube, namespace)
        await kube.delete(INFERENCE_POOLS, "p", namespace)
        assert await stored(kube, namespace) == before

    async def test_a_pod_that_no_node_has_is_gone_at_once(self, kube: Kube, namespace: str) -> None:
        await kube.apply(pod(namespace))
        await kube.delete(PODS, "a", namespace)
        assert await kube.get(PODS, "a", namespace) is None

    async def test_a_pod_on_a_node_ends_gracefully(self, kube: Kube, namespace: str) -> None:
        await kube.apply(scheduled(pod(namespace)))
        await kube.delete(PODS, "a", namespace)
        found = await kube.get(PODS, "a", namespace)
        assert found is not None
        assert found["metadata"]["deletionTimestamp"]
        assert found["metadata"]["deletionGracePeriodSeconds"] == 60
        if isinstance(kube, FakeKube):
            kube.finish_deletion(PODS, "a", namespace)

    async def test_a_grace_period_of_zero_ends_a_pod_at_once(self, kube: Kube, namespace: str) -> None:
        await kube.apply(scheduled(pod(namespace)))
        await kube.delete(PODS, "a", namespace, grace_period_s=0)
        assert await kube.get(PODS, "a", namespace) is None


class TestTelling:
    async def test_an_event_is_recorded(self, kube: Kube, namespace: str) -> None:
        manifest = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": "p.1", "namespace": namespace},
            "eventTime": "2026-01-01T00:00:00.000000Z",
            "action": "Plan",
            "reason": "Planned",
            "note": "It fits.",
            "type": "Normal",
            "reportingController": "llmos.dev/operator",
            "reportingInstance": "operator-0",
            "regarding": {"kind": "InferencePool", "name": "p", "namespace": namespace},
        }
        await kube.create_event(manifest)
        await kube.create_event(manifest)  # The second one is refused, which nobody needs to know.

    async def test_a_log_that_is_not_there_is_empty(self, kube: Kube, namespace: str) -> None:
        assert await kube.tail_log("missing", namespace, "engine") == ""
