"""Neutral turns -> ``system`` and ``messages`` that Claude takes, whatever history a client of another API sends.

Rules of the Messages API that are seen to here: user and assistant alternate, the user begins; every ``tool_use`` is
answered in the next user message, before any text, once; ids are unique; a message of role ``system`` follows a user's
and comes before an assistant's or at the end ("role 'system' must precede an 'assistant' message or end the array").
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct, field
from msgspec.structs import replace

from aicore_proxy.protocol.dialects.anthropic_messages.blocks import Drafting, cleaned, compact, encode_part
from aicore_proxy.protocol.neutral import (
    Extras,
    Foreign,
    Json,
    Media,
    Part,
    Reasoning,
    Refusal,
    Text,
    ToolCall,
    ToolResult,
    Turn,
)

Block = dict[str, Json]
NO_RESULT = "No result of this call is known: it was cancelled, or its result was lost."
OPENING = "(The conversation begins.)"
CONTINUE = "Go on exactly where your last message ends. Do not repeat any of it."
LONGEST_ID = 64


class Pending(Struct):
    """A call and whether it was answered. ``id``: as it goes up."""

    call: ToolCall
    id: str
    answered: bool = False


class Segment(Struct):
    """One message in the making. ``answers``: results for its calls, wherever they stood."""

    role: str
    parts: list[Part] = field(default_factory=list)
    extras: dict[str, Json] = field(default_factory=dict)
    calls: list[Pending] = field(default_factory=list)
    answers: list[ToolResult] = field(default_factory=list)


class Message(Struct):
    role: str
    blocks: list[Block]
    extras: dict[str, Json] = field(default_factory=dict)

    def encoded(self) -> Block:
        return {"role": self.role, "content": compact(self.blocks), **self.extras}


def split_system(turns: Sequence[Turn]) -> tuple[list[Part], Sequence[Turn]]:
    """The texts of the system turns up front, and the turns after them."""
    parts: list[Part] = []
    for i, turn in enumerate(turns):
        if turn.role not in ("system", "developer") or turn.extras:
            return parts, turns[i:]
        parts += turn.parts
    return parts, ()


def write_system(parts: Sequence[Part], draft: Drafting) -> list[Block]:
    """The blocks of ``system``: texts only."""
    blocks: list[Block] = []
    for part in parts:
        if isinstance(part, Text | Refusal | Foreign):
            block = encode_part(part, draft)
            blocks += [block] if block is not None else []
        else:
            draft.lost("system", "Claude takes only texts there", harmless=not isinstance(part, Media))
    return blocks


def write_messages(turns: Sequence[Turn], draft: Drafting, *, mid_system: bool) -> list[Message]:
    """The messages for ``turns``. ``mid_system``: the model takes system messages after the first other one."""
    segments = gathered(turns, draft)
    drafts = drafted(segments, draft)
    messages: list[Message] = []
    for i, message in enumerate(drafts):
        if message.role != "system":
            push(messages, message)
            continue
        before = messages[-1].role if messages else None
        after = drafts[i + 1].role if i + 1 < len(drafts) else "assistant"
        texts = all(block.get("type") == "text" for block in message.blocks) or draft.own
        if mid_system and (before, after) == ("user", "assistant") and texts:
            push(messages, message)
        else:
            if message.extras:
                draft.lost(f"messages.{next(iter(message.extras))}")
            push(messages, Message("user", [reminder(block) for block in message.blocks]))
    if not draft.own and (not messages or messages[0].role != "user"):
        messages.insert(0, Message("user", [{"type": "text", "text": OPENING}]))
    return messages


def push(messages: list[Message], message: Message) -> None:
    """Appends, or adds to the last one where the role is the same. Results stay first."""
    if not messages or messages[-1].role != message.role:
        messages.append(message)
        return
    last = messages[-1]
    last.blocks += message.blocks
    if message.role == "user":
        last.blocks.sort(key=lambda block: block.get("type") != "tool_result")
    last.extras.update(message.extras)


def reminder(block: Block) -> Block:
    """A system text as a user's, marked as what it is."""
    text = block.get("text")
    if not isinstance(text, str) or text.lstrip().startswith("<system-reminder>"):
        return block
    return {**block, "text": f"<system-reminder>\n{text}\n</system-reminder>"}


# Calls and their results


