"""Which programs the cluster tool takes, and how it would build them."""

from __future__ import annotations

from pathlib import Path

import pytest

from e2e.cluster import binaries
from e2e.cluster.binaries import SOURCES, build_commands, build_go_mod, find_binary, is_build_info_of
from e2e.cluster.errors import ClusterError


@pytest.fixture(autouse=True)
def empty_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMOS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)


def put(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_text("#!/bin/sh\n")
    file.chmod(0o755)
    return file


def test_kubebuilder_assets_come_before_path_and_path_before_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_binary("etcd") is None

    cached = put(tmp_path / "cache" / "bin", "etcd")
    assert find_binary("etcd") == cached

    on_path = put(tmp_path / "path", "etcd")
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    assert find_binary("etcd") == on_path

    asset = put(tmp_path / "assets", "etcd")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path / "assets"))
    assert find_binary("etcd") == asset


def test_without_go_a_missing_program_is_an_error_that_names_the_remedy() -> None:
    with pytest.raises(ClusterError, match=r"kwok: not in .* Install Go"):
        binaries.ensure_binaries("kwok")


def test_a_binary_is_current_only_when_it_was_linked_from_the_wanted_version() -> None:
    info = "etcd: go1.26\n\tpath\tgo.etcd.io/etcd/server/v3\n\tmod\tgo.etcd.io/etcd/server/v3\tv3.6.4\th1:x=\n"
    assert is_build_info_of(info, SOURCES["etcd"])
    assert not is_build_info_of(info.replace("v3.6.4", "v3.6.3"), SOURCES["etcd"])
    assert not is_build_info_of(info, SOURCES["kwok"])


def test_all_kubernetes_programs_are_built_at_once_with_their_version_stamped_in() -> None:
    [command] = build_commands(["kubelet", "kube-proxy"], Path("/out"))
    assert command[-2:] == ["k8s.io/kubernetes/cmd/kubelet", "k8s.io/kubernetes/cmd/kube-proxy"]
    assert f"-X k8s.io/component-base/version.gitVersion=v{binaries.KUBERNETES_VERSION}" in " ".join(command)


def test_the_module_of_kubernetes_replaces_its_staging_modules() -> None:
    go_mod = build_go_mod("kubelet")
    assert f"require k8s.io/kubernetes v{binaries.KUBERNETES_VERSION}" in go_mod
    assert f"k8s.io/client-go => k8s.io/client-go v0{binaries.KUBERNETES_VERSION[1:]}" in go_mod


def test_other_programs_are_fetched_at_their_version_and_built() -> None:
    get, build = build_commands(["helm"], Path("/out"))
    assert get == ["go", "get", "-tool", f"helm.sh/helm/v3/cmd/helm@{SOURCES['helm'].version}"]
    assert build[-1] == "helm.sh/helm/v3/cmd/helm"
