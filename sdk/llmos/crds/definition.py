"""Builds the CustomResourceDefinition of a kind: its schema, names, printer columns and subresources.

The root of an object is Kubernetes' own: `apiVersion`, `kind` and `metadata` are described the way every kind describes
them and validated by the API server, so only `spec` and `status` come out of the model.
"""

from __future__ import annotations

from typing import Any, Final

from llmos.api import KINDS
from llmos.api.meta import ApiModel, KindInfo, PrinterColumn
from llmos.api.names import CATEGORY, GROUP, VERSION
from llmos.crds.converter import Schema, to_structural

_TYPE_META: Final[dict[str, Schema]] = {
    "apiVersion": {"type": "string", "description": "Version of the schema, llmos.dev/v1alpha1."},
    "kind": {"type": "string", "description": "Kind of this object."},
    # The name is spelt out only so that a rule may blame it by its path.
    "metadata": {"type": "object", "properties": {"name": {"type": "string"}}},
}

ResourceType = type[ApiModel]


def build_crds() -> tuple[Schema, ...]:
    """Return the CRDs of all kinds."""
    return tuple(build_crd(kind, kind.info) for kind in KINDS)


def build_crd(model: ResourceType, info: KindInfo) -> Schema:
    """Return the manifest of one kind's CustomResourceDefinition."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{info.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": info.scope,
            "names": {
                "kind": info.kind,
                "listKind": f"{info.kind}List",
                "plural": info.plural,
                "singular": info.singular,
                "shortNames": list(info.short_names),
                "categories": [CATEGORY],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": build_schema(model, info.kind)},
                    "subresources": _build_subresources(info),
                    "additionalPrinterColumns": [_build_column(column) for column in info.columns],
                }
            ],
        },
    }


def build_schema(model: ResourceType, kind: str) -> Schema:
    """Return the structural schema of a whole object."""
    drawn = model.model_json_schema(by_alias=True)
    definitions, fields = drawn["$defs"], drawn["properties"]
    schema: Schema = {
        "type": "object",
        "description": drawn["description"],
        "required": ["spec"],
        "properties": {
            **_TYPE_META,
            "spec": to_structural({**_without_default(fields["spec"]), "$defs": definitions}, path=f"{kind}.spec"),
            "status": to_structural(
                {**_without_default(fields["status"]), "$defs": definitions},
                path=f"{kind}.status",
                keep_defaults=False,
            ),
        },
    }
    if model.rules:
        schema["x-kubernetes-validations"] = [rule.as_schema() for rule in model.rules]
    return schema


def _without_default(field: Schema) -> Schema:
    return {key: value for key, value in field.items() if key != "default"}


def _build_subresources(info: KindInfo) -> Schema:
    subresources: Schema = {"status": {}}
    if info.scale is not None:
        subresources["scale"] = {
            "specReplicasPath": info.scale.spec_path,
            "statusReplicasPath": info.scale.status_path,
            "labelSelectorPath": info.scale.selector_path,
        }
    return subresources


def _build_column(column: PrinterColumn) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": column.name, "type": column.type, "jsonPath": column.json_path}
    if column.description:
        entry["description"] = column.description
    if column.priority:
        entry["priority"] = column.priority
    return entry
