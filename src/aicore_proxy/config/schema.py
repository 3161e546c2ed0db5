"""The JSON Schema of a configuration file, made of the settings themselves: for editors and for other tools."""

from __future__ import annotations

import ast
import inspect
import textwrap
from typing import Any

import msgspec
from msgspec import Struct

from aicore_proxy.config.checks import CHOICES, MOST, RANGES
from aicore_proxy.config.settings import (
    STRATEGIES,
    KeySettings,
    ModelPatterns,
    RoutingSettings,
    Settings,
    SubaccountSettings,
)

STRUCTS: tuple[type[Struct], ...] = (Settings, SubaccountSettings, KeySettings, ModelPatterns, RoutingSettings)
REFERENCE = {
    "description": "A reference to a variable of the environment, ``${NAME}`` or ``${NAME:-default}``.",
    "type": "string",
    "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-.*)?\}",
}


def schema() -> dict[str, Any]:
    """JSON Schema 2020-12. References stand for any value, so it admits what ``load`` admits, and flags what is
    unknown."""
    (root,), definitions = msgspec.json.schema_components([Settings], ref_template="#/$defs/{name}")
    for struct in STRUCTS:
        docs = field_docs(struct)
        own = definitions[struct.__name__]
        own["description"] = _plain(inspect.getdoc(struct) or "")
        for name, given in own["properties"].items():
            described = _scalar(name, given) if struct is Settings else given
            own["properties"][name] = {"description": docs[name], **_or_reference(described)}
    main = definitions.pop(root["$ref"].rpartition("/")[2])
    main["properties"] = {"$schema": {"type": "string"}, **main["properties"]}
    strategies = definitions["RoutingSettings"]["properties"]["strategies"]
    strategies["additionalProperties"] = {"enum": list(STRATEGIES)}
    key = definitions["SubaccountSettings"]["properties"]["service_key"]
    key["anyOf"].append({"type": "string", "description": "The same as a text of JSON, as in a variable."})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **main,
        "title": "Configuration of aicore-proxy",
        "$defs": {**definitions, "Reference": REFERENCE},
    }


def field_docs(struct: type[Struct]) -> dict[str, str]:
    """What the docstring under each field says, as one line."""
    body = ast.parse(textwrap.dedent(inspect.getsource(struct))).body[0]
    assert isinstance(body, ast.ClassDef), "a struct is a class"
    docs: dict[str, str] = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
            docs[field.target.id] = _plain(ast.literal_eval(below.value))
    return docs


def _plain(text: str) -> str:
    return " ".join(text.split())


def _scalar(name: str, given: dict[str, Any]) -> dict[str, Any]:
    if name in CHOICES:
        return {**given, "enum": list(CHOICES[name])}
    if name in RANGES:
        least, most = RANGES[name]
        return {**given, "minimum": least, "maximum": most}
    if given.get("type") == "integer":
        return {**given, "minimum": 0, "maximum": MOST}
    return {**given, "minimum": 0} if given.get("type") == "number" else given


def _or_reference(given: dict[str, Any]) -> dict[str, Any]:
    """What stands for one value may stand in a variable; a list of texts is also one text with commas."""
    kind = given.get("type")
    if kind in ("integer", "number", "boolean") or "enum" in given:
        default = {"default": given.pop("default")} if "default" in given else {}
        return {"anyOf": [given, {"$ref": "#/$defs/Reference"}], **default}
    if kind == "array" and given.get("items", {}).get("type") == "string":
        default = {"default": given.pop("default")} if "default" in given else {}
        return {"anyOf": [given, {"type": "string", "description": "Separated by commas."}], **default}
    return given
