"""Tools and the choice among them, read and written."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from aicore_proxy.protocol.dialects.openai_chat.reading import NAME, cache_of
from aicore_proxy.protocol.neutral import NOTHING, Extras, Json, Loss, Request, Tool, ToolChoice, Undo
from aicore_proxy.protocol.openai_members import member, not_offered, optional, rest, typed, wrong_type
from aicore_proxy.protocol.profiles import Profile
from aicore_proxy.protocol.schema import is_strict

LONGEST_NAME = 64
_CLEAN = re.compile(r"[a-zA-Z0-9_-]+")
_UNCLEAN = re.compile(r"[^a-zA-Z0-9_-]+")

# Reading


def decode_tools(body: Mapping[str, Json]) -> tuple[Tool, ...]:
    """``tools``, and the deprecated ``functions``, which are marked by ``dialect``. Raises Fault(MALFORMED)."""
    tools = [
        decode_tool(typed(tool, dict, f"tools[{i}]"), f"tools[{i}]")
        for i, tool in enumerate(optional(body, "tools", list) or ())
    ]
    for i, function in enumerate(optional(body, "functions", list) or ()):
        path = f"functions[{i}]"
        tools.append(_function(typed(function, dict, path), path, None, NOTHING, dialect=NAME))
    return tuple(tools)


def decode_tool(tool: Mapping[str, Json], path: str) -> Tool:
    match tool.get("type", "function"):
        case "function" if "function" not in tool and ("parameters" in tool or "input_schema" in tool):
            # As the Responses or the Messages API write it: Cursor sends these here
            schema: Json = tool.get("parameters", tool.get("input_schema"))
            flat = {
                name: value for name, value in tool.items() if name not in ("type", "cache_control", "input_schema")
            }
            return _function({**flat, "parameters": schema}, path, tool, NOTHING)
        case "function":
            held = member(tool, "function", dict, path)
            return _function(held, f"{path}.function", tool, rest(tool, ("type", "function", "cache_control")))
        case "custom" if isinstance(custom := tool.get("custom"), dict):
            return _custom(tool, custom, f"{path}.custom")
        case str(kind):
            name = tool.get("name")
            return Tool(name if isinstance(name, str) else kind, kind="foreign", dialect=NAME, block=tool)
        case kind:
            raise wrong_type(kind, "a string", f"{path}.type")


def _function(
    held: Mapping[str, Json], path: str, tool: Mapping[str, Json] | None, extras: Extras, dialect: str | None = None
) -> Tool:
    cache, more = cache_of(tool) if tool and "cache_control" in tool else cache_of(held)
    extras = {**extras, **more}
    if inner := rest(held, ("name", "description", "parameters", "strict", "cache_control")):
        extras["function"] = inner
    return Tool(
        member(held, "name", str, path),
        optional(held, "description", str, path),
        optional(held, "parameters", dict, path),
        strict=optional(held, "strict", bool, path),
        cache=cache,
        dialect=dialect,
        extras=extras or NOTHING,
    )


def _custom(tool: Mapping[str, Json], held: Mapping[str, Json], path: str) -> Tool:
    cache, more = cache_of(tool)
    extras: dict[str, Json] = {**rest(tool, ("type", "custom", "cache_control")), **more}
    if inner := rest(held, ("name", "description")):
        extras["custom"] = inner
    name, description = member(held, "name", str, path), optional(held, "description", str, path)
    return Tool(name, description, kind="custom", cache=cache, extras=extras or NOTHING)


def decode_choice(body: Mapping[str, Json]) -> ToolChoice | None:
    """``tool_choice``, ``parallel_tool_calls`` and the deprecated ``function_call``. Raises Fault(MALFORMED)."""
    parallel = optional(body, "parallel_tool_calls", bool)
    path = "tool_choice" if body.get("tool_choice") is not None else "function_call"
    match body.get(path):
        case None:
            return ToolChoice(parallel=parallel) if parallel is not None else None
        case "auto" | "none" | "required" as mode:
            return ToolChoice(mode, parallel=parallel)
        case "any":
            return ToolChoice("required", parallel=parallel)
        case str(told):
            raise not_offered(told, ("none", "auto", "required"), path)
        case dict(choice):
            return _choice(choice, path, parallel)
        case value:
            raise wrong_type(value, "a string or an object", path)


def _choice(choice: Mapping[str, Json], path: str, parallel: bool | None) -> ToolChoice:
    kind = choice.get("type", "function")
    if kind == "allowed_tools":
        return _allowed(member(choice, "allowed_tools", dict, path), f"{path}.allowed_tools", parallel)
    if kind in ("auto", "none", "required", "any"):
        return ToolChoice("required" if kind == "any" else kind, parallel=parallel)
    if not isinstance(kind, str):
        raise wrong_type(kind, "a string", f"{path}.type")
    name = _named(choice, kind, path)
    return ToolChoice("tool", name=name, parallel=parallel, extras=rest(choice, ("type", kind, "name")) or NOTHING)


def _named(choice: Mapping[str, Json], kind: str, path: str) -> str:
    """The tool's name, nested or flat; a server tool's is its type."""
    held = choice.get(kind)
    if isinstance(held, dict):
        return member(held, "name", str, f"{path}.{kind}")
    if kind in ("function", "custom", "tool"):
        return member(choice, "name", str, path)
    return optional(choice, "name", str, path) or kind


def _allowed(held: Mapping[str, Json], path: str, parallel: bool | None) -> ToolChoice:
    mode = optional(held, "mode", str, path) or "auto"
    if mode not in ("auto", "required"):
        raise not_offered(mode, ("auto", "required"), f"{path}.mode")
    names = []
    for i, tool in enumerate(member(held, "tools", list, path)):
        here = f"{path}.tools[{i}]"
        entry = typed(tool, dict, here)
        kind = optional(entry, "type", str, here) or "function"
        names.append(_named(entry, kind, here))
    more = rest(held, ("mode", "tools"))
    return ToolChoice(
        "required" if mode == "required" else "auto",
        allowed=tuple(names),
        parallel=parallel,
        extras={"allowed_tools": more} if more else NOTHING,
    )


# Writing


class Naming:
    """Tool names as OpenAI takes them (``^[a-zA-Z0-9_-]{1,64}$``). Owned by one encoding; remembers what changed."""

    def __init__(self) -> None:
        self.renamed: dict[str, str] = {}

    def clean(self, name: str) -> str:
        """``name``, or one made from it that ends in a digest, so that two stay two."""
        if _CLEAN.fullmatch(name) and len(name) <= LONGEST_NAME:
            return name
        digest = hashlib.sha256(name.encode(errors="replace")).hexdigest()[:8]
        clean = f"{_UNCLEAN.sub('_', name)[: LONGEST_NAME - 9]}_{digest}"
        self.renamed[clean] = name
        return clean


class Offer(Struct, frozen=True):
    """What of a request's tools is written: members of the body, the kinds of the written tools by their neutral
    names, and the free-text tools that became functions."""

    members: dict[str, Any]
    kinds: Mapping[str, str] = {}
    as_functions: frozenset[str] = frozenset()
    legacy: bool = False

    def undo(self, naming: Naming) -> Undo:
        return Undo(dict(naming.renamed), custom_tools=self.as_functions)


def is_legacy(tools: Sequence[Tool]) -> bool:
    """Whether a client declared its tools only by the deprecated ``functions``."""
    return bool(tools) and all(tool.kind == "function" and tool.dialect == NAME for tool in tools)


def encode_tools(request: Request, profile: Profile, naming: Naming, losses: list[Loss]) -> Offer:
    """``tools``, ``tool_choice``, ``parallel_tool_calls``. A server tool of another API is a loss, and a harmful one
    if the choice demands it."""
    own = request.source == NAME
    legacy = own and is_legacy(request.tools)
    # Free-text tools came with GPT-5 (OpenAI, "Custom tools")
    free = profile.family != "gpt" or profile.version >= (5,)
    written: list[dict[str, Any]] = []
    kinds: dict[str, str] = {}
    as_functions: set[str] = set()
    choice = request.tool_choice
    forced = choice.name if choice and choice.mode == "tool" else None
    # Restricting the choice by offering less works with every model; the wire's own way came with GPT-5
    allowed = choice.allowed if choice and not own else ()
    for tool in request.tools:
        if allowed and tool.name not in allowed:
            continue
        if tool.kind == "foreign" and tool.dialect != NAME:
            reason = "a tool that another API's server runs"
            losses.append(Loss(f"tools.{tool.name}", NAME, harmless=tool.name != forced, reason=reason))
            continue
        if tool.kind == "custom" and not free:
            as_functions.add(naming.clean(tool.name))
            kinds[tool.name] = "function"
        else:
            kinds[tool.name] = tool.kind
        strict = tool.strict
        if not own and strict and not is_strict(tool.schema):
            # Anthropic's strict tools may leave properties out of ``required``: with OpenAI that is a 400
            strict = None
            losses.append(Loss("tools.strict", NAME, reason="the schema does not keep OpenAI's rules for it"))
        if tool.cache is not None and profile.family == "gpt":
            losses.append(Loss("cache_control", NAME, reason="OpenAI caches by itself"))
        written.append(
            encode_tool(replace(tool, strict=strict), naming, own=own, free=free, marks=profile.family != "gpt")
        )
    if legacy:
        members: dict[str, Any] = {"functions": [tool["function"] for tool in written]}
    else:
        members = {"tools": written} if written else {}
    members |= _encode_choice(request, kinds, profile, naming, losses, legacy=legacy)
    return Offer(members, kinds, frozenset(as_functions), legacy)


def encode_tool(tool: Tool, naming: Naming, *, own: bool, free: bool, marks: bool) -> dict[str, Any]:
    if tool.kind == "foreign":
        return dict(tool.block)
    extras = dict(tool.extras)
    if marks:
        extras |= mark(tool.cache, extras)
    named: dict[str, Any] = {"name": naming.clean(tool.name)}
    if tool.description is not None:
        named["description"] = tool.description
    if tool.kind == "custom" and free:
        return {"type": "custom", "custom": {**named, **extras.pop("custom", {})}, **extras}
    if tool.kind == "custom":
        extras.pop("custom", None)
        schema: Mapping[str, Json] | None = FREE_TEXT
    else:
        schema = tool.schema
    if schema is not None:
        named["parameters"] = schema if own or "type" in schema else {"type": "object", **schema}
    if tool.strict is not None:
        named["strict"] = tool.strict
    return {"type": "function", "function": {**named, **extras.pop("function", {})}, **extras}


FREE_TEXT: Mapping[str, Json] = {
    "type": "object",
    "properties": {"input": {"type": "string", "description": "The tool's whole input, as free text."}},
    "required": ["input"],
}
"""Parameters of a function that stands for a free-text tool."""


def mark(cache: Any, extras: Mapping[str, Json]) -> dict[str, Any]:
    """``cache_control`` for a breakpoint, for servers of other vendors than OpenAI."""
    if cache is None:
        return {}
    more = extras.get("cache_control")
    ttl = {"ttl": cache.ttl} if cache.ttl else {}
    return {"cache_control": {"type": "ephemeral", **ttl, **(more if isinstance(more, dict) else {})}}


def _encode_choice(
    request: Request, kinds: Mapping[str, str], profile: Profile, naming: Naming, losses: list[Loss], *, legacy: bool
) -> dict[str, Any]:
    choice = request.tool_choice
    if choice is None:
        return {}
    own = request.source == NAME
    if not kinds and not own:
        # Without tools, OpenAI takes neither member
        if choice.mode in ("required", "tool"):
            losses.append(Loss("tool_choice", NAME, harmless=False, reason="none of the tools can be offered"))
        return {}
    members: dict[str, Any] = {}
    told = _told(choice, kinds, naming, losses, own=own)
    if told is not None:
        members["function_call" if legacy else "tool_choice"] = _flat(told) if legacy else told
    if choice.parallel is not None:
        if one_call_only(profile):
            losses.append(Loss("parallel_tool_calls", NAME, reason="the model does not take it"))
        else:
            members["parallel_tool_calls"] = choice.parallel
    return members


def one_call_only(profile: Profile) -> bool:
    """Whether the model answers "Unsupported parameter" to ``parallel_tool_calls``: o1, o3, o4-mini (OpenAI)."""
    return profile.family == "gpt" and profile.thinking == "effort" and profile.version < (5,)


def _flat(told: Any) -> Any:
    return told["function"] if isinstance(told, dict) and "function" in told else told


def _told(choice: ToolChoice, kinds: Mapping[str, str], naming: Naming, losses: list[Loss], *, own: bool) -> Any:
    match choice:
        case ToolChoice(mode=None):
            return None
        case ToolChoice(mode="tool", name=str(name)):
            if name not in kinds and not own:
                reason = "the tool that must be called cannot be offered"
                losses.append(Loss(f"tool_choice.{name}", NAME, harmless=False, reason=reason))
                return None
            return {**_named_tool(name, kinds, naming), **choice.extras}
        case ToolChoice(mode="auto" | "required" as mode, allowed=allowed) if allowed and own:
            tools = [_named_tool(name, kinds, naming) for name in allowed]
            more = choice.extras.get("allowed_tools", {})
            return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools, **more}}
        case ToolChoice(mode=mode):
            return mode


def _named_tool(name: str, kinds: Mapping[str, str], naming: Naming) -> dict[str, Any]:
    kind = kinds.get(name, "function")
    if kind == "foreign":
        return {"type": name}
    return {"type": kind, kind: {"name": naming.clean(name)}}
