"""JSON Schemas of tools and of structured output, narrowed to what a target takes.

Pure and total: whatever stands where a schema should be, the answer is a schema, its depth and size bounded. What
changed the meaning is named in ``lost``. Sources: Vertex AI ``GenerationConfig.responseJsonSchema`` and ``Schema``
(Gemini), OpenAI Structured Outputs ("supported schemas"), Anthropic ``tools.input_schema``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct

Json = Any
Schema = dict[str, Json]

MAX_DEPTH = 48
MAX_NODES = 5_000
"""Nodes of a schema after its references were written out: beyond, a reference stands for anything."""
UNROLLED = 2
"""How often a reference is written out inside itself."""


class Narrowed(Struct, frozen=True):
    """A schema that a target takes, and what it could not take, each as ``keyword (reason)``, once."""

    schema: Schema
    lost: tuple[str, ...] = ()


# Keywords under which schemas stand: one, a list of them, or named ones
ONE = frozenset({"items", "additionalProperties", "additionalItems", "not", "if", "then", "else", "contains",
                 "propertyNames", "unevaluatedProperties", "unevaluatedItems"})  # fmt: skip
MANY = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
NAMED = frozenset({"properties", "patternProperties", "dependentSchemas", "$defs", "definitions"})

# Named to a reader, not to a model
META = frozenset({"$schema", "$id", "$anchor", "$comment", "$vocabulary", "$dynamicAnchor", "id"})
# Gemini has no word for these, and would have to be shown references inside them
GEMINI_UNKNOWN = frozenset({"not", "if", "then", "else", "contains", "propertyNames", "patternProperties",
                            "dependentSchemas", "dependentRequired", "unevaluatedProperties", "unevaluatedItems",
                            "additionalItems", "minContains", "maxContains"})  # fmt: skip


def inlined(schema: Json) -> Narrowed:
    """``schema`` without ``$ref`` and definitions: each reference written out, in a cycle twice. What is deeper, and an
    unknown or outer reference, becomes a schema that takes anything."""
    return _Inliner(schema).whole()


def for_gemini(schema: Json) -> Narrowed:
    """For ``parametersJsonSchema`` and ``responseJsonSchema``: references written out (beside ``$ref`` Gemini takes
    no other keyword, which Pydantic writes), ``const`` as ``enum``, ``allOf`` merged, what it has no word for left
    out. Validation keywords that it only ignores (``minLength``, ``pattern``) stay: they tell the model something."""
    plain = inlined(schema)
    lost: list[str] = list(plain.lost)
    return Narrowed(_for_gemini(plain.schema, lost), _once(lost))


def for_openapi(schema: Json) -> Narrowed:
    """For Gemini's older ``parameters``: the proto ``Schema``, in which any other field is a parse error. Types in
    upper case, null as ``nullable``, enums of strings only."""
    narrowed = for_gemini(schema)
    lost = list(narrowed.lost)
    return Narrowed(_openapi(narrowed.schema, lost), _once(lost))


def from_openapi(schema: Json) -> Schema:
    """JSON Schema of a Gemini ``Schema`` (``parameters``, ``responseSchema``): types in lower case, ``nullable`` as a
    null type, snake_case as camelCase, int64 strings as numbers, ``propertyOrdering`` as the order of properties.
    JSON Schemas proper come out as they were, which is how Gemini clients mix both."""
    return _from_openapi(schema, 0)


def object_schema(schema: Json) -> Narrowed:
    """A tool's schema whose root is an object with ``properties`` and no union: what Anthropic's ``input_schema`` and
    OpenAI's ``parameters`` demand. The alternatives of a union become optional properties of one object."""
    if not isinstance(schema, Mapping):
        return Narrowed({"type": "object", "properties": {}}, () if schema is None else ("parameters (no schema)",))
    root: Schema = dict(schema)
    lost: list[str] = []
    if "$ref" in root or any(name in root for name in ("anyOf", "oneOf", "allOf")):
        plain = inlined(root)
        lost += plain.lost
        root = _united(plain.schema, lost)
    kind = root.get("type")
    if kind != "object" and not (isinstance(kind, list) and "object" in kind) and kind is not None:
        return Narrowed({"type": "object", "properties": {}}, _once([*lost, "type (no object)"]))
    properties = root.get("properties")
    root |= {"type": "object", "properties": dict(properties) if isinstance(properties, Mapping) else {}}
    return Narrowed(root, _once(lost))


