"""Tools, the choice among them, and the form of the answer, as a Claude model takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from aicore_proxy.protocol.dialects.anthropic_messages.blocks import Drafting, marked
from aicore_proxy.protocol.dialects.anthropic_messages.output_schema import closed, fits
from aicore_proxy.protocol.dialects.anthropic_messages.reading import NAME
from aicore_proxy.protocol.neutral import Json, Output, Request, Tool, ToolChoice, called_names
from aicore_proxy.protocol.profiles import Profile
from aicore_proxy.protocol.schema import object_schema

Block = dict[str, Json]
OUTPUT_TOOL = "json_output"
OUTPUT_WORDS = "Give your final answer with this tool: its input is the answer."
FREE_TEXT = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}


class Offer(Struct):
    """``schema``: for ``output_config.format``. ``output_tool``: stands for it where the model has none.
    ``forced``: some tool must be called."""

    tools: list[Block]
    choice: Block | None = None
    schema: Mapping[str, Json] | None = None
    output_tool: str | None = None
    custom_tools: frozenset[str] = frozenset()

    @property
    def forced(self) -> bool:
        return self.choice is not None and self.choice["type"] in ("any", "tool")


def offered(request: Request, profile: Profile, draft: Drafting) -> Offer:
    """What ``request`` offers the model to call, and how it shall answer."""
    choice = request.tool_choice
    tools = _allowed(request, choice, draft)
    offer = Offer([block for tool in tools if (block := tool_block(tool, draft)) is not None])
    offer.custom_tools = frozenset(tool.name for tool in tools if tool.kind == "custom")
    if not offer.tools and not draft.own and (called := called_names(request.turns)):
        # "Requests which include `tool_use` or `tool_result` blocks must define tools"
        offer.tools = [tool_block(Tool(name), draft) or {} for name in dict.fromkeys(called.values())]
        choice = ToolChoice("none")
    _refuse_missing(request, choice, offer, draft)
    offer.choice = choice_block(choice, draft) if choice is not None and offer.tools else None
    if request.output is not None and request.output.kind == "schema" and request.output.schema is not None:
        _shape(request.output, request.output.schema, profile, offer, draft)
    return offer


def _allowed(request: Request, choice: ToolChoice | None, draft: Drafting) -> Sequence[Tool]:
    """The tools that may be called; each name once (a second one is a 400)."""
    tools: dict[str, Tool] = {}
    for tool in request.tools:
        if choice is not None and choice.allowed and tool.name not in choice.allowed:
            continue
        if tool.name in tools and not draft.own:
            draft.lost(f"tools.{tool.name}", "named twice")
            continue
        tools[f"{tool.name} {len(tools)}" if tool.name in tools else tool.name] = tool
    return list(tools.values())


def tool_block(tool: Tool, draft: Drafting) -> Block | None:
    """One tool; None for one of another API's own."""
    if tool.kind == "foreign":
        if tool.dialect == NAME:
            return dict(tool.block)
        draft.lost(f"tools.{tool.name}", "a tool of another API")
        return None
    block: Block = {"name": draft.tool_name(tool.name)}
    if tool.description:
        block["description"] = tool.description
    block["input_schema"] = FREE_TEXT if tool.kind == "custom" else input_schema(tool.schema, draft)
    if tool.strict is not None and draft.own:
        block["strict"] = tool.strict
    elif tool.strict:
        draft.lost("tools.strict")
    return marked(block, tool.cache, tool.extras)


def input_schema(schema: Mapping[str, Json] | None, draft: Drafting) -> Mapping[str, Json]:
    """``schema`` of type ``object`` (wire facts 4.3), without alternatives at its top, which Claude refuses."""
    if draft.own and schema is not None:
        return schema if schema.get("type") == "object" else {**schema, "type": "object"}
    narrowed = object_schema(schema)
    for what in narrowed.lost:
        draft.lost(f"tools.input_schema.{what.partition(' ')[0]}", what)
    return narrowed.schema


def _refuse_missing(request: Request, choice: ToolChoice | None, offer: Offer, draft: Drafting) -> None:
    """A tool that must be called and cannot be offered changes the answer."""
    if choice is None or choice.mode not in ("tool", "required"):
        return
    offered_names = {block.get("name") for block in offer.tools}
    if choice.mode == "tool" and choice.name and draft.tool_name(choice.name) not in offered_names:
        draft.lost(f"tools.{choice.name}", "the forced tool cannot be offered to this model", harmless=False)
    elif choice.mode == "required" and request.tools and not offer.tools:
        draft.lost(f"tools.{request.tools[0].name}", "the forced tool cannot be offered to this model", harmless=False)


_MODES = {"auto": "auto", "none": "none", "required": "any", "tool": "tool", None: "auto"}


def choice_block(choice: ToolChoice, draft: Drafting) -> Block | None:
    if choice.mode is None and choice.parallel is not False:
        return None
    block: Block = {"type": _MODES[choice.mode]}
    if choice.mode == "tool" and choice.name:
        block["name"] = draft.tool_name(choice.name)
    elif choice.mode == "required" and len(choice.allowed) == 1:
        block = {"type": "tool", "name": draft.tool_name(choice.allowed[0])}
    if choice.parallel is not None and choice.mode != "none" and (draft.own or not choice.parallel):
        block["disable_parallel_tool_use"] = not choice.parallel
    return {**block, **choice.extras}


def _shape(output: Output, schema: Mapping[str, Json], profile: Profile, offer: Offer, draft: Drafting) -> None:
    """The answer's schema: the model's own means, else a tool whose input is the answer."""
    if profile.output_schema and (native := _native(output, schema, draft)) is not None:
        offer.schema = native
        return
    if "$ref" not in schema and schema.get("type", "object") != "object":
        draft.lost("output.schema", "the answer must be an object for this model", harmless=False)
        return
    if offer.forced and offer.choice and offer.choice["type"] == "tool":
        draft.lost("output.schema", "the answer is a call of the forced tool")
        return
    name = OUTPUT_TOOL
    while any(block.get("name") == name for block in offer.tools):
        name += "_"
    calls = offer.choice is None or offer.choice["type"] != "none"
    offer.choice = {"type": "any"} if offer.tools and calls else {"type": "tool", "name": name}
    words = f"{output.description}\n{OUTPUT_WORDS}" if output.description else OUTPUT_WORDS
    offer.tools.append({"name": name, "description": words, "input_schema": input_schema(schema, draft)})
    offer.output_tool = name


def _native(output: Output, schema: Mapping[str, Json], draft: Drafting) -> Mapping[str, Json] | None:
    """The schema as Claude's structured output takes it, or None."""
    if draft.own:
        return schema
    try:
        return closed(_titled(output, schema)) if fits(schema) else None
    except RecursionError:
        return None


def _titled(output: Output, schema: Mapping[str, Json]) -> Mapping[str, Json]:
    named = {"title": output.name} if output.name else {}
    told = {"description": output.description} if output.description else {}
    return {**named, **told, **schema}
