"""An upstream's stream, frame by frame -> events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from aicore_proxy.protocol import surrogates
from aicore_proxy.protocol.dialects.openai_chat.faults import stream_fault, unreadable
from aicore_proxy.protocol.dialects.openai_chat.reading import FUNCTION_CALL, NAME
from aicore_proxy.protocol.dialects.openai_chat.response import (
    ANSWER,
    bare,
    image_of,
    made_id,
    number_of,
    text_of,
    thought_of,
)
from aicore_proxy.protocol.dialects.openai_chat.usage import decode_finish, decode_usage
from aicore_proxy.protocol.neutral import (
    NOTHING,
    Annotated,
    Close,
    Delta,
    Done,
    Event,
    Failure,
    Finish,
    Json,
    Open,
    Part,
    Reasoning,
    Refusal,
    Start,
    Tally,
    Text,
    ToolCall,
    Usage,
)
from aicore_proxy.protocol.openai_members import rest

DONE = b"[DONE]"
MOST_CANDIDATES = 128
MOST_CALLS = 1024

Spoken = Literal["text", "thought", "refusal"]
NEW: Mapping[Spoken, Part] = {"text": Text(""), "thought": Reasoning(), "refusal": Refusal("")}

DELTA = frozenset({"role", "content", "refusal", "reasoning_content", "reasoning", "tool_calls", "function_call",
                   "images", "obfuscation"})  # fmt: skip

_decode = msgspec.json.Decoder().decode


class Calling:
    """One call of the model while its pieces come. ``index``: its part's, once it is open."""

    __slots__ = ("held", "id", "index", "kind", "name")

    def __init__(self, kind: Literal["function", "custom"]) -> None:
        self.kind = kind
        self.id = ""
        self.name = ""
        self.held = ""
        self.index: int | None = None


class Speaking:
    """One candidate's state. Owned by its decoder."""

    __slots__ = ("calls", "filters", "finished", "kind", "number", "open", "parts", "refused")

    def __init__(self, number: int) -> None:
        self.number = number
        self.parts = 0
        self.kind: Spoken | None = None
        self.open = 0
        self.calls: dict[int, Calling] = {}
        self.finished = False
        self.refused = False
        self.filters: Json = None

    def speak(self, kind: Spoken, text: str, events: list[Event]) -> None:
        """More of a text, thought or refusal: the open part's, or a new one's."""
        if self.kind != kind:
            self.hush(events)
            self.kind, self.open = kind, self.parts
            self.parts += 1
            events.append(Open(self.open, NEW[kind], self.number))
        events.append(Delta(self.open, text, self.number))

    def hush(self, events: list[Event]) -> None:
        if self.kind is not None:
            events.append(Close(self.open, self.number))
            self.kind = None

    def show(self, part: Part, events: list[Event]) -> None:
        """A part that comes whole."""
        self.hush(events)
        events += (Open(self.parts, part, self.number), Close(self.parts, self.number))
        self.parts += 1

    def begin(self, call: Calling, answer_id: str, events: list[Event]) -> None:
        """Opens a call with what came of it so far."""
        self.hush(events)
        call.index = self.parts
        self.parts += 1
        call_id = call.id or made_id(answer_id, self.number, call.index)
        events.append(Open(call.index, ToolCall(call_id, call.name, kind=call.kind), self.number))
        if call.held:
            events.append(Delta(call.index, call.held, self.number))

    def close(self, answer_id: str, events: list[Event]) -> None:
        """Closes all that is open. Calls stay open until here, since their pieces may come in turns."""
        self.hush(events)
        for call in self.calls.values():
            if call.index is None and (call.id or call.held):
                self.begin(call, answer_id, events)
        events += [Close(call.index, self.number) for call in self.calls.values() if call.index is not None]

    @property
    def called(self) -> bool:
        return any(call.index is not None for call in self.calls.values())


