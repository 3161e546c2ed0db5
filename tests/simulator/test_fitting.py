"""Values that fit a JSON Schema."""

from __future__ import annotations

from typing import Any

import pytest

from aicore_proxy.simulator.fitting import fit

TREE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
            "required": ["next"],
        }
    },
    "$ref": "#/$defs/node",
}  # fmt: skip


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({}, {}),
        ({"type": "string"}, "simulated"),
        ({"type": "STRING"}, "simulated"),
        ({"type": ["null", "integer"]}, 1),
        ({"const": 7}, 7),
        ({"enum": ["b", "a"]}, "b"),
        ({"type": "string", "format": "date"}, "2026-11-23"),
        ({"type": "string", "pattern": "^[A-Z]{2}-\\d+$"}, "AB-1"),
        ({"type": "string", "minLength": 12}, "simulatedxxx"),
        ({"type": "string", "maxLength": 3}, "sim"),
        ({"type": "integer", "minimum": 5}, 5),
        ({"type": "integer", "exclusiveMinimum": 5}, 6),
        ({"type": "number", "maximum": -2}, -2),
        ({"type": "integer", "minimum": 5, "multipleOf": 4}, 8),
        ({"type": "boolean"}, True),
        ({"type": "null"}, None),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 2}, [1, 1]),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 2, "uniqueItems": True}, [1, 2]),
        ({"type": "array", "prefixItems": [{"const": 1}, {"const": "a"}]}, [1, "a"]),
        ({"type": "object", "required": ["x"], "additionalProperties": {"type": "integer"}}, {"x": 1}),
        (
            {"allOf": [{"type": "object", "properties": {"a": {"const": 1}}}, {"properties": {"b": {"const": 2}}}]},
            {"a": 1, "b": 2},
        ),
        ({"oneOf": [{"type": "null"}, {"type": "boolean"}]}, True),
        ({"type": "object", "properties": {"city": {"type": "string"}}}, {"city": "Berlin"}),
        (True, {}),
    ],
)  # fmt: skip
def test_values_fit(schema: Any, value: Any) -> None:
    assert fit(schema) == value


def test_recursion_ends() -> None:
    value = fit(TREE)
    depth = 0
    while value is not None:
        value, depth = value["next"], depth + 1
    assert 2 <= depth <= 10


def test_free_strings_hold_the_quote() -> None:
    assert fit({"type": "object", "properties": {"answer": {"type": "string"}}}, "12 degrees") == {
        "answer": "12 degrees"
    }
