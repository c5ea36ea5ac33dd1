"""Server-side apply over plain values: merge what a manager applies, and drop what it no longer names.

An object is turned into a tree in which every list that the API server treats as a map (containers by name, conditions
by type) is a mapping, so that merging and removing are the same recursion everywhere. Other lists are atomic.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Tree = dict[Any, Any]
"""Nested dicts; a leaf is anything else. Entries of keyed lists have tuples as keys."""

_LIST_KEYS: dict[str, tuple[str, ...]] = {
    "conditions": ("type",),
    "containers": ("name",),
    "env": ("name",),
    "imagePullSecrets": ("name",),
    "initContainers": ("name",),
    "ownerReferences": ("uid",),
    "schedulingGates": ("name",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
    "volumeMounts": ("mountPath",),
    "volumes": ("name",),
}
_PORT_DEFAULTS = {"protocol": "TCP"}


def build_tree(value: Any, field: str = "") -> Any:
    """Return the tree of a JSON value that stands in the given field."""
    if isinstance(value, Mapping):
        return {key: build_tree(item, key) for key, item in value.items()}
    if isinstance(value, list) and (keys := _list_keys(field, value)):
        return {
            tuple((key, item.get(key, _PORT_DEFAULTS.get(key))) for key in keys): build_tree(item) for item in value
        }
    if field == "finalizers":
        return {(("", item),): item for item in value}
    return list(value) if isinstance(value, list | tuple) else value


def build_value(tree: Any) -> Any:
    """Return the JSON value of a tree."""
    if not isinstance(tree, dict):
        return list(tree) if isinstance(tree, list) else tree
    if tree and all(isinstance(key, tuple) for key in tree):
        return [build_value(item) for item in tree.values()]
    return {key: build_value(item) for key, item in tree.items()}


def merge(current: Any, applied: Any) -> Any:
    """Return `current` with everything that `applied` names."""
    if not isinstance(current, dict) or not isinstance(applied, dict):
        return applied
    return {**current, **{key: merge(current.get(key), item) for key, item in applied.items()}}


def merge_patch(current: Any, patch: Any) -> Any:
    """Return what a JSON merge patch (RFC 7386) makes of a JSON value."""
    if not isinstance(patch, Mapping):
        return patch
    base = dict(current) if isinstance(current, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            base.pop(key, None)
        else:
            base[key] = merge_patch(base.get(key), value)
    return base


def remove(current: Tree, abandoned: Tree, kept: Iterable[Tree]) -> Tree:
    """Return `current` without the leaves of `abandoned`, except those that another tree still names."""
    others = list(kept)
    result: Tree = {}
    for key, value in current.items():
        if key not in abandoned:
            result[key] = value
            continue
        named = [tree[key] for tree in others if key in tree]
        inner = abandoned[key]
        if isinstance(value, dict) and isinstance(inner, dict) and inner:
            remaining = remove(value, inner, [tree for tree in named if isinstance(tree, dict)])
            if remaining and not _is_only_key(key, remaining):
                result[key] = remaining
        elif named:
            result[key] = value
    return result


def subtract(previous: Tree, applied: Tree) -> Tree:
    """Return the part of `previous` that `applied` does not name."""
    result: Tree = {}
    for key, value in previous.items():
        if key not in applied:
            result[key] = value
        elif isinstance(value, dict) and isinstance(applied[key], dict) and (inner := subtract(value, applied[key])):
            result[key] = inner
    return result


def _list_keys(field: str, items: list[Any]) -> tuple[str, ...]:
    if not all(isinstance(item, Mapping) for item in items):
        return ()
    if field == "ports":
        return ("containerPort" if any("containerPort" in item for item in items) else "port", "protocol")
    return _LIST_KEYS.get(field, ())


def _is_only_key(key: Any, remaining: Tree) -> bool:
    """Whether an entry of a keyed list has nothing left but its key, which nobody names on its own."""
    return isinstance(key, tuple) and set(remaining) <= {name for name, _ in key}
