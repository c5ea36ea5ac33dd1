"""What the API server does with our kinds beside refusing: defaults, pruning, status, scale, columns, explanations."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from llmos.api import KINDS, ApiModel, FineTuneJob, InferencePool, LLMModel
from llmos.api.names import API_VERSION, GROUP, STATUS_FIELD_MANAGER
from tests.integration.conftest import Kubectl
from tests.integration.crds.conftest import INFO, ROOT, Object, Server
from tests.integration.crds.constraints import SMALLEST

pytestmark = pytest.mark.apiserver

BY_KIND: dict[str, type[ApiModel]] = {kind.info.kind: kind for kind in KINDS}
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
POOLS = f"inferencepools.{GROUP}"


def smallest(kind: str, name: str = "smallest", **changes: Any) -> Object:
    spec = {**SMALLEST[kind], **changes}
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}


def condition(type_: str, status: str) -> Object:
    return {"type": type_, "status": status, "reason": "Ready", "lastTransitionTime": "2026-01-02T03:04:05Z"}


def apply_status(kubectl: Kubectl, name: str, manager: str, **status: Any) -> Object:
    """Write the status of a pool the way the operator does, and return the stored object."""
    manifest = {"apiVersion": API_VERSION, "kind": "InferencePool", "metadata": {"name": name}, "status": status}
    flags = ["--server-side", "--subresource=status", f"--field-manager={manager}", "--output=json", "--filename=-"]
    stored: Object = json.loads(kubectl("apply", *flags, given=json.dumps(manifest)))
    return stored


class TestDefaults:
    def test_of_a_pool_are_filled_in_by_the_server(self, server: Server) -> None:
        assert server.try_out(smallest("InferencePool"))["spec"] == {
            **SMALLEST["InferencePool"],
            "engine": {"name": "vllm"},
            "parallelism": {},
            "routing": {"policy": "auto"},
            "hold": {"timeoutSeconds": 600, "maxRequests": 1000, "maxRequestsPerKey": 200},
            "rollout": {"maxSurge": 1, "maxUnavailable": 0},
            "drain": {"timeoutSeconds": 120},
        }

    def test_of_a_pool_that_scales_make_it_work_with_nothing_said(self, server: Server) -> None:
        spec = server.try_out(smallest("InferencePool", replicas=None, scaling={}))["spec"]
        assert "replicas" not in spec
        assert spec["scaling"] == {
            "minReplicas": 1,
            "maxReplicas": 8,
            "target": {},
            "scaleDownDelaySeconds": 60,
            "scaleToZeroAfterSeconds": 600,
            "mode": "active",
        }

    def test_of_a_model_are_filled_in_by_the_server(self, server: Server) -> None:
        assert server.try_out(smallest("LLMModel"))["spec"] == {
            **SMALLEST["LLMModel"],
            "format": "auto",
            "storage": {"mode": "ephemeral", "size": "20Gi", "accessMode": "ReadWriteOnce", "keep": False},
        }

    def test_of_an_accelerator_class_are_filled_in_by_the_server(self, server: Server) -> None:
        spec = server.try_out(smallest("AcceleratorClass"))["spec"]
        assert (spec["resourceName"], spec["countPerNode"], spec["costWeight"]) == ("nvidia.com/gpu", 8, 1)

    def test_complete_a_nested_object_that_is_given_in_part(self, server: Server) -> None:
        spec = server.try_out(smallest("LLMModel", storage={"mode": "claim"}))["spec"]
        assert spec["storage"] == {"mode": "claim", "size": "20Gi", "accessMode": "ReadWriteOnce", "keep": False}

    def test_stand_in_for_null(self, server: Server) -> None:
        spec = server.try_out(smallest("InferencePool", parallelism=None, contextLength=None))["spec"]
        assert spec["parallelism"] == {}
        assert "contextLength" not in spec

    @pytest.mark.parametrize("kind", BY_KIND)
    def test_of_the_server_and_of_the_models_are_the_same_for(self, kind: str, server: Server) -> None:
        given = smallest(kind)
        served = BY_KIND[kind].model_validate(server.try_out(given)).model_dump()["spec"]
        assert served == BY_KIND[kind].model_validate(given).model_dump()["spec"]

    @pytest.mark.parametrize("kind", BY_KIND)
    def test_leave_a_new_object_without_a_status(self, kind: str, server: Server) -> None:
        assert "status" not in server.try_out(smallest(kind))


class TestStoredObjects:
    @pytest.mark.parametrize("kind", BY_KIND)
    def test_are_read_by_the_models_and_accepted_again(self, kind: str, server: Server) -> None:
        model = BY_KIND[kind]
        created = model.model_validate(server.create(smallest(kind, f"again-{kind.lower()}"))).to_manifest()
        again = model.model_validate(server.try_out({**created, "metadata": {"name": "another"}})).to_manifest()
        assert again["spec"] == created["spec"]

    def test_keep_the_types_of_engine_arguments(self, server: Server) -> None:
        args = {"enforce-eager": True, "max-num-seqs": 64, "swap-space": 0.5, "kv-cache-dtype": "fp8"}
        served = server.try_out(smallest("InferencePool", engine={"args": args}))
        assert InferencePool.model_validate(served).spec.engine.args == args

    def test_lose_fields_that_nobody_knows(self, server: Server) -> None:
        assert "modle" not in server.try_out(smallest("InferencePool", modle="typo"))["spec"]

    def test_ignore_a_status_that_a_user_sends(self, server: Server) -> None:
        assert "status" not in server.try_out({**smallest("InferencePool"), "status": {"replicas": 7}})


class TestChanges:
    def test_of_a_search_may_be_its_limits_and_not_its_values(self, server: Server, kubectl: Kubectl) -> None:
        rates = [{"name": "learningRate", "values": [0.001, 0.01]}]
        server.create(smallest("FineTuneJob", "searches", search={"parameters": rates}))

        def change(**search: Any) -> str:
            patch = json.dumps({"spec": {"search": search}})
            return kubectl("patch", f"finetunejobs.{GROUP}/searches", "--type=merge", f"--patch={patch}")

        change(maxTrials=4, parallelism=2, budgetAcceleratorHours=3)
        others = [{"name": "learningRate", "values": [0.002]}]
        for refused in ({"seed": 1}, {"algorithm": "grid"}, {"reductionFactor": 2}, {"parameters": others}):
            with pytest.raises(AssertionError, match="of a search cannot be changed"):
                change(**refused)


class TestStatus:
    def test_conditions_of_two_writers_stand_side_by_side(self, server: Server, kubectl: Kubectl) -> None:
        server.create(smallest("InferencePool", "two-writers"))
        apply_status(kubectl, "two-writers", STATUS_FIELD_MANAGER, replicas=2, conditions=[condition("Ready", "True")])
        stored = apply_status(kubectl, "two-writers", "someone-else", conditions=[condition("Audited", "True")])
        types = {entry["type"] for entry in stored["status"]["conditions"]}
        assert types == {"Ready", "Audited"}
        assert stored["status"]["replicas"] == 2

    def test_holds_everything_that_a_full_status_says(self, server: Server, kubectl: Kubectl) -> None:
        server.create(smallest("InferencePool", "full-status"))
        plan = {"tensorParallelSize": 2, "maxModelLen": 4096, "gpuMemoryUtilization": 0.9, "weightsGib": 14.2}
        status = {"replicas": 1, "plan": plan, "url": "http://full-status", "conditions": [condition("Ready", "True")]}
        stored = apply_status(kubectl, "full-status", STATUS_FIELD_MANAGER, **status)
        read = InferencePool.model_validate(stored)
        assert read.status.plan is not None
        assert read.status.plan.gpu_memory_utilization == 0.9
        assert {**read.status.to_manifest(), **status} == read.status.to_manifest() | status
        assert stored["spec"]["replicas"] == 1


class TestScale:
    def test_changes_the_replicas_and_tells_an_autoscaler_its_selector(self, server: Server, kubectl: Kubectl) -> None:
        server.create(smallest("InferencePool", "scaled"))
        selector = "llmos.dev/pool=scaled"
        apply_status(kubectl, "scaled", STATUS_FIELD_MANAGER, replicas=1, selector=selector)
        kubectl("scale", f"{POOLS}/scaled", "--replicas=3")
        path = f"/apis/{API_VERSION}/namespaces/default/inferencepools/scaled"
        scale = json.loads(kubectl("get", "--raw", f"{path}/scale"))
        assert scale["spec"] == {"replicas": 3}
        assert scale["status"] == {"replicas": 1, "selector": selector}
        assert json.loads(kubectl("get", "--raw", path))["spec"]["replicas"] == 3

    def test_by_hand_is_refused_where_the_load_decides(self, server: Server, kubectl: Kubectl) -> None:
        server.create(smallest("InferencePool", "by-load", replicas=None, scaling={"maxReplicas": 4}))
        with pytest.raises(AssertionError, match="to set a number by hand, remove scaling"):
            kubectl("scale", f"{POOLS}/by-load", "--replicas=3")
        assert "replicas" not in json.loads(kubectl("get", POOLS, "by-load", "--output=json"))["spec"]

    def test_by_hand_is_right_where_the_autoscaler_only_advises(self, server: Server, kubectl: Kubectl) -> None:
        server.create(smallest("InferencePool", "advised", scaling={"mode": "advisory"}))
        kubectl("scale", f"{POOLS}/advised", "--replicas=3")
        assert json.loads(kubectl("get", POOLS, "advised", "--output=json"))["spec"]["replicas"] == 3

    def test_works_before_there_is_a_status(self, server: Server, kubectl: Kubectl) -> None:
        server.create(smallest("InferencePool", "unseen"))
        kubectl("scale", f"{POOLS}/unseen", "--replicas=0")
        read = json.loads(kubectl("get", POOLS, "unseen", "--output=json"))
        assert InferencePool.model_validate(read).spec.replicas == 0


class TestKubectl:
    def test_get_shows_the_columns_of_a_pool(self, server: Server, kubectl: Kubectl) -> None:
        server.create(smallest("InferencePool", "columns"))
        status = {"replicas": 3, "readyReplicas": 2, "desiredReplicas": 4, "accelerators": 48, "url": "http://columns"}
        status |= {"scaling": {"boundedBy": "maxReplicas"}}
        apply_status(kubectl, "columns", STATUS_FIELD_MANAGER, **status, conditions=[condition("Ready", "False")])
        header, row = kubectl("get", POOLS, "columns", "--output=wide").splitlines()
        columns = ["NAME", "MODEL", "READY", "REPLICAS", "DESIRED", "REASON", "BOUND", "GPUS", "URL", "AGE"]
        assert header.split() == columns
        assert row.split()[:-1] == ["columns", "m", "2", "3", "4", "Ready", "maxReplicas", "48", "http://columns"]

    def test_get_shows_the_columns_of_a_tenant(self, server: Server, kubectl: Kubectl) -> None:
        server.create(smallest("Tenant", "team", namespaces=["team-a", "team-b"]))
        status = {"accelerators": "6/8", "borrowed": 2, "waiting": 4, "conditions": [condition("Ready", "True")]}
        manifest = {"apiVersion": API_VERSION, "kind": "Tenant", "metadata": {"name": "team"}, "status": status}
        flags = ["--server-side", "--subresource=status", "--field-manager=test", "--filename=-"]
        kubectl("apply", *flags, given=json.dumps(manifest))
        header, row = kubectl("get", f"tenants.{GROUP}", "team").splitlines()
        assert header.split() == ["NAME", "NAMESPACES", "GPUS", "BORROWED", "WAITING", "REASON", "AGE"]
        assert row.split()[:-1] == ["team", '["team-a","team-b"]', "6/8", "2", "4", "Ready"]

    def test_get_llmos_lists_every_kind(self, server: Server, kubectl: Kubectl) -> None:
        for kind in BY_KIND:
            server.create(smallest(kind, f"listed-{kind.lower()}"))
        listed = kubectl("get", "llmos", "--output=name")
        for kind, info in INFO.items():
            assert f"{info.singular}.{GROUP}/listed-{kind.lower()}" in listed

    @pytest.mark.parametrize("short", ["llm", "ipool", "accel", "lten"])
    def test_get_knows_the_short_name(self, short: str, crds: None, kubectl: Kubectl) -> None:
        kubectl("get", short)

    @pytest.mark.parametrize("kind", BY_KIND)
    def test_explain_lists_every_field_of(self, kind: str, crds: None, kubectl: Kubectl) -> None:
        explained = kubectl("explain", f"{INFO[kind].plural}.{GROUP}", "--recursive")
        fields = {line.split()[0] for line in explained.splitlines() if "<" in line}
        assert set(_field_names(BY_KIND[kind].model_json_schema(), "spec", "status")) <= fields

    @pytest.mark.parametrize(
        ("path", "words"),
        [
            ("spec", "What the user asks for."),
            ("spec.engine.env.value", "Secrets do not belong here."),
            ("spec.rollout.maxSurge", "Replicas above the desired number while a change rolls out."),
            ("status.plan.kvCacheTokens", "Tokens that the KV cache of one replica holds."),
            ("status.conditions.message", "The cause and the remedy, for people."),
        ],
    )
    def test_explain_describes_a_pool_at(self, path: str, words: str, crds: None, kubectl: Kubectl) -> None:
        assert words in " ".join(kubectl("explain", f"{POOLS}.{path}").split())

    def test_explain_finds_a_description_for_every_field(self, crds: None, kubectl: Kubectl) -> None:
        published = json.loads(kubectl("get", "--raw", f"/openapi/v3/apis/{API_VERSION}"))["components"]["schemas"]
        for kind in BY_KIND:
            schema = published[f"dev.llmos.v1alpha1.{kind}"]
            silent = [path for path, field in _published_fields(schema, kind) if "description" not in field]
            assert silent == []


class TestExamples:
    @pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
    def test_hold_only_known_fields_and_can_be_applied_and_read(self, path: Any, crds: None, kubectl: Kubectl) -> None:
        printed = kubectl("apply", "--server-side", "--validate=strict", "--output=json", "--filename", str(path))
        objects = json.loads(printed).get("items", [json.loads(printed)])
        assert len(objects) == len(list(yaml.safe_load_all(path.read_text())))
        for served in objects:
            BY_KIND[served["kind"]].model_validate(served)

    def test_refer_only_to_models_that_they_bring(self) -> None:
        for path in EXAMPLES:
            objects = [
                served for served in yaml.safe_load_all(path.read_text()) if served["kind"] != "AcceleratorClass"
            ]
            models = {served["metadata"]["name"] for served in objects if served["kind"] == LLMModel.info.kind}
            jobs = [served["spec"] for served in objects if served["kind"] == FineTuneJob.info.kind]
            made = {spec["output"]["name"] for spec in jobs}
            pools = {
                served["metadata"]["name"]: served["spec"]["modelRef"]["name"]
                for served in objects
                if served["kind"] == InferencePool.info.kind
            }
            assert {spec["baseModelRef"]["name"] for spec in jobs} <= models
            assert set(pools.values()) <= models | made
            assert {target["pool"] for spec in jobs for target in spec["output"].get("attachTo", ())} <= set(pools)


@pytest.mark.parametrize("kind", BY_KIND)
def test_the_server_finds_nothing_wrong_with_the_crd_of(kind: str, crds: None, kubectl: Kubectl) -> None:
    crd = json.loads(kubectl("get", "crd", f"{INFO[kind].plural}.{GROUP}", "--output=json"))
    assert {entry["type"]: entry["status"] for entry in crd["status"]["conditions"]} == {
        "NamesAccepted": "True",
        "Established": "True",
    }


def _field_names(schema: Object, *parts: str) -> Iterator[str]:
    """Yield the name of every field below these parts of a model's own JSON schema."""
    definitions = schema["$defs"]
    reached: list[Any] = [schema["properties"][part] for part in parts]
    while reached:
        node = reached.pop()
        if isinstance(node, list):
            reached += node
        elif isinstance(node, dict):
            if "$ref" in node:
                reached.append(definitions[node["$ref"].rpartition("/")[2]])
            yield from node.get("properties", {})
            reached += node.get("properties", {}).values()
            reached += [node[key] for key in ("items", "anyOf", "additionalProperties") if key in node]


def _published_fields(node: Object, path: str) -> Iterator[tuple[str, Object]]:
    for name, field in node.get("properties", {}).items():
        yield f"{path}.{name}", field
        inner = field.get("items", field)
        yield from _published_fields(inner, f"{path}.{name}")
