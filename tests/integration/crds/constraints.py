"""Every constraint that a spec has, with a value at its edge that is accepted and one beyond that is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from llmos.api.names import API_VERSION

Object = dict[str, Any]

# The smallest object of each kind; a case changes it at one place.
SMALLEST: Final[dict[str, Object]] = {
    "LLMModel": {"source": {"uri": "hf://org/name"}},
    "InferencePool": {"modelRef": {"name": "m"}, "accelerator": {"class": "nvidia-h100", "count": 16}, "replicas": 1},
    "AcceleratorClass": {"memory": "80Gi"},
    "Tenant": {"namespaces": ["team-a"]},
}
# What else an item of a list must have to be valid.
ITEMS: Final[dict[str, Object]] = {
    "env": {"name": "A"},
    "tolerations": {"key": "k"},
    "schedule": {"name": "day", "start": "08:00", "end": "18:00", "minReplicas": 1},
    "quota": {"class": "nvidia-h100"},
    "namespaces": {},
    "allow": {},
    "egressAllow": {},
}

# What the API server says of each keyword.
WORDS: Final = {
    "enum": "Unsupported value",
    "maximum": "should be less than or equal to",
    "minimum": "should be greater than or equal to",
    "exclusiveMinimum": "should be greater than",
    "pattern": "should match",
    "maxLength": "Too long",
    "minLength": "at least 1 chars",
    "minItems": "should have at least",
    "maxItems": "must have at most",
    "maxProperties": "must have at most",
    "listMapKeys": "Duplicate value",
    "listSet": "Duplicate value",
    "required": "Required value",
}


@dataclass(frozen=True)
class Case:
    """One constraint: `accepted` and `refused` are values of the field, or changes to the object, at `path`."""

    kind: str
    path: str
    keyword: str
    accepted: Any
    refused: Any
    says: str = ""
    blamed: str = ""

    @property
    def words(self) -> str:
        """Part of the message that the server must give."""
        return self.says or WORDS[self.keyword.partition(":")[0]]

    @property
    def blamed_field(self) -> str:
        """The field that the message must name, as the server writes it."""
        missing = self.keyword.partition(":")[2]
        field = self.blamed or ".".join(filter(None, (self.path, missing)))
        return field.replace("[]", "[0]").replace("{}", ".a")

    def accepted_manifest(self) -> Object:
        return _manifest(self.kind, self.path, self.accepted)

    def refused_manifest(self) -> Object:
        return _manifest(self.kind, self.path, self.refused)

    def __str__(self) -> str:
        where = f"{self.kind} {self.path or 'as a whole'}"
        return f"{where} takes {_short(self.accepted)} and refuses {_short(self.refused)} ({self.keyword})"


def merge(base: Any, change: Any) -> Any:
    """Return `base` changed by a JSON merge patch (RFC 7386): None removes a field."""
    if not isinstance(change, dict):
        return change
    merged = dict(base) if isinstance(base, dict) else {}
    for key, value in change.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


def _manifest(kind: str, path: str, value: Any) -> Object:
    spec = dict(SMALLEST[kind])
    if path.startswith("spec.scaling"):
        del spec["replicas"]
    base = {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": "case"}, "spec": spec}
    merged: Object = merge(base, _change(path.split("."), value) if path else value)
    return merged


def _change(steps: list[str], value: Any) -> Any:
    if not steps:
        return value
    first, rest = steps[0], _change(steps[1:], value)
    if first.endswith("[]"):
        name = first.removesuffix("[]")
        return {name: [merge(ITEMS.get(name), rest)]}
    if first.endswith("{}"):
        return {first.removesuffix("{}"): {"a": rest}}
    return {first: rest}


def _short(value: Any) -> str:
    text = repr(value)
    if len(text) <= 48:
        return text
    return f"{len(value)} characters" if isinstance(value, str) else f"{len(value)} entries"


def _enum(kind: str, path: str, *values: str) -> list[Case]:
    return [Case(kind, path, "enum", value, "other") for value in values]


def _range(kind: str, path: str, lowest: int, highest: int) -> list[Case]:
    return [
        Case(kind, path, "minimum", lowest, lowest - 1),
        Case(kind, path, "maximum", highest, highest + 1),
    ]


def _length(kind: str, path: str, longest: int, *, accepted: str = "") -> Case:
    return Case(kind, path, "maxLength", accepted or "a" * longest, (accepted or "a" * longest) + "a")


def _name(kind: str, path: str) -> list[Case]:
    return [
        _length(kind, path, 253),
        Case(kind, path, "pattern", "a-1.b", "-a"),
        Case(kind, path, "pattern", "a", ""),
        Case(kind, path, "pattern", "0", "a..b"),
        Case(kind, path, "pattern", "a", "Upper"),
    ]


def _quantity(kind: str, path: str) -> list[Case]:
    return [
        Case(kind, path, "maxLength", f"{'1' * 30}Gi", f"{'1' * 31}Gi"),
        Case(kind, path, "pattern", "80Gi", "80 GB"),
        Case(kind, path, "pattern", "1.5T", "-1Gi"),
        Case(kind, path, "rule", "1m", "0", says="must be greater than 0"),
        Case(kind, path, "rule", "0.1Ki", "0.0Ki", says="must be greater than 0"),
    ]


def _pod_name_part(kind: str) -> list[Case]:
    return [
        Case(
            kind,
            "",
            "rule",
            {"metadata": {"name": accepted}},
            {"metadata": {"name": refused}},
            says="the name must be a DNS label of at most 40 characters",
            blamed="metadata.name",
        )
        for accepted, refused in (("a" * 40, "a" * 41), ("a-1", "1-a"), ("a", "a.b"))
    ]


_MODEL: Final = "LLMModel"
_POOL: Final = "InferencePool"
_CLASS: Final = "AcceleratorClass"
_TENANT: Final = "Tenant"
_URI_SAYS: Final = "the URI must start with one of"
_TOO_PARALLEL: Final = "tensor x pipeline parallel size must not exceed accelerator.count"

MODEL_CASES: Final = [
    Case(_MODEL, "", "required:spec", {}, {"spec": None}),
    *_pod_name_part(_MODEL),
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
    *_name(_MODEL, "spec.source.secretRef.name"),
    *_enum(_MODEL, "spec.format", "auto", "safetensors", "gguf"),
    *_enum(_MODEL, "spec.storage.mode", "ephemeral", "claim"),
    *_quantity(_MODEL, "spec.storage.size"),
    *_name(_MODEL, "spec.storage.storageClassName"),
    *_enum(_MODEL, "spec.storage.accessMode", "ReadWriteOnce", "ReadWriteMany"),
    Case(_MODEL, "spec.trustRemoteCode", "required:revision", {"revision": "0" * 40}, {}),
    Case(_MODEL, "spec.trustRemoteCode.revision", "maxLength", "a" * 40, "a" * 41),
    Case(_MODEL, "spec.trustRemoteCode.revision", "pattern", "0123456789abcdef" * 2 + "0" * 8, "main"),
    Case(_MODEL, "spec.trustRemoteCode.revision", "pattern", "0" * 40, "0" * 39),
]

_WINDOW: Final = "spec.scaling.schedule[]"

SCALING_CASES: Final = [
    Case(_POOL, "spec", "rule", {}, {"replicas": None}, says="say how many", blamed="spec.replicas"),
    Case(
        _POOL,
        "spec",
        "rule",
        {"replicas": None, "scaling": {}},
        {"replicas": 3, "scaling": {}},
        says="replicas and scaling exclude each other",
        blamed="spec.replicas",
    ),
    Case(
        _POOL,
        "spec",
        "rule",
        {"replicas": 3, "scaling": {"mode": "advisory"}},
        {"replicas": 3, "scaling": {"mode": "active"}},
        says="replicas and scaling exclude each other",
        blamed="spec.replicas",
    ),
    Case(
        _POOL,
        "spec.scaling",
        "rule",
        {"minReplicas": 9, "maxReplicas": 9},
        {"minReplicas": 9},
        says="minReplicas must not be greater than maxReplicas",
        blamed="spec.scaling.minReplicas",
    ),
    Case(_POOL, "spec.scaling.minReplicas", "minimum", 0, -1),
    # More than maxReplicas (8 where nothing is said) is refused anyway, by the rule.
    Case(_POOL, "spec.scaling.minReplicas", "maximum", 8, 1001),
    *_range(_POOL, "spec.scaling.maxReplicas", 1, 1000),
    *_enum(_POOL, "spec.scaling.mode", "active", "advisory"),
    *_range(_POOL, "spec.scaling.scaleDownDelaySeconds", 0, 86_400),
    *_range(_POOL, "spec.scaling.scaleToZeroAfterSeconds", 0, 604_800),
    *(
        Case(_POOL, "spec.scaling.target", "rule", accepted, refused, says="exclude each other")
        for accepted, refused in (
            ({"queueDepth": 4}, {"queueDepth": 4, "utilization": 0.8}),
            ({"utilization": 0.8}, {"utilization": 0.8, "slo": {"ttftMilliseconds": 500}}),
            ({"slo": {"ttftMilliseconds": 500}}, {"queueDepth": 4, "slo": {"ttftMilliseconds": 500}}),
        )
    ),
    *_range(_POOL, "spec.scaling.target.queueDepth", 1, 100_000),
    Case(_POOL, "spec.scaling.target.utilization", "minimum", 0.1, 0.09),
    Case(_POOL, "spec.scaling.target.utilization", "maximum", 1.0, 1.01),
    *(
        Case(_POOL, "spec.scaling.target.slo", "rule", accepted, {}, says="name ttftMilliseconds")
        for accepted in ({"ttftMilliseconds": 500}, {"tpotMilliseconds": 50})
    ),
    *_range(_POOL, "spec.scaling.target.slo.ttftMilliseconds", 1, 3_600_000),
    *_range(_POOL, "spec.scaling.target.slo.tpotMilliseconds", 1, 600_000),
    Case(
        _POOL,
        "spec.scaling.schedule",
        "maxItems",
        [{**ITEMS["schedule"], "name": f"w{number}"} for number in range(16)],
        [{**ITEMS["schedule"], "name": f"w{number}"} for number in range(17)],
    ),
    Case(
        _POOL,
        "spec.scaling.schedule",
        "listMapKeys",
        [ITEMS["schedule"], {**ITEMS["schedule"], "name": "night"}],
        [ITEMS["schedule"], ITEMS["schedule"]],
        blamed="spec.scaling.schedule[1]",
    ),
    *(Case(_POOL, _WINDOW, f"required:{field}", {}, {field: None}) for field in ("name", "start", "end")),
    Case(_POOL, _WINDOW, "rule", {"maxReplicas": 0, "minReplicas": None}, {"minReplicas": None}, says="say what holds"),
    Case(
        _POOL,
        _WINDOW,
        "rule",
        {"minReplicas": 2, "maxReplicas": 2},
        {"minReplicas": 3, "maxReplicas": 2},
        says="minReplicas must not be greater than maxReplicas",
        blamed=f"{_WINDOW}.minReplicas",
    ),
    _length(_POOL, f"{_WINDOW}.name", 63),
    Case(_POOL, f"{_WINDOW}.name", "minLength", "a", ""),
    Case(_POOL, f"{_WINDOW}.days", "maxItems", ["Mon"] * 7, ["Mon"] * 8),
    *(
        Case(_POOL, f"{_WINDOW}.days[]", "enum", day, "Monday")
        for day in ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
    ),
    *(
        case
        for field in ("start", "end")
        for case in (
            Case(_POOL, f"{_WINDOW}.{field}", "maxLength", "00:00", "00:000"),
            Case(_POOL, f"{_WINDOW}.{field}", "pattern", "23:59", "24:00"),
            Case(_POOL, f"{_WINDOW}.{field}", "pattern", "09:59", "9:59"),
            Case(_POOL, f"{_WINDOW}.{field}", "pattern", "19:00", "19:60"),
        )
    ),
    _length(_POOL, f"{_WINDOW}.timeZone", 64),
    *_range(_POOL, f"{_WINDOW}.minReplicas", 0, 1000),
    # Fewer than minReplicas (1 in the smallest window) is refused anyway, by the rule.
    Case(_POOL, f"{_WINDOW}.maxReplicas", "minimum", 1, -1),
    Case(_POOL, f"{_WINDOW}.maxReplicas", "maximum", 1000, 1001),
]

HOLD_CASES: Final = [
    *_enum(_POOL, "spec.routing.policy", "auto", "least-load", "round-robin", "prefix"),
    *_range(_POOL, "spec.hold.timeoutSeconds", 0, 86_400),
    *_range(_POOL, "spec.hold.maxRequests", 0, 100_000),
    *_range(_POOL, "spec.hold.maxRequestsPerKey", 0, 100_000),
]

POOL_CASES: Final = [
    Case(_POOL, "", "required:spec", {}, {"spec": None}),
    *_pod_name_part(_POOL),
    Case(_POOL, "spec", "required:modelRef", {}, {"modelRef": None}),
    Case(_POOL, "spec", "required:accelerator", {}, {"accelerator": None}),
    Case(
        _POOL,
        "spec",
        "rule",
        {"accelerator": {"class": "cpu", "count": 1}},
        {"accelerator": {"class": "cpu", "count": 2}},
        says="accelerator class cpu has count 1",
        blamed="spec.accelerator.count",
    ),
    *(
        Case(
            _POOL,
            "spec",
            "rule",
            {"accelerator": {"count": 4}, "parallelism": accepted},
            {"accelerator": {"count": 4}, "parallelism": refused},
            says=_TOO_PARALLEL,
            blamed="spec.parallelism.tensor",
        )
        for accepted, refused in (
            ({"tensor": 4}, {"tensor": 5}),
            ({"tensor": 2, "pipeline": 2}, {"tensor": 4, "pipeline": 2}),
        )
    ),
    Case(
        _POOL,
        "spec",
        "rule",
        {"accelerator": {"count": 4}, "parallelism": {"pipeline": 4}},
        {"accelerator": {"count": 4}, "parallelism": {"pipeline": 5}},
        says="pipeline parallel size must not exceed accelerator.count",
        blamed="spec.parallelism.pipeline",
    ),
    Case(_POOL, "spec.modelRef", "required:name", {}, {"name": None}),
    *_name(_POOL, "spec.modelRef.name"),
    *_enum(_POOL, "spec.engine.name", "vllm", "simulator"),
    _length(_POOL, "spec.engine.image", 512),
    Case(
        _POOL,
        "spec.engine.args",
        "maxProperties",
        {f"a{number}": True for number in range(64)},
        {f"a{number}": True for number in range(65)},
    ),
    Case(
        _POOL,
        "spec.engine.env",
        "maxItems",
        [{"name": f"A{number}"} for number in range(64)],
        [{"name": f"A{number}"} for number in range(65)],
    ),
    Case(
        _POOL,
        "spec.engine.env",
        "listMapKeys",
        [{"name": "A"}, {"name": "B"}],
        [{"name": "A"}, {"name": "A"}],
        blamed="spec.engine.env[1]",
    ),
    Case(_POOL, "spec.engine.env[]", "required:name", {"value": "x"}, {"name": None, "value": "x"}),
    _length(_POOL, "spec.engine.env[].name", 128),
    Case(_POOL, "spec.engine.env[].name", "pattern", "_A1", "1A"),
    Case(_POOL, "spec.engine.env[].name", "pattern", "a", "A-B"),
    _length(_POOL, "spec.engine.env[].value", 4096),
    Case(_POOL, "spec.accelerator", "required:class", {}, {"class": None}),
    *_name(_POOL, "spec.accelerator.class"),
    *_range(_POOL, "spec.accelerator.count", 1, 16),
    # More than accelerator.count (at most 16) is refused anyway, by the rule.
    Case(_POOL, "spec.parallelism.tensor", "minimum", 1, 0),
    Case(_POOL, "spec.parallelism.tensor", "maximum", 16, 65),
    Case(_POOL, "spec.parallelism.pipeline", "minimum", 1, 0),
    Case(_POOL, "spec.parallelism.pipeline", "maximum", 16, 65),
    *_range(_POOL, "spec.contextLength", 16, 16_777_216),
    *_range(_POOL, "spec.replicas", 0, 1000),
    *(
        Case(
            _POOL,
            "spec.rollout",
            "rule",
            accepted,
            {"maxSurge": 0, "maxUnavailable": 0},
            says="maxSurge and maxUnavailable must not both be 0",
        )
        for accepted in ({"maxSurge": 0, "maxUnavailable": 1}, {"maxSurge": 1, "maxUnavailable": 0})
    ),
    *_range(_POOL, "spec.rollout.maxUnavailable", 0, 100),
    Case(_POOL, "spec.rollout", "rule", {"maxSurge": 1}, {"maxSurge": 0}, says="maxSurge and maxUnavailable must not"),
    Case(_POOL, "spec.rollout.maxSurge", "minimum", 1, -1),
    Case(_POOL, "spec.rollout.maxSurge", "maximum", 100, 101),
    *_range(_POOL, "spec.drain.timeoutSeconds", 1, 86_400),
    *_name(_POOL, "spec.priorityClassName"),
]

CLASS_CASES: Final = [
    Case(_CLASS, "", "required:spec", {}, {"spec": None}),
    Case(
        _CLASS,
        "",
        "rule",
        {"metadata": {"name": "nvidia-h100"}},
        {"metadata": {"name": "cpu"}},
        says="the class cpu is built in",
        blamed="metadata.name",
    ),
    Case(_CLASS, "spec", "required:memory", {}, {"memory": None}),
    Case(_CLASS, "spec.resourceName", "maxLength", "a/" + "a" * 251, "a/" + "a" * 252),
    Case(_CLASS, "spec.resourceName", "pattern", "nvidia.com/gpu", "gpu"),
    Case(_CLASS, "spec.resourceName", "pattern", "nvidia.com/mig-1g.10gb", "nvidia.com/"),
    Case(
        _CLASS,
        "spec.nodeSelector",
        "maxProperties",
        {f"a{number}": "b" for number in range(16)},
        {f"a{number}": "b" for number in range(17)},
    ),
    *(
        Case(_CLASS, "spec.nodeSelector", "rule", {accepted: "a"}, {refused: "a"}, says="keys must be label names")
        for accepted, refused in (
            ("nvidia.com/gpu.product", "nvidia.com/gpu product"),
            ("a", "-a"),
            ("a" * 317, "a" * 318),
        )
    ),
    _length(_CLASS, "spec.nodeSelector{}", 63),
    Case(_CLASS, "spec.nodeSelector{}", "pattern", "NVIDIA-H100-80GB-HBM3", "NVIDIA H100"),
    Case(
        _CLASS,
        "spec.tolerations",
        "maxItems",
        [{"key": f"a{number}"} for number in range(16)],
        [{"key": f"a{number}"} for number in range(17)],
    ),
    *(
        Case(_CLASS, "spec.tolerations[]", "rule", accepted, refused, says="a toleration without key needs operator")
        for accepted, refused in (
            ({"key": None, "operator": "Exists"}, {"key": None}),
            ({"key": "", "operator": "Exists"}, {"key": "", "operator": "Equal"}),
        )
    ),
    *(
        Case(_CLASS, "spec.tolerations[]", "rule", accepted, refused, says="operator Exists compares no value")
        for accepted, refused in (
            ({"operator": "Equal", "value": "x"}, {"operator": "Exists", "value": "x"}),
            ({"operator": "Exists", "value": ""}, {"key": None, "operator": "Exists", "value": "x"}),
        )
    ),
    _length(_CLASS, "spec.tolerations[].key", 316),
    *_enum(_CLASS, "spec.tolerations[].operator", "Exists", "Equal"),
    _length(_CLASS, "spec.tolerations[].value", 63),
    *_enum(_CLASS, "spec.tolerations[].effect", "", "NoSchedule", "PreferNoSchedule", "NoExecute"),
    *_quantity(_CLASS, "spec.memory"),
    *_range(_CLASS, "spec.countPerNode", 1, 64),
    Case(_CLASS, "spec.costWeight", "exclusiveMinimum", 0.001, 0),
    Case(_CLASS, "spec.costWeight", "maximum", 1000, 1000.5),
]


def _set(kind: str, path: str, most: int, values: list[str]) -> list[Case]:
    """A list of `most` different values is accepted, one more is refused, and so is one value twice."""
    twice = [*values[:1], *values[:1]]
    return [
        Case(kind, path, "maxItems", values[:most], values[: most + 1]),
        Case(kind, path, "listSet", values[:2], twice, blamed=f"{path}[1]"),
    ]


def _tokens(path: str) -> list[Case]:
    return [
        _length(_TENANT, path, 16, accepted="1" * 16),
        Case(_TENANT, path, "pattern", "200k", "200 k"),
        Case(_TENANT, path, "pattern", "1.5M", "20Mi"),
        Case(_TENANT, path, "pattern", "5000", "-1"),
        Case(_TENANT, path, "rule", "1", "0", says="must be greater than 0"),
        Case(_TENANT, path, "rule", "0.1k", "0.0M", says="must be greater than 0"),
    ]


_QUOTA: Final = "spec.quota[]"
_IN_A_LABEL: Final = "the name must be a DNS label of at most 63 characters"

TENANT_CASES: Final = [
    Case(_TENANT, "", "required:spec", {}, {"spec": None}),
    *(
        Case(
            _TENANT,
            "",
            "rule",
            {"metadata": {"name": accepted}},
            {"metadata": {"name": refused}},
            says=_IN_A_LABEL,
            blamed="metadata.name",
        )
        for accepted, refused in (("a" * 63, "a" * 64), ("1-a", "a.b"))
    ),
    Case(_TENANT, "spec", "required:namespaces", {}, {"namespaces": None}),
    Case(_TENANT, "spec.namespaces", "minItems", ["a"], []),
    *_set(_TENANT, "spec.namespaces", 64, [f"team-{number}" for number in range(65)]),
    _length(_TENANT, "spec.namespaces[]", 63),
    Case(_TENANT, "spec.namespaces[]", "pattern", "team-a", "Team"),
    Case(_TENANT, "spec.namespaces[]", "pattern", "1", "a.b"),
    _length(_TENANT, "spec.cohort", 63),
    Case(_TENANT, "spec.cohort", "pattern", "research", "-research"),
    Case(_TENANT, "spec.cohort", "pattern", "", "a b"),
    *_range(_TENANT, "spec.weight", 1, 1000),
    Case(
        _TENANT,
        "spec.quota",
        "maxItems",
        [{"class": f"c{number}"} for number in range(32)],
        [{"class": f"c{number}"} for number in range(33)],
    ),
    Case(
        _TENANT,
        "spec.quota",
        "listMapKeys",
        [{"class": "a"}, {"class": "b"}],
        [{"class": "a"}, {"class": "a"}],
        blamed="spec.quota[1]",
    ),
    Case(_TENANT, _QUOTA, "required:class", {"guaranteed": 1}, {"class": None, "guaranteed": 1}),
    Case(
        _TENANT,
        _QUOTA,
        "rule",
        {"guaranteed": 4, "lendLimit": 4},
        {"guaranteed": 4, "lendLimit": 5},
        says="lendLimit must not be greater than guaranteed",
        blamed=f"{_QUOTA}.lendLimit",
    ),
    Case(
        _TENANT,
        _QUOTA,
        "rule",
        {"class": "nvidia-l4"},
        {"class": "cpu"},
        says="the class cpu has no accelerators to share",
        blamed=f"{_QUOTA}.class",
    ),
    *_name(_TENANT, f"{_QUOTA}.class"),
    *_range(_TENANT, f"{_QUOTA}.guaranteed", 0, 1_000_000),
    *_range(_TENANT, f"{_QUOTA}.borrowLimit", 0, 1_000_000),
    Case(_TENANT, f"{_QUOTA}.lendLimit", "minimum", 0, -1),
    # More than guaranteed (at most 1,000,000) is refused anyway, by the rule.
    Case(_TENANT, f"{_QUOTA}.lendLimit", "maximum", 0, 1_000_001),
    Case(
        _TENANT,
        "spec.priorityRange",
        "rule",
        {"min": 5, "max": 5},
        {"min": 6, "max": 5},
        says="min must not be greater than max",
        blamed="spec.priorityRange.min",
    ),
    Case(_TENANT, "spec.priorityRange.min", "minimum", -1000, -1001),
    Case(_TENANT, "spec.priorityRange.min", "maximum", 100, 1001),
    Case(_TENANT, "spec.priorityRange.max", "minimum", 0, -1001),
    Case(_TENANT, "spec.priorityRange.max", "maximum", 1000, 1001),
    *_tokens("spec.tokens.perMinute"),
    *_tokens("spec.tokens.perDay"),
    *_tokens("spec.tokens.perMonth"),
    *(
        Case(
            _TENANT,
            "spec.tokens",
            "rule",
            {less: "1000k", more: "1M"},
            {less: "1001k", more: "1M"},
            says=f"{less} must not be more than {more}",
            blamed=f"spec.tokens.{less}",
        )
        for less, more in (("perMinute", "perDay"), ("perDay", "perMonth"), ("perMinute", "perMonth"))
    ),
    *_range(_TENANT, "spec.tokens.maxConcurrency", 1, 100_000),
    *(
        case
        for name in ("input", "cached", "output")
        for case in (
            Case(_TENANT, f"spec.tokens.cost.{name}", "minimum", 0, -0.1),
            Case(_TENANT, f"spec.tokens.cost.{name}", "maximum", 1000, 1000.5),
        )
    ),
    *_enum(_TENANT, "spec.tokens.mode", "enforce", "shadow"),
    *_set(_TENANT, "spec.models.allow", 64, [f"shared/m{number}" for number in range(65)]),
    Case(_TENANT, "spec.models.allow[]", "maxLength", "a" * 63 + "/" + "a" * 253, "a" * 63 + "/" + "a" * 254),
    Case(_TENANT, "spec.models.allow[]", "pattern", "shared/*", "shared"),
    Case(_TENANT, "spec.models.allow[]", "pattern", "*/llama-3.1*", "shared/*llama"),
    Case(_TENANT, "spec.models.allow[]", "pattern", "*/*", "sha*/llama"),
    *_enum(_TENANT, "spec.isolation.profile", "standard"),
    Case(
        _TENANT,
        "spec.isolation",
        "rule",
        {"profile": "strict", "dedicatedPools": True},
        {"profile": "strict", "dedicatedPools": False},
        says="profile strict needs dedicatedPools: true",
        blamed="spec.isolation.dedicatedPools",
    ),
    *_set(_TENANT, "spec.isolation.egressAllow", 64, [f"10.0.{number}.0/24" for number in range(65)]),
    _length(_TENANT, "spec.isolation.egressAllow[]", 43, accepted="f" * 39 + "/128"),
    Case(_TENANT, "spec.isolation.egressAllow[]", "pattern", "10.0.0.0/8", "10.0.0.0"),
    Case(_TENANT, "spec.isolation.egressAllow[]", "pattern", "fd00::/8", "example.com/8"),
]

CASES: Final = [*MODEL_CASES, *POOL_CASES, *SCALING_CASES, *HOLD_CASES, *CLASS_CASES, *TENANT_CASES]
