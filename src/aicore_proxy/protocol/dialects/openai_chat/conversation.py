"""Turns -> ``messages``.

OpenAI wants each assistant message with calls followed by one ``tool`` message per call, before anything else, and
texts only in those. So, for histories of other dialects, between two assistant messages: results first, then what
else there is; calls that nobody answered get an answer that says so; results that answer no call become user text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from aicore_proxy.protocol.dialects.openai_chat.content import encode_media
from aicore_proxy.protocol.dialects.openai_chat.reading import FUNCTION_CALL, NAME
from aicore_proxy.protocol.dialects.openai_chat.tools import Naming, mark
from aicore_proxy.protocol.neutral import (
    CacheMark,
    Extras,
    Foreign,
    Json,
    Loss,
    Media,
    Part,
    Reasoning,
    Refusal,
    Text,
    ToolCall,
    ToolResult,
    Turn,
)
from aicore_proxy.protocol.profiles import Profile

Message = dict[str, Any]

LONGEST_ID = 40
"""Azure OpenAI: "string too long. Expected a string with maximum length 40" for ``tool_calls[].id``."""

UNANSWERED = "The tool was not run: there is no result."


class Conversation:
    """One request's messages being written. Owns what waits for its place: results, and what follows them."""

    def __init__(
        self, source: str, profile: Profile, naming: Naming, as_functions: frozenset[str], losses: list[Loss]
    ) -> None:
        self._own = source == NAME
        self._gpt = profile.family == "gpt"
        self._mid_system = profile.mid_system
        self._naming = naming
        self._as_functions = as_functions
        self._losses = losses
        self._messages: list[Message] = []
        self._results: list[Message] = []
        self._others: list[Message] = []
        self._open: dict[str, list[str]] = {}
        """Calls that wait for their result: their id -> the ids under which they were written."""
        self._spoken = False

    def written(self, turns: Sequence[Turn]) -> list[Message]:
        """All of ``messages``."""
        for turn in turns if self._own else together(turns):
            match turn.role:
                case "assistant":
                    self._flush(settled=True)
                    self._assistant(turn)
                case "user":
                    self._user(turn)
                case _:
                    self._system(turn)
            if self._own:
                self._flush(settled=False)
            self._spoken = self._spoken or turn.role in ("user", "assistant")
        self._flush(settled=True)
        return self._messages

    def lost(self, field: str, reason: str = "", *, harmless: bool = True) -> None:
        """Notes a loss, each once."""
        loss = Loss(field, NAME, harmless, reason)
        if loss not in self._losses:
            self._losses.append(loss)

    def _flush(self, *, settled: bool) -> None:
        """What came since the last assistant message, in the order that OpenAI wants."""
        if settled and not self._own:
            self._results += [
                {"role": "tool", "tool_call_id": call_id, "content": UNANSWERED}
                for call_ids in self._open.values()
                for call_id in call_ids
            ]
            self._open = {}
        self._messages += self._results
        self._messages += self._others
        self._results, self._others = [], []

    # Roles

    def _system(self, turn: Turn) -> None:
        content = self._content(turn.parts, turn.role)
        if content is None:
            return
        if self._spoken and not self._mid_system and not self._own:
            text = "\n".join(part.text for part in turn.parts if isinstance(part, Text))
            self._others.append({"role": "user", "content": f"<system-reminder>\n{text}\n</system-reminder>"})
            return
        self._others.append(self._message(turn, turn.role, content))

    def _user(self, turn: Turn) -> None:
        rest: list[Part] = []
        for part in turn.parts:
            if isinstance(part, ToolResult):
                rest += self._result(part)
            else:
                rest.append(part)
        if not rest and turn.parts:
            return
        content = self._content(rest, "user")
        if content is not None:
            self._others.append(self._message(turn, "user", content))

    def _message(self, turn: Turn, role: str, content: Json) -> Message:
        name = {"name": turn.name} if turn.name else {}
        return {"role": role, "content": content, **name, **turn.extras}

    def _assistant(self, turn: Turn) -> None:
        thoughts = [part for part in turn.parts if isinstance(part, Reasoning)]
        calls = [part for part in turn.parts if isinstance(part, ToolCall)]
        refusals = [part for part in turn.parts if isinstance(part, Refusal) and (part.text or self._own)]
        spoken: list[Part] = [part for part in turn.parts if not isinstance(part, Reasoning | ToolCall | Refusal)]
        if not self._own:
            spoken = self._shown_by_user(spoken)
        content = self._content(spoken, "assistant") if spoken else None
        message: Message = {"role": "assistant", "content": content}
        if turn.name:
            message["name"] = turn.name
        if refusals:
            message["refusal"] = "\n".join(part.text for part in refusals)
        self._think(thoughts, message)
        self._call(calls, message)
        message |= turn.extras
        if len(message) > 2 or content is not None:
            self._messages.append(message)
        elif self._own and not turn.parts:
            self._messages.append({**message, "content": ""})

    def _shown_by_user(self, parts: Sequence[Part]) -> list[Part]:
        """Texts stay; what the assistant showed follows in a user message, since it cannot stand in its own."""
        shown = [part for part in parts if isinstance(part, Media)]
        if shown:
            self._show("Shown by the assistant:", shown)
        return [part for part in parts if not isinstance(part, Media)]

    def _think(self, thoughts: Sequence[Reasoning], message: Message) -> None:
        text = "".join(part.text for part in thoughts)
        if thoughts and self._gpt:
            self.lost("messages.reasoning_content", "OpenAI takes no thoughts back")
        elif text:
            message["reasoning_content"] = text

    # Calls and results

    def _call(self, calls: Sequence[ToolCall], message: Message) -> None:
        written = []
        for call in calls:
            if call.id.startswith(FUNCTION_CALL) and self._own:
                message["function_call"] = {"name": call.name, "arguments": call.arguments, **call.extras}
                continue
            written.append(self._written_call(call, self._opened(call.id)))
        if written:
            message["tool_calls"] = written

    def _opened(self, call_id: str) -> str:
        """The id under which a call is written. Two calls of one message that have the same get two."""
        taken = {written for call_ids in self._open.values() for written in call_ids}
        written = short_id(call_id)
        number = 1
        while not self._own and (written in taken or not written):
            number += 1
            written = short_id(f"{call_id or 'call'}_{number}")
        self._open.setdefault(call_id, []).append(written)
        return written

    def _written_call(self, call: ToolCall, call_id: str) -> Message:
        extras = dict(call.extras)
        if call.cache is not None:
            extras |= self._mark(call.cache, extras)
        name = self._naming.clean(call.name)
        head = {"id": call_id}
        if call.kind == "custom" and name not in self._as_functions:
            held = {"name": name, "input": call.arguments, **extras.pop("custom", {})}
            return {**head, "type": "custom", "custom": held, **extras}
        arguments = call.arguments
        if call.kind == "custom":
            arguments = msgspec.json.encode({"input": arguments}).decode()
        held = {"name": name, "arguments": arguments or ("" if self._own else "{}"), **extras.pop("function", {})}
        return {**head, "type": "function", "function": held, **extras}

    def _result(self, result: ToolResult) -> list[Part]:
        """Writes a tool's answer. What it gives, of an answer to no call that is open, is for a user message."""
        waiting = self._open.get(result.call_id)
        call_id = waiting.pop(0) if waiting else short_id(result.call_id)
        if not waiting:
            self._open.pop(result.call_id, None)
        if waiting is None and not self._own:
            return [Text(f"Result of the tool call {result.call_id}:"), *result.content]
        texts = [self._textual(part) for part in result.content]
        shown = [part for part, text in zip(result.content, texts, strict=True) if text is None]
        parts: list[Part] = [text for text in texts if text is not None]
        if shown and self._own:
            parts = list(result.content)
        content = self._result_content(parts, is_error=result.is_error)
        message: Message = {"role": "tool", "tool_call_id": call_id, "content": content}
        if self._own and result.name:
            message["name"] = result.name
        if result.call_id.startswith(FUNCTION_CALL) and self._own:
            message = {"role": "function", "name": result.name, "content": content}
        if result.cache is not None:
            message |= self._mark(result.cache, result.extras)
        self._results.append({**message, **{k: v for k, v in result.extras.items() if k not in message}})
        if shown and not self._own:
            self._show(f"From the result of the tool call {call_id}:", shown)
        return []

    def _textual(self, part: Part) -> Part | None:
        """``part`` as a tool message can hold it; None if it cannot."""
        if isinstance(part, Media):
            if part.text is None:
                return None
            written = encode_media(part, own=False)
            return Text(written["text"]) if written else None
        return part

    def _result_content(self, parts: Sequence[Part], *, is_error: bool) -> Json:
        content = self._content(parts, "tool") if parts else ""
        if is_error:
            # Chat has no field for it
            if isinstance(content, str):
                return content if content[:5].lower() == "error" else f"Error: {content}" if content else "Error"
            return [{"type": "text", "text": "Error:"}, *(content or [])]
        return "" if content is None else content

    def _show(self, words: str, shown: Sequence[Part]) -> None:
        content = self._content([Text(words), *shown], "user")
        if content is not None:
            self._others.append({"role": "user", "content": content})

    # Content

    def _content(self, parts: Sequence[Part], role: str) -> Json:
        """A string for one plain text, else a list of parts; None if nothing is left of them."""
        match parts:
            case [Text(cache=None, extras=extras) as only] if not extras:
                return only.text
            case []:
                return ""
        written = [block for part in parts if (block := self._block(part, role)) is not None]
        if not self._own:
            written = [block for block in written if block.get("text") != ""]
        if not written:
            return None
        if len(written) == 1 and written[0].keys() == {"type", "text"}:
            return written[0]["text"]
        return written

    def _block(self, part: Part, role: str) -> Message | None:
        match part:
            case Text(text=text, cache=cache, extras=extras):
                return {"type": "text", "text": text, **extras, **self._mark(cache, extras)}
            case Media():
                return self._media(part)
            case Refusal(text=text, extras=extras):
                return {"type": "refusal", "refusal": text, **extras}
            case Foreign(dialect=dialect, block=block) if dialect == NAME:
                return dict(block)
            case _:
                self.lost(f"messages.content.{type(part).__name__.lower()}", f"has no place in a {role} message")
                return None

    def _media(self, media: Media) -> Message | None:
        block = encode_media(media, own=self._own)
        if block is None:
            reason = "Chat Completions cannot show it"
            if media.file_id:
                reason = "the file is kept by another API"
            self.lost(f"messages.content.{media.kind}", reason, harmless=False)
            return None
        if media.cache is not None:
            block |= self._mark(media.cache, media.extras)
        return block

    def _mark(self, cache: CacheMark | None, extras: Extras) -> Mapping[str, Json]:
        if cache is None:
            return {}
        if self._gpt:
            self.lost("cache_control", "OpenAI caches by itself")
            return {}
        return mark(cache, extras)


def short_id(call_id: str) -> str:
    """A call's id as OpenAI takes it; a longer one by its digest, the same for call and result."""
    if len(call_id) <= LONGEST_ID:
        return call_id
    return "call_" + hashlib.sha256(call_id.encode(errors="replace")).hexdigest()[:32]


def together(turns: Iterable[Turn]) -> list[Turn]:
    """``turns`` with an assistant's calls and what it said right before or after them in one: their results follow
    all of it."""
    joined: list[Turn] = []
    for turn in turns:
        last = joined[-1] if joined else None
        if last is not None and last.role == turn.role == "assistant" and _calls(last):
            joined[-1] = replace(last, parts=(*last.parts, *turn.parts))
        else:
            joined.append(turn)
    return joined


def _calls(turn: Turn) -> bool:
    return any(isinstance(part, ToolCall) for part in turn.parts)
