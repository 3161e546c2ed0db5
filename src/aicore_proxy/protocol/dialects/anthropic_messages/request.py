"""A client's Messages request -> the neutral form.

Normalised on the way, all of one meaning: a string content is one text block, null members are absent, a tool's
``type: "custom"`` is left out, ``output_format`` is ``output_config.format``, ``is_error: false`` is absent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from aicore_proxy.protocol.dialects import Decoding
from aicore_proxy.protocol.dialects.anthropic_messages.reading import (
    HOME,
    NAME,
    cache_of,
    malformed,
    member,
    optional,
    rest,
    typed,
)
from aicore_proxy.protocol.fault import Fault, Kind
from aicore_proxy.protocol.neutral import (
    Foreign,
    Json,
    Media,
    Output,
    Part,
    Reasoning,
    ReasoningAsk,
    Request,
    Sampling,
    Seal,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)
from aicore_proxy.protocol.seal import restore

# Members that the codec knows, by node
REQUEST = frozenset((
    "model", "messages", "system", "tools", "tool_choice", "max_tokens", "temperature", "top_p", "top_k",
    "stop_sequences", "stream", "metadata", "thinking", "output_config", "output_format", "cache_control",
))  # fmt: skip
MESSAGE = frozenset(("role", "content"))
TEXT = frozenset(("type", "cache_control", "text"))
IMAGE = frozenset(("type", "cache_control", "source"))
DOCUMENT = IMAGE | {"title"}
SOURCE = frozenset(("type", "media_type", "data", "url", "file_id"))
THINKING = frozenset(("type", "thinking", "signature"))
REDACTED = frozenset(("type", "data"))
TOOL_USE = frozenset(("type", "cache_control", "id", "name", "input"))
TOOL_RESULT = frozenset(("type", "cache_control", "tool_use_id", "content", "is_error"))
TOOL = frozenset(("type", "cache_control", "name", "description", "input_schema", "strict"))
CHOICE = frozenset(("type", "name", "disable_parallel_tool_use"))


def decode_request(body: Mapping[str, Json], decoding: Decoding) -> Request:
    """The neutral form of a Messages body. Raises Fault(MALFORMED) that names the wire path."""
    model = optional(body, "model", str, "") or decoding.model
    if not model:
        raise malformed("model", "Field required")
    turns = [
        decode_turn(typed(message, dict, f"messages.{i}"), f"messages.{i}")
        for i, message in enumerate(member(body, "messages", list, ""))
    ]
    if not turns:
        raise malformed("messages", "at least one message is required")
    if system := decode_system(body.get("system")):
        turns.insert(0, Turn("system", system))
    cache, more = cache_of(body, REQUEST, "")
    extras = dict(more)
    user = _user(body, extras)
    reasoning, output = _steering(body, extras)
    stream = optional(body, "stream", bool, "") or False
    return Request(
        source=NAME,
        model=model,
        turns=tuple(turns),
        tools=tuple(
            decode_tool(typed(tool, dict, f"tools.{i}"), f"tools.{i}")
            for i, tool in enumerate(optional(body, "tools", list, "") or ())
        ),
        tool_choice=decode_choice(optional(body, "tool_choice", dict, "")),
        sampling=_sampling(body),
        reasoning=reasoning,
        output=output,
        stream=stream if decoding.stream is None else decoding.stream,
        user=user,
        cache=cache,
        extras=extras,
    )


def _sampling(body: Mapping[str, Json]) -> Sampling:
    stop = optional(body, "stop_sequences", list, "") or []
    return Sampling(
        max_tokens=optional(body, "max_tokens", int, ""),
        temperature=optional(body, "temperature", float, ""),
        top_p=optional(body, "top_p", float, ""),
        top_k=optional(body, "top_k", int, ""),
        stop=tuple(typed(text, str, f"stop_sequences.{i}") for i, text in enumerate(stop)),
    )


def _user(body: Mapping[str, Json], extras: dict[str, Json]) -> str | None:
    metadata = optional(body, "metadata", dict, "") or {}
    if more := rest(metadata, frozenset(("user_id",))):
        extras["metadata"] = more
    return optional(metadata, "user_id", str, "metadata")


def _steering(body: Mapping[str, Json], extras: dict[str, Json]) -> tuple[ReasoningAsk | None, Output | None]:
    """How much to think, and in which form to answer: ``thinking``, ``output_config``, ``output_format``."""
    config = optional(body, "output_config", dict, "") or {}
    more = dict(rest(config, frozenset(("effort", "format"))))
    form = optional(config, "format", dict, "output_config") or optional(body, "output_format", dict, "")
    output = None
    if form is not None and form.get("type") == "json_schema":
        output = Output("schema", schema=member(form, "schema", dict, "output_config.format"), strict=True)
        form = dict(rest(form, frozenset(("type", "schema"))))
    if form:
        more["format"] = form
    if more:
        extras["output_config"] = more
    effort = optional(config, "effort", str, "output_config")
    return decode_thinking(optional(body, "thinking", dict, ""), effort), output


_MODES: Mapping[str, Literal["off", "on", "adaptive"]] = {"enabled": "on", "adaptive": "adaptive", "disabled": "off"}
_VISIBLE = {"summarized": True, "omitted": False}


def decode_thinking(thinking: Mapping[str, Json] | None, effort: str | None) -> ReasoningAsk | None:
    """``thinking`` and ``output_config.effort``. An effort alone has no mode: it does not turn thinking on."""
    if thinking is None:
        return ReasoningAsk(effort=effort) if effort else None
    kind = member(thinking, "type", str, "thinking")
    mode = _MODES.get(kind)
    extras = dict(rest(thinking, frozenset(("budget_tokens", "display", *(("type",) if mode else ())))))
    display = optional(thinking, "display", str, "thinking")
    if display is not None and display not in _VISIBLE:
        extras["display"] = display
    return ReasoningAsk(
        mode=mode,
        effort=effort,
        budget=optional(thinking, "budget_tokens", int, "thinking"),
        visible=_VISIBLE.get(display, True) if display else None,
        extras=extras,
    )


# Turns and blocks


def decode_system(system: Json) -> tuple[Part, ...]:
    """The top-level ``system``, a string or blocks."""
    if system is None or system == "":
        return ()
    if isinstance(system, str):
        return (Text(system),)
    blocks = typed(system, list, "system")
    return tuple(decode_part(typed(b, dict, f"system.{i}"), f"system.{i}") for i, b in enumerate(blocks))


ROLES: Mapping[str, Literal["user", "assistant", "system"]] = {
    "user": "user", "assistant": "assistant", "system": "system"
}  # fmt: skip


def decode_turn(message: Mapping[str, Json], path: str) -> Turn:
    """One message. ``role: "system"`` in the middle comes from Claude Code and newer SDKs, with a string or blocks."""
    role = ROLES.get(member(message, "role", str, path))
    if role is None:
        raise malformed(f"{path}.role", "Input should be 'user', 'assistant' or 'system'")
    parts = decode_content(message.get("content"), f"{path}.content")
    return Turn(role, reattached(parts) if role == "assistant" else parts, extras=rest(message, MESSAGE))


def decode_content(content: Json, path: str) -> tuple[Part, ...]:
    if content is None:
        raise malformed(path, "Field required")
    if isinstance(content, str):
        return (Text(content),)
    if not isinstance(content, list):
        raise malformed(path, "Input should be a valid string or a valid list")
    return tuple(decode_part(typed(block, dict, f"{path}.{i}"), f"{path}.{i}") for i, block in enumerate(content))


def reattached(parts: Sequence[Part]) -> tuple[Part, ...]:
    """A call's foreign seal travels through the client in a ``redacted_thinking`` block before it: put it back."""
    out: list[Part] = []
    for part in parts:
        match out[-1] if out else None, part:
            case Reasoning(redacted=True, seal=Seal(family=family) as seal), ToolCall() if family != HOME:
                out[-1] = msgspec.structs.replace(part, seal=seal)
            case _:
                out.append(part)
    return tuple(out)


