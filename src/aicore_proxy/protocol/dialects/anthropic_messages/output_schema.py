"""JSON Schemas that Claude's structured output takes: closed objects, no recursion, no bounds.

Source: Anthropic's and Amazon Bedrock's pages on structured outputs: a subset of draft 2020-12; every object needs
``additionalProperties: false``; numeric and length bounds, open objects and recursive references are a 400.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter

from aicore_proxy.protocol.neutral import Json

# Bounds that are refused: told in words instead, as Anthropic's SDKs do
BOUNDS = (
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "pattern"),
    *("maxItems", "uniqueItems", "minProperties", "maxProperties", "contains", "minContains", "maxContains"),
)
FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid")
CHILDREN = ("items", "not")
LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
MAPS = ("properties", "$defs", "definitions")
MOST_OPTIONAL = 10


def fits(schema: Mapping[str, Json]) -> bool:
    """Whether the schema can be honoured as a closed one: no open objects, no recursion, few optional properties."""
    optional = 0
    for node in nodes(schema):
        if isinstance(node.get("additionalProperties"), dict) or "patternProperties" in node:
            return False
        if node.get("additionalProperties") is True:
            return False
        if node.get("type") == "object" and not node.get("properties"):
            return False
        optional += len(set(members(node, "properties")) - names(node.get("required")))
    return optional <= MOST_OPTIONAL and not recursive(schema)


def nodes(schema: Json) -> Iterator[Mapping[str, Json]]:
    """Every schema in ``schema``, itself first."""
    if not isinstance(schema, dict):
        return
    yield schema
    for name in CHILDREN:
        yield from nodes(schema.get(name))
    for name in LISTS:
        for child in schema.get(name) or () if isinstance(schema.get(name), list) else ():
            yield from nodes(child)
    for name in MAPS:
        for child in members(schema, name).values():
            yield from nodes(child)


def members(schema: Mapping[str, Json], name: str) -> Mapping[str, Json]:
    value = schema.get(name)
    return value if isinstance(value, dict) else {}


def names(value: Json) -> set[str]:
    """The strings of a list (``required``)."""
    return {name for name in value if isinstance(name, str)} if isinstance(value, list) else set()


def recursive(schema: Mapping[str, Json]) -> bool:
    """Whether a definition leads back to itself."""
    definitions = {**members(schema, "definitions"), **members(schema, "$defs")}
    leads = {
        name: {str(ref).rpartition("/")[2] for node in nodes(child) if (ref := node.get("$ref"))}
        for name, child in definitions.items()
    }
    if any(node.get("$ref") == "#" for node in nodes(schema)):
        return True
    try:
        TopologicalSorter(leads).prepare()
    except CycleError:
        return True
    return False


def closed(schema: Json) -> Json:
    """``schema`` with every object closed, and each bound as words in the description."""
    if not isinstance(schema, dict):
        return schema
    out: dict[str, Json] = {}
    bounds: list[str] = []
    for name, value in schema.items():
        if name in BOUNDS or (name == "minItems" and value not in (0, 1)):
            bounds.append(f"{name}: {value}")
        elif name == "format" and value not in FORMATS:
            bounds.append(f"format: {value}")
        elif name in CHILDREN:
            out[name] = closed(value)
        elif name in LISTS and isinstance(value, list):
            out["anyOf" if name == "oneOf" else name] = [closed(child) for child in value]
        elif name in MAPS and isinstance(value, dict):
            out[name] = {key: closed(child) for key, child in value.items()}
        else:
            out[name] = value
    if "properties" in out or out.get("type") == "object":
        out["additionalProperties"] = False
    if bounds:
        out["description"] = " ".join([*([str(out["description"])] if "description" in out else []), *bounds])
    return out
