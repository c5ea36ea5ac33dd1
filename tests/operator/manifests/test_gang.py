"""The pods of a replica that spans several nodes: alike but for who leads, and where the leader is found."""

from __future__ import annotations

from typing import Any

import pytest

from llmos.api.names import GATE_QUOTA
from llmos_operator.manifests.gang import build_leaders_service
from llmos_operator.manifests.replica import build_replica_pods, build_service
from llmos_operator.planning.quota_record import QuotaRecord
from tests.operator.manifests.samples import gang_template, template


def build(**spec: Any) -> list[dict[str, Any]]:
    return build_replica_pods(gang_template(**spec), revision="abc", ordinal=0, attempt=1)


LEADER, WORKER = build()


def engine(pod: dict[str, Any]) -> dict[str, Any]:
    container: dict[str, Any] = pod["spec"]["containers"][0]
    return container


def test_the_labels_say_whose_a_pod_is_how_many_they_are_and_which_one_it_is() -> None:
    assert [pod["metadata"]["name"] for pod in (LEADER, WORKER)] == ["chat-abc-0", "chat-abc-0-1"]
    told = ("llmos.dev/replica", "llmos.dev/gang-size", "llmos.dev/rank", "llmos.dev/serving")
    assert [[pod["metadata"]["labels"][label] for label in told] for pod in (LEADER, WORKER)] == [
        ["chat-abc-0", "2", "0", "true"],
        ["chat-abc-0", "2", "1", "true"],
    ]


def test_each_pod_gets_its_part_of_the_accelerators_and_all_know_the_whole_layout() -> None:
    for pod in (LEADER, WORKER):
        assert engine(pod)["resources"]["limits"] == {"nvidia.com/gpu": "8"}
        words = " ".join(engine(pod)["command"])
        assert "--tensor-parallel-size 8 --pipeline-parallel-size 2" in words


def test_the_leader_has_a_name_in_the_dns_before_it_is_ready_and_the_others_are_told_it() -> None:
    service = build_leaders_service(gang_template().pool)
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert service["spec"]["selector"].items() <= LEADER["metadata"]["labels"].items()
    assert not service["spec"]["selector"].items() <= WORKER["metadata"]["labels"].items()
    assert (LEADER["spec"]["hostname"], LEADER["spec"]["subdomain"]) == ("chat-abc-0", service["metadata"]["name"])
    assert "hostname" not in WORKER["spec"]
    name = "chat-abc-0.chat-leaders.team-a.svc"
    for rank, pod in enumerate((LEADER, WORKER)):
        assert f"--gang-size 2 --rank {rank} --leader {name} -- " in " ".join(engine(pod)["command"])
        ip = {"name": "LLMOS_POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
        assert engine(pod)["env"][-1] == ip


def test_only_the_leader_is_behind_the_service_of_the_pool() -> None:
    selector = build_service(gang_template().pool)["spec"]["selector"].items()
    assert selector <= LEADER["metadata"]["labels"].items()
    assert not selector <= WORKER["metadata"]["labels"].items()
    assert [port["name"] for port in engine(LEADER)["ports"]] == ["http", "control"]
    assert [port["name"] for port in engine(WORKER)["ports"]] == ["control"]


def test_pods_of_a_gang_would_rather_be_where_a_fast_network_connects_them() -> None:
    for pod in (LEADER, WORKER):
        terms = pod["spec"]["affinity"]["podAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
        assert [term["podAffinityTerm"]["topologyKey"] for term in terms] == [
            "llmos.dev/fabric-domain",
            "nvidia.com/gpu.clique",
        ]
        selector = terms[0]["podAffinityTerm"]["labelSelector"]["matchLabels"]
        assert selector == {"llmos.dev/pool": "chat", "llmos.dev/replica": "chat-abc-0"}


def test_but_for_who_leads_they_are_the_same_pod() -> None:
    leader, worker = build()
    for pod in (leader, worker):
        for container in pod["spec"]["containers"]:
            container["command"] = [word for word in container["command"] if word not in {"0", "1"}]
            del container["ports"]
        pod["spec"].pop("hostname", None)
        pod["spec"].pop("subdomain", None)
    assert leader["spec"] == worker["spec"]


def test_all_wait_behind_the_gate_and_the_record_is_the_leader_s() -> None:
    pods = build_replica_pods(gang_template(), revision="abc", ordinal=0, attempt=0, record=QuotaRecord(attempts=2))
    assert [pod["spec"]["schedulingGates"] for pod in pods] == [[{"name": GATE_QUOTA}]] * 2
    assert ["llmos.dev/quota" in pod["metadata"]["annotations"] for pod in pods] == [True, False]


@pytest.mark.parametrize("field", ["hostname", "subdomain", "affinity"])
def test_a_replica_of_one_pod_has_none_of_it(field: str) -> None:
    (pod,) = build_replica_pods(template(), revision="abc", ordinal=0, attempt=0)
    assert field not in pod["spec"]
    assert "llmos.dev/gang-size" not in pod["metadata"]["labels"]
    assert "--leader" not in engine(pod)["command"]


def test_the_longest_name_of_a_pool_leaves_room_for_all_that_hangs_on_it() -> None:
    made = gang_template(pods=32)
    longest = made.pool.model_copy(update={"metadata": made.pool.metadata.model_copy(update={"name": "a" * 40})})
    pods = build_replica_pods(
        type(made)(longest, made.model, made.accelerator, made.plan, made.settings),
        revision="01234567",
        ordinal=999,
        attempt=0,
    )
    assert max(len(pod["metadata"]["name"]) for pod in pods) <= 63
    assert len(build_leaders_service(longest)["metadata"]["name"]) <= 63
