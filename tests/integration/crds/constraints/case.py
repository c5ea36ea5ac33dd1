"""One constraint as a test sees it, and the constraints that many fields share."""

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
    "FineTuneJob": {
        "baseModelRef": {"name": "m"},
        "dataset": {"source": {"uri": "hf://org/set"}},
        "trainer": {"accelerator": {"class": "nvidia-h100"}},
        "output": {"name": "result"},
    },
}
# What else an item of a list must have to be valid.
ITEMS: Final[dict[str, Object]] = {
    "env": {"name": "A"},
    "tolerations": {"key": "k"},
    "schedule": {"name": "day", "start": "08:00", "end": "18:00", "minReplicas": 1},
    "quota": {"class": "nvidia-h100"},
    "namespaces": {},
    "allow": {},
    "suites": {"name": "support", "source": {"uri": "hf://org/set"}},
    "gates": {"metric": "eval_loss", "max": 1},
    "attachTo": {"pool": "chat", "replaces": "former"},
    "parameters": {"name": "learningRate", "values": [0.001]},
    "replaces": {"pool": "chat", "name": "former"},
    "targetModules": {},
    "alternatives": {},
    "metrics": {},
    "egressAllow": {},
    "sharedWith": {},
    "models": {"name": "a"},
}

# What the API server says of each keyword.
WORDS: Final = {
    "enum": "Unsupported value",
    "maximum": "should be less than or equal to",
    "minimum": "should be greater than or equal to",
    "exclusiveMinimum": "should be greater than",
    "exclusiveMaximum": "should be less than",
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
    if path.startswith("spec.method.distill"):
        spec["method"] = {"task": "distill", "distill": {"teacherRef": {"name": "teacher"}}}
    if path == "spec.trainer.nodes":
        spec["checkpoint"] = {"storage": {"accessMode": "ReadWriteMany"}}
    if path.startswith("spec.checkpoint.storage.secretRef"):
        spec["checkpoint"] = {"storage": {"uri": "s3://bucket"}}
    if path.startswith(("spec.adapter.attachTo", "spec.adapter.replaces")):
        spec["adapter"] = {"baseModelRef": {"name": "base"}}
    if path.startswith("spec.origin."):
        spec["origin"] = {"job": "tune"}
    if path == "spec.adapters.slots":
        spec["adapters"] = {"maxLoaded": 64}
    if path.startswith("spec.search") and path != "spec.search.parameters":
        # As many trials as go on at the same time at most.
        spec["search"] = {"parameters": [ITEMS["parameters"]], "maxTrials": 16}
    if path == "spec.search.maxTrials":
        spec["search"] = {**spec["search"], "parallelism": 1}
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


def one_of(kind: str, path: str, *values: str) -> list[Case]:
    return [Case(kind, path, "enum", value, "other") for value in values]


def limits(kind: str, path: str, lowest: int, highest: int) -> list[Case]:
    return [
        Case(kind, path, "minimum", lowest, lowest - 1),
        Case(kind, path, "maximum", highest, highest + 1),
    ]


def longest_text(kind: str, path: str, longest: int, *, accepted: str = "") -> Case:
    return Case(kind, path, "maxLength", accepted or "a" * longest, (accepted or "a" * longest) + "a")


def reference(kind: str, path: str) -> list[Case]:
    return [
        longest_text(kind, path, 253),
        Case(kind, path, "pattern", "a-1.b", "-a"),
        Case(kind, path, "pattern", "a", ""),
        Case(kind, path, "pattern", "0", "a..b"),
        Case(kind, path, "pattern", "a", "Upper"),
    ]


def quantity(kind: str, path: str) -> list[Case]:
    return [
        Case(kind, path, "maxLength", f"{'1' * 30}Gi", f"{'1' * 31}Gi"),
        Case(kind, path, "pattern", "80Gi", "80 GB"),
        Case(kind, path, "pattern", "1.5T", "-1Gi"),
        Case(kind, path, "rule", "1m", "0", says="must be greater than 0"),
        Case(kind, path, "rule", "0.1Ki", "0.0Ki", says="must be greater than 0"),
    ]


def object_name(kind: str, longest: int, *pairs: tuple[str, str]) -> list[Case]:
    """Names of an object itself: one of `longest` characters is accepted and a longer one refused, and so on."""
    return [
        Case(
            kind,
            "",
            "rule",
            {"metadata": {"name": accepted}},
            {"metadata": {"name": refused}},
            says=f"the name must be a DNS label of at most {longest} characters",
            blamed="metadata.name",
        )
        for accepted, refused in (("a" * longest, "a" * (longest + 1)), *pairs)
    ]


def pod_name_part(kind: str) -> list[Case]:
    return object_name(kind, 40, ("a-1", "1-a"), ("a", "a.b"))


def unique_items(kind: str, path: str, most: int, values: list[str]) -> list[Case]:
    """A list of `most` different values is accepted, one more is refused, and so is one value twice."""
    twice = [*values[:1], *values[:1]]
    return [
        Case(kind, path, "maxItems", values[:most], values[: most + 1]),
        Case(kind, path, "listSet", values[:2], twice, blamed=f"{path}[1]"),
    ]
