"""Images are built again exactly when something that goes into them has changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from e2e.cluster.errors import ClusterError
from e2e.cluster.images import build_image, build_plan, compute_inputs_hash


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "sdk" / "llmos").mkdir(parents=True)
    (tmp_path / "sdk" / "llmos" / "a.py").write_text("a = 1\n")
    (tmp_path / "Dockerfile").write_text("ARG BASE\nFROM $BASE\n")
    return tmp_path


def test_the_hash_changes_with_content_name_and_target(repository: Path) -> None:
    before = compute_inputs_hash(repository, "operator")
    assert compute_inputs_hash(repository, "operator") == before
    assert compute_inputs_hash(repository, "worker") != before

    source = repository / "sdk" / "llmos" / "a.py"
    source.write_text("a = 2\n")
    changed = compute_inputs_hash(repository, "operator")
    assert changed != before

    source.rename(source.with_name("b.py"))
    assert compute_inputs_hash(repository, "operator") not in {before, changed}


def test_what_does_not_go_into_an_image_does_not_change_its_hash(repository: Path) -> None:
    before = compute_inputs_hash(repository, "operator")
    (repository / "docs").mkdir()
    (repository / "docs" / "page.md").write_text("words")
    (repository / "sdk" / "__pycache__").mkdir()
    (repository / "sdk" / "__pycache__" / "a.pyc").write_bytes(b"x")
    assert compute_inputs_hash(repository, "operator") == before


def test_buildah_builds_without_namespaces_and_with_the_machines_certificates(repository: Path) -> None:
    plan = build_plan(repository, "operator", builder="buildah", engine="vllm-cpu", base="base:1", base_id="1")
    assert plan.name == "localhost/llmos-operator:dev"
    assert plan.command[:3] == ("buildah", "bud", "--isolation=chroot")
    assert "--volume=/etc/ssl/certs:/etc/ssl/certs:ro" in plan.command
    assert "--build-arg=BASE=base:1" in plan.command
    assert f"--label=llmos.dev/inputs={plan.inputs}" in plan.command


def test_docker_takes_the_base_that_the_dockerfile_names(repository: Path) -> None:
    plan = build_plan(repository, "worker-lite", builder="docker", engine="vllm", base="", base_id="")
    assert not [part for part in plan.command if "build-arg" in part]


def test_only_the_worker_image_depends_on_the_engine(repository: Path) -> None:
    def inputs(target: str, engine: str) -> str:
        return build_plan(repository, target, builder="docker", engine=engine, base="", base_id="").inputs

    assert inputs("worker", "vllm") != inputs("worker", "vllm-cpu")
    assert inputs("operator", "vllm") == inputs("operator", "vllm-cpu")


def test_a_folder_without_a_dockerfile_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="--repository"):
        build_image(tmp_path, "operator")
