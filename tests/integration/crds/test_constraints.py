"""What the API server accepts and refuses: one pair of manifests for every constraint of every spec.

Only a real API server knows whether a pattern, a bound or a CEL rule does what its author meant. The list of cases is
complete: a constraint that is added to a model without a case fails here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from llmos.crds.definition import build_crds
from tests.integration.crds.conftest import RefusedError, Server
from tests.integration.crds.constraints import CASES, Case

pytestmark = pytest.mark.apiserver

Constraint = tuple[str, str, str, str]
KEYWORDS = ("enum", "pattern", "minLength", "maxLength", "minItems", "maxItems", "maxProperties")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_server_decides_at_the_edge(case: Case, server: Server) -> None:
    server.try_out(case.accepted_manifest())
    with pytest.raises(RefusedError) as refused:
        server.try_out(case.refused_manifest())
    said = [message for field, message in refused.value.causes if field == case.blamed_field]
    assert any(case.words in message for message in said), refused.value.causes


def test_every_constraint_has_a_case() -> None:
    constraints = set(_constraints())
    assert {constraint for constraint in constraints if not any(map(_covers(constraint), CASES))} == set()


def test_every_case_has_a_constraint() -> None:
    constraints = set(_constraints())
    assert [str(case) for case in CASES if not any(_covers(constraint)(case) for constraint in constraints)] == []


def _covers(constraint: Constraint) -> Any:
    kind, path, keyword, message = constraint
    return lambda case: (case.kind, case.path, case.keyword) == (kind, path, keyword) and case.says in message


def _constraints() -> Iterator[Constraint]:
    """Yield kind, path, keyword and, for a rule, its message."""
    for crd in build_crds():
        kind = crd["spec"]["names"]["kind"]
        schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        root = {**schema, "properties": {"spec": schema["properties"]["spec"]}}
        yield from ((kind, *constraint) for constraint in _walk(root, ""))


def _walk(node: dict[str, Any], path: str) -> Iterator[tuple[str, str, str]]:
    yield from ((path, keyword, "") for keyword in KEYWORDS if keyword in node)
    # What compares with the object before has no manifest of its own; `test_served` changes one.
    rules = [rule for rule in node.get("x-kubernetes-validations", ()) if "oldSelf" not in rule["rule"]]
    yield from ((path, "rule", rule["message"]) for rule in rules)
    yield from ((path, f"required:{name}", "") for name in node.get("required", ()))
    if "maximum" in node:
        yield path, "exclusiveMaximum" if node.get("exclusiveMaximum") else "maximum", ""
    if "minimum" in node:
        yield path, "exclusiveMinimum" if node.get("exclusiveMinimum") else "minimum", ""
    if "x-kubernetes-list-map-keys" in node:
        yield path, "listMapKeys", ""
    if node.get("x-kubernetes-list-type") == "set":
        yield path, "listSet", ""
    for name, field in node.get("properties", {}).items():
        yield from _walk(field, f"{path}.{name}".lstrip("."))
    if "items" in node:
        yield from _walk(node["items"], f"{path}[]")
    if "additionalProperties" in node:
        yield from _walk(node["additionalProperties"], f"{path}{{}}")
