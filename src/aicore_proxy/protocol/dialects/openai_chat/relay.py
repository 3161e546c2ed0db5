"""What OpenAI's own API refuses in a Chat Completions request that other vendors' users write, and how to mend it.

Bodies are relayed as bytes, so a member is decoded only if a search of its bytes finds one of ``FOREIGN``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw

from aicore_proxy.protocol.dialects.openai_chat.conversation import LONGEST_ID, short_id
from aicore_proxy.protocol.neutral import Json

THOUGHTS = ("reasoning_content", "reasoning", "reasoning_details", "thinking_blocks")
"""Of a message: what models of other vendors thought, replayed by opencode, LiteLLM, OpenRouter's users."""

FOREIGN = (*THOUGHTS, "provider_specific_fields", "cache_control")
"""Members that OpenAI knows nowhere in a message."""

THINKING_PARTS = ("thinking", "redacted_thinking", "reasoning")
"""Content parts that hold thoughts. Compared, not hashed: a client's `type` may be anything."""

_NEEDLES = re.compile(
    rb'"[rtpc](?:easoning|hinking|edacted_thinking"|rovider_specific_fields"|ache_control"'
    rb'|ool_call_id"\s*:\s*"[^"\\]{%d})' % (LONGEST_ID + 1)
)
"""What one of the above holds, or too long an id, in one search that looks at quotation marks alone."""
_QUOTED = frozenset(f'"{kind}"'.encode() for kind in THINKING_PARTS)
_LARGE = 256 * 1024
_objects = msgspec.json.Decoder(list[dict[str, Raw]])


def suspicious(messages: Raw | bytes) -> bool:
    """Whether ``messages`` may hold something to mend. Quick: 20 MB of them must not stall others. One search takes
    0.05 to 0.15 ms per 200 KB; looking at the members of many messages, which tells for certain, ten times that."""
    if _NEEDLES.search(messages) is None:
        return False
    if memoryview(messages).nbytes > _LARGE:
        try:
            return any(_odd(message) for message in _objects.decode(messages))
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            return True
    return True


def _odd(message: dict[str, Raw]) -> bool:
    """Whether this message needs mending. Raises msgspec.MsgspecError where it is not built as a message."""
    if any(name in message for name in FOREIGN) or _long_id(message.get("tool_call_id")):
        return True
    return any(
        "cache_control" in part or (kind := bytes(part.get("type", b""))) in _QUOTED or b"\\" in kind
        for part in _listed(message.get("content"))
    ) or any(
        "cache_control" in call or "provider_specific_fields" in call or _long_id(call.get("id"))
        for call in _listed(message.get("tool_calls"))
    )


def _long_id(raw: Raw | None) -> bool:
    return raw is not None and memoryview(raw).nbytes > LONGEST_ID + 2


def _listed(raw: Raw | None) -> list[dict[str, Raw]]:
    return _objects.decode(raw) if raw is not None and bytes(memoryview(raw)[:1]) == b"[" else []


def mended_messages(messages: Json, lost: set[str]) -> Json:
    """``messages`` without what OpenAI does not take, whose names go to ``lost``; the same object if there is
    nothing. Ids of calls that are too long are shortened, for call and result alike."""
    if not isinstance(messages, list):
        return messages
    mended = [_message(message, lost) if isinstance(message, dict) else message for message in messages]
    return mended if any(new is not old for new, old in zip(mended, messages, strict=True)) else messages


def _message(message: dict[str, Json], lost: set[str]) -> dict[str, Json]:
    new: dict[str, Any] = dict(message)
    for name in FOREIGN:
        if name in new:
            lost.add(f"messages.{name}")
            del new[name]
    if isinstance(content := message.get("content"), list):
        new["content"] = _parts(content, lost)
    if isinstance(calls := message.get("tool_calls"), list):
        new["tool_calls"] = [_call(call, lost) if isinstance(call, dict) else call for call in calls]
    if isinstance(answered := message.get("tool_call_id"), str):
        new["tool_call_id"] = short_id(answered)
    return new if new != message else message


def _parts(parts: list[Json], lost: set[str]) -> list[Json]:
    kept: list[Json] = []
    for part in parts:
        if isinstance(part, dict) and part.get("type") in THINKING_PARTS:
            lost.add(f"messages.content.{part['type']}")
            continue
        kept.append(unmarked(part, "messages.content", lost))
    return kept


def _call(call: dict[str, Json], lost: set[str]) -> Json:
    call = unmarked(call, "messages.tool_calls", lost)
    if "provider_specific_fields" in call:
        lost.add("messages.tool_calls.provider_specific_fields")
        call = {name: value for name, value in call.items() if name != "provider_specific_fields"}
    return {**call, "id": short_id(call["id"])} if isinstance(call.get("id"), str) else call


def mended_tools(tools: Json, lost: set[str]) -> Json:
    """``tools`` without prompt-cache breakpoints; the same object if there are none."""
    if not isinstance(tools, list):
        return tools
    mended = []
    for tool in tools:
        new = unmarked(tool, "tools", lost)
        if isinstance(new, Mapping) and isinstance(held := new.get("function"), dict):
            inner = unmarked(held, "tools", lost)
            new = new if inner is held else {**new, "function": inner}
        mended.append(new)
    return mended if any(new is not old for new, old in zip(mended, tools, strict=True)) else tools


def unmarked(node: Json, path: str, lost: set[str]) -> Any:
    if isinstance(node, dict) and "cache_control" in node:
        lost.add(f"{path}.cache_control")
        return {name: value for name, value in node.items() if name != "cache_control"}
    return node
