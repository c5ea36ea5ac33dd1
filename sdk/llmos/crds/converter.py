"""Turns the JSON schema that pydantic draws of a model into a structural schema, the dialect of the API server.

The two dialects differ: no `$ref`, no `null`, no unions, OpenAPI 3.0 spelling of bounds, no `additionalProperties`
beside `properties`. What has a faithful counterpart is rewritten; everything else is refused with the path of the
field, for a construct that is quietly dropped would be a constraint that nobody enforces.

Two demands go beyond what the API server asks. Every string, list and map is bounded, so that the estimated cost of a
CEL rule that walks it stays finite (an unbounded one makes the server refuse the whole CRD); and every field carries a
description, so that `kubectl explain` is complete.

Defaults come from the models alone. A default that says nothing (null, an empty string, list or map) is left out: the
stored object then stays as its author wrote it, and a reader fills it in. The default of a nested object is written in
full, though the defaults of its fields say the same: the server checks a default against the rules of its object
without filling it in first. In a status no default is written at all, or the server would invent a status for an object
that no operator has seen.

This module decides nothing about kinds, versions or files; `definition` and `__main__` do.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

Schema = dict[str, Any]

_ANNOTATIONS: Final = frozenset({"title", "description", "default"})
_VALIDATIONS: Final = "x-kubernetes-validations"
_PRESERVE: Final = "x-kubernetes-preserve-unknown-fields"
_INT_OR_STRING: Final = "x-kubernetes-int-or-string"
_LIST_TYPE: Final = "x-kubernetes-list-type"
_LIST_KEYS: Final = "x-kubernetes-list-map-keys"
# Only formats that the API server checks itself and whose length is thereby bounded.
_BOUNDED_FORMATS: Final = frozenset({"date-time"})
# RE2, the API server's engine, has neither look-around nor back-references.
_NOT_IN_RE2: Final = re.compile(r"\(\?(?:[=!]|<[=!])|\\[1-9]")


class SchemaError(ValueError):
    """A model uses something that the API server cannot enforce. The message names the field and the way out."""

    def __init__(self, path: str, cause: str) -> None:
        super().__init__(f"{path}: {cause}")
        self.path = path


def to_structural(schema: Mapping[str, Any], *, path: str = "", keep_defaults: bool = True) -> Schema:
    """Convert the result of `model_json_schema()`.

    `path` is only for messages. Raises SchemaError for whatever has no faithful counterpart.
    """
    definitions = schema.get("$defs", {})
    root = {key: value for key, value in schema.items() if key != "$defs"}
    return _Converter(definitions, keep_defaults).convert(root, path, ())


@dataclass(frozen=True)
class _Converter:
    definitions: Mapping[str, Schema]
    keep_defaults: bool

    def convert(self, node: Schema, path: str, seen: tuple[str, ...]) -> Schema:
        """Return the structural form of one node; `seen` are the definitions that it stands inside of."""
        if "$ref" in node:
            return self._reference(node, path, seen)
        if "anyOf" in node:
            return self._union(node, path, seen)
        return self._with_annotations(self._typed(node, path, seen), node, path)

    def _reference(self, node: Schema, path: str, seen: tuple[str, ...]) -> Schema:
        name = node["$ref"].removeprefix("#/$defs/")
        if name in seen:
            raise SchemaError(path, f"{name} contains itself; a structural schema is finite. Refer to it by name.")
        if name not in self.definitions:
            raise SchemaError(path, f"$ref to {node['$ref']}, which is not among the $defs.")
        target = self.convert(self.definitions[name], path, (*seen, name))
        return self._beside(target, node, "$ref", path)

    def _union(self, node: Schema, path: str, seen: tuple[str, ...]) -> Schema:
        arms = [arm for arm in node["anyOf"] if arm != {"type": "null"}]
        if len(arms) == 1:
            return self._beside(self.convert(arms[0], path, seen), node, "anyOf", path)
        if sorted(arms, key=str) == [{"type": "integer"}, {"type": "string"}]:
            return self._beside({_INT_OR_STRING: True}, node, "anyOf", path)
        raise SchemaError(
            path,
            "a union. Write one optional field for each variant and a Rule that exactly one is set; "
            "only `T | None` and `int | str` can be said.",
        )

    def _beside(self, target: Schema, node: Schema, keyword: str, path: str) -> Schema:
        """Add what stands beside `$ref` or `anyOf`: a description, a default, further rules."""
        _refuse_unknown(node, _ANNOTATIONS | {keyword, _VALIDATIONS}, path)
        rules = [*target.get(_VALIDATIONS, []), *node.get(_VALIDATIONS, [])]
        merged = {**target, _VALIDATIONS: rules} if rules else target
        return self._with_annotations(merged, node, path)

    def _with_annotations(self, target: Schema, node: Schema, path: str) -> Schema:
        result = {key: value for key, value in target.items() if key != "default"}
        if "description" in node:
            result["description"] = _one_line_paragraphs(node["description"])
        default = node.get("default", target.get("default"))
        if self.keep_defaults and (kept := _kept_default(default, result)) is not None:
            result["default"] = kept
        return result

    def _typed(self, node: Schema, path: str, seen: tuple[str, ...]) -> Schema:
        if node.get(_PRESERVE) is True and "type" not in node:
            return _pick(node, {_PRESERVE, _VALIDATIONS}, path)
        if "const" in node:
            node = {**{key: value for key, value in node.items() if key != "const"}, "enum": [node["const"]]}
        kind = node.get("type")
        scalar = _SCALARS.get(kind) if isinstance(kind, str) else None
        if scalar is not None:
            return scalar(node, path)
        if kind == "array":
            return self._array(node, path, seen)
        if kind == "object":
            return self._object(node, path, seen)
        raise SchemaError(path, f"no single known type ({sorted(node)}). Give the field one type, or use FreeScalar.")

    def _array(self, node: Schema, path: str, seen: tuple[str, ...]) -> Schema:
        allowed = {"type", "items", "minItems", "maxItems", _LIST_TYPE, _LIST_KEYS, _VALIDATIONS}
        result = _pick(node, allowed, path)
        if "items" not in result:
            raise SchemaError(path, "a list of anything. Name the type of its items: tuple[T, ...].")
        _require_bound(result, "maxItems", path)
        result["items"] = self.convert(result["items"], f"{path}[]", seen)
        _check_list_keys(result, path)
        return result

    def _object(self, node: Schema, path: str, seen: tuple[str, ...]) -> Schema:
        if "properties" in node:
            return self._fields(node, path, seen)
        allowed = {"type", "additionalProperties", "minProperties", "maxProperties", _VALIDATIONS}
        result = _pick(node, allowed, path)
        values = result.get("additionalProperties")
        if not isinstance(values, dict):
            raise SchemaError(path, "an object without fields. Name its fields, or the type of a map's values.")
        _require_bound(result, "maxProperties", path)
        result["additionalProperties"] = self.convert(values, f"{path}{{}}", seen)
        if _PRESERVE in result["additionalProperties"] and _VALIDATIONS in result:
            raise SchemaError(path, "a Rule on a map of free values, which CEL cannot type. Use a pydantic validator.")
        return result

    def _fields(self, node: Schema, path: str, seen: tuple[str, ...]) -> Schema:
        # The API server prunes unknown fields by itself, and forbids the keyword beside `properties`.
        rest = {key: value for key, value in node.items() if key != "additionalProperties"}
        result = _pick(rest, {"type", "properties", "required", _VALIDATIONS}, path)
        extra = node.get("additionalProperties", False)
        if extra is True:
            result[_PRESERVE] = True
        elif extra is not False:
            raise SchemaError(path, "fields and a map in one object. Put the map into a field of its own.")
        properties = {name: self.convert(field, f"{path}.{name}", seen) for name, field in result["properties"].items()}
        for name, field in properties.items():
            if "description" not in field:
                raise SchemaError(f"{path}.{name}", "no description. Write a docstring below the field.")
        result["properties"] = properties
        return result


def _string(node: Schema, path: str) -> Schema:
    result = _pick(node, {"type", "enum", "format", "minLength", "maxLength", "pattern", _VALIDATIONS}, path)
    if "format" in result and result["format"] not in _BOUNDED_FORMATS:
        raise SchemaError(path, f"format {result['format']}, which the API server does not bound. Use a pattern.")
    if "pattern" in result and _NOT_IN_RE2.search(result["pattern"]):
        raise SchemaError(path, "a pattern with look-around or back-reference, which RE2 lacks. Use a Rule.")
    if "enum" not in result and "format" not in result:
        _require_bound(result, "maxLength", path)
    return result


def _number(node: Schema, path: str) -> Schema:
    bounds = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
    result = _pick(node, {"type", "enum", _VALIDATIONS} | bounds, path)
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if exclusive in result and bound in result:
            raise SchemaError(path, f"both {bound} and {exclusive}. Keep one.")
        if exclusive in result:
            result[bound], result[exclusive] = result[exclusive], True
    return result


def _boolean(node: Schema, path: str) -> Schema:
    return _pick(node, {"type", "enum", _VALIDATIONS}, path)


_SCALARS: Final[dict[str, Callable[[Schema, str], Schema]]] = {
    "string": _string,
    "integer": _number,
    "number": _number,
    "boolean": _boolean,
}


def _pick(node: Schema, allowed: Iterable[str], path: str) -> Schema:
    _refuse_unknown(node, _ANNOTATIONS | set(allowed), path)
    return {key: value for key, value in node.items() if key not in _ANNOTATIONS}


def _refuse_unknown(node: Schema, known: Iterable[str], path: str) -> None:
    unknown = sorted(set(node) - set(known))
    if unknown:
        raise SchemaError(
            path, f"{', '.join(unknown)} has no counterpart in a structural schema here. Say it as a Rule."
        )


def _require_bound(schema: Schema, bound: str, path: str) -> None:
    if bound not in schema:
        raise SchemaError(path, f"no {bound}: CEL and etcd need a bound. Add Field(max_length=...).")


def _check_list_keys(schema: Schema, path: str) -> None:
    items = schema["items"]
    for key in schema.get(_LIST_KEYS, ()):
        if key not in items.get("properties", {}):
            raise SchemaError(path, f"the list-map key {key} is no field of the items.")
        if key not in items.get("required", ()) and "default" not in items["properties"][key]:
            raise SchemaError(path, f"the list-map key {key} is optional without a default. Make it required.")


def _kept_default(default: Any, schema: Schema) -> Any:
    """Return the part of a default that the server has to know, None if there is none."""
    if isinstance(default, dict) and "properties" in schema:
        fields = {name: _kept_default(value, schema["properties"][name]) for name, value in default.items()}
        return {name: value for name, value in fields.items() if value is not None}
    return None if default in (None, "", [], {}) else default


def _one_line_paragraphs(text: str) -> str:
    paragraphs = re.split(r"\n\s*\n", inspect.cleandoc(text))
    return "\n\n".join(re.sub(r"\s*\n\s*", " ", paragraph) for paragraph in paragraphs)
