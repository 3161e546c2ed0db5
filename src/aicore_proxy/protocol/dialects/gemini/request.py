"""generateContent requests, in both directions. Source of names: Vertex AI ``GenerateContentRequest``.

Same-dialect normalisations: member names in camelCase, one entry of ``tools`` for all functions and one for each other
tool, JSON Schema (``parametersJsonSchema``, ``responseJsonSchema``) for ``Schema``, enums in upper case, signatures in
the standard base64 alphabet, no ids of calls (SAP refuses them), no ``role`` of the system instruction, no empty
``generationConfig``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from msgspec.structs import replace

from aicore_proxy.protocol.dialects import Decoding, Target
from aicore_proxy.protocol.dialects.gemini.history import HistoryReader, renamed, signed, system_and_contents
from aicore_proxy.protocol.dialects.gemini.parts import PartWriter, decode_part
from aicore_proxy.protocol.dialects.gemini.wire import NAME, Node, malformed
from aicore_proxy.protocol.neutral import (
    Encoded,
    Loss,
    Output,
    ReasoningAsk,
    Request,
    Sampling,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
    Undo,
    cleared,
)
from aicore_proxy.protocol.profiles import Profile, budget_of, effort_of, nearest_effort
from aicore_proxy.protocol.schema import Narrowed, for_gemini, for_openapi, from_openapi

Json = Any

CONFIG = "generationConfig."
"""How unknown members of ``generationConfig`` are named in a Request's extras."""


FIELDS: Mapping[str, str] = {
    "max_tokens": "maxOutputTokens",
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "stop": "stopSequences",
    "seed": "seed",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
    "logprobs": "logprobs",
    "n": "candidateCount",
}
"""Neutral names of sampling and theirs in ``generationConfig``, for both directions."""


# Reading


def decode_request(body: Mapping[str, Json], decoding: Decoding) -> Request:
    """Raises Fault(MALFORMED) that names the path. Model and stream stand in the path of the URL."""
    root = Node(body)
    stream, model = root.flag("stream"), root.text("model")
    turns = _system(root)
    contents = root.nodes("contents")
    if not contents and not turns:
        raise malformed("contents", "an array with at least one Content")
    config = root.node("generationConfig") or Node({}, "generationConfig")
    tool_config = root.node("toolConfig")
    output = _output(config)
    return Request(
        source=NAME,
        model=(decoding.model or model or "").removeprefix("models/"),
        turns=(*turns, *HistoryReader().turns(contents)),
        tools=tuple(tool for node in root.nodes("tools") for tool in _tools(node)),
        tool_choice=_tool_choice(tool_config) if tool_config is not None else None,
        sampling=_sampling(config),
        reasoning=_reasoning(config),
        output=output,
        stream=bool(stream if decoding.stream is None else decoding.stream),
        extras={**{f"{CONFIG}{name}": value for name, value in config.rest().items()}, **root.rest()},
    )


def _system(root: Node) -> tuple[Turn, ...]:
    match root.take("systemInstruction"):
        case None:
            return ()
        case str(text):
            node = Node({"parts": [{"text": text}]}, "systemInstruction")
        case Mapping() as value:
            node = Node(value, "systemInstruction")
        case _:
            raise malformed("systemInstruction", "a Content")
    node.take("role")
    parts = tuple(part for piece in node.nodes("parts") for part in decode_part(piece))
    return (Turn("system", parts, extras=node.rest()),)


def _tools(node: Node) -> list[Tool]:
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


def _tool_choice(node: Node) -> ToolChoice | None:
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


def _sampling(config: Node) -> Sampling:
    values: dict[str, Json] = {}
    for name, wire in FIELDS.items():
        match name:
            case "stop":
                values[name] = config.texts(wire)
            case "logprobs":
                if config.flag("responseLogprobs"):
                    values[name] = config.integer(wire) or 0
            case "max_tokens" | "top_k" | "seed" | "n":
                values[name] = config.integer(wire)
            case _:
                values[name] = config.number(wire)
    return Sampling(**values)


def _reasoning(config: Node) -> ReasoningAsk | None:
    thinking = config.node("thinkingConfig")
    if thinking is None:
        return None
    budget = thinking.integer("thinkingBudget")
    level = (thinking.text("thinkingLevel") or "").lower().removeprefix("thinking_level_") or None
    if level == "unspecified":
        level = None
    mode: Literal["off", "on", "adaptive"] | None = None
    match budget:
        case None:
            pass
        case 0:
            mode = "off"
        case _ if budget < 0:
            mode, budget = "adaptive", None
        case _:
            mode = "on"
    visible = thinking.flag("includeThoughts")
    return ReasoningAsk(mode, level, budget, visible, extras=thinking.rest())


