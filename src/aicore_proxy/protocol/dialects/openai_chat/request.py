"""A client's Chat Completions request -> the neutral form.

Normalised on the way, all of one meaning: null members are absent; a string content is one text part, an empty
content beside tool calls is none; ``max_tokens`` and ``max_completion_tokens`` are one (the latter wins), a string
``stop`` is a list of one; ``reasoning.effort``, ``thinking`` and ``reasoning_effort`` are one; a message's
``cache_control`` stands on its last part; consecutive ``tool`` messages are one turn; ``reasoning`` of a message is
``reasoning_content``, and ``thinking_blocks`` (LiteLLM) stand for both; functions written flat (Cursor) are nested;
``response_format: text`` beside ``verbosity`` is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from aicore_proxy.protocol.dialects import Decoding
from aicore_proxy.protocol.dialects.openai_chat.asking import decode_output, decode_reasoning, decode_sampling
from aicore_proxy.protocol.dialects.openai_chat.content import decode_content
from aicore_proxy.protocol.dialects.openai_chat.reading import FUNCTION_CALL, NAME, cache_of
from aicore_proxy.protocol.dialects.openai_chat.tools import decode_choice, decode_tools
from aicore_proxy.protocol.neutral import (
    NOTHING,
    CacheMark,
    Extras,
    Foreign,
    Json,
    Media,
    Part,
    Reasoning,
    Refusal,
    Request,
    Text,
    ToolCall,
    ToolResult,
    Turn,
)
from aicore_proxy.protocol.openai_members import (
    malformed,
    member,
    missing,
    not_offered,
    optional,
    rest,
    typed,
    wrong_type,
)
from aicore_proxy.protocol.seal import restore

KNOWN = frozenset({"model", "messages", "tools", "tool_choice", "functions", "function_call", "parallel_tool_calls",
                   "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "stop", "seed",
                   "presence_penalty", "frequency_penalty", "logprobs", "top_logprobs", "logit_bias", "n",
                   "response_format", "verbosity", "reasoning_effort", "reasoning", "thinking", "stream",
                   "stream_options", "user"})  # fmt: skip
ROLES = ("system", "developer", "user", "assistant", "tool", "function")


def decode_request(body: Mapping[str, Json], decoding: Decoding) -> Request:
    """The neutral form of a Chat Completions body. Raises Fault(MALFORMED) that names the wire path."""
    model = optional(body, "model", str) or decoding.model
    if not model:
        raise missing("model")
    messages = member(body, "messages", list)
    if not messages:
        raise malformed("messages", "Invalid 'messages': empty array. Expected an array with minimum length 1.")
    extras = rest(body, KNOWN)
    stream = optional(body, "stream", bool) or False
    options = optional(body, "stream_options", dict) or {}
    if more := rest(options, ("include_usage",)):
        extras["stream_options"] = more
    tools = decode_tools(body)
    return Request(
        source=NAME,
        model=model,
        turns=decode_messages(messages),
        tools=tools,
        tool_choice=decode_choice(body),
        sampling=decode_sampling(body, extras),
        reasoning=decode_reasoning(body, extras),
        output=decode_output(body, extras),
        stream=stream if decoding.stream is None else decoding.stream,
        stream_usage=optional(options, "include_usage", bool, "stream_options") or False,
        user=optional(body, "user", str),
        extras=extras or NOTHING,
    )


def decode_messages(messages: Sequence[Json]) -> tuple[Turn, ...]:
    """Turns, tool results in turns of role ``user``. Calls of the deprecated ``function_call`` get an id, by which the
    next ``function`` message of that name answers them."""
    turns: list[Turn] = []
    unanswered: dict[str, str] = {}
    after_result = False
    for i, message in enumerate(messages):
        path = f"messages[{i}]"
        turn = _decode_message(typed(message, dict, path), path, unanswered, i)
        is_result = message["role"] in ("tool", "function")
        if is_result and after_result:
            turns[-1] = replace(turns[-1], parts=(*turns[-1].parts, *turn.parts))
        else:
            turns.append(turn)
        after_result = is_result
    return tuple(turns)


def _decode_message(message: Mapping[str, Json], path: str, unanswered: dict[str, str], number: int) -> Turn:
    role = member(message, "role", str, path)
    name = optional(message, "name", str, path)
    match role:
        case "system" | "developer" | "user":
            if message.get("content") is None:
                raise missing(f"{path}.content")
            cache, more = cache_of(message)
            parts = _marked(decode_content(message["content"], f"{path}.content"), cache)
            extras = {**rest(message, ("role", "content", "name", "cache_control")), **more}
            return Turn(role, parts, name, extras or NOTHING)
        case "assistant":
            return _decode_assistant(message, path, unanswered, number)
        case "tool":
            return Turn("user", (_decode_result(message, path, member(message, "tool_call_id", str, path)),))
        case "function":
            called = member(message, "name", str, path)
            call_id = unanswered.pop(called, f"{FUNCTION_CALL}{number}")
            return Turn("user", (_decode_result(message, path, call_id),))
        case _:
            raise not_offered(role, ROLES, f"{path}.role")


def _decode_result(message: Mapping[str, Json], path: str, call_id: str) -> ToolResult:
    cache, more = cache_of(message)
    parts = decode_content(message.get("content"), f"{path}.content")
    extras = {**rest(message, ("role", "content", "name", "tool_call_id", "cache_control")), **more}
    return ToolResult(
        call_id,
        tuple(part for part in parts if isinstance(part, Text | Media | Foreign)),
        name=optional(message, "name", str, path),
        cache=cache,
        extras=extras or NOTHING,
    )


ASSISTANT = frozenset({"role", "content", "name", "refusal", "reasoning_content", "reasoning", "thinking_blocks",
                       "tool_calls", "function_call", "cache_control"})  # fmt: skip


def _decode_assistant(message: Mapping[str, Json], path: str, unanswered: dict[str, str], number: int) -> Turn:
    thought = optional(message, "reasoning_content", str, path)
    extras = rest(message, ASSISTANT)
    if isinstance(reasoning := message.get("reasoning"), str):
        thought = thought or reasoning
    elif reasoning is not None:
        extras["reasoning"] = reasoning
    parts: list[Part] = _thinking(message, path) or ([Reasoning(thought)] if thought else [])
    calls = decode_calls(message.get("tool_calls"), f"{path}.tool_calls")
    if (legacy := optional(message, "function_call", dict, path)) is not None:
        calls += (_decode_function_call(legacy, f"{path}.function_call", unanswered, number),)
    if not (calls and message.get("content") == ""):
        parts += decode_content(message.get("content"), f"{path}.content")
    if refusal := optional(message, "refusal", str, path):
        parts.append(Refusal(refusal))
    cache, more = cache_of(message)
    extras.update(more)
    name = optional(message, "name", str, path)
    return Turn("assistant", _marked((*parts, *calls), cache), name, extras or NOTHING)


def _thinking(message: Mapping[str, Json], path: str) -> list[Part]:
    """``thinking_blocks``: Anthropic's blocks with their signatures, as LiteLLM's clients send them back."""
    parts: list[Part] = []
    for i, block in enumerate(optional(message, "thinking_blocks", list, path) or ()):
        at = f"{path}.thinking_blocks[{i}]"
        match typed(block, dict, at).get("type"):
            case "redacted_thinking":
                parts.append(Reasoning("", restore(member(block, "data", str, at), "claude"), redacted=True))
            case _:
                seal = restore(optional(block, "signature", str, at), "claude")
                parts.append(Reasoning(optional(block, "thinking", str, at) or "", seal))
    return parts


def _decode_function_call(call: Mapping[str, Json], path: str, unanswered: dict[str, str], number: int) -> ToolCall:
    name = member(call, "name", str, path)
    call_id = unanswered[name] = f"{FUNCTION_CALL}{number}"
    return ToolCall(call_id, name, _arguments(call, path), extras=rest(call, ("name", "arguments")) or NOTHING)


def decode_calls(calls: Json, path: str) -> tuple[ToolCall, ...]:
    """``tool_calls`` of a message. Raises Fault(MALFORMED)."""
    if calls is None:
        return ()
    return tuple(
        decode_call(typed(call, dict, f"{path}[{i}]"), f"{path}[{i}]")
        for i, call in enumerate(typed(calls, list, path))
    )


def decode_call(call: Mapping[str, Json], path: str) -> ToolCall:
    call_id = optional(call, "id", str, path) or ""
    cache, more = cache_of(call)
    if call.get("type") == "custom":
        held = member(call, "custom", dict, path)
        inside = f"{path}.custom"
        extras = _call_extras(call, held, "custom", ("name", "input"), more)
        text = optional(held, "input", str, inside) or ""
        return ToolCall(call_id, member(held, "name", str, inside), text, "custom", cache=cache, extras=extras)
    held = member(call, "function", dict, path)
    inside = f"{path}.function"
    extras = _call_extras(call, held, "function", ("name", "arguments"), more)
    arguments = _arguments(held, inside)
    return ToolCall(call_id, member(held, "name", str, inside), arguments, cache=cache, extras=extras)


def _call_extras(
    call: Mapping[str, Json], held: Mapping[str, Json], kind: str, known: tuple[str, ...], more: Extras
) -> Extras:
    extras: dict[str, Any] = {**rest(call, ("id", "type", kind, "cache_control", "index")), **more}
    if inner := rest(held, known):
        extras[kind] = inner
    return extras or NOTHING


def _arguments(call: Mapping[str, Json], path: str) -> str:
    """JSON text. Some clients send the object itself."""
    match call.get("arguments"):
        case None:
            return ""
        case str(text):
            return text
        case dict(value):
            return msgspec.json.encode(value).decode()
        case value:
            raise wrong_type(value, "a string", f"{path}.arguments")


def _marked(parts: Sequence[Part], cache: CacheMark | None) -> tuple[Part, ...]:
    """``parts``, the last one that can bear it with the message's ``cache``."""
    marked = list(parts)
    if cache is not None:
        for i in reversed(range(len(marked))):
            part = marked[i]
            if isinstance(part, Text | Media | ToolCall):
                marked[i] = replace(part, cache=part.cache or cache)
                break
    return tuple(marked)