def is_strict(schema: Json) -> bool:
    """Whether ``schema`` keeps the rules of OpenAI's strict mode: every object closed and all its properties
    required, no keyword that it refuses."""
    return isinstance(schema, Mapping) and schema.get("type") == "object" and _strict(schema, 0)


class _Inliner:
    """Writes references out, within bounds. One per schema."""

    def __init__(self, root: Json) -> None:
        self._root = root
        self._nodes = 0
        self._lost: list[str] = []

    def whole(self) -> Narrowed:
        schema = self._schema(self._root, (), 0)
        return Narrowed(schema, _once(self._lost))

    def _schema(self, node: Json, open_refs: tuple[str, ...], depth: int) -> Schema:
        if not isinstance(node, Mapping):
            # True takes anything; False, or what is no schema, cannot be said
            if node is not True and node is not None:
                self._lost.append("schema (no object)")
            return {}
        self._nodes += 1
        if depth > MAX_DEPTH or self._nodes > MAX_NODES:
            self._lost.append("schema (too deep or too large)")
            return {}
        if "$ref" in node:
            return self._referred(node, open_refs, depth)
        schema: Schema = {}
        for name, value in node.items():
            if name in ("$defs", "definitions"):
                continue
            schema[str(name)] = self._member(name, value, open_refs, depth + 1)
        return schema

    def _member(self, name: str, value: Json, open_refs: tuple[str, ...], depth: int) -> Json:
        if name in NAMED and isinstance(value, Mapping):
            return {str(key): self._schema(child, open_refs, depth) for key, child in value.items()}
        if name in MANY and isinstance(value, list | tuple):
            return [self._schema(child, open_refs, depth) for child in value]
        if name == "items" and isinstance(value, list | tuple):
            # Drafts up to 2019: positions
            return [self._schema(child, open_refs, depth) for child in value]
        if name in ONE and isinstance(value, Mapping):
            return self._schema(value, open_refs, depth)
        return value

    def _referred(self, node: Mapping[str, Json], open_refs: tuple[str, ...], depth: int) -> Schema:
        reference = node["$ref"]
        beside = {name: value for name, value in node.items() if name != "$ref"}
        if not isinstance(reference, str) or (target := _at(self._root, reference)) is None:
            self._lost.append("$ref (unknown)")
            return self._schema(beside, open_refs, depth)
        if open_refs.count(reference) >= UNROLLED:
            self._lost.append("$ref (cycle)")
            kind = target.get("type") if isinstance(target, Mapping) else None
            return self._schema(({"type": kind} if isinstance(kind, str) else {}) | beside, open_refs, depth)
        referred = self._schema(target, (*open_refs, reference), depth + 1)
        return referred | self._schema(beside, open_refs, depth)


def _at(root: Json, reference: str) -> Json:
    """What a reference inside the document points to; None if nothing."""
    if reference == "#":
        return root
    if not reference.startswith("#/"):
        return None
    node = root
    for step in reference[2:].split("/"):
        key = step.replace("~1", "/").replace("~0", "~")
        if isinstance(node, Mapping) and key in node:
            node = node[key]
        elif isinstance(node, list) and re.fullmatch("[0-9]{1,6}", key) and int(key) < len(node):
            node = node[int(key)]
        else:
            return None
    return node


def _for_gemini(schema: Mapping[str, Json], lost: list[str]) -> Schema:
    told: Schema = {}
    schema = _without_all_of(schema)
    for name, value in schema.items():
        match name:
            case _ if name in META:
                pass
            case _ if name in GEMINI_UNKNOWN:
                lost.append(f"{name} (not known)")
            case "const":
                told.setdefault("enum", [value])
            case "nullable" | "allOf":
                pass
            case "properties" if isinstance(value, Mapping):
                told[name] = {key: _for_gemini(child, lost) for key, child in value.items()}
            case "items" if isinstance(value, list):
                told["prefixItems"] = [_for_gemini(child, lost) for child in value]
            case "items" | "additionalProperties" if isinstance(value, Mapping):
                told[name] = _for_gemini(value, lost)
            case "anyOf" | "oneOf" | "prefixItems" if isinstance(value, list):
                told[name] = [_for_gemini(child, lost) for child in value]
            case "properties" | "items" | "anyOf" | "oneOf" | "prefixItems":
                pass  # no schema
            case _:
                told[name] = value
    return _with_null(told) if schema.get("nullable") is True else told