def decode_part(block: Mapping[str, Json], path: str) -> Part:
    """One content block, in a message, in ``system``, or in a tool result."""
    kind = member(block, "type", str, path)
    match kind:
        case "text":
            return Text(member(block, "text", str, path), *cache_of(block, TEXT, path))
        case "image" | "document":
            return decode_media(block, kind, path)
        case "thinking":
            seal = restore(optional(block, "signature", str, path), HOME)
            return Reasoning(optional(block, "thinking", str, path) or "", seal, extras=rest(block, THINKING))
        case "redacted_thinking":
            seal = restore(member(block, "data", str, path), HOME)
            return Reasoning("", seal, redacted=True, extras=rest(block, REDACTED))
        case "tool_use":
            return decode_call(block, path)
        case "tool_result":
            return decode_result(block, path)
        case "search_result" | "tool_reference":
            return decode_reference(block, kind, path)
        case _:
            return Foreign(NAME, dict(block), path)


def decode_call(block: Mapping[str, Json], path: str) -> ToolCall:
    cache, extras = cache_of(block, TOOL_USE, path)
    arguments = optional(block, "input", dict, path)
    return ToolCall(
        id=member(block, "id", str, path),
        name=member(block, "name", str, path),
        arguments=encoded(arguments or {}, f"{path}.input"),
        cache=cache,
        extras=extras,
    )


def decode_result(block: Mapping[str, Json], path: str) -> ToolResult:
    cache, extras = cache_of(block, TOOL_RESULT, path)
    content = block.get("content")
    pieces = decode_content(content, f"{path}.content") if content not in (None, "") else ()
    return ToolResult(
        call_id=member(block, "tool_use_id", str, path),
        content=tuple(
            piece if isinstance(piece, Text | Media | Foreign) else Foreign(NAME, content[i])  # type: ignore[index]
            for i, piece in enumerate(pieces)
        ),
        is_error=optional(block, "is_error", bool, path) or False,
        cache=cache,
        extras=extras,
    )