class ChatDecoder:
    """Reads one stream: Azure's first frame without choices, calls in pieces that take turns, usage on the finish
    frame or alone, errors in any of SAP's shapes, ``[DONE]`` or none (SAP AI Core wire facts 3.4, 8.2)."""

    def __init__(self) -> None:
        self._speaking: dict[int, Speaking] = {}
        self._id = ""
        self._extras: dict[str, Json] = {}
        self._begun = False
        self._over = False

    def feed(self, data: bytes) -> list[Event]:
        if self._over or not data:
            return []
        if data == DONE or (data[:1] == b"[" and data.strip() == DONE):
            return self._done()
        try:
            frame = _decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            if (better := surrogates.mended(data)) is not None:
                return self.feed(better)
            return [Failure(unreadable("SAP AI Core sent a stream frame that is no JSON."))]
        if not isinstance(frame, dict):
            return [Failure(unreadable("SAP AI Core sent a stream frame that is no JSON object."))]
        return self._frame(frame)

    def end(self) -> list[Event]:
        if self._over:
            return []
        self._over = True
        if self._speaking and all(speaking.finished for speaking in self._speaking.values()):
            return [Done()]
        events: list[Event] = []
        for speaking in self._speaking.values():
            if not speaking.finished:
                speaking.close(self._id, events)
        what = "before the answer was complete" if self._begun else "before any content"
        return [*events, Failure(unreadable(f"SAP AI Core ended the stream {what}."))]

    def _done(self) -> list[Event]:
        """``[DONE]``: what has no finish reason yet is taken as complete."""
        self._over = True
        if not self._speaking:
            return [Failure(unreadable("SAP AI Core ended the stream before any content."))]
        events: list[Event] = []
        for speaking in self._speaking.values():
            if not speaking.finished:
                self._finish(speaking, "stop", {}, None, events)
        return [*events, Done()]

    def _frame(self, frame: dict[str, Json]) -> list[Event]:
        choices = frame.get("choices")
        events: list[Event] = []
        if (not choices or frame.get("error")) and (fault := stream_fault(frame)) is not None:
            self._over = True
            return [Failure(fault)]
        if not self._begun:
            self._start(frame, events)
        usage = decode_usage(frame.get("usage")) if frame.get("usage") else None
        counted = False
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                counted |= self._choice(choice, usage, events)
        if usage is not None and not counted:
            events.append(Tally(usage))
        return events

    def _start(self, frame: dict[str, Json], events: list[Event]) -> None:
        """The first frame that belongs to the answer; Azure's very first has neither id nor choices."""
        self._extras.update(rest(frame, ANSWER | {"obfuscation"}))
        answer_id = text_of(frame.get("id"))
        if not answer_id and not frame.get("choices"):
            return
        self._begun = True
        self._id = answer_id
        created = number_of(frame.get("created"), 0)
        model = text_of(frame.get("model"))
        events.append(Start(answer_id, model, created=created, extras=self._extras or NOTHING))

    def _choice(self, choice: dict[str, Json], usage: Usage | None, events: list[Event]) -> bool:
        """One choice of a frame. Whether its Finish took the usage."""
        number = number_of(choice.get("index"), 0)
        speaking = self._speaking.get(number)
        if speaking is None:
            if number >= MOST_CANDIDATES:
                return False
            speaking = self._speaking[number] = Speaking(number)
        if speaking.finished:
            return False
        delta = choice.get("delta")
        if isinstance(delta, dict) and delta:
            self._delta(delta, speaking, events)
        if choice.get("logprobs"):
            self._logprobs(choice["logprobs"], speaking, events)
        if (filters := choice.get("content_filter_results")) is not None:
            speaking.filters = filters or speaking.filters or filters
        reason = choice.get("finish_reason")
        if not reason:
            return False
        known = ("index", "delta", "finish_reason", "logprobs", "content_filter_results")
        self._finish(speaking, reason, rest(choice, known), usage, events)
        return usage is not None

    def _finish(
        self, speaking: Speaking, reason: Json, extras: dict[str, Json], usage: Usage | None, events: list[Event]
    ) -> None:
        speaking.close(self._id, events)
        speaking.finished = True
        if speaking.filters is not None:
            extras["content_filter_results"] = speaking.filters
        finish = decode_finish(reason, called=speaking.called, refused=speaking.refused)
        events.append(Finish(finish, usage, candidate=speaking.number, extras=extras or NOTHING))

    def _delta(self, delta: dict[str, Json], speaking: Speaking, events: list[Event]) -> None:
        if thought := thought_of(delta):
            speaking.speak("thought", thought, events)
        content = delta.get("content")
        if isinstance(content, str):
            if content:
                speaking.speak("text", content, events)
        elif isinstance(content, list):
            for block in content:
                if isinstance(block, dict) and (text := text_of(block.get("text"))):
                    speaking.speak("text", text, events)
        if refusal := text_of(delta.get("refusal")):
            speaking.refused = True
            speaking.speak("refusal", refusal, events)
        if calls := delta.get("tool_calls"):
            for i, call in enumerate(calls if isinstance(calls, list) else ()):
                if isinstance(call, dict):
                    self._call(call, i, speaking, events)
        if isinstance(legacy := delta.get("function_call"), dict):
            self._function_call(legacy, speaking, events)
        for image in delta["images"] if isinstance(delta.get("images"), list) else ():
            if isinstance(image, dict):
                speaking.show(image_of(image), events)
        if speaking.kind is not None and not delta.keys() <= DELTA and (more := rest(delta, DELTA)):
            events.append(Annotated(speaking.open, NAME, more, speaking.number))

    def _call(self, told: dict[str, Json], position: int, speaking: Speaking, events: list[Event]) -> None:
        kind: Literal["function", "custom"] = "custom" if "custom" in told else "function"
        held = told.get(kind)
        inner: dict[str, Any] = held if isinstance(held, dict) else {}
        wire = number_of(told.get("index"), position)
        call_id, name = text_of(told.get("id")), text_of(inner.get("name"))
        call = speaking.calls.get(wire)
        if call is not None and call_id and name and call.id not in ("", call_id):
            # Some servers number every call 0: a new id with a name is a new call
            speaking.calls[len(speaking.calls) + MOST_CALLS] = call
            call = None
        if call is None:
            if len(speaking.calls) >= MOST_CALLS:
                return
            call = speaking.calls[wire] = Calling(kind)
        self._piece(
            call, call_id, name, text_of(inner.get("input" if kind == "custom" else "arguments")), speaking, events
        )

    def _function_call(self, told: dict[str, Json], speaking: Speaking, events: list[Event]) -> None:
        call = speaking.calls.setdefault(-1, Calling("function"))
        call_id = FUNCTION_CALL + bare(self._id)
        self._piece(call, call_id, text_of(told.get("name")), text_of(told.get("arguments")), speaking, events)

    def _piece(
        self, call: Calling, call_id: str, name: str, text: str, speaking: Speaking, events: list[Event]
    ) -> None:
        """More of a call, which is opened once its name is known."""
        if call.index is not None:
            if text:
                events.append(Delta(call.index, text, speaking.number))
            return
        call.id = call.id or call_id
        call.name = call.name or name
        call.held += text
        if call.name:
            speaking.begin(call, self._id, events)

    def _logprobs(self, told: Json, speaking: Speaking, events: list[Event]) -> None:
        """Log probabilities belong to the text or refusal that is being spoken."""
        tokens = told.get("refusal" if speaking.kind == "refusal" else "content") if isinstance(told, dict) else None
        if isinstance(tokens, list) and tokens and speaking.kind is not None:
            events.append(Annotated(speaking.open, NAME, {"logprobs": tokens}, speaking.number))