def _without_all_of(schema: Mapping[str, Json]) -> Mapping[str, Json]:
    """``schema`` with the parts of its ``allOf`` merged into it: properties and requirements add up."""
    parts = schema.get("allOf")
    if not isinstance(parts, list):
        return schema
    merged: Schema = {name: value for name, value in schema.items() if name != "allOf"}
    for part in parts:
        if not isinstance(part, Mapping):
            continue
        for name, value in _without_all_of(part).items():
            known = merged.get(name)
            if name == "properties" and isinstance(known, Mapping) and isinstance(value, Mapping):
                merged[name] = {**value, **known}
            elif name == "required" and isinstance(known, list) and isinstance(value, list):
                merged[name] = [*known, *(item for item in value if item not in known)]
            else:
                merged.setdefault(name, value)
    return merged


def _with_null(schema: Schema) -> Schema:
    """``schema`` that also takes null."""
    match schema.get("type"):
        case str(kind) if kind != "null":
            schema["type"] = [kind, "null"]
        case list(kinds) if "null" not in kinds:
            schema["type"] = [*kinds, "null"]
        case None if isinstance(schema.get("anyOf"), list):
            if {"type": "null"} not in schema["anyOf"]:
                schema["anyOf"] = [*schema["anyOf"], {"type": "null"}]
        case _:
            pass
    if isinstance(schema.get("enum"), list) and None not in schema["enum"]:
        schema["enum"] = [*schema["enum"], None]
    return schema


# Gemini's own Schema

_CAMEL = {
    "any_of": "anyOf", "min_items": "minItems", "max_items": "maxItems", "min_length": "minLength",
    "max_length": "maxLength", "min_properties": "minProperties", "max_properties": "maxProperties",
    "additional_properties": "additionalProperties", "property_ordering": "propertyOrdering",
    "prefix_items": "prefixItems", "ref": "$ref", "defs": "$defs",
}  # fmt: skip
_COUNTS = frozenset({"minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"})
_TYPES = frozenset({"STRING", "NUMBER", "INTEGER", "BOOLEAN", "ARRAY", "OBJECT", "NULL"})


def _from_openapi(schema: Json, depth: int) -> Schema:
    if not isinstance(schema, Mapping) or depth > MAX_DEPTH:
        return {}
    told: Schema = {}
    nullable = False
    for wire, value in schema.items():
        name = _CAMEL.get(wire, str(wire))
        match name, value:
            case "nullable", bool():
                nullable = value
            case "type", _:
                if (kind := _lower(value)) is not None:
                    told[name] = kind
            case "propertyOrdering", _:
                pass
            case "format", "enum":
                pass
            case _, str() if name in _COUNTS and re.fullmatch("[0-9]{1,18}", value):
                told[name] = int(value)
            case _, Mapping() if name in NAMED:
                told[name] = {str(key): _child(child, depth) for key, child in value.items()}
            case _, list() if name in MANY or name == "items":
                told[name] = [_child(child, depth) for child in value]
            case _, Mapping() if name in ONE:
                told[name] = _from_openapi(value, depth + 1)
            case _:
                told[name] = value
    ordering = schema.get("propertyOrdering", schema.get("property_ordering"))
    if isinstance(ordering, list) and isinstance(told.get("properties"), dict):
        told["properties"] = _ordered(told["properties"], ordering)
    return _with_null(told) if nullable else told


def _child(schema: Json, depth: int) -> Json:
    # true and false are schemas too
    return schema if isinstance(schema, bool) else _from_openapi(schema, depth + 1)


def _lower(kind: Json) -> Json:
    match kind:
        case "TYPE_UNSPECIFIED":
            return None
        case str():
            return kind.lower() if kind in _TYPES else kind
        case list():
            return [item.lower() if isinstance(item, str) and item in _TYPES else item for item in kind]
        case _:
            return kind


def _ordered(properties: Schema, ordering: list[Json]) -> Schema:
    first = [name for name in ordering if isinstance(name, str) and name in properties]
    return {name: properties[name] for name in dict.fromkeys([*first, *properties])}


_OPENAPI = frozenset({
    "type", "format", "title", "description", "default", "items", "minItems", "maxItems", "properties", "required",
    "minProperties", "maxProperties", "minimum", "maximum", "minLength", "maxLength", "pattern", "example",
    "anyOf", "enum",
})  # fmt: skip


