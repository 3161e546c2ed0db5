"""Functions, other tools and the choice among them, in both directions."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from aicore_proxy.protocol.dialects.gemini.wire import NAME, Node
from aicore_proxy.protocol.neutral import Loss, Request, Tool, ToolCall, ToolChoice, ToolResult
from aicore_proxy.protocol.profiles import Profile
from aicore_proxy.protocol.schema import Narrowed, for_gemini, for_openapi, from_openapi

Json = Any

# Reading


def read_tools(node: Node) -> list[Tool]:
    tools = [_function(declaration) for declaration in node.nodes("functionDeclarations")]
    others = node.rest()
    return [*tools, *(Tool(name, kind="foreign", dialect=NAME, block={name: v}) for name, v in others.items())]


def _function(node: Node) -> Tool:
    name = node.text("name")
    if not name:
        raise node.refused("name", "the name of a function")
    parameters = node.node("parameters")
    schema = node.node("parametersJsonSchema") or parameters
    return Tool(
        name,
        node.text("description"),
        from_openapi(schema.value) if schema is not None else None,
        extras=node.rest(),
    )


def read_tool_choice(node: Node) -> ToolChoice | None:
    calling = node.node("functionCallingConfig") or Node({}, node.at("functionCallingConfig"))
    mode = (calling.text("mode") or "").upper()
    allowed = calling.texts("allowedFunctionNames")
    others = {f"functionCallingConfig.{name}": value for name, value in calling.rest().items()}
    extras: dict[str, Json] = {**others, **node.rest()}
    match mode:
        case "ANY" if len(allowed) == 1:
            return ToolChoice("tool", allowed[0], extras=extras)
        case "ANY":
            return ToolChoice("required", allowed=allowed, extras=extras)
        case "NONE":
            return ToolChoice("none", extras=extras)
        case "AUTO":
            return ToolChoice("auto", allowed=allowed, extras=extras)
        case "VALIDATED":
            return ToolChoice("auto", allowed=allowed, extras={"functionCallingConfig.mode": mode, **extras})
        case "" | "MODE_UNSPECIFIED":
            return ToolChoice(allowed=allowed, extras=extras) if extras or allowed else None
        case _:
            raise calling.refused("mode", "'AUTO', 'ANY', 'NONE' or 'VALIDATED'")


# Names of functions

_LEGAL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.-]{0,63}")


def legal_name(name: str) -> str:
    """``name`` in Gemini's alphabet, the same for the same name. Without a colon, so that what stands before one in
    an answer is a prefix of the model's own (SAP AI Core wire facts, section 5)."""
    if _LEGAL.fullmatch(name):
        return name
    plain = re.sub(r"[^a-zA-Z0-9_.-]", "_", name)
    plain = plain if re.match("[a-zA-Z_]", plain) else f"_{plain}"
    mark = hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=4).hexdigest()
    return f"{plain[:55]}_{mark}"


def legal_names(request: Request) -> dict[str, str]:
    called = (part for turn in request.turns for part in turn.parts)
    names = {part.name for part in called if isinstance(part, ToolCall | ToolResult) and part.name}
    names |= {tool.name for tool in request.tools if tool.kind != "foreign"}
    if request.tool_choice:
        names |= {*request.tool_choice.allowed, *filter(None, (request.tool_choice.name,))}
    return {name: legal_name(name) for name in sorted(names)}


# Tools


def declared_tools(
    tools: Sequence[Tool], names: Mapping[str, str], profile: Profile, losses: list[Loss], *, own: bool
) -> list[dict[str, Json]]:
    functions: list[dict[str, Json]] = []
    others: list[dict[str, Json]] = []
    named: set[str] = set()
    for tool in tools:
        match tool.kind:
            case "foreign" if tool.dialect == NAME:
                others.append(dict(tool.block))
            case "foreign":
                losses.append(Loss(f"tools.{tool.name}", NAME, reason="a tool of another API"))
            case _ if tool.name in named and not own:
                losses.append(Loss(f"tools.{tool.name}", NAME, reason="named twice"))
            case _:
                named.add(tool.name)
                functions.append(_declaration(tool, names, profile, losses, own=own))
    return [*([{"functionDeclarations": functions}] if functions else []), *others]


_FREE_TEXT = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}