def _output(config: Node) -> Output | None:
    mime = config.text("responseMimeType")
    if mime not in (None, "application/json", "text/plain"):
        # A form that only Gemini knows (text/x.enum) stays with its schema as it is
        config.leave("responseMimeType")
        return None
    own = config.node("responseSchema")
    schema = config.node("responseJsonSchema") or config.node("_responseJsonSchema") or own
    if schema is not None:
        return Output("schema", from_openapi(schema.value))
    return None if mime is None else Output("json" if mime == "application/json" else "text")


# Writing


def encode_request(request: Request, target: Target) -> Encoded:
    """Never raises: what Gemini cannot take is a Loss."""
    losses: list[Loss] = []
    request = cleared(request, NAME, losses)
    profile = target.profile
    own = request.source == NAME
    names = _names(request)
    writer = PartWriter(target.sealer, losses, own=own, with_ids=False, names=names)
    system, contents = system_and_contents(request, writer, nested_media=profile.version >= (3,))
    if profile.signed_calls:
        signed(contents)
    body: dict[str, Json] = {"contents": contents}
    if system:
        body["systemInstruction"] = {"parts": system}
    output_tool = _output_tool(request, profile)
    tools = (*request.tools, output_tool) if output_tool else request.tools
    if declared := _declared(tools, names, profile, losses, own=own):
        body["tools"] = declared
    if choice := _choice(request, declared, names, losses, output_tool):
        body["toolConfig"] = choice
    config = _config(request, profile, losses, plain=output_tool is not None)
    for name, value in request.extras.items():
        if name.startswith(CONFIG):
            config[name.removeprefix(CONFIG)] = value
        else:
            body[name] = value
    if config:
        body["generationConfig"] = config
    _unsaid(request, losses)
    custom = frozenset(tool.name for tool in request.tools if tool.kind == "custom")
    undo = Undo(renamed(names), output_tool.name if output_tool else None, custom)
    return Encoded(body, tuple(dict.fromkeys(losses)), undo)


def _unsaid(request: Request, losses: list[Loss]) -> None:
    if request.user is not None:
        losses.append(Loss("user", NAME, reason="no such field"))
    marks = [request.cache, *(tool.cache for tool in request.tools)]
    marks += [getattr(part, "cache", None) for turn in request.turns for part in turn.parts]
    if any(mark is not None for mark in marks):
        losses.append(Loss("cache_control", NAME, reason="Gemini caches equal beginnings by itself"))


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


def _names(request: Request) -> dict[str, str]:
    called = (part for turn in request.turns for part in turn.parts)
    names = {part.name for part in called if isinstance(part, ToolCall | ToolResult) and part.name}
    names |= {tool.name for tool in request.tools if tool.kind != "foreign"}
    if request.tool_choice:
        names |= {*request.tool_choice.allowed, *filter(None, (request.tool_choice.name,))}
    return {name: legal_name(name) for name in sorted(names)}


# Tools


def _declared(
    tools: Sequence[Tool], names: Mapping[str, str], profile: Profile, losses: list[Loss], *, own: bool
) -> list[dict[str, Json]]:
    functions: list[dict[str, Json]] = []
    others: list[dict[str, Json]] = []
    for tool in tools:
        match tool.kind:
            case "foreign" if tool.dialect == NAME:
                others.append(dict(tool.block))
            case "foreign":
                losses.append(Loss(f"tools.{tool.name}", NAME, reason="a tool of another API"))
            case _:
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
    if tool.kind == "custom" and tool.block:
        losses.append(Loss(f"tools.{tool.name}.format", NAME, reason="free text without a grammar"))
    if tool.strict:
        losses.append(Loss("tools.strict", NAME, reason="no such setting"))
    if schema is not None and not _takes_nothing(schema):
        older = (0,) < profile.version < (2, 5)
        narrowed = for_openapi(schema) if older else Narrowed(dict(schema)) if own else for_gemini(schema)
        declaration["parameters" if older else "parametersJsonSchema"] = narrowed.schema
        _reported(narrowed, f"tools.{tool.name}", losses)
    return {**declaration, **tool.extras}


