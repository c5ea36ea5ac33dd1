"""What a pool with adapters changes in its replicas, and the pod that shares an adapter."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from llmos.api import LLMModel, PoolPlan
from llmos_operator.manifests.replica import ReplicaTemplate, build_replica_pods, compute_revision
from llmos_operator.manifests.share import build_share_pod, build_share_service, compute_share_url
from llmos_operator.planning.models import compute_source_hash
from tests.operator.manifests.samples import PLAN, SECRET, SETTINGS, UID, pool
from tests.operator.manifests.samples import model as base_model
from tests.operator.reconcilers.test_pool_adapters import RESOLVED, adapter_of


def template(plan: PoolPlan = PLAN, **spec: Any) -> ReplicaTemplate:
    return ReplicaTemplate(pool(**spec), base_model(), None, plan, SETTINGS, token_hash="hash")


def engine_of(wanted: ReplicaTemplate) -> dict[str, Any]:
    (pod,) = build_replica_pods(wanted, revision="r", ordinal=0, attempt=0)
    container: dict[str, Any] = pod["spec"]["containers"][0]
    return container


def adapter(**change: Any) -> LLMModel:
    body = adapter_of(**change)
    body["metadata"]["uid"] = UID
    parsed = LLMModel.model_validate(body)
    status = {"resolved": RESOLVED, "sourceHash": compute_source_hash(parsed.spec)}
    return LLMModel.model_validate({**body, "status": status})


def share_pod(**change: Any) -> dict[str, Any]:
    model = adapter(**change)
    assert model.status.resolved is not None
    return build_share_pod(model, model.status.resolved, attempt=3, token="token", settings=SETTINGS)


def test_of_more_adapters_than_slots_the_engine_keeps_all_at_hand() -> None:
    command = " ".join(engine_of(template(adapters={"maxLoaded": 8, "slots": 2}))["command"])
    assert "--max-loras 2 --max-cpu-loras 16" in command


@pytest.mark.parametrize("engine", ["vllm", "simulator"])
def test_the_engine_can_load_adapters_only_if_the_pool_has_them(engine: str) -> None:
    container = engine_of(template(engine={"name": engine}, adapters={"maxLoaded": 3, "maxRank": 32}))
    command = " ".join(container["command"])
    assert "--enable-lora --max-loras 3 --max-cpu-loras 6 --max-lora-rank 32" in command
    assert "--adapters-bytes" in command.partition(" -- ")[0]
    environment = {each["name"]: each["value"] for each in container["env"]}
    assert environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"
    assert environment["LLMOS_TOKEN_SHA256"] == "hash"
    assert {"name": "adapters", "mountPath": "/adapters"} in container["volumeMounts"]
    plain = engine_of(template(engine={"name": engine}))
    assert "lora" not in " ".join(plain["command"])
    assert not {"VLLM_ALLOW_RUNTIME_LORA_UPDATING", "LLMOS_TOKEN_SHA256"} & {each["name"] for each in plain["env"]}


def test_the_room_for_files_is_bounded_above_what_the_worker_uses() -> None:
    wanted = template(adapters={"maxLoaded": 2})
    command = engine_of(wanted)["command"]
    used = int(command[command.index("--adapters-bytes") + 1])
    (pod,) = build_replica_pods(wanted, revision="r", ordinal=0, attempt=0)
    (volume,) = [volume for volume in pod["spec"]["volumes"] if volume["name"] == "adapters"]
    assert int(volume["emptyDir"]["sizeLimit"]) > used


def test_which_adapters_are_attached_is_no_part_of_a_revision_but_what_can_be_loaded_is() -> None:
    plain = compute_revision(template(adapters={}))
    assert compute_revision(template(adapters={"models": [{"name": "a"}]})) == plain
    assert compute_revision(template(adapters={"maxRank": 32})) != plain
    assert compute_revision(replace(template(adapters={}), token_hash="other")) != plain
    assert compute_revision(template()) != plain


def test_only_the_init_container_of_a_share_pod_has_the_credentials() -> None:
    pod = share_pod(source=SECRET)
    (fetch,), (share,) = pod["spec"]["initContainers"], pod["spec"]["containers"]
    assert fetch["envFrom"] == [{"secretRef": {"name": "hf-token"}}]
    assert "--adapter" in fetch["command"]
    assert "envFrom" not in share
    assert [mount["name"] for mount in share["volumeMounts"]] == ["tmp", "model"]
    assert share["volumeMounts"][1]["readOnly"]
    assert share["command"][-2:] == ["--dir", "/model/model"]
    assert pod["spec"]["automountServiceAccountToken"] is False


def test_an_adapter_in_a_claim_is_shared_from_where_it_lies() -> None:
    pod = share_pod(source={"uri": "pvc://files/output"})
    assert "initContainers" not in pod["spec"]
    assert pod["spec"]["volumes"][1]["persistentVolumeClaim"] == {"claimName": "files", "readOnly": True}
    assert pod["spec"]["containers"][0]["command"][-1] == "/source/output"
    pod = share_pod(storage={"mode": "claim", "size": "1Gi"})
    assert pod["spec"]["volumes"][1]["persistentVolumeClaim"]["claimName"].startswith("support-")
    assert pod["spec"]["containers"][0]["command"][-1] == "/model/model"


def test_names_stay_within_the_limits_of_kubernetes_and_the_service_selects_the_pod() -> None:
    long = adapter(name="a" * 40)
    assert long.status.resolved is not None
    pod = build_share_pod(long, long.status.resolved, attempt=999, token="t", settings=SETTINGS)
    assert len(pod["metadata"]["name"]) <= 63
    service = build_share_service(adapter())
    labels = share_pod()["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert compute_share_url(adapter()) == "http://support-share.team-a.svc:8002"