def _declaration(
    tool: Tool, names: Mapping[str, str], profile: Profile, losses: list[Loss], *, own: bool
) -> dict[str, Json]:
    declaration: dict[str, Json] = {"name": names.get(tool.name, legal_name(tool.name))}
    if tool.description is not None:
        declaration["description"] = tool.description
    schema: Mapping[str, Json] | None = _FREE_TEXT if tool.kind == "custom" else tool.schema
    if tool.strict:
        losses.append(Loss("tools.strict", NAME, reason="no such setting"))
    if schema is not None and not _takes_nothing(schema):
        older = (0,) < profile.version < (2, 5)
        narrowed = for_openapi(schema) if older else Narrowed(dict(schema)) if own else for_gemini(schema)
        declaration["parameters" if older else "parametersJsonSchema"] = narrowed.schema
        reported(narrowed, f"tools.{tool.name}", losses)
    return {**declaration, **tool.extras}


def _takes_nothing(schema: Mapping[str, Json]) -> bool:
    """An object without properties, which Gemini wants left out."""
    telling = schema.keys() - {"type", "properties", "required", "additionalProperties", "$schema", "title", "strict"}
    closed = schema.get("additionalProperties") in (None, False)
    return not telling and closed and not schema.get("properties") and schema.get("type", "object") == "object"


def reported(narrowed: Narrowed, path: str, losses: list[Loss]) -> None:
    losses.extend(Loss(f"{path}.{what}", NAME, reason="not known to Gemini's schemas") for what in narrowed.lost)


def tool_config(
    request: Request,
    declared: Sequence[Mapping[str, Json]],
    names: Mapping[str, str],
    losses: list[Loss],
    output_tool: Tool | None,
) -> dict[str, Json] | None:
    choice = request.tool_choice or ToolChoice()
    own = request.source == NAME
    functions = {tool.name for tool in request.tools if tool.kind != "foreign"}
    if choice.parallel is False:
        losses.append(Loss("tool_choice.parallel", NAME, reason="no such setting"))
    if (lost := _gone(choice, request, functions, declared)) is not None:
        losses.append(Loss(f"tool_choice.{lost}", NAME, harmless=False, reason="the tool that must be called is gone"))
        return None
    if not functions and not own:
        if choice.mode in ("required", "tool"):
            losses.append(Loss("tool_choice", NAME, reason="there are no tools"))
        return None
    calling: dict[str, Json] = {}
    match choice.mode:
        case "tool" if choice.name is not None:
            calling = {"mode": "ANY", "allowedFunctionNames": [names[choice.name]]}
        case "required" | "tool":
            calling = {"mode": "ANY"}
        case "none" if output_tool is not None:
            calling = {"mode": "ANY", "allowedFunctionNames": [output_tool.name]}
        case "none":
            calling = {"mode": "NONE"}
        case _ if output_tool is not None:
            calling = {"mode": "ANY"}
        case "auto":
            # Only ANY and VALIDATED heed the names
            calling = {"mode": "VALIDATED" if choice.allowed and not own else "AUTO"}
        case _:
            pass
    if choice.allowed and choice.mode != "none":
        also = [output_tool.name] if output_tool else []
        calling["allowedFunctionNames"] = [*(names[name] for name in choice.allowed), *also]
    return _with_choice_extras(calling, choice)


def _gone(
    choice: ToolChoice, request: Request, functions: set[str], declared: Sequence[Mapping[str, Json]]
) -> str | None:
    """The tool that must be called and cannot be."""
    if request.source == NAME or not request.tools:
        return None
    if choice.mode == "tool" and choice.name is not None:
        return None if choice.name in functions else choice.name
    return request.tools[0].name if choice.mode == "required" and not declared else None


def _with_choice_extras(calling: dict[str, Json], choice: ToolChoice) -> dict[str, Json] | None:
    config: dict[str, Json] = {}
    for name, value in choice.extras.items():
        prefix, _, inner = name.partition(".")
        if prefix == "functionCallingConfig" and inner:
            calling[inner] = value
        else:
            config[name] = value
    return {"functionCallingConfig": calling, **config} if calling else config or None


# Structured output

OUTPUT_TOOL = "final_answer"


def output_tool_of(request: Request, profile: Profile) -> Tool | None:
    """Before Gemini 3 "Function calling with a response mime type: 'application/json' is unsupported": there, with
    functions beside it, the answer's schema becomes one more function, and some function must be called."""
    output = request.output
    if output is None or output.kind != "schema" or not conflicting(request, profile):
        return None
    name = OUTPUT_TOOL
    while any(tool.name == name for tool in request.tools):
        name += "_"
    words = (
        output.description or "The final answer, in the form that was asked for. Call this once nothing else is needed."
    )
    return Tool(name, words, output.schema)


def conflicting(request: Request, profile: Profile) -> bool:
    functions = any(tool.kind != "foreign" for tool in request.tools)
    return functions and request.source != NAME and (0,) < profile.version < (3,)