def _takes_nothing(schema: Mapping[str, Json]) -> bool:
    """An object without properties, which Gemini wants left out."""
    telling = schema.keys() - {"type", "properties", "required", "additionalProperties", "$schema", "title", "strict"}
    closed = schema.get("additionalProperties") in (None, False)
    return not telling and closed and not schema.get("properties") and schema.get("type", "object") == "object"


def _reported(narrowed: Narrowed, path: str, losses: list[Loss]) -> None:
    losses.extend(Loss(f"{path}.{what}", NAME, reason="not known to Gemini's schemas") for what in narrowed.lost)


def _choice(
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


def _output_tool(request: Request, profile: Profile) -> Tool | None:
    """Before Gemini 3 "Function calling with a response mime type: 'application/json' is unsupported": there, with
    functions beside it, the answer's schema becomes one more function, and some function must be called."""
    output = request.output
    if output is None or output.kind != "schema" or not _conflicts(request, profile):
        return None
    name = OUTPUT_TOOL
    while any(tool.name == name for tool in request.tools):
        name += "_"
    words = (
        output.description or "The final answer, in the form that was asked for. Call this once nothing else is needed."
    )
    return Tool(name, words, output.schema)


def _conflicts(request: Request, profile: Profile) -> bool:
    functions = any(tool.kind != "foreign" for tool in request.tools)
    return functions and request.source != NAME and (0,) < profile.version < (3,)


def _format(request: Request, profile: Profile, losses: list[Loss]) -> dict[str, Json]:
    match request.output:
        case None:
            return {}
        case Output(kind="text"):
            return {"responseMimeType": "text/plain"} if request.source == NAME else {}
        case Output(kind="json") if _conflicts(request, profile):
            losses.append(Loss("response_format", NAME, reason="JSON mode is refused beside functions before Gemini 3"))
            return {}
        case Output(kind="json"):
            return {"responseMimeType": "application/json"}
        case Output(schema=schema, description=words):
            told = {"description": words} if words else {}
            narrowed = (
                Narrowed(dict(schema or {})) if request.source == NAME else for_gemini({**told, **(schema or {})})
            )
            _reported(narrowed, "response_format", losses)
            return {"responseMimeType": "application/json", "responseJsonSchema": narrowed.schema}


# Sampling and thinking

MAX_STOPS = 5
MAX_TOP_K = 64
INT32 = 0x7FFFFFFF
LEAST_THOUGHTS = 1024
"""Tokens to allow for thoughts that cannot be turned off, where the model has no budget (Gemini 3)."""


def _config(request: Request, profile: Profile, losses: list[Loss], *, plain: bool) -> dict[str, Json]:
    """``generationConfig``. ``plain``: without a form of the answer, since a function stands for it."""
    sampling = _bounded(request.sampling, profile, losses)
    values = {wire: getattr(sampling, name) for name, wire in FIELDS.items()}
    config: dict[str, Json] = {wire: value for wire, value in values.items() if value not in (None, ())}
    if "stopSequences" in config:
        config["stopSequences"] = list(sampling.stop)
    if (wanted := config.pop("logprobs", None)) is not None:
        config |= {"responseLogprobs": True} | ({"logprobs": wanted} if wanted else {})
    if request.output and request.output.verbosity is not None:
        losses.append(Loss("verbosity", NAME, reason="no such setting"))
    if not plain:
        config |= _format(request, profile, losses)
    if thinking := _thinking(request, profile, losses):
        config["thinkingConfig"] = thinking
    if "maxOutputTokens" in config and _thinks_unasked(request, profile):
        # Thoughts count as output: a small bound that was meant for the answer alone must not be used up by them
        room, bound = profile.budgets[0] if profile.budgets else LEAST_THOUGHTS, config["maxOutputTokens"]
        config["maxOutputTokens"] = max(bound, min(bound + room, 4 * room))
    return config


def _bounded(sampling: Sampling, profile: Profile, losses: list[Loss]) -> Sampling:
    """``sampling`` as the model takes it."""
    if sampling.logit_bias:
        losses.append(Loss("logit_bias", NAME, reason="no such setting"))
    changes: dict[str, Json] = {}
    for name in sorted(profile.refuses):
        if (value := getattr(sampling, name, None)) is not None:
            changes[name] = None
            # Zero is what the model does anyway
            if value:
                losses.append(Loss(name, NAME, reason="refused by the model"))
    if len(sampling.stop) > MAX_STOPS:
        changes["stop"] = sampling.stop[:MAX_STOPS]
        losses.append(Loss("stop", NAME, reason=f"only the first {MAX_STOPS} stop sequences are taken"))
    if sampling.seed is not None and not -INT32 <= sampling.seed <= INT32:
        changes["seed"] = sampling.seed & INT32
    if profile.version:
        changes |= _within(sampling, profile, losses)
    return replace(sampling, **changes) if changes else sampling


def _within(sampling: Sampling, profile: Profile, losses: list[Loss]) -> dict[str, Json]:
    """Numbers above the model's own bounds, which it would refuse."""
    changes: dict[str, Json] = {}
    if (sampling.max_tokens or 0) > profile.max_output:
        changes["max_tokens"] = profile.max_output
        losses.append(Loss("max_tokens", NAME, reason=f"the model writes at most {profile.max_output} tokens"))
    if sampling.top_k is not None and not 1 <= sampling.top_k <= MAX_TOP_K:
        changes["top_k"] = MAX_TOP_K if sampling.top_k > MAX_TOP_K else None
        losses.append(Loss("top_k", NAME, reason=f"the model takes 1 to {MAX_TOP_K}"))
    return changes


def _thinking(request: Request, profile: Profile, losses: list[Loss]) -> dict[str, Json] | None:
    ask = request.reasoning
    if ask is None:
        return None
    if request.source == NAME:
        return _as_asked(ask)
    config: dict[str, Json] = {}
    match profile.thinking:
        case "level":
            if (level := _level(ask, profile)) is not None:
                config["thinkingLevel"] = level.upper()
        case "budget":
            if (budget := _budget(ask, profile, request.sampling.max_tokens)) is not None:
                config["thinkingBudget"] = budget
        case _:
            if ask.mode not in (None, "off") or ask.effort not in (None, "none"):
                losses.append(Loss("reasoning", NAME, reason="the model does not think"))
            return None
    off = _off(ask)
    if off and not profile.stops_thinking:
        losses.append(Loss("reasoning", NAME, reason="the model always thinks"))
    # Who asks for thinking in Anthropic's words sees it unless they say otherwise
    visible = True if ask.visible is None and ask.mode in ("on", "adaptive") else ask.visible
    if visible is not None and not off:
        config["includeThoughts"] = visible
    return config or None


def _off(ask: ReasoningAsk) -> bool:
    return ask.mode == "off" or (ask.mode is None and ask.effort == "none")


def _thinks_unasked(request: Request, profile: Profile) -> bool:
    """Whether the model thinks although the client wants it not to."""
    ask = request.reasoning
    return request.source != NAME and ask is not None and _off(ask) and not profile.stops_thinking


def _as_asked(ask: ReasoningAsk) -> dict[str, Json] | None:
    config: dict[str, Json] = {}
    if ask.visible is not None:
        config["includeThoughts"] = ask.visible
    if ask.budget is not None or ask.mode == "adaptive":
        config["thinkingBudget"] = -1 if ask.budget is None else ask.budget
    if ask.effort is not None:
        config["thinkingLevel"] = ask.effort.upper()
    return {**config, **ask.extras} or None


def _level(ask: ReasoningAsk, profile: Profile) -> str | None:
    """The level for an ask; None leaves it to the model."""
    effort = ask.effort
    if ask.mode == "off" or effort == "none":
        return profile.efforts[0] if profile.efforts else None
    if effort is None and ask.mode == "on" and ask.budget is not None:
        effort = effort_of(ask.budget)
    return nearest_effort(effort, profile.efforts) if effort is not None else None


def _budget(ask: ReasoningAsk, profile: Profile, max_tokens: int | None) -> int | None:
    """The thinking budget for an ask: -1 as the model sees fit, 0 none; None says nothing."""
    smallest, largest = profile.budgets or (1, 24576)
    if _off(ask):
        return 0 if profile.stops_thinking else smallest
    if ask.budget is not None:
        return min(max(ask.budget, smallest), largest)
    if ask.effort is not None:
        budget = budget_of(ask.effort, max_tokens)
        if budget == 0 and profile.stops_thinking:
            return 0
        return min(max(budget, smallest), largest)
    return -1 if ask.mode in ("on", "adaptive") else None
