"""Each rewriting from pydantic's dialect to the API server's, and each refusal of what has no counterpart."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from llmos.api.meta import ApiModel, ListMap, Rule, Scalar
from llmos.crds import SchemaError, to_structural

Text = Annotated[str, Field(max_length=8)]


class Leaf(ApiModel):
    """A part of something."""

    name: Text
    """Its name."""
    size: Annotated[int, Field(ge=0)] = 3
    """Its size."""


class Colour(StrEnum):
    """A colour."""

    RED = "red"
    BLUE = "blue"


def convert(model: type[BaseModel], *, keep_defaults: bool = True) -> dict[str, Any]:
    return to_structural(model.model_json_schema(), path="Kind.spec", keep_defaults=keep_defaults)


def field_of(annotation: Any, default: Any = ...) -> dict[str, Any]:
    """The structural schema of one field of that type."""
    field = Field(default, description="A field.")
    model = type(
        "Model", (BaseModel,), {"__annotations__": {"field": annotation}, "field": field, "__module__": __name__}
    )
    schema: dict[str, Any] = convert(model)["properties"]["field"]
    return schema


def refusal(schema: dict[str, Any]) -> str:
    with pytest.raises(SchemaError) as caught:
        to_structural(schema, path="Kind.spec")
    return str(caught.value)


class TestReferences:
    def test_are_written_out_and_titles_and_definitions_dropped(self) -> None:
        assert field_of(Leaf) == {
            "type": "object",
            "description": "A field.",
            "required": ["name"],
            "properties": {
                "name": {"type": "string", "maxLength": 8, "description": "Its name."},
                "size": {"type": "integer", "minimum": 0, "default": 3, "description": "Its size."},
            },
        }

    def test_keep_the_description_of_the_definition_where_the_field_says_nothing_else(self) -> None:
        schema = {"$ref": "#/$defs/Leaf", "$defs": {"Leaf": Leaf.model_json_schema()}}
        assert to_structural(schema)["description"] == "A part of something."

    def test_to_themselves_are_refused(self) -> None:
        definition = {"type": "object", "properties": {"child": {"$ref": "#/$defs/Node", "description": "A child."}}}
        assert "Node contains itself" in refusal({"$ref": "#/$defs/Node", "$defs": {"Node": definition}})

    def test_to_nothing_are_refused(self) -> None:
        assert "not among the $defs" in refusal({"$ref": "#/$defs/Missing"})


class TestOptionalFields:
    def test_lose_their_null_arm_and_their_null_default(self) -> None:
        assert field_of(Annotated[int, Field(ge=1)] | None, None) == {
            "type": "integer",
            "minimum": 1,
            "description": "A field.",
        }

    def test_may_hold_an_object(self) -> None:
        assert field_of(Leaf | None, None)["required"] == ["name"]


class TestUnions:
    def test_of_integer_and_string_have_an_extension_of_their_own(self) -> None:
        assert field_of(int | str) == {"x-kubernetes-int-or-string": True, "description": "A field."}

    def test_of_other_types_are_refused(self) -> None:
        with pytest.raises(SchemaError, match="one optional field for each variant"):
            field_of(int | bool)

    def test_with_bounds_on_an_arm_are_refused_because_the_bounds_would_be_lost(self) -> None:
        with pytest.raises(SchemaError, match="a union"):
            field_of(Annotated[int, Field(ge=1)] | str)

    def test_with_a_discriminator_are_refused(self) -> None:
        assert "oneOf" in refusal({"oneOf": [{"type": "string"}], "discriminator": {}, "type": "string"})


class TestConstants:
    def test_become_an_enum_of_one_value(self) -> None:
        assert field_of(Literal["only"])["enum"] == ["only"]

    def test_enumerations_keep_their_values_and_need_no_length(self) -> None:
        assert field_of(Colour) == {"type": "string", "enum": ["red", "blue"], "description": "A field."}


class TestNumbers:
    def test_an_exclusive_bound_is_a_flag_beside_the_bound(self) -> None:
        schema = field_of(Annotated[float, Field(gt=0, lt=9)])
        assert schema["minimum"] == 0
        assert schema["exclusiveMinimum"] is True
        assert schema["maximum"] == 9
        assert schema["exclusiveMaximum"] is True

    def test_two_bounds_on_one_side_are_refused(self) -> None:
        assert "Keep one" in refusal({"type": "integer", "minimum": 1, "exclusiveMinimum": 0})


class TestAdditionalProperties:
    def test_false_is_dropped_because_the_server_prunes(self) -> None:
        class Strict(Leaf):
            """Strict."""

            model_config = ConfigDict(extra="forbid")

        assert set(convert(Strict)) == {"type", "description", "properties", "required"}

    def test_true_keeps_unknown_fields(self) -> None:
        class Open(Leaf):
            """Open."""

            model_config = ConfigDict(extra="allow")

        assert convert(Open)["x-kubernetes-preserve-unknown-fields"] is True

    def test_beside_fields_are_refused(self) -> None:
        schema = {"type": "object", "properties": {}, "additionalProperties": {"type": "string", "maxLength": 1}}
        assert "a field of its own" in refusal(schema)

    def test_are_a_map_where_there_are_no_fields(self) -> None:
        schema = field_of(Annotated[dict[str, Text], Field(max_length=4)])
        assert schema == {
            "type": "object",
            "maxProperties": 4,
            "additionalProperties": {"type": "string", "maxLength": 8},
            "description": "A field.",
        }


class TestFreeScalars:
    def test_are_values_that_the_server_does_not_look_into(self) -> None:
        schema = field_of(Annotated[dict[str, Scalar], Field(max_length=4)])
        assert schema["additionalProperties"] == {"x-kubernetes-preserve-unknown-fields": True}

    def test_in_a_map_with_a_rule_are_refused_because_cel_cannot_type_the_map(self) -> None:
        with pytest.raises(SchemaError, match="CEL cannot type"):
            field_of(Annotated[dict[str, Scalar], Field(max_length=4), Rule("self.size() > 0", "not empty")])


class TestRules:
    def test_of_a_field_stand_at_the_field(self) -> None:
        schema = field_of(Annotated[Text, Rule("self != 'x'", "not x")])
        assert schema["x-kubernetes-validations"] == [{"rule": "self != 'x'", "message": "not x"}]

    def test_of_a_class_stand_at_the_object_and_may_blame_one_of_its_fields(self) -> None:
        class Ruled(Leaf):
            """Ruled."""

            rules: ClassVar[tuple[Rule, ...]] = (Rule("self.size > 1", "too small", field_path=".size"),)

        expected = [{"rule": "self.size > 1", "message": "too small", "fieldPath": ".size"}]
        assert convert(Ruled)["x-kubernetes-validations"] == expected

    def test_of_class_and_field_add_up(self) -> None:
        class Ruled(Leaf):
            """Ruled."""

            rules: ClassVar[tuple[Rule, ...]] = (Rule("self.size > 1", "of the class"),)

        schema = field_of(Annotated[Ruled, Rule("self.size > 2", "of the field")])
        assert [rule["message"] for rule in schema["x-kubernetes-validations"]] == ["of the class", "of the field"]


class TestLists:
    def test_of_a_tuple_are_arrays(self) -> None:
        assert field_of(Annotated[tuple[Text, ...], Field(max_length=2)])["items"] == {"type": "string", "maxLength": 8}

    def test_may_be_maps_by_a_key(self) -> None:
        schema = field_of(Annotated[tuple[Leaf, ...], Field(max_length=2), ListMap(("name",))])
        assert schema["x-kubernetes-list-type"] == "map"
        assert schema["x-kubernetes-list-map-keys"] == ["name"]

    def test_refuse_a_key_that_is_no_field(self) -> None:
        with pytest.raises(SchemaError, match="no field of the items"):
            field_of(Annotated[tuple[Leaf, ...], Field(max_length=2), ListMap(("other",))])

    def test_refuse_a_key_that_may_be_absent(self) -> None:
        class Loose(ApiModel):
            """Loose."""

            key: Text = ""
            """Its key."""

        with pytest.raises(SchemaError, match="Make it required"):
            field_of(Annotated[tuple[Loose, ...], Field(max_length=2), ListMap(("key",))])

    def test_of_fixed_positions_are_refused(self) -> None:
        with pytest.raises(SchemaError, match="prefixItems"):
            field_of(tuple[int, str])

    def test_of_anything_are_refused(self) -> None:
        assert "Name the type" in refusal({"type": "array", "maxItems": 1})


class TestBounds:
    @pytest.mark.parametrize(
        ("annotation", "bound"),
        [(str, "maxLength"), (tuple[int, ...], "maxItems"), (dict[str, int], "maxProperties")],
        ids=["a string", "a list", "a map"],
    )
    def test_are_demanded_of(self, annotation: Any, bound: str) -> None:
        with pytest.raises(SchemaError, match=f"field: no {bound}"):
            field_of(annotation)

    def test_are_given_by_the_format_of_a_time(self) -> None:
        assert to_structural({"type": "string", "format": "date-time"}) == {"type": "string", "format": "date-time"}


class TestDefaults:
    def test_of_plain_fields_stay(self) -> None:
        assert field_of(Text, "chat")["default"] == "chat"
        assert field_of(bool, False)["default"] is False

    @pytest.mark.parametrize(
        ("annotation", "default"),
        [(Text, ""), (Annotated[tuple[int, ...], Field(max_length=1)], ())],
        ids=["an empty string", "an empty list"],
    )
    def test_that_say_nothing_are_left_out(self, annotation: Any, default: Any) -> None:
        assert "default" not in field_of(annotation, default)

    def test_of_objects_are_written_in_full_because_the_server_checks_them_against_the_rules_unfilled(self) -> None:
        class Owner(ApiModel):
            """An owner."""

            leaf: Leaf = Leaf(name="x")
            """A leaf."""
            other: Leaf | None = None
            """Another."""

        assert field_of(Owner, Owner())["default"] == {"leaf": {"name": "x", "size": 3}}

    def test_disappear_where_the_server_must_not_invent_values(self) -> None:
        assert "default" not in convert(Leaf, keep_defaults=False)["properties"]["size"]


class TestDescriptions:
    def test_lose_the_line_breaks_of_the_source_but_not_the_paragraphs(self) -> None:
        schema = to_structural({"type": "boolean", "description": "One\n  sentence.\n\nAnother."})
        assert schema["description"] == "One sentence.\n\nAnother."

    def test_are_demanded_of_every_field(self) -> None:
        assert "Write a docstring" in refusal({"type": "object", "properties": {"field": {"type": "boolean"}}})


@pytest.mark.parametrize(
    ("schema", "cause"),
    [
        ({"type": "string", "maxLength": 1, "contentEncoding": "base64"}, "contentEncoding"),
        ({"allOf": [{"type": "string"}], "type": "object", "properties": {}}, "allOf"),
        ({"type": "object", "propertyNames": {}, "additionalProperties": {"type": "boolean"}}, "propertyNames"),
        ({"type": "array", "uniqueItems": True, "items": {"type": "boolean"}, "maxItems": 2}, "uniqueItems"),
        ({"type": "string", "format": "uri"}, "format uri"),
        ({"type": "string", "maxLength": 9, "pattern": "^(?!x)"}, "RE2"),
        ({"type": ["string", "integer"]}, "no single known type"),
        ({"enum": ["a", 1]}, "no single known type"),
        ({}, "no single known type"),
        ({"type": "object"}, "an object without fields"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_the_server_could_not_enforce_is_refused_with_the_path(schema: dict[str, Any], cause: str) -> None:
    message = refusal(schema)
    assert message.startswith("Kind.spec: ")
    assert cause in message
