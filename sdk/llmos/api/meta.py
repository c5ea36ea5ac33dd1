"""What every resource model is made of: the frozen base, schema markers, conditions, printer columns.

The models are the only source of the CRDs (`llmos.crds` converts them), so whatever the API server must know stands
here as a marker that adds the matching `x-kubernetes-*` key to the JSON schema: a CEL rule, list-map keys, a free-form
scalar. A constraint stands in exactly one place: OpenAPI or CEL where it can be said there.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema


@dataclass(frozen=True)
class Rule:
    """A CEL rule that the API server enforces.

    Use it in `Annotated[...]` for a field (`self` is the value) or in the class attribute `rules` for a whole object.
    Optional fields stand behind `has()`; everything that a rule walks is bounded, or the server refuses the rule for
    its cost. `field_path` names the field to blame within the object, for example `.accelerator.count`.
    """

    rule: str
    message: str
    field_path: str = ""

    def __get_pydantic_json_schema__(self, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core_schema)
        schema.setdefault("x-kubernetes-validations", []).append(self.as_schema())
        return schema

    def as_schema(self) -> dict[str, str]:
        """Return the entry of `x-kubernetes-validations`."""
        entry = {"rule": self.rule, "message": self.message}
        return {**entry, "fieldPath": self.field_path} if self.field_path else entry


POD_NAME_PART = Rule(
    "self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
    "the name must be a DNS label of at most 40 characters (a-z, 0-9, -; starts with a letter): it becomes part of the "
    "names of pods",
    field_path=".metadata.name",
)
"""For the root of a kind whose name the names of pods, claims and Services are made of."""


@dataclass(frozen=True)
class ListMap:
    """Mark a list as a map by these keys, so that server-side apply merges entries instead of replacing the list."""

    keys: tuple[str, ...]

    def __get_pydantic_json_schema__(self, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core_schema)
        schema["x-kubernetes-list-type"] = "map"
        schema["x-kubernetes-list-map-keys"] = list(self.keys)
        return schema


@dataclass(frozen=True)
class ListSet:
    """Mark a list of scalars as a set: no value twice, and server-side apply merges what several managers add."""

    def __get_pydantic_json_schema__(self, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core_schema)
        schema["x-kubernetes-list-type"] = "set"
        return schema


@dataclass(frozen=True)
class FreeScalar:
    """Mark a value whose type the API server cannot say (bool, number or string); pydantic checks it instead."""

    def __get_pydantic_json_schema__(self, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        handler(core_schema)
        return {"x-kubernetes-preserve-unknown-fields": True}


Scalar = Annotated[bool | int | float | Annotated[str, Field(max_length=4096)], FreeScalar()]
"""A command-line value: the engine parses it, we only pass it on."""

Name = Annotated[
    str,
    Field(max_length=253, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"),
]
"""The name of another object."""

Quantity = Annotated[
    str,
    Field(max_length=32, pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"),
    Rule("quantity(self).isGreaterThan(quantity('0'))", "must be greater than 0"),
]
"""A Kubernetes quantity such as `20Gi`."""


@dataclass(frozen=True)
class PrinterColumn:
    """One column of `kubectl get`; priority 1 shows only with `-o wide`."""

    name: str
    type: Literal["string", "integer", "number", "boolean", "date"]
    json_path: str
    description: str = ""
    priority: int = 0


@dataclass(frozen=True)
class ScaleSubresource:
    """Paths of the `scale` subresource, which lets `kubectl scale` and an HPA change the replica count."""

    spec_path: str
    status_path: str
    selector_path: str


@dataclass(frozen=True)
class KindInfo:
    """What the API server must know about a kind beside its schema."""

    kind: str
    plural: str
    singular: str
    short_names: tuple[str, ...]
    scope: Literal["Namespaced", "Cluster"]
    columns: tuple[PrinterColumn, ...]
    scale: ScaleSubresource | None = None


class ApiModel(BaseModel):
    """Base of everything that stands in a custom resource: frozen, camelCase outside, tolerant of newer fields."""

    model_config = ConfigDict(
        frozen=True,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        extra="ignore",
        use_attribute_docstrings=True,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core_schema)
        if cls.rules:
            resolved = handler.resolve_ref_schema(schema)
            resolved["x-kubernetes-validations"] = [rule.as_schema() for rule in cls.rules]
        return schema

    def to_manifest(self) -> dict[str, Any]:
        """Return the camelCase dict that goes to the API server; empty optional fields are left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class Metadata(ApiModel):
    """The part of `ObjectMeta` that LLMOS reads."""

    name: str
    namespace: str | None = None
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    finalizers: tuple[str, ...] = ()
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None


class LocalReference(ApiModel):
    """The name of an object in the same namespace."""

    name: Name
    """Name of the object."""


class Condition(ApiModel):
    """One fact about the object's state, in the standard Kubernetes form."""

    type: Annotated[str, Field(max_length=64)]
    """Which fact, for example Ready."""
    status: Literal["True", "False", "Unknown"]
    """Whether the fact holds."""
    reason: Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z][A-Za-z0-9]*$")]
    """A CamelCase word for programs; docs/reference/conditions.md lists all of them."""
    message: Annotated[str, Field(max_length=32768)] = ""
    """The cause and the remedy, for people."""
    observed_generation: Annotated[int, Field(ge=0)] = 0
    """The metadata.generation that this condition speaks about."""
    last_transition_time: datetime
    """When status last changed."""


Conditions = Annotated[tuple[Condition, ...], Field(max_length=16), ListMap(("type",))]


class EnvVar(ApiModel):
    """An environment variable of the engine container."""

    name: Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    """Name of the variable."""
    value: Annotated[str, Field(max_length=4096)] = ""
    """Its value. Secrets do not belong here."""


class Toleration(ApiModel):
    """Lets pods onto nodes with a matching taint, as in a Pod's spec."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.operator == 'Exists' || (has(self.key) && self.key != '')",
            "a toleration without key needs operator Exists (it then matches all taints)",
        ),
        Rule(
            "self.operator == 'Equal' || !has(self.value) || self.value == ''",
            "operator Exists compares no value: leave value empty, or use operator Equal",
        ),
    )

    key: Annotated[str, Field(max_length=316)] = ""
    """Taint key; empty with operator Exists matches all taints."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """How value is compared."""
    value: Annotated[str, Field(max_length=63)] = ""
    """Taint value for operator Equal."""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""
    """Taint effect; empty matches all effects."""
