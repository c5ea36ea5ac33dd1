"""The CRDs as a whole: what is committed is what would be generated, complete, bounded, and invents no status."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmos.api import KINDS, REASONS
from llmos.crds import __main__ as command
from llmos.crds import reference
from llmos.crds.definition import build_crds

ROOT = Path(__file__).parents[2]
CRDS = {crd["spec"]["names"]["kind"]: crd for crd in build_crds()}
# Map keys have no schema of their own, and a free value is only checked by pydantic.
UNBOUNDED = {"spec.engine.args{}"}


def schema_of(kind: str) -> dict[str, Any]:
    schema: dict[str, Any] = CRDS[kind]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def walk(node: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, node
    for name, field in node.get("properties", {}).items():
        yield from walk(field, f"{path}.{name}")
    if "items" in node:
        yield from walk(node["items"], f"{path}[]")
    if "additionalProperties" in node:
        yield from walk(node["additionalProperties"], f"{path}{{}}")


def nodes(kind: str, *parts: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for part in parts or ("spec", "status"):
        yield from walk(schema_of(kind)["properties"][part], part)


def test_the_committed_crds_and_their_copy_in_the_chart_are_what_the_models_say() -> None:
    folders = ["--out", str(ROOT / "crds"), "--chart", str(ROOT / "charts/llmos/files/crds")]
    assert command.main(["--check", *folders]) == 0


def test_the_committed_reference_is_what_the_models_say() -> None:
    assert reference.main(["--check", "--out", str(ROOT / "docs/reference")]) == 0


def test_every_kind_has_one_file() -> None:
    kinds = {yaml.safe_load(path.read_text())["spec"]["names"]["kind"] for path in (ROOT / "crds").glob("*.yaml")}
    assert kinds == {kind.info.kind for kind in KINDS}


@pytest.mark.parametrize("kind", CRDS)
def test_every_field_is_explained_in(kind: str) -> None:
    silent = [path for path, node in nodes(kind) if path[-1] not in "]}" and not node.get("description")]
    assert silent == []


@pytest.mark.parametrize("kind", CRDS)
def test_every_string_list_and_map_is_bounded_in(kind: str) -> None:
    bounds = {"string": {"maxLength", "enum", "format"}, "array": {"maxItems"}}
    unbounded = []
    for path, node in nodes(kind):
        wanted = {"maxProperties"} if "additionalProperties" in node else bounds.get(node.get("type", ""), set())
        if wanted and not wanted & set(node):
            unbounded.append(path)
        if "type" not in node and path not in UNBOUNDED:
            unbounded.append(path)
    assert unbounded == []


@pytest.mark.parametrize("kind", CRDS)
def test_the_server_invents_no_status_for(kind: str) -> None:
    assert [path for path, node in nodes(kind, "status") if "default" in node] == []


@pytest.mark.parametrize("kind", CRDS)
def test_spec_is_required_and_status_is_a_subresource_of(kind: str) -> None:
    assert schema_of(kind)["required"] == ["spec"]
    assert CRDS[kind]["spec"]["versions"][0]["subresources"]["status"] == {}
    assert CRDS[kind]["spec"]["names"]["categories"] == ["llmos"]


def test_conditions_merge_by_type() -> None:
    for kind in CRDS:
        conditions = schema_of(kind)["properties"]["status"]["properties"]["conditions"]
        assert conditions["x-kubernetes-list-map-keys"] == ["type"]


def test_a_pool_shows_what_a_person_reads_first_and_more_on_request() -> None:
    columns = CRDS["InferencePool"]["spec"]["versions"][0]["additionalPrinterColumns"]
    always = [column["name"].upper() for column in columns if not column.get("priority")]
    wide = [column["name"] for column in columns if column.get("priority")]
    assert always == ["MODEL", "READY", "REPLICAS", "DESIRED", "REASON", "AGE"]
    assert wide == ["Bound", "GPUs", "URL"]


def test_short_names_are_unique() -> None:
    names = [name for crd in CRDS.values() for name in crd["spec"]["names"]["shortNames"]]
    assert len(names) == len(set(names))


class TestCommand:
    def test_check_names_the_file_that_is_out_of_date_and_the_remedy(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folders = ["--out", str(tmp_path / "crds"), "--chart", str(tmp_path / "chart")]
        assert command.main(folders) == 0
        assert command.main([*folders, "--check"]) == 0
        (tmp_path / "chart" / "llmos.dev_llmmodels.yaml").write_text("changed by hand")
        assert command.main([*folders, "--check"]) == 1
        said = capsys.readouterr().err
        assert "chart/llmos.dev_llmmodels.yaml is out of date. Run `make crds`" in said
        assert len(said.splitlines()) == 1

    def test_a_file_of_a_kind_that_is_gone_is_removed_but_a_foreign_file_stays(self, tmp_path: Path) -> None:
        stale, foreign = tmp_path / "llmos.dev_gone.yaml", tmp_path / "README.md"
        stale.write_text(f"{command.MARK}\nkind: Gone\n")
        foreign.write_text("by hand")
        folders = ["--out", str(tmp_path), "--chart", str(tmp_path / "chart")]
        assert command.main([*folders, "--check"]) == 1
        assert command.main(folders) == 0
        assert not stale.exists()
        assert foreign.exists()


class TestReference:
    def test_names_every_field_of_every_kind(self) -> None:
        pages = reference.render_pages()
        for kind in CRDS:
            page = pages[f"{kind.lower()}.md"]
            for path, _ in nodes(kind):
                if "." in path and path[-1] not in "]}":
                    assert f"`{path.rpartition('.')[2]}`" in page, path

    def test_says_default_bound_and_choices_of_a_field(self) -> None:
        page = reference.render_pages()["inferencepool.md"]
        assert "| `replicas` | integer |  | Fixed number of replicas.<br>*at least 0; at most 1000* |" in page
        assert "one of `vllm`, `simulator`" in page
        assert "- maxSurge and maxUnavailable must not both be 0" in page

    def test_lists_every_reason_with_its_remedy(self) -> None:
        page = reference.render_conditions(REASONS)
        for reason, info in REASONS.items():
            assert f"| `{reason}` |" in page
            assert info.remedy in page

    def test_check_fails_on_a_changed_page(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert reference.main(["--out", str(tmp_path)]) == 0
        (tmp_path / "conditions.md").write_text("")
        assert reference.main(["--out", str(tmp_path), "--check"]) == 1
        assert "conditions.md is out of date" in capsys.readouterr().err