def decode_reference(block: Mapping[str, Json], kind: str, path: str) -> Text:
    """``search_result`` and ``tool_reference``: a text that any model can read; the block stays whole in ``extras``."""
    if kind == "tool_reference":
        return Text(f"Tool available: {member(block, 'tool_name', str, path)}", extras={kind: dict(block)})
    said = [str(block[name]) for name in ("title", "source") if block.get(name)]
    said += texts_of(optional(block, "content", list, path) or (), f"{path}.content")
    return Text("\n".join(said), extras={kind: dict(block)})


def texts_of(blocks: Sequence[Json], path: str) -> list[str]:
    nodes = [typed(block, dict, f"{path}.{i}") for i, block in enumerate(blocks)]
    return [str(node["text"]) for node in nodes if node.get("text")]


def decode_media(block: Mapping[str, Json], kind: Literal["image", "document"], path: str) -> Part:
    source = member(block, "source", dict, path)
    cache, extras = cache_of(block, DOCUMENT if kind == "document" else IMAGE, path)
    at = f"{path}.source"
    fields: dict[str, Any] = {}
    match source.get("type"):
        case "base64":
            fields = {"media_type": optional(source, "media_type", str, at), "data": member(source, "data", str, at)}
        case "text":
            fields = {"media_type": "text/plain", "text": member(source, "data", str, at)}
        case "url":
            fields = {"url": member(source, "url", str, at)}
        case "file":
            fields = {"file_id": member(source, "file_id", str, at)}
        case "content":
            # Blocks as a document: readable as text for others, whole for Claude
            content = source.get("content")
            blocks = () if isinstance(content, str) else optional(source, "content", list, at) or ()
            if any(isinstance(inner, dict) and inner.get("type") != "text" for inner in blocks):
                return Foreign(NAME, dict(block), path)  # images in it would be lost in silence
            words = content if isinstance(content, str) else "\n".join(texts_of(blocks, f"{at}.content"))
            fields = {"media_type": "text/plain", "text": words}
        case _:
            return Foreign(NAME, dict(block), path)
    if source.keys() - SOURCE:
        extras = {**extras, "source": source}
    name = optional(block, "title", str, path) if kind == "document" else None
    return Media(kind, name=name, cache=cache, extras=extras, **fields)


# Tools


def decode_tool(tool: Mapping[str, Json], path: str) -> Tool:
    """A tool; one whose ``type`` is not ``custom`` is a server's or a vendor's own."""
    kind = optional(tool, "type", str, path)
    if kind not in (None, "custom"):
        name = optional(tool, "name", str, path) or kind
        return Tool(name, kind="foreign", dialect=NAME, block=dict(tool))
    cache, extras = cache_of(tool, TOOL, path)
    return Tool(
        name=member(tool, "name", str, path),
        description=optional(tool, "description", str, path),
        schema=optional(tool, "input_schema", dict, path),
        strict=optional(tool, "strict", bool, path),
        cache=cache,
        extras=extras,
    )


_CHOICES: Mapping[str, Literal["auto", "none", "required", "tool"]] = {
    "auto": "auto", "none": "none", "any": "required", "tool": "tool"
}  # fmt: skip


def decode_choice(choice: Mapping[str, Json] | None) -> ToolChoice | None:
    if choice is None:
        return None
    kind = member(choice, "type", str, "tool_choice")
    if kind not in _CHOICES:
        raise malformed("tool_choice.type", "Input should be 'auto', 'any', 'tool' or 'none'")
    single = optional(choice, "disable_parallel_tool_use", bool, "tool_choice")
    return ToolChoice(
        mode=_CHOICES[kind],
        name=member(choice, "name", str, "tool_choice") if kind == "tool" else None,
        parallel=None if single is None else not single,
        extras=rest(choice, CHOICE),
    )


def encoded(value: Json, path: str) -> str:
    """JSON text of a decoded value."""
    try:
        return msgspec.json.encode(value).decode()
    except (RecursionError, UnicodeEncodeError, OverflowError, msgspec.MsgspecError):
        raise malformed(path, "Input cannot be read") from None


def refuse_thread(body: Mapping[str, Json]) -> Fault:
    """The 400 for a ``body`` that wants its conversation kept (``thread``), in the words on which Anthropic's SDKs go
    on without threads, for good. ``unsupported`` must be an empty list."""
    thread = body.get("thread")
    kind = thread.get("type") if isinstance(thread, dict) else thread
    words = f"Message threads are not kept here (thread type {kind!r}): send the whole conversation without 'thread'."
    details: dict[str, object] = {"error_code": "thread_unsupported_request", "unsupported": []}
    return Fault(Kind.UNSUPPORTED, words, param="thread", details=details)
