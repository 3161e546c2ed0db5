"""What SAP's Bedrock takes in a Claude conversation, as types: messages that decode as these need no edit.

Source: SAP AI Core wire facts 4.3: unknown members and blocks are a 400, texts need a visible character. Thoughts must
bear Claude's own signature, neither an empty nor a wrapped foreign one. Members that may hold anything are left raw.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta, Raw, Struct

from aicore_proxy.protocol.envelope import unreadable
from aicore_proxy.protocol.neutral import Json
from aicore_proxy.protocol.seal import WRAPPED

Said: TypeAlias = Annotated[str, Meta(pattern=r"\S")]
Signed: TypeAlias = Annotated[str, Meta(pattern=f"^(?!{WRAPPED}).")]
ANYTHING = Raw()
STEP = 1 << 20


class Mark(Struct, forbid_unknown_fields=True):
    type: str
    ttl: str = "5m"


class Source(Struct):
    type: Literal["base64", "text", "content", "url"]


class Text(Struct, tag="text", forbid_unknown_fields=True):
    text: Said
    citations: Raw = ANYTHING
    cache_control: Mark | None = None


class Image(Struct, tag="image", forbid_unknown_fields=True):
    source: Source
    cache_control: Mark | None = None


class Document(Struct, tag="document", forbid_unknown_fields=True):
    source: Source
    title: Raw = ANYTHING
    context: Raw = ANYTHING
    citations: Raw = ANYTHING
    cache_control: Mark | None = None


class SearchResult(Struct, tag="search_result", forbid_unknown_fields=True):
    source: Raw
    title: Raw
    content: Raw
    citations: Raw = ANYTHING
    cache_control: Mark | None = None


class Thinking(Struct, tag="thinking", forbid_unknown_fields=True):
    thinking: Raw
    signature: Signed


class RedactedThinking(Struct, tag="redacted_thinking", forbid_unknown_fields=True):
    data: Signed


class ToolUse(Struct, tag="tool_use", forbid_unknown_fields=True):
    id: Raw
    name: Raw
    input: Raw
    cache_control: Mark | None = None


class ToolResult(Struct, tag="tool_result", forbid_unknown_fields=True):
    tool_use_id: Raw
    content: str | list[Text | Image | Document | SearchResult] = ""
    is_error: Raw = ANYTHING
    cache_control: Mark | None = None


class Message(Struct, forbid_unknown_fields=True):
    role: Literal["user", "assistant"]
    content: Said | list[Text | Image | Document | SearchResult | Thinking | RedactedThinking | ToolUse | ToolResult]


_KNOWN = (Text, Image, Document, SearchResult, Thinking, RedactedThinking, ToolUse, ToolResult)
BLOCKS: Mapping[str, frozenset[str]] = {
    str(shape.__struct_config__.tag): frozenset(("type", *shape.__struct_fields__)) for shape in _KNOWN
}
"""The members that each block may have."""
MESSAGE = frozenset(Message.__struct_fields__)
MARK = frozenset(Mark.__struct_fields__)

_messages = msgspec.json.Decoder(list[Message])
_message = msgspec.json.Decoder(Message)
RAWS = msgspec.json.Decoder(list[Raw])


def taken(messages: Raw) -> Sequence[Message] | None:
    """``messages`` if Bedrock takes them as they are. None may only mean that this cannot tell."""
    try:
        return _messages.decode(messages)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def taken_one(message: Raw) -> Message | None:
    """One message if Bedrock takes it as it is, with the same reserve."""
    try:
        return _message.decode(message)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


Outline: TypeAlias = tuple[Json, list[Json]]
"""A message's role, and the types of its blocks."""

Read: TypeAlias = list[tuple[Raw, Outline | None]]
"""Messages, each with its outline if Bedrock takes it as it is (None may only mean that this cannot tell)."""


def read(messages: Raw) -> Generator[None, None, Read]:
    """Each message by itself, in steps of about a MiB. Raises Fault(MALFORMED) if ``messages`` is no array."""
    try:
        raws = RAWS.decode(messages)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise unreadable(error, "messages") from None
    found: Read = []
    size = 0
    for raw in raws:
        if (size := size + memoryview(raw).nbytes) > STEP:
            yield
            size = 0
        shaped = taken_one(raw)
        found.append((raw, None if shaped is None else outline(shaped)))
    return found


def at_once(messages: Raw) -> Read:
    """The same in one step."""
    steps = read(messages)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: Read = end.value
            return found


def outline(message: Message) -> Outline:
    content = message.content
    return message.role, ["text"] if isinstance(content, str) else [block.__struct_config__.tag for block in content]


def unthought_loop(backwards: Iterable[Outline]) -> bool:
    """Whether a conversation, told from its end, stands in a tool loop whose first assistant message does not begin
    with thinking. With thinking ``enabled`` that is a 400 ("Expected `thinking` or `redacted_thinking`, ...")."""
    first: Sequence[Json] = ()
    for role, kinds in backwards:
        if role == "user" and "tool_result" not in kinds:
            break
        if role == "assistant":
            first = kinds
    return "tool_use" in first and first[0] not in ("thinking", "redacted_thinking")
