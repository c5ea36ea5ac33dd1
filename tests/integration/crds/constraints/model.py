"""What an LLMModel may say."""

from __future__ import annotations

from typing import Final

from tests.integration.crds.constraints.case import (
    Case,
    limits,
    one_of,
    pod_name_part,
    quantity,
    reference,
    unique_items,
)

_MODEL: Final = "LLMModel"
_URI_SAYS: Final = "the URI must start with one of"
_REPLACES: Final = "spec.adapter.replaces"


def _replaces(count: int, name: str = "former") -> list[dict[str, str]]:
    return [{"pool": f"pool-{number}", "name": name} for number in range(count)]


MODEL_CASES: Final = [
    Case(_MODEL, "", "required:spec", {}, {"spec": None}),
    *pod_name_part(_MODEL),
    Case(_MODEL, "spec", "required:source", {}, {"source": None}),
    Case(_MODEL, "spec.source", "required:uri", {}, {"uri": None}),
    Case(_MODEL, "spec.source.uri", "maxLength", "hf://" + "a" * 1019, "hf://" + "a" * 1020),
    *(
        Case(_MODEL, "spec.source.uri", "rule", accepted, refused, says=_URI_SAYS)
        for accepted, refused in (
            ("hf://org/name@main", "ftp://host/path"),
            ("s3://bucket/path", "s3:/bucket"),
            ("gs://bucket/path", "gs://bucket/a path"),
            ("oci://registry.example/repository:tag", "oci://a\nb"),
            ("https://host/path/", "https://"),
            ("http://host/path/", " http://host/"),
            ("pvc://claim/path", "file:///etc/passwd"),
            ("pypi://name==1.0/file.gguf", "HF://org/name"),
        )
    ),
    Case(_MODEL, "spec.source.secretRef", "required:name", {"name": "hf-token"}, {}),
    *reference(_MODEL, "spec.source.secretRef.name"),
    Case(_MODEL, "spec.adapter", "required:baseModelRef", {"baseModelRef": {"name": "base"}}, {}),
    Case(_MODEL, "spec.adapter.baseModelRef", "required:name", {"name": "base"}, {}),
    *reference(_MODEL, "spec.adapter.baseModelRef.name"),
    Case(_MODEL, "spec.origin", "required:job", {"job": "tune"}, {}),
    *reference(_MODEL, "spec.origin.job"),
    *(
        Case(_MODEL, f"spec.origin.{name}", "maxLength", "a" * 128, "a" * 129)
        for name in ("baseDigest", "datasetDigest")
    ),
    *unique_items(_MODEL, "spec.adapter.attachTo", 16, [f"pool-{number}" for number in range(17)]),
    *reference(_MODEL, "spec.adapter.attachTo[]"),
    Case(_MODEL, _REPLACES, "maxItems", _replaces(16), _replaces(17)),
    Case(_MODEL, _REPLACES, "listMapKeys", _replaces(2), [*_replaces(1), *_replaces(1)], blamed=f"{_REPLACES}[1]"),
    *(Case(_MODEL, f"{_REPLACES}[]", f"required:{name}", {}, {name: None}) for name in ("pool", "name")),
    *reference(_MODEL, f"{_REPLACES}[].pool"),
    *reference(_MODEL, f"{_REPLACES}[].name"),
    *limits(_MODEL, f"{_REPLACES}[].weight", 0, 100),
    Case(
        _MODEL,
        "",
        "rule",
        {"spec": {"adapter": {"baseModelRef": {"name": "base"}, "replaces": _replaces(1, "former")}}},
        {"spec": {"adapter": {"baseModelRef": {"name": "base"}, "replaces": _replaces(1, "case")}}},
        says="an adapter cannot replace itself",
        blamed="spec.adapter.replaces",
    ),
    *one_of(_MODEL, "spec.format", "auto", "safetensors", "gguf"),
    *one_of(_MODEL, "spec.storage.mode", "ephemeral", "claim"),
    *quantity(_MODEL, "spec.storage.size"),
    *reference(_MODEL, "spec.storage.storageClassName"),
    *one_of(_MODEL, "spec.storage.accessMode", "ReadWriteOnce", "ReadWriteMany"),
    Case(_MODEL, "spec.trustRemoteCode", "required:revision", {"revision": "0" * 40}, {}),
    Case(_MODEL, "spec.trustRemoteCode.revision", "maxLength", "a" * 40, "a" * 41),
    Case(_MODEL, "spec.trustRemoteCode.revision", "pattern", "0123456789abcdef" * 2 + "0" * 8, "main"),
    Case(_MODEL, "spec.trustRemoteCode.revision", "pattern", "0" * 40, "0" * 39),
    *unique_items(_MODEL, "spec.sharedWith", 64, [f"team-{number}" for number in range(65)]),
    Case(_MODEL, "spec.sharedWith[]", "maxLength", "a" * 63, "a" * 64),
    Case(_MODEL, "spec.sharedWith[]", "pattern", "*", "team-*"),
    Case(_MODEL, "spec.sharedWith[]", "pattern", "team-a", "Team"),
]