def _openapi(schema: Mapping[str, Json], lost: list[str]) -> Schema:
    told: Schema = {}
    several = [*_list(schema.get("anyOf")), *_list(schema.get("oneOf"))]
    alternatives = [part for part in several if isinstance(part, Mapping)]
    kinds = [kind for kind in _list(schema.get("type")) if isinstance(kind, str)]
    nullable = "null" in kinds or any(part.get("type") == "null" for part in alternatives)
    kinds = [kind for kind in kinds if kind != "null"]
    alternatives = [part for part in alternatives if part.get("type") != "null"]
    for name, value in schema.items():
        match name:
            case "type" | "anyOf" | "oneOf":
                pass
            case _ if name not in _OPENAPI:
                lost.append(f"{name} (not known)")
            case "enum":
                _enumerated(told, value, lost)
            case "properties" if isinstance(value, Mapping):
                told[name] = {key: _openapi(child, lost) for key, child in value.items()}
            case "items" if isinstance(value, Mapping):
                told[name] = _openapi(value, lost)
            case _:
                told[name] = value
    if len(kinds) == 1:
        told["type"] = kinds[0].upper()
    elif len(kinds) > 1:
        told["anyOf"] = [{"type": kind.upper()} for kind in kinds]
    elif alternatives:
        told["anyOf"] = [_openapi(part, lost) for part in alternatives]
    if nullable:
        told["nullable"] = True
    return told


def _enumerated(told: Schema, values: Json, lost: list[str]) -> None:
    strings = [value for value in _list(values) if isinstance(value, str)]
    if len(strings) < len([value for value in _list(values) if value is not None]):
        lost.append("enum (of other values than strings)")
    if strings:
        told["enum"] = strings


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else [] if value is None else [value]


# Objects at the root, and OpenAI's strict mode


def _united(schema: Mapping[str, Json], lost: list[str]) -> Schema:
    merged = dict(_without_all_of(schema))
    parts = [part for name in ("anyOf", "oneOf") for part in _list(merged.pop(name, None)) if isinstance(part, Mapping)]
    if not parts:
        return merged
    lost.append("anyOf (at the root)")
    properties: Schema = dict(merged.get("properties") or {}) if isinstance(merged.get("properties"), Mapping) else {}
    required: list[set[str]] = []
    for part in parts:
        flat = _united(part, lost)
        known = flat.get("properties")
        for name, value in known.items() if isinstance(known, Mapping) else ():
            properties.setdefault(name, value)
        required.append({name for name in _list(flat.get("required")) if isinstance(name, str)})
    always = set.intersection(*required)
    own = [name for name in _list(merged.get("required")) if isinstance(name, str)]
    return merged | {
        "type": "object",
        "properties": properties,
        "required": [*own, *(name for name in properties if name in always and name not in own)],
    }


_STRICT_REFUSES = frozenset({"allOf", "oneOf", "not", "if", "then", "else", "dependentRequired", "dependentSchemas",
                             "patternProperties", "propertyNames", "unevaluatedProperties", "contains", "default",
                             "prefixItems", "minProperties", "maxProperties", "uniqueItems"})  # fmt: skip


def _strict(schema: Json, depth: int) -> bool:
    if not isinstance(schema, Mapping) or depth > MAX_DEPTH or not _STRICT_REFUSES.isdisjoint(schema):
        return False
    if "$ref" in schema:
        return len(schema.keys() - {"$defs", "definitions"}) == 1
    properties = schema.get("properties", {})
    if not isinstance(properties, Mapping):
        return False
    kind = schema.get("type")
    if kind == "object" or (isinstance(kind, list) and "object" in kind) or properties:
        if schema.get("additionalProperties") is not False:
            return False
        if set(properties) != {name for name in _list(schema.get("required")) if isinstance(name, str)}:
            return False
    elif not ({"type", "anyOf", "enum", "const"} & schema.keys()):
        return False
    children: list[Json] = [*properties.values(), *_list(schema.get("anyOf"))]
    for name in ("$defs", "definitions"):
        named = schema.get(name, {})
        children += named.values() if isinstance(named, Mapping) else [None]
    if "items" in schema:
        children.append(schema["items"])
    return all(_strict(child, depth + 1) for child in children)


def _once(lost: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(lost))
