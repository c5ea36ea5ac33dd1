"""What the tool puts into a cluster, and what it would take back from a machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2e.cluster import cleanup, network, packages
from e2e.cluster.api import open_cluster
from e2e.cluster.errors import ClusterError
from e2e.cluster.kind import (
    Kind,
    build_component_command,
    build_create_command,
    build_delete_command,
    build_load_command,
)
from e2e.cluster.objects import build_dns_service, build_kwok_node, build_storage_class, is_node_ready, plan_kwok_nodes
from e2e.cluster.paths import StateDir


def test_a_simulated_node_looks_like_one_with_eight_gpus_and_repels_real_pods() -> None:
    node = build_kwok_node(3)
    assert node["metadata"]["annotations"]["kwok.x-k8s.io/node"] == "fake"
    assert node["metadata"]["labels"]["nvidia.com/gpu.count"] == "8"
    assert node["status"]["allocatable"]["nvidia.com/gpu"] == "8"
    assert node["spec"]["taints"] == [{"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"}]


@given(existing=st.sets(st.integers(0, 40)), wanted=st.integers(0, 40))
def test_creating_and_deleting_leaves_exactly_the_wanted_simulated_nodes(existing: set[int], wanted: int) -> None:
    before = {f"kwok-gpu-{index}" for index in existing}
    create, delete = plan_kwok_nodes(before, wanted)
    created = {node["metadata"]["name"] for node in create}
    assert not created & before
    assert (before | created) - set(delete) == {f"kwok-gpu-{index}" for index in range(wanted)}


def test_the_default_storage_class_waits_for_the_pod_that_uses_the_claim() -> None:
    storage_class = build_storage_class()
    assert storage_class["metadata"]["annotations"]["storageclass.kubernetes.io/is-default-class"] == "true"
    assert storage_class["volumeBindingMode"] == "WaitForFirstConsumer"


def test_the_dns_service_has_an_endpoint_without_a_pod() -> None:
    service, endpoints = build_dns_service()
    assert "selector" not in service["spec"]
    assert endpoints["metadata"]["labels"]["kubernetes.io/service-name"] == service["metadata"]["name"]


@pytest.mark.parametrize(("status", "ready"), [("True", True), ("False", False), ("Unknown", False)])
def test_a_node_is_ready_only_when_its_condition_is_true(status: str, ready: bool) -> None:
    assert is_node_ready({"status": {"conditions": [{"type": "Ready", "status": status}]}}) is ready
    assert not is_node_ready({})


def test_only_mounts_below_the_state_folder_are_ours() -> None:
    line = "36 35 98:0 / {} rw,noatime master:1 - tmpfs tmpfs rw\n"
    points = ["/", "/state", "/state/kubelet/a", "/state/kubelet/with\\040blank", "/state-of-another/x"]
    mountinfo = "".join(line.format(point) for point in points)
    assert cleanup.mounts_below(Path("/state"), mountinfo) == ["/state/kubelet/a", "/state/kubelet/with blank"]


def test_the_namespaces_of_pods_are_read_from_what_cni_remembers() -> None:
    interfaces = [{"name": "llmos0"}, {"name": "veth1"}, {"name": "eth0", "sandbox": "/var/run/netns/cni-1"}]
    assert cleanup.pod_namespaces({"result": {"interfaces": interfaces}}) == {"cni-1"}


def test_masquerading_replaces_its_own_table_only() -> None:
    rules = network.build_masquerade_rules()
    assert rules.count("table ip") == rules.count(f"table ip {network.MASQUERADE_TABLE}") == 3
    assert "flush" not in rules


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert packages.missing_packages({"shell": "sh", "nothing": "/no/such/file"}) == ["nothing"]
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(ClusterError, match="sudo apt-get install nothing"):
        packages.ensure_packages({"nothing": "/no/such/file"})


def test_kind_is_told_name_and_kubeconfig_each_time() -> None:
    state = StateDir(Path("/s"))
    create = build_create_command(Path("kind"), state)
    assert create == [
        "kind",
        "create",
        "cluster",
        "--name=llmos",
        "--kubeconfig=/s/admin.kubeconfig",
        "--config=-",
        "--wait=180s",
    ]
    assert build_delete_command(Path("kind"), state)[1:] == [
        "delete",
        "cluster",
        "--name=llmos",
        "--kubeconfig=/s/admin.kubeconfig",
    ]
    assert build_load_command(Path("kind"), "a:1")[1:] == ["load", "docker-image", "a:1", "--name=llmos"]


def test_a_component_of_kind_stops_by_parking_its_manifest_and_returns_by_putting_it_back() -> None:
    command, active, parked = build_component_command("kube-apiserver", stop=True)
    assert build_component_command("kube-apiserver", stop=False) == [command, parked, active]


def test_an_existing_cluster_keeps_its_provider(tmp_path: Path) -> None:
    (tmp_path / "cluster.json").write_text('{"provider": "kind"}')
    assert isinstance(open_cluster(StateDir(tmp_path)), Kind)
    with pytest.raises(ClusterError, match="holds a cluster of provider kind"):
        open_cluster(StateDir(tmp_path), "host")
