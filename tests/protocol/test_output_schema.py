"""Schemas of structured output for Claude: closed, without bounds and recursion, or not at all."""

from __future__ import annotations

from typing import Any

import pytest

from aicore_proxy.protocol.dialects.anthropic_messages.output_schema import BOUNDS, FORMATS, closed, fits

Schema = dict[str, Any]
OPEN = {"type": "object", "properties": {"a": {}}, "additionalProperties": True}


def having(count: int, *required: str) -> Schema:
    return {"type": "object", "properties": {f"p{n}": {} for n in range(count)}, "required": [*required]}


def around(keyword: str, inner: Any) -> Schema:
    if keyword in ("properties", "$defs", "definitions"):
        return {keyword: {"a": inner}}
    return {keyword: inner if keyword in ("items", "not") else [{}, inner]}


KEYWORDS = ["items", "not", "anyOf", "oneOf", "allOf", "prefixItems", "properties", "$defs", "definitions"]


@pytest.mark.parametrize(
    ("schema", "fit"),
    [
        ({}, True),
        ({"type": "string"}, True),
        ({"type": "object"}, False),  # anything goes
        ({"type": "object", "properties": {}}, False),
        (OPEN, False),
        ({**OPEN, "additionalProperties": {"type": "string"}}, False),
        ({**OPEN, "additionalProperties": False}, True),
        ({"patternProperties": {"a": {}}}, False),
        (having(10), True),
        (having(11), False),
        (having(11, "p3"), True),
        (having(11, "other"), False),
        ({"anyOf": [having(6), having(5)]}, False),
        ({"$ref": "#"}, False),
        ({"items": {"$ref": "#"}}, False),
        ({"$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}}, False),
        ({"definitions": {"a": {"items": {"$ref": "#/definitions/b"}}, "b": {"$ref": "#/definitions/a"}}}, False),
        ({"$defs": {"a": {"items": {"$ref": "#/$defs/b"}}, "b": {"anyOf": [{"$ref": "#/$defs/c"}]}, "c": {}}}, True),
        ({"$defs": {"a": {"$ref": "#/$defs/b"}}, "definitions": {"b": {"$ref": "#/$defs/a"}}}, False),
        ({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/c"}, "c": {"$ref": "#/$defs/b"}}}, False),
        ({"anyOf": "odd", "properties": 5, "required": 5}, True),
    ],
)  # fmt: skip
def test_which_schemas_can_be_closed(schema: Schema, fit: bool) -> None:
    assert fits(schema) is fit


@pytest.mark.parametrize("keyword", KEYWORDS)
def test_one_that_does_not_fit_is_found_and_one_that_does_closed_wherever_it_stands(keyword: str) -> None:
    inner = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    assert fits(around(keyword, inner)) is True
    assert fits(around(keyword, OPEN)) is False
    wanted = around("anyOf" if keyword == "oneOf" else keyword, {**inner, "additionalProperties": False})
    assert closed(around(keyword, inner)) == wanted | (
        {"additionalProperties": False} if keyword == "properties" else {}
    )


@pytest.mark.parametrize("bound", [*BOUNDS])
def test_bounds_are_told_in_words(bound: str) -> None:
    assert closed({"type": "string", bound: 5}) == {"type": "string", "description": f"{bound}: 5"}
    assert closed({bound: 5, "description": "A text."}) == {"description": f"A text. {bound}: 5"}


def test_which_bounds_are_refused() -> None:
    """As Anthropic's page names them; ``minItems`` of 0 and 1 and some formats are taken."""
    assert set(BOUNDS) == {
        "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "pattern",
        "maxItems", "uniqueItems", "minProperties", "maxProperties", "contains", "minContains", "maxContains",
    }  # fmt: skip
    assert [closed({"minItems": n}) for n in (0, 1, 2)] == [
        {"minItems": 0},
        {"minItems": 1},
        {"description": "minItems: 2"},
    ]
    for name in ("date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"):
        assert closed({"format": name}) == {"format": name}
    assert len(FORMATS) == 10
    assert closed({"format": "regex"}) == {"description": "format: regex"}


@pytest.mark.parametrize("odd", [True, None, 5, "x", [{}]])
def test_what_is_no_schema_stays(odd: Any) -> None:
    assert closed(odd) == odd
    assert closed({"items": odd}) == {"items": odd}
    assert fits({"items": odd}) is True


@pytest.mark.parametrize("circle", [True, False])
def test_a_long_chain_of_definitions(circle: bool) -> None:
    chain: Schema = {f"d{n}": {"items": {"$ref": f"#/$defs/d{n + 1}"}} for n in range(3000)}
    chain["d3000"] = {"$ref": "#/$defs/d0"} if circle else {}
    assert fits({"$defs": chain}) is not circle
