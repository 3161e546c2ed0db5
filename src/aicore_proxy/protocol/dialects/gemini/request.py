"""generateContent requests, in both directions. Source of names: Vertex AI ``GenerateContentRequest``.

Same-dialect normalisations: member names in camelCase, one entry of ``tools`` for all functions and one for each other
tool, JSON Schema (``parametersJsonSchema``, ``responseJsonSchema``) for ``Schema``, enums in upper case, signatures in
the standard base64 alphabet, no ids of calls (SAP refuses them), no ``role`` of the system instruction, no empty
``generationConfig``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aicore_proxy.protocol.clearing import cleared
from aicore_proxy.protocol.dialects import Decoding, Target
from aicore_proxy.protocol.dialects.gemini.generation import (
    generation_config,
    read_output,
    read_reasoning,
    read_sampling,
)
from aicore_proxy.protocol.dialects.gemini.history import HistoryReader, renamed, signed, system_and_contents
from aicore_proxy.protocol.dialects.gemini.offer import (
    conflicting,
    declared_tools,
    legal_names,
    output_tool_of,
    read_tool_choice,
    read_tools,
    tool_config,
)
from aicore_proxy.protocol.dialects.gemini.parts import PartWriter, decode_part
from aicore_proxy.protocol.dialects.gemini.wire import NAME, Node, malformed
from aicore_proxy.protocol.json_mode import JSON_ONLY
from aicore_proxy.protocol.neutral import Encoded, Loss, Request, Turn, Undo

Json = Any

CONFIG = "generationConfig."
"""How unknown members of ``generationConfig`` are named in a Request's extras."""


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
    choice = root.node("toolConfig")
    output = read_output(config)
    return Request(
        source=NAME,
        model=(decoding.model or model or "").removeprefix("models/"),
        turns=(*turns, *HistoryReader().turns(contents)),
        tools=tuple(tool for node in root.nodes("tools") for tool in read_tools(node)),
        tool_choice=read_tool_choice(choice) if choice is not None else None,
        sampling=read_sampling(config),
        reasoning=read_reasoning(config),
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


# Writing


def encode_request(request: Request, target: Target) -> Encoded:
    """Never raises: what Gemini cannot take is a Loss."""
    losses: list[Loss] = []
    request = cleared(request, NAME, losses)
    profile = target.profile
    own = request.source == NAME
    names = legal_names(request)
    writer = PartWriter(target.sealer, losses, own=own, with_ids=False, names=names)
    system, contents = system_and_contents(request, writer, nested_media=profile.version >= (3,))
    if profile.signed_calls:
        signed(contents)
    body: dict[str, Json] = {"contents": contents}
    in_words = request.output is not None and request.output.kind == "json" and conflicting(request, profile)
    if in_words:
        system.append({"text": JSON_ONLY})
    if system:
        body["systemInstruction"] = {"parts": system}
    output_tool = output_tool_of(request, profile)
    tools = (*request.tools, output_tool) if output_tool else request.tools
    if declared := declared_tools(tools, names, profile, losses, own=own):
        body["tools"] = declared
    if choice := tool_config(request, declared, names, losses, output_tool):
        body["toolConfig"] = choice
    config = generation_config(request, profile, losses, plain=output_tool is not None)
    for name, value in request.extras.items():
        if name.startswith(CONFIG):
            config[name.removeprefix(CONFIG)] = value
        else:
            body[name] = value
    if config:
        body["generationConfig"] = config
    _unsaid(request, losses)
    custom = frozenset(tool.name for tool in request.tools if tool.kind == "custom")
    undo = Undo(renamed(names), output_tool.name if output_tool else None, custom, bare_json=in_words)
    return Encoded(body, tuple(dict.fromkeys(losses)), undo)


def _unsaid(request: Request, losses: list[Loss]) -> None:
    if request.user is not None:
        losses.append(Loss("user", NAME, reason="no such field"))
    marks = [request.cache, *(tool.cache for tool in request.tools)]
    marks += [getattr(part, "cache", None) for turn in request.turns for part in turn.parts]
    if any(mark is not None for mark in marks):
        losses.append(Loss("cache_control", NAME, reason="Gemini caches equal beginnings by itself"))
