"""Schemas narrowed to what a target takes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicore_proxy.protocol.schema import (
    MAX_DEPTH,
    MAX_NODES,
    for_gemini,
    for_openapi,
    from_openapi,
    inlined,
    is_strict,
    object_schema,
)

KEYWORDS = ["type", "properties", "items", "anyOf", "oneOf", "allOf", "$ref", "$defs", "definitions", "enum", "const",
            "required", "additionalProperties", "nullable", "not", "prefixItems", "minItems", "any_of", "ref",
            "property_ordering", "propertyOrdering", "format", "patternProperties"]  # fmt: skip
leaves = st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.sampled_from(
    ["string", "OBJECT", "object", "array", "null", "#", "#/$defs/a", "#/definitions/a", "#/properties/a", "a"]
)  # fmt: skip
odd_schemas = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*KEYWORDS, "a", "b"]), inner, max_size=5)
    ),
    max_leaves=30,
)


@given(odd_schemas)
def test_no_schema_is_too_odd(schema: Any) -> None:
    before = json.dumps(schema)
    for narrowed in (inlined(schema), for_gemini(schema), for_openapi(schema), object_schema(schema)):
        assert isinstance(narrowed.schema, dict)
        assert len(set(narrowed.lost)) == len(narrowed.lost)
        json.dumps(narrowed.schema)
    assert "$ref" not in flat_keywords(inlined(schema).schema)
    assert object_schema(schema).schema["type"] == "object"
    assert isinstance(from_openapi(schema), dict)
    assert is_strict(schema) in (True, False)
    assert json.dumps(schema) == before, "the caller's schema was changed"


def flat_keywords(schema: Any) -> set[str]:
    """Keywords at places where schemas stand (not names of properties)."""
    if not isinstance(schema, dict):
        return set()
    found = set(schema)
    for name, value in schema.items():
        if name in ("properties", "patternProperties") and isinstance(value, dict):
            found |= {word for child in value.values() for word in flat_keywords(child)}
        elif name in ("anyOf", "oneOf", "allOf", "prefixItems", "items") and isinstance(value, list):
            found |= {word for child in value for word in flat_keywords(child)}
        elif name in ("items", "additionalProperties", "not"):
            found |= flat_keywords(value)
    return found


@given(odd_schemas)
def test_gemini_gets_nothing_it_does_not_know(schema: Any) -> None:
    words = flat_keywords(for_gemini(schema).schema)
    assert not words & {"$schema", "$ref", "$defs", "definitions", "const", "allOf", "not", "patternProperties"}
    allowed = {"type", "enum", "items", "properties", "anyOf", "required", "minItems", "format", "nullable"}
    assert flat_keywords(for_openapi(schema).schema) <= allowed


def test_references_are_written_out_and_keep_what_stands_beside_them() -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"$ref": "#/$defs/City", "description": "where"}, "all": {"$ref": "#/$defs/Cities"}},
        "$defs": {
            "City": {"type": "object", "properties": {"name": {"type": "string"}}, "description": "a city"},
            "Cities": {"type": "array", "items": {"$ref": "#/$defs/City"}},
        },
    }
    city = {"type": "object", "properties": {"name": {"type": "string"}}, "description": "a city"}
    narrowed = inlined(schema)
    assert narrowed.lost == ()
    assert narrowed.schema == {
        "type": "object",
        "properties": {"city": city | {"description": "where"}, "all": {"type": "array", "items": city}},
    }


def test_a_property_may_be_called_like_a_keyword() -> None:
    names = ("$ref", "const", "nullable", "type", "allOf", "$defs")
    schema = {"type": "object", "properties": {name: {"type": "string"} for name in names}}
    assert for_gemini(schema) == for_gemini(for_gemini(schema).schema)
    assert for_gemini(schema).schema == schema
    assert from_openapi(schema) == schema


def test_cycles_are_cut_and_named() -> None:
    tree = {
        "$ref": "#/$defs/Node",
        "$defs": {"Node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}, "v": {}}}},
    }
    narrowed = for_gemini(tree)
    assert narrowed.lost == ("$ref (cycle)",)
    inner = {"type": "object", "properties": {"next": {"type": "object"}, "v": {}}}
    assert narrowed.schema == {"type": "object", "properties": {"next": inner, "v": {}}}


def test_references_that_multiply_stay_bounded() -> None:
    defs: dict[str, Any] = {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 8} for i in range(30)}
    narrowed = for_gemini({"$ref": "#/$defs/d0", "$defs": defs})
    assert "schema (too deep or too large)" in narrowed.lost
    assert len(json.dumps(narrowed.schema)) < 40 * MAX_NODES


def test_deep_nesting_is_cut() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(900):
        schema = {"type": "array", "items": schema}
    assert for_gemini(schema).lost == ("schema (too deep or too large)",)
    assert from_openapi(schema)["type"] == "array"


def nested(levels: int, around: str = "items") -> dict[str, Any]:
    """A schema with so many levels below its root."""
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}} if around == "properties" else {around: schema}
    return schema


@pytest.mark.parametrize("around", ["items", "additionalProperties", "properties"])
def test_a_schema_may_be_as_deep_as_this_and_no_deeper(around: str) -> None:
    for deep, fits in ((MAX_DEPTH, True), (MAX_DEPTH + 1, False)):
        schema = nested(deep, around)
        assert (inlined(schema).schema == schema) is (for_gemini(schema).lost == ()) is fits
        assert (from_openapi(schema) == schema) is fits


def test_a_strict_schema_may_be_as_deep_as_this_and_no_deeper() -> None:
    closed: dict[str, Any] = {"type": "string"}
    for _ in range(MAX_DEPTH):
        closed = {"type": "object", "properties": {"a": closed}, "required": ["a"], "additionalProperties": False}
    assert is_strict(closed)
    assert not is_strict(
        {"type": "object", "properties": {"a": closed}, "required": ["a"], "additionalProperties": False}
    )


@pytest.mark.parametrize(
    ("schema", "expected", "lost"),
    [
        ({"const": "a"}, {"enum": ["a"]}, ()),
        ({"$schema": "x", "$id": "y", "$comment": "z", "type": "string"}, {"type": "string"}, ()),
        ({"type": "string", "minLength": 1, "pattern": "a"}, {"type": "string", "minLength": 1, "pattern": "a"}, ()),
        ({"type": "object", "propertyNames": {"type": "string"}}, {"type": "object"}, ("propertyNames (not known)",)),
        ({"type": "array", "items": [{"type": "string"}]}, {"type": "array", "prefixItems": [{"type": "string"}]}, ()),
        ({"type": "array", "items": True}, {"type": "array"}, ()),
        ({"type": "string", "nullable": True}, {"type": ["string", "null"]}, ()),
        (
            {"allOf": [{"type": "object", "properties": {"a": {}}, "required": ["a"]}, {"properties": {"b": {}}}],
             "properties": {"c": {}}, "required": ["c"]},
            {"type": "object", "properties": {"a": {}, "b": {}, "c": {}}, "required": ["c", "a"]},
            (),
        ),
        ({"properties": {"a": False}}, {"properties": {"a": {}}}, ("schema (no object)",)),
        ({"$ref": "http://x/y"}, {}, ("$ref (unknown)",)),
    ],
)  # fmt: skip
def test_for_gemini(schema: Any, expected: Any, lost: tuple[str, ...]) -> None:
    narrowed = for_gemini(schema)
    assert sorted(narrowed.schema) == sorted(expected)
    assert json.dumps(narrowed.schema, sort_keys=True) == json.dumps(expected, sort_keys=True)
    assert narrowed.lost == lost


def test_for_openapi() -> None:
    schema = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "name": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
            "kind": {"const": "a"},
            "level": {"enum": [1, 2], "type": "integer"},
            "either": {"type": ["string", "integer", "null"]},
            "flag": {"type": ["boolean", "null"]},
        },
    }
    assert for_openapi(schema).schema == {
        "type": "OBJECT",
        "properties": {
            "name": {"anyOf": [{"type": "STRING"}], "default": None, "nullable": True},
            "kind": {"enum": ["a"]},
            "level": {"type": "INTEGER"},
            "either": {"anyOf": [{"type": "STRING"}, {"type": "INTEGER"}], "nullable": True},
            "flag": {"type": "BOOLEAN", "nullable": True},
        },
    }
    assert for_openapi(schema).lost == ("additionalProperties (not known)", "enum (of other values than strings)")


def test_from_openapi() -> None:
    schema = {
        "type": "OBJECT",
        "properties": {
            "b": {"type": "STRING", "nullable": True, "enum": ["x"], "format": "enum"},
            "a": {"type": "ARRAY", "items": {"type": "INTEGER", "format": "int32"}, "minItems": "1", "max_items": 3},
            "c": {"any_of": [{"type": "STRING"}, {"type": "NUMBER"}], "nullable": True},
        },
        "property_ordering": ["a", "b", "zzz"],
        "required": ["a"],
    }
    told = from_openapi(schema)
    assert told == {
        "type": "object",
        "properties": {
            "a": {"type": "array", "items": {"type": "integer", "format": "int32"}, "minItems": 1, "maxItems": 3},
            "b": {"type": ["string", "null"], "enum": ["x", None]},
            "c": {"anyOf": [{"type": "string"}, {"type": "number"}, {"type": "null"}]},
        },
        "required": ["a"],
    }
    assert list(told["properties"]) == ["a", "b", "c"]
    assert from_openapi(told) == told, "JSON Schema comes out as it was"


def test_object_schema() -> None:
    assert object_schema(None).schema == {"type": "object", "properties": {}}
    assert object_schema(None).lost == ()
    assert object_schema({"type": "string"}).lost == ("type (no object)",)
    union = object_schema({
        "anyOf": [
            {"type": "object", "properties": {"a": {"type": "string"}, "k": {}}, "required": ["a", "k"]},
            {"$ref": "#/$defs/B"},
        ],
        "$defs": {"B": {"type": "object", "properties": {"b": {}, "k": {}}, "required": ["k"]}},
    })  # fmt: skip
    assert union.schema == {
        "type": "object",
        "properties": {"a": {"type": "string"}, "k": {}, "b": {}},
        "required": ["k"],
    }
    assert union.lost == ("anyOf (at the root)",)
    kept = {"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": {}}, "title": "T"}
    assert object_schema(kept).schema == kept, "references below the root are the target's to read"


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        ({"type": "object", "properties": {}, "additionalProperties": False, "required": []}, True),
        ({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}, False),
        ({"type": "object", "properties": {"a": {"type": "array", "items": {"type": "string"}}}, "required": ["a"],
          "additionalProperties": False}, True),
        ({"type": "object", "properties": {"a": {"type": "array", "items": {"type": "object"}}}, "required": ["a"],
          "additionalProperties": False}, False),
        ({"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False}, False),
        (
            {"type": "object", "properties": {"a": {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/B"}]}},
             "required": ["a"], "additionalProperties": False, "$defs": {"B": {"enum": [1]}}},
            True,
        ),
        (
            {"type": "object", "properties": {"a": {"type": "object", "properties": {"b": {}}}}, "required": ["a"],
             "additionalProperties": False},
            False,
        ),
        ({"type": "object", "properties": {"a": {"default": 1}}, "required": ["a"], "additionalProperties": False},
         False),
        ({"anyOf": []}, False),
        (None, False),
    ],
)  # fmt: skip
def test_is_strict(schema: Any, strict: bool) -> None:
    assert is_strict(schema) is strict


LONG_NUMBER = "9" * 5000
"""Longer than Python makes a number of."""


@pytest.mark.parametrize("properties", [[], None, "", 0, False, [1], "x"])
def test_what_is_no_object_of_properties_is_not_strict(properties: Any) -> None:
    inner = {"type": "string", "properties": properties}
    outer = {"type": "object", "additionalProperties": False, "properties": {"a": inner}, "required": ["a"]}
    assert is_strict(inner) is is_strict(outer) is False


def test_numbers_that_are_too_long_are_left() -> None:
    told = inlined({"anyOf": [{"type": "string"}, {"$ref": f"#/anyOf/{LONG_NUMBER}"}, {"$ref": "#/anyOf/0"}]})
    assert told.schema["anyOf"][2] == {"type": "string"}
    assert from_openapi({"type": "ARRAY", "minItems": LONG_NUMBER}) == {"type": "array", "minItems": LONG_NUMBER}
    assert from_openapi({"type": "ARRAY", "minItems": "12"}) == {"type": "array", "minItems": 12}


@pytest.mark.parametrize("keyword", ["items", "additionalProperties", "properties", "anyOf", "oneOf", "prefixItems"])
def test_schemas_are_narrowed_wherever_they_stand(keyword: str) -> None:
    inner, narrow = {"const": 1, "not": {}}, {"enum": [1]}
    held, wanted = {"properties": ({"a": inner}, {"a": narrow})}.get(keyword, (inner, narrow))
    if keyword in ("anyOf", "oneOf", "prefixItems"):
        held, wanted = [inner], [narrow]  # type: ignore[assignment]

    assert for_gemini({keyword: held}).schema == {keyword: wanted}
    if keyword != "additionalProperties":
        assert for_gemini({keyword: "no schema"}).schema == {}


@pytest.mark.parametrize(
    ("schema", "wanted"),
    [
        ({"type": "string", "nullable": True}, {"type": ["string", "null"]}),
        ({"type": "null", "nullable": True}, {"type": "null"}),
        ({"type": ["string", "number"], "nullable": True}, {"type": ["string", "number", "null"]}),
        ({"type": ["string", "null"], "nullable": True}, {"type": ["string", "null"]}),
        ({"anyOf": [{"type": "string"}], "nullable": True}, {"anyOf": [{"type": "string"}, {"type": "null"}]}),
        ({"anyOf": [{"type": "null"}], "nullable": True}, {"anyOf": [{"type": "null"}]}),
        ({"type": "string", "enum": ["a"], "nullable": True}, {"type": ["string", "null"], "enum": ["a", None]}),
        ({"enum": ["a", None], "nullable": True}, {"enum": ["a", None]}),
        ({"type": "string", "nullable": False}, {"type": "string"}),
        ({"type": "string", "nullable": "true"}, {"type": "string"}),
    ],
)
def test_what_may_be_null_says_so_once(schema: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert for_gemini(schema).schema == wanted


def test_snake_case_of_geminis_schemas_is_read() -> None:
    counts = ("min_items", "max_items", "min_length", "max_length", "min_properties", "max_properties")
    told = from_openapi({
        "any_of": [{"ref": "#/defs/a"}], "additional_properties": {"type": "STRING"},
        "prefix_items": [{"type": "NULL"}],
        "defs": {"a": {"type": "NUMBER"}}, **dict.fromkeys(counts, "3"),
    })  # fmt: skip
    assert told == {
        "anyOf": [{"$ref": "#/defs/a"}], "additionalProperties": {"type": "string"}, "prefixItems": [{"type": "null"}],
        "$defs": {"a": {"type": "number"}}, "minItems": 3, "maxItems": 3, "minLength": 3, "maxLength": 3,
        "minProperties": 3, "maxProperties": 3,
    }  # fmt: skip
