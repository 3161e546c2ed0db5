"""A JSON value that fits a JSON Schema: arguments of tools and structured answers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

DEPTH = 8
_FORMATS = {
    "date-time": "2026-11-23T10:00:00Z",
    "date": "2026-11-23",
    "time": "10:00:00Z",
    "duration": "PT1H",
    "email": "ada@example.com",
    "hostname": "example.com",
    "uri": "https://example.com/",
    "url": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000001",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
}
_NAMED = {
    "city": "Berlin",
    "location": "Berlin",
    "country": "Germany",
    "name": "Ada",
    "command": "echo simulated",
    "file_path": "README.md",
    "path": "README.md",
    "unit": "celsius",
    "query": "simulated",
    "url": "https://example.com/",
}
_PATTERN_TRIES = (
    "simulated",
    "a",
    "A",
    "abc",
    "ABC",
    "1",
    "12",
    "123",
    "1234",
    "12345",
    "a1",
    "A1",
    "AB-1",
    "AB-123",
    "2026-11-23",
    "10:00",
    "a@example.com",
    "https://example.com/",
    "#aabbcc",
    "+491701234567",
    "1.0.0",
    "",
)


def fit(schema: Any, quote: str = "") -> Any:
    """A value for ``schema`` (JSON Schema, or Gemini's with upper-case types); free strings hold ``quote`` if given."""
    return _Fitter(schema if isinstance(schema, Mapping) else {}, quote).value(schema, "", 0)


class _Fitter:
    def __init__(self, root: Mapping[str, Any], quote: str) -> None:
        self._root = root
        self._quote = quote

    def value(self, schema: Any, name: str, depth: int) -> Any:
        if not isinstance(schema, Mapping):
            return None if schema is False else {}
        schema = self._resolved(schema)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return schema["enum"][0]
        for key in ("anyOf", "oneOf", "any_of"):
            if schema.get(key):
                return self.value(self._option(schema, key, depth), name, depth)
        match self._type(schema, depth):
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, name, depth)
            case "string":
                return self._string(schema, name)
            case "integer":
                return self._number(schema, whole=True)
            case "number":
                return self._number(schema, whole=False)
            case "boolean":
                return True
            case _:
                return None

    def _resolved(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        for _ in range(32):
            reference = schema.get("$ref") or schema.get("ref")
            if not isinstance(reference, str):
                break
            found: Any = self._root
            path = reference.removeprefix("#").strip("/")
            steps = path.split("/") if path else []
            if len(steps) == 1 and steps[0] not in self._root:
                steps = ["$defs", steps[0]]
            for step in steps:
                inner = step.replace("~1", "/").replace("~0", "~")
                found = found.get(inner, {}) if isinstance(found, Mapping) else {}
            rest = {key: inner for key, inner in schema.items() if key not in ("$ref", "ref")}
            schema = {**found, **rest} if isinstance(found, Mapping) else rest
        if isinstance(schema.get("allOf"), list):
            return self._merged(schema)
        return schema

    def _merged(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        merged: dict[str, Any] = {key: inner for key, inner in schema.items() if key != "allOf"}
        for part in schema["allOf"]:
            inner = self._resolved(part) if isinstance(part, Mapping) else {}
            for key, value in inner.items():
                if key == "properties":
                    merged[key] = {**merged.get(key, {}), **value}
                elif key == "required":
                    merged[key] = [*merged.get(key, []), *value]
                else:
                    merged.setdefault(key, value)
        return merged

    def _option(self, schema: Mapping[str, Any], key: str, depth: int) -> Mapping[str, Any]:
        options = [self._resolved(option) for option in schema[key] if isinstance(option, Mapping)] or [{}]
        null = next((option for option in options if self._type(option, depth) == "null"), None)
        chosen = (
            null if depth >= DEPTH and null is not None else next((o for o in options if o is not null), options[0])
        )
        shared = {name: inner for name, inner in schema.items() if name not in ("anyOf", "oneOf", "any_of")}
        return {**shared, **chosen}

    def _type(self, schema: Mapping[str, Any], depth: int) -> str:
        kind = schema.get("type")
        if isinstance(kind, list):
            nullable = "null" in kind
            kind = "null" if nullable and depth >= DEPTH else next((t for t in kind if t != "null"), "null")
        if isinstance(kind, str):
            return "null" if schema.get("nullable") and depth >= DEPTH else kind.lower()
        if "properties" in schema or "required" in schema:
            return "object"
        if "items" in schema or "prefixItems" in schema:
            return "array"
        if {"minimum", "maximum", "multipleOf"} & schema.keys():
            return "number"
        if {"pattern", "format", "minLength", "maxLength"} & schema.keys():
            return "string"
        return "object" if depth == 0 else "string"

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties") or {}
        required = schema.get("required") or []
        wanted = [name for name in properties if name in required or depth < 2]
        made = {
            name: self.value(properties[name], name, depth + 1) for name in wanted if depth < DEPTH or name in required
        }
        for name in required:
            if name not in made:
                made[name] = self.value(schema.get("additionalProperties") or {"type": "string"}, name, depth + 1)
        extra = schema.get("additionalProperties")
        for number in range(max(int(schema.get("minProperties") or 0) - len(made), 0)):
            made[f"key{number + 1}"] = self.value(extra if isinstance(extra, Mapping) else {}, "", depth + 1)
        return made

    def _array(self, schema: Mapping[str, Any], name: str, depth: int) -> list[Any]:
        least = int(schema.get("minItems") or 0)
        count = max(least, 0 if depth >= DEPTH - 2 else 1)
        if schema.get("maxItems") is not None:
            count = min(count, int(schema["maxItems"]))
        prefix = schema.get("prefixItems") or []
        items = schema.get("items", {"type": "string"})
        count = max(count, len(prefix))
        made = [self.value(prefix[i] if i < len(prefix) else items, name, depth + 1) for i in range(count)]
        if schema.get("uniqueItems") and isinstance(items, Mapping):
            return self._unique(items, made)
        return made

    def _unique(self, items: Mapping[str, Any], made: list[Any]) -> list[Any]:
        choices = items.get("enum") or []
        for number in range(1, len(made)):
            if number < len(choices):
                made[number] = choices[number]
            elif isinstance(made[number], str):
                made[number] += f" {number + 1}"
            elif isinstance(made[number], (int, float)) and not isinstance(made[number], bool):
                made[number] += number
        return made

    def _string(self, schema: Mapping[str, Any], name: str) -> str:
        if schema.get("format") in _FORMATS:
            return _FORMATS[schema["format"]]
        low, high = int(schema.get("minLength") or 0), int(schema.get("maxLength") or 1_000_000)
        if schema.get("pattern"):
            tries = [text for text in (_NAMED.get(name, ""), *_PATTERN_TRIES) if low <= len(text) <= high]
            return next((text for text in tries if re.search(schema["pattern"], text)), "simulated")
        text = self._quote or _NAMED.get(name) or "simulated"
        return (text + "x" * (low - len(text)))[:high]

    def _number(self, schema: Mapping[str, Any], *, whole: bool) -> int | float:
        low, high = schema.get("minimum"), schema.get("maximum")
        over: Any = schema.get("exclusiveMinimum")
        under: Any = schema.get("exclusiveMaximum")
        step = schema.get("multipleOf") or (1 if whole else 0.5)
        if _is_number(over):
            low = over + step
        if _is_number(under):
            high = under - step
        value = 1 if low is None else low
        if high is not None and value > high:
            value = high
        if schema.get("multipleOf"):
            value = math.ceil(value / step) * step
        return math.ceil(value) if whole else value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