def gathered(turns: Sequence[Turn], draft: Drafting) -> list[Segment]:
    """Turns as segments, each result with the segment of its call."""
    segments: list[Segment] = []
    ids: set[str] = set()
    for turn in turns:
        role = "system" if turn.role == "developer" else turn.role
        segment = Segment(role, extras=dict(turn.extras))
        strays: list[Part] = []
        if turn.name:
            draft.lost("messages.name", "Claude knows no names of speakers")
        for part in turn.parts:
            match part:
                case ToolCall() if role == "assistant":
                    pending = Pending(part, unique(part.id, ids))
                    segment.calls.append(pending)
                    segment.parts.append(replace(part, id=pending.id))
                case ToolResult():
                    if not answer(segments, part):
                        draft.lost("tool_result.tool_use_id", "a result without its call")
                        (segment.parts if role == "user" else strays).extend(orphaned(part))
                case ToolCall() | Reasoning() if role != "assistant":
                    draft.lost("content", "a call or a thought that is not the assistant's")
                case Media() if role == "assistant":
                    draft.lost(f"content.{part.kind}", "Claude takes no media from the assistant", harmless=False)
                case _:
                    segment.parts.append(part)
        if segment.parts or segment.extras:
            join(segments, segment)
        if strays:
            segments.append(Segment("user", strays))
    for segment in segments:
        segment.answers += [
            ToolResult(pending.id, (Text(NO_RESULT),), is_error=True)
            for pending in segment.calls
            if not pending.answered
        ]
    return segments


def join(segments: list[Segment], segment: Segment) -> None:
    """Consecutive assistant turns are one message, so that their calls are answered after all of it."""
    last = segments[-1] if segments else None
    if last is None or last.role != "assistant" or segment.role != "assistant" or last.answers:
        segments.append(segment)
        return
    last.parts += segment.parts
    last.calls += segment.calls
    last.extras.update(segment.extras)


def answer(segments: list[Segment], result: ToolResult) -> bool:
    """Gives ``result`` to the latest unanswered call of its id; False: there is none."""
    for segment in reversed(segments):
        for pending in segment.calls:
            if not pending.answered and pending.call.id == result.call_id:
                pending.answered = True
                segment.answers.append(replace(result, call_id=pending.id))
                return True
    return False


def unique(wanted: str, ids: set[str]) -> str:
    """``wanted`` in Claude's alphabet, numbered where an earlier call has it."""
    first = cleaned(wanted or "call", LONGEST_ID)
    name, number = first, 1
    while name in ids:
        number += 1
        name = cleaned(f"{first}_{number}", LONGEST_ID)
    ids.add(name)
    return name


def orphaned(result: ToolResult) -> list[Part]:
    """A result whose call is not in the history: kept as what the user says."""
    name = result.name or result.call_id or "unknown"
    state = "failed" if result.is_error else "answered"
    return [Text(f"(The tool call {name} {state}:)"), *result.content]


def drafted(segments: Sequence[Segment], draft: Drafting) -> list[Message]:
    """Segments as messages, results right after their calls; empty ones left out."""
    messages: list[Message] = []

    def write(role: str, parts: Sequence[Part], extras: Extras) -> None:
        blocks = [block for part in parts if (block := encode_part(part, draft)) is not None]
        if blocks and messages and messages[-1].role == role == "system":
            push(messages, Message(role, blocks, dict(extras)))
        elif blocks:
            messages.append(Message(role, blocks, dict(extras)))
        elif messages and messages[-1].role == role:
            # Of a message that held nothing but results, which stand in the one before
            messages[-1].extras.update(extras)

    for segment in segments:
        write(segment.role, segment.parts, segment.extras)
        write("user", segment.answers, {})
    return messages


# What the end of the conversation means for the next answer


def in_unthought_loop(messages: Sequence[Message]) -> bool:
    """Whether the conversation stands in a tool loop whose first assistant message does not begin with thinking.
    With thinking ``enabled`` that is a 400 ("Expected `thinking` or `redacted_thinking`, but found `tool_use`")."""
    first: Message | None = None
    for message in reversed(messages):
        if message.role == "user" and not any(block.get("type") == "tool_result" for block in message.blocks):
            break
        if message.role == "assistant":
            first = message
    if first is None:
        return False
    return first.blocks[0].get("type") not in ("thinking", "redacted_thinking")


def trimmed_end(messages: list[Message]) -> bool:
    """Whether the conversation ends with the assistant (a prefill); its last text must not end with white space."""
    if not messages or messages[-1].role != "assistant":
        return False
    last = messages[-1].blocks[-1]
    if last.get("type") == "text":
        last["text"] = last["text"].rstrip()
    return True
