"""The conversation as ``contents``: read from a Gemini client, and written as Gemini demands it.

A Content with functionCalls must be followed at once by one that holds just as many functionResponses, in their
order; what other dialects' clients send (results late, in another order, in several turns, beside texts, or never)
is put in order here. A history that came in this dialect is written as it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from aicore_proxy.protocol.dialects.gemini.parts import BYPASS, PartWriter, decode_part
from aicore_proxy.protocol.dialects.gemini.wire import HOME, NAME, Node
from aicore_proxy.protocol.neutral import (
    Loss,
    Media,
    Part,
    Reasoning,
    Request,
    Text,
    ToolCall,
    ToolResult,
    Turn,
    called_names,
)

Json = Any


# Reading


class HistoryReader:
    """Reads ``contents`` in order. Calls without an id get one by their number, which later turns do not shift;
    results without one belong to the first open call of their name."""

    def __init__(self) -> None:
        self._calls = 0
        self._taken: set[str] = set()
        self._open: list[tuple[str, str]] = []

    def turns(self, contents: Iterable[Node]) -> tuple[Turn, ...]:
        read = [self._turn(content) for content in contents]
        return tuple(_rejoined(read) if any(_foreign_seal(part) for turn in read for part in turn.parts) else read)

    def _turn(self, content: Node) -> Turn:
        role: Any
        match content.text("role"):
            case "model" | "assistant":
                role = "assistant"
            case "system":
                role = "system"
            case None | "" | "user" | "function" | "tool":
                role = "user"
            case _:
                raise content.refused("role", "'user' or 'model'")
        parts = [part for node in content.nodes("parts") for part in self._parts(node)]
        return Turn(role, tuple(parts), extras=content.rest())

    def _parts(self, node: Node) -> list[Part]:
        text = node.value.get("text")
        if len(node.value) == 1 and isinstance(text, str):
            return [Text(text)]
        if (call := node.node("functionCall")) is not None:
            call_id = call.text("id") or self._fresh()
            self._taken.add(call_id)
            self._open.append((call_id, call.text("name") or ""))
            return decode_part(node, call_id=call_id)
        if (response := node.node("functionResponse")) is not None:
            return decode_part(node, result_id=self._answered(response.text("id"), response.text("name")))
        return decode_part(node)

    def _fresh(self) -> str:
        self._calls += 1
        while (call_id := f"call_{self._calls}") in self._taken:
            self._calls += 1
        return call_id

    def _answered(self, call_id: str | None, name: str | None) -> str:
        named = [call for call in self._open if call[0] == call_id] or [call for call in self._open if call[1] == name]
        if not named:
            return call_id or self._fresh()
        self._open.remove(named[0])
        return named[0][0]


def _foreign_seal(part: Part) -> bool:
    return isinstance(part, Reasoning) and part.seal is not None and part.seal.family != HOME


def _rejoined(turns: Sequence[Turn]) -> list[Turn]:
    """Turns with the thoughts of other families whole: streamed to a Gemini client they came in pieces, the seal on the
    last one, and some clients make each piece a part or a Content."""
    joined: list[Turn] = []
    for turn in turns:
        if joined and turn.role == "assistant" and joined[-1].role == "assistant":
            joined[-1] = replace(joined[-1], parts=(*joined[-1].parts, *turn.parts))
        else:
            joined.append(turn)
    return [replace(turn, parts=tuple(_with_seals(turn.parts))) for turn in joined]


def _with_seals(parts: Sequence[Part]) -> list[Part]:
    whole: list[Part] = []
    for part in parts:
        if not (isinstance(part, Reasoning) and _foreign_seal(part) and not part.redacted):
            whole.append(part)
            continue
        text = part.text
        while whole and isinstance(before := whole[-1], Reasoning) and before.seal is None:
            text = before.text + text
            whole.pop()
        whole.append(replace(part, text=text))
    return whole


# Writing


def system_and_contents(
    request: Request, writer: PartWriter, *, nested_media: bool
) -> tuple[list[dict[str, Json]], list[dict[str, Json]]]:
    """(parts of systemInstruction, contents). System turns before all others become the instruction; later ones stay
    at their place, as a reminder in the user's name. ``nested_media``: the model takes media inside a
    functionResponse (Gemini 3)."""
    leading = 0
    while leading < len(request.turns) and request.turns[leading].role in ("system", "developer"):
        leading += 1
    head, rest = request.turns[:leading], request.turns[leading:]
    if not rest and head and request.source != NAME:
        # Contents must not be empty
        rest = tuple(replace(turn, role="user") for turn in head)
        head = ()
    system = [part for turn in head for part in writer.written(turn.parts)]
    if request.source == NAME:
        return system, _as_they_were(rest, writer)
    contents = HistoryWriter(rest, writer, nested_media=nested_media).contents()
    return system, contents or [{"role": "user", "parts": [{"text": " "}]}]


def _as_they_were(turns: Sequence[Turn], writer: PartWriter) -> list[dict[str, Json]]:
    contents: list[dict[str, Json]] = []
    for turn in turns:
        parts = writer.written(turn.parts)
        if turn.role in ("system", "developer"):
            parts = [{"text": reminder(part["text"])} if "text" in part else part for part in parts]
        contents.append({"role": "model" if turn.role == "assistant" else "user", "parts": parts, **turn.extras})
    return contents


def reminder(text: str) -> str:
    return f"<system-reminder>\n{text}\n</system-reminder>"


class HistoryWriter:
    """Writes the turns of another dialect's client. One per request."""

    def __init__(self, turns: Sequence[Turn], writer: PartWriter, *, nested_media: bool) -> None:
        self._turns = turns
        self._writer = writer
        self._nested_media = nested_media
        self._names = called_names(turns)
        self._results: dict[str, list[ToolResult]] = {}
        self._placed: set[int] = set()
        results = (part for turn in turns for part in turn.parts if isinstance(part, ToolResult))
        for result in results:
            self._results.setdefault(result.call_id, []).append(result)
        self._contents: list[dict[str, Json]] = []
        self._closed = False
        """The last content holds functionResponses: nothing else may join it."""

    def contents(self) -> list[dict[str, Json]]:
        asked: list[Part] = []
        for position, turn in enumerate(self._turns):
            match turn.role:
                case "assistant":
                    asked += turn.parts
                    following = self._turns[position + 1] if position + 1 < len(self._turns) else None
                    if following is None or following.role != "assistant":
                        self._model(asked, last=following is None)
                        asked = []
                case "user":
                    self._user(turn.parts)
                case _:
                    self._add("user", self._reminders(turn.parts))
            if turn.name:
                self._writer.losses.append(Loss("messages.name", NAME, reason="no such field"))
        return self._contents

    def _add(self, role: str, parts: list[dict[str, Json]]) -> None:
        if not parts:
            return
        if self._contents and self._contents[-1]["role"] == role and not self._closed:
            self._contents[-1]["parts"] += parts
        else:
            self._contents.append({"role": role, "parts": parts})
        self._closed = False

    def _reminders(self, parts: Sequence[Part]) -> list[dict[str, Json]]:
        def wrapped(part: Part) -> Part:
            return replace(part, text=reminder(part.text)) if isinstance(part, Text) and part.text else part

        return self._writer.written([wrapped(part) for part in parts])

    def _user(self, parts: Sequence[Part]) -> None:
        loose: list[Part] = []
        for part in parts:
            if not isinstance(part, ToolResult):
                loose.append(part)
            elif id(part) not in self._placed:
                loose += self._orphan(part)
        self._add("user", self._writer.written(loose))

    def _orphan(self, result: ToolResult) -> list[Part]:
        """A result whose call is not in the history (cut off, or answered twice), told as what it is."""
        name = result.name or self._names.get(result.call_id)
        texts = [piece.text for piece in result.content if isinstance(piece, Text)]
        failed = " (it failed)" if result.is_error else ""
        told = f"Result of an earlier call of {name or 'a tool'}{failed}:\n" + "\n".join(texts)
        return [Text(told), *(piece for piece in result.content if not isinstance(piece, Text))]

    def _model(self, parts: Sequence[Part], *, last: bool) -> None:
        self._add("model", self._writer.written(parts))
        calls = [part for part in parts if isinstance(part, ToolCall)]
        if not calls or (last and not any(self._results.get(call.id) for call in calls)):
            return
        responses: list[dict[str, Json]] = []
        beside: list[Part] = []
        for call in calls:
            waiting = self._results.get(call.id)
            if not waiting:
                missing = ToolResult(call.id, (Text("The call was not answered."),), is_error=True)
                responses.append(self._writer.result(missing, call.name))
                continue
            result = waiting.pop(0)
            self._placed.add(id(result))
            inside, outside = self._divided(result)
            responses.append(self._writer.result(inside, call.name))
            if outside:
                beside += [Text(f"Returned by {call.name}:"), *outside]
        self._contents.append({"role": "user", "parts": responses})
        self._closed = True
        self._add("user", self._writer.written(beside))

    def _divided(self, result: ToolResult) -> tuple[ToolResult, list[Part]]:
        """What may stand inside a functionResponse, and what must follow it: before Gemini 3 all media, and media
        beside functionResponses in one Content are refused too (Vertex AI, "multimodal function responses")."""
        outside = [piece for piece in result.content if isinstance(piece, Media) and not self._nests(piece)]
        inside = tuple(piece for piece in result.content if piece not in outside)
        return replace(result, content=inside), [*outside]

    def _nests(self, media: Media) -> bool:
        if not self._nested_media:
            return False
        return media.kind == "image" or media.media_type in ("application/pdf", "text/plain") or media.text is not None


def signed(contents: list[dict[str, Json]]) -> None:
    """Marks the first call of each model Content that has no signature as not Gemini's own: Gemini 3 refuses it
    unsigned. In every turn, not only the current one, so that a longer history does not move the marks."""
    for content in contents:
        if content["role"] != "model":
            continue
        first = next((part for part in content["parts"] if "functionCall" in part), None)
        if first is not None and "thoughtSignature" not in first:
            first["thoughtSignature"] = BYPASS


def renamed(mapping: Mapping[str, str]) -> dict[str, str]:
    """Names as they went up -> as the client knows them, for those that changed."""
    return {sent: name for name, sent in mapping.items() if sent != name}
