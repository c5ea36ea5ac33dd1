"""The command lines and configuration of every program of the cluster."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from e2e.cluster import node
from e2e.cluster.components import (
    Audit,
    ControlPlaneSpec,
    build_apiserver,
    build_controller_manager,
    build_etcd,
    build_scheduler,
)
from e2e.cluster.paths import StateDir, cache_dir

SPEC = ControlPlaneSpec(Path("/s/pki"), Path("/s/etcd"), "127.0.0.1", 1001, 1002, 1003)
STATE = StateDir(Path("/s"))
BINARY = Path("/bin/program")


def test_etcd_listens_on_loopback_only() -> None:
    urls = [argument.partition("=")[2] for argument in build_etcd(BINARY, SPEC).argv if "-urls=" in argument]
    assert len(urls) == 4
    assert all(url.startswith("http://127.0.0.1:") for url in urls)


def test_the_api_server_decides_like_a_real_cluster() -> None:
    argv = build_apiserver(BINARY, SPEC).argv
    assert "--authorization-mode=Node,RBAC" in argv
    assert "--enable-admission-plugins=NodeRestriction" in argv
    assert not [argument for argument in argv if argument.startswith("--disable-admission-plugins")]


def test_the_api_server_writes_down_who_asks_for_what_only_if_told_to_and_only_of_the_users_named() -> None:
    assert not [argument for argument in build_apiserver(BINARY, SPEC).argv if argument.startswith("--audit")]
    audit = Audit(Path("/s/policy.json"), Path("/s/audit.log"), ("me",))
    component = build_apiserver(BINARY, replace(SPEC, audit=audit))
    assert {"--audit-policy-file=/s/policy.json", "--audit-log-path=/s/audit.log"} <= set(component.argv)
    assert json.loads(component.files[audit.policy])["rules"] == [
        {"level": "Metadata", "users": ["me"]},
        {"level": "None"},
    ]


@pytest.mark.parametrize(("address", "reconciler"), [("127.0.0.1", "none"), ("10.88.0.1", "lease")])
def test_the_api_server_announces_itself_unless_its_address_is_loopback(address: str, reconciler: str) -> None:
    argv = build_apiserver(BINARY, replace(SPEC, address=address)).argv
    assert f"--endpoint-reconciler-type={reconciler}" in argv


def test_controllers_open_no_port_so_that_several_clusters_fit_on_a_machine() -> None:
    for component in (build_controller_manager(BINARY, SPEC, Path("/k")), build_scheduler(BINARY, Path("/k"))):
        assert "--secure-port=0" in component.argv


def test_containerd_keeps_to_the_state_folder_and_lowers_no_oom_score() -> None:
    component = node.build_containerd(BINARY, STATE, "localhost/pause:1")
    config = tomllib.loads(component.files[STATE.config / "containerd.toml"])
    cri = config["plugins"]["io.containerd.grpc.v1.cri"]
    assert cri["restrict_oom_score_adj"] is True
    assert cri["sandbox_image"] == "localhost/pause:1"
    assert {config["root"], config["state"]} == {"/s/containerd", "/s/containerd-state"}
    assert config["grpc"]["address"].startswith("/s/")


def test_cni_leaves_masquerading_to_the_table_that_can_be_removed() -> None:
    [plugin] = json.loads(node.build_cni_config(STATE))["plugins"]
    assert plugin["ipMasq"] is False
    assert plugin["hairpinMode"] is True
    assert plugin["ipam"]["dataDir"].startswith("/s/")


def test_the_kubelet_never_removes_images_and_labels_its_gpus() -> None:
    component = node.build_kubelet(BINARY, STATE)
    config = json.loads(component.files[STATE.config / "kubelet.json"])
    assert config["imageGCHighThresholdPercent"] == 100
    assert config["failCgroupV1"] is False
    assert config["clusterDNS"] == [node.DNS_ADDRESS]
    [labels] = [argument for argument in component.argv if argument.startswith("--node-labels=")]
    assert "nvidia.com/gpu.product=LLMOS-Pretend-80GB" in labels
    assert "nvidia.com/gpu.memory=81920" in labels
    assert "nvidia.com/gpu.count=4" in labels


def test_kwok_manages_only_the_nodes_that_say_so() -> None:
    argv = node.build_kwok(BINARY, Path("/k"), 1234).argv
    assert "--manage-all-nodes=false" in argv
    assert "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake" in argv
    assert "--server-address=127.0.0.1:1234" in argv


def test_coredns_answers_for_the_cluster_and_forwards_the_rest() -> None:
    [corefile] = node.build_coredns(BINARY, STATE).files.values()
    assert f"bind {node.NODE_ADDRESS}" in corefile
    assert "forward . /etc/resolv.conf" in corefile


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/a")
    monkeypatch.delenv("LLMOS_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_dir() == Path("/home/a/.cache/llmos")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_dir() == Path("/x/llmos")
    monkeypatch.setenv("LLMOS_CACHE", "/c")
    assert StateDir.default().kubeconfig == Path("/c/cluster/admin.kubeconfig")
