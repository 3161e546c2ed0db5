"""streamGenerateContent, in both directions: SSE of whole GenerateContentResponses, a piece of the answer in each.

Function calls come whole in one part, several in one chunk, or in pieces where that was asked for (``partial.py``); a
stream ends with a ``finishReason`` and no terminator.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from aicore_proxy.protocol import surrogates
from aicore_proxy.protocol.dialects import Answering
from aicore_proxy.protocol.dialects.gemini.partial import Gathering
from aicore_proxy.protocol.dialects.gemini.parts import alone, bears
from aicore_proxy.protocol.dialects.gemini.response import (
    BROKEN,
    WIRE_FINISH,
    answer_parts,
    answer_writer,
    broken,
    embedded_fault,
    encode_fault,
    finish_of,
    kept_reason,
    usage_of,
    wire_usage,
)
from aicore_proxy.protocol.dialects.gemini.wire import as_count, as_object, as_objects, as_text
from aicore_proxy.protocol.fault import Fault, Kind
from aicore_proxy.protocol.neutral import (
    Close,
    Delta,
    Done,
    Event,
    Failure,
    Finish,
    Foreign,
    Media,
    Open,
    Part,
    Reasoning,
    Refusal,
    Seal,
    Sealed,
    Start,
    Tally,
    Text,
    ToolCall,
    Usage,
)

Json = Any


def framed(payload: bytes) -> bytes:
    """One payload as its frame: with the space, without which google-genai reads nothing."""
    return b"data: " + payload + b"\n\n"


KEEPALIVE = b"\n"
"""A blank line. Comments break Gemini clients; an empty object, which none complains of, makes google-genai's chats
forget the turn and call its functions for ever, since each chunk must hold a part."""


class Decoder:
    """Reads an upstream's stream. One per stream."""

    def __init__(self) -> None:
        self._started = False
        self._candidates: dict[int, _Candidate] = {}
        self._usage: Usage | None = None
        self._counts: Json = None
        """``usageMetadata`` as it last came."""

    def feed(self, data: bytes) -> list[Event]:
        if len(data) < 16 and data.strip() in (b"", b"[DONE]"):
            return []
        try:
            body = msgspec.json.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            if (better := surrogates.mended(data)) is not None:
                return self.feed(better)
            return [Failure(Fault(Kind.UPSTREAM_FAILED, "Gemini sent a piece of the stream that is no JSON."))]
        if isinstance(body, list):
            body = next((item for item in body if isinstance(item, dict)), {})
        if not isinstance(body, dict):
            return [Failure(Fault(Kind.UPSTREAM_FAILED, "Gemini sent a piece of the stream that is no object."))]
        if (more := self._more(body)) is not None:
            return [more]
        if (fault := embedded_fault(body)) is not None:
            return [Failure(fault)]
        return self._events(body) if body else []

    def _more(self, body: Mapping[str, Json]) -> Delta | None:
        """The commonest piece, quick: more of the text that is open, and nothing else."""
        match body:
            case {"candidates": [{"content": {"parts": [{"text": str(text)} as part]}} as wire]} if text:
                number = wire.get("index", 0)
                candidate = self._candidates.get(number) if isinstance(number, int) else None
                if (
                    candidate is not None
                    and candidate.opened is Text
                    and len(part) == 1
                    and "finishReason" not in wire
                    and body.get("usageMetadata", self._counts) == self._counts
                ):
                    return Delta(candidate.index, text, candidate.number)
        return None

    def _events(self, body: Mapping[str, Json]) -> list[Event]:
        events: list[Event] = []
        if not self._started:
            self._started = True
            extras = {"promptFeedback": body["promptFeedback"]} if "promptFeedback" in body else {}
            events.append(Start(as_text(body.get("responseId")), as_text(body.get("modelVersion")), extras=extras))
        usage = usage_of(body)
        self._counts = body.get("usageMetadata", self._counts)
        finishes: list[Finish] = []
        for position, wire in enumerate(as_objects(body.get("candidates"))):
            number = as_count(wire.get("index", position))
            candidate = self._candidates.get(number) or self._candidates.setdefault(number, _Candidate(number))
            events += candidate.fed(wire)
            finishes += candidate.finished(wire, events)
        blocked = as_object(body.get("promptFeedback")).get("blockReason")
        if blocked and not self._candidates:
            self._candidates[0] = _Candidate(0, over=True)
            finishes.append(Finish("content_filter"))
        if usage is not None and usage != self._usage:
            self._usage = usage
            if finishes:
                finishes[-1] = msgspec.structs.replace(finishes[-1], usage=usage)
            else:
                events.append(Tally(usage))
        return [*events, *finishes]

    def end(self) -> list[Event]:
        if self._candidates and all(candidate.over for candidate in self._candidates.values()):
            return [Done()]
        words = "before its finish reason" if self._candidates else "without an answer"
        return [Failure(Fault(Kind.UPSTREAM_FAILED, f"Gemini's stream ended {words}."))]


class _Candidate(Struct):
    """One candidate's parts while they come. ``opened``: the text or thought that may go on."""

    number: int
    over: bool = False
    index: int = -1
    opened: type[Text] | type[Reasoning] | None = None
    called: bool = False
    gathering: Gathering = msgspec.field(default_factory=Gathering)

    def fed(self, wire: Mapping[str, Json]) -> list[Event]:
        events: list[Event] = []
        for piece in as_objects(as_object(wire.get("content")).get("parts")):
            if (whole := self.gathering.taken(piece)) is not None:
                self._read(whole, events)
        return events

    def _read(self, piece: Mapping[str, Json], events: list[Event]) -> None:
        for part in answer_parts(piece):
            self._part(part, events)

    def _part(self, part: Part, events: list[Event]) -> None:
        match part:
            case Text(text="") | Reasoning(text="", seal=None):
                pass
            case Text(text=text, extras=extras):
                self._goes_on(Text, Text("", extras=extras), text, events)
            case Reasoning(text=text, seal=seal) if text:
                self._goes_on(Reasoning, Reasoning(extras=part.extras), text, events)
                if seal is not None:
                    events.append(Sealed(self.index, seal, self.number))
                    self.close(events)
            case Reasoning(seal=seal) if seal is not None and not part.redacted and self.opened is Reasoning:
                # The signature of the thought that just went by
                events.append(Sealed(self.index, seal, self.number))
                self.close(events)
            case Reasoning(seal=seal) if seal is not None:
                self.close(events)
                self._seal_alone(part, events)
            case ToolCall():
                self.called = True
                self.close(events)
                self._whole(msgspec.structs.replace(part, arguments=""), events, part.arguments or "{}")
            case _:
                self.close(events)
                self._whole(part, events)

    def _goes_on(
        self, kind: type[Text] | type[Reasoning], part: Text | Reasoning, text: str, events: list[Event]
    ) -> None:
        if self.opened is not kind or part.extras:
            self.close(events)
            self.index += 1
            self.opened = kind
            events.append(Open(self.index, part, self.number))
        if text:
            events.append(Delta(self.index, text, self.number))

    def _whole(self, part: Part, events: list[Event], text: str = "") -> None:
        self.index += 1
        events.append(Open(self.index, part, self.number))
        if text:
            events.append(Delta(self.index, text, self.number))
        events.append(Close(self.index, self.number))

    def _seal_alone(self, part: Reasoning, events: list[Event]) -> None:
        if part.redacted or part.seal is None:
            self._whole(part, events)
            return
        self.index += 1
        events.append(Open(self.index, msgspec.structs.replace(part, seal=None), self.number))
        events += (Sealed(self.index, part.seal, self.number), Close(self.index, self.number))

    def close(self, events: list[Event]) -> None:
        if self.opened is not None:
            self.opened = None
            events.append(Close(self.index, self.number))

    def finished(self, wire: Mapping[str, Json], events: list[Event]) -> list[Finish]:
        reason = as_text(wire.get("finishReason"))
        if not reason or self.over or reason == "FINISH_REASON_UNSPECIFIED":
            return []
        self.over = True
        if (call := self.gathering.ended()) is not None:
            self._read(call, events)
        self.close(events)
        if reason in BROKEN and self.index < 0:
            events.append(Failure(broken(reason, as_text(wire.get("finishMessage")))))
            return []
        finish = finish_of(reason, called=self.called)
        extras = {name: value for name, value in wire.items() if name not in ("content", "finishReason", "index")}
        return [Finish(finish, candidate=self.number, extras={**extras, **kept_reason(reason, finish)})]


class Encoder:
    """Writes a client's stream. One per stream.

    A call is written once it is whole; finishes come last, on one chunk for all candidates: clients take the first
    ``finishReason`` for the end. Every chunk has a part, else google-genai's chats forget the turn; calls in a row
    share a chunk, the last ones the last chunk, since these chats make each chunk a Content, and results must follow
    their calls at once.
    """

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self._writer = answer_writer(answering)
        self._id = answering.fresh_id
        self._model = answering.request.model
        self._extras: dict[str, Json] = {}
        self._writing: dict[tuple[int, int], _Written] = {}
        self._waiting: dict[int, tuple[Reasoning, str]] = {}
        self._last: tuple[int, list[dict[str, Json]]] | None = None
        """Whole calls of a candidate that are written with what comes next."""
        self._finishes: dict[int, Finish] = {}
        self._usage: Usage | None = None
        self._begun = False
        self._over = False

    def feed(self, event: Event) -> bytes:
        if self._over:
            return b""
        match event:
            case Start():
                self._id = event.id or self._id
                self._model = self._model or event.model
                self._usage = event.usage
                self._extras = dict(event.extras)
                return b""
            case Open(index=index, part=part, candidate=candidate):
                return self._opened(candidate, index, part)
            case Delta(index=index, text=text, candidate=candidate):
                return self._added(self._part(candidate, index), candidate, text)
            case Sealed(index=index, seal=seal, candidate=candidate):
                self._part(candidate, index).seal = self._answering.sealer(seal)
                self._part(candidate, index).sealed = seal
                return b""
            case Close(index=index, candidate=candidate):
                return self._closed(candidate, index)
            case Finish():
                self._finishes[event.candidate] = event
                self._usage = event.usage or self._usage
                return b""
            case Tally(usage=usage):
                self._usage = usage
                return b""
            case Done():
                return self._done()
            case _:
                return b""

    def fail(self, fault: Fault, request_id: str) -> bytes:
        """The error chunk, and nothing after it. Calls that are not whole are left out."""
        self._over = True
        return self._released() + framed(msgspec.json.encode(encode_fault(fault, request_id)[1]))

    def _part(self, candidate: int, index: int) -> _Written:
        return self._writing.setdefault((candidate, index), _Written(Text("")))

    def _opened(self, candidate: int, index: int, part: Part) -> bytes:
        out = self._tails(candidate)
        out += b"" if isinstance(part, ToolCall) else self._waited(candidate)
        written = self._writing[candidate, index] = _Written(part)
        match part:
            case ToolCall(arguments=text, seal=seal):
                written.texts.append(text)
            case Reasoning(text=text, seal=seal):
                out += self._added(written, candidate, text)
            case Text(text=text) | Refusal(text=text):
                return out + self._added(written, candidate, text)
            case Media() | Foreign():
                return out + self._chunk(candidate, self._writer.written([part]))
            case _:
                return out
        written.sealed, written.seal = seal, self._answering.sealer(seal)
        return out

    def _added(self, written: _Written, candidate: int, text: str) -> bytes:
        if not text:
            return b""
        match written.part:
            case ToolCall():
                written.texts.append(text)
                return b""
            case Reasoning():
                # The last character waits for the signature: the AI SDK takes none from an empty thought
                text = written.tail + text
                written.told, written.tail = True, text[-1]
                return self._thought(candidate, text[:-1])
            case _:
                return self._chunk(candidate, [{"text": text}])

    def _thought(self, candidate: int, text: str, seal: str | None = None) -> bytes:
        if not self._writer.thoughts or not (text or seal):
            return b""
        signature = {"thoughtSignature": seal} if seal is not None else {}
        return self._chunk(candidate, [{"text": text, "thought": True, **signature}])

    def _tails(self, candidate: int) -> bytes:
        """Ends of thoughts that nobody closed before the next part."""
        out = b""
        for (number, _), written in self._writing.items():
            if written.tail and number == candidate:
                out += self._thought(candidate, written.tail)
                written.tail = ""
        return out

    def _closed(self, candidate: int, index: int) -> bytes:
        written = self._writing.pop((candidate, index), None)
        match written:
            case _Written(part=ToolCall() as call, texts=texts, seal=seal):
                whole = msgspec.structs.replace(call, arguments="".join(texts), seal=None)
                before = self._waiting.get(candidate)
                if seal is None and before is not None and bears(whole, before[0], self._answering.sealer):
                    seal = self._waiting.pop(candidate)[1]
                out = self._waited(candidate)
                if self._last is not None and self._last[0] != candidate:
                    out += self._released()
                before_it = self._last[1] if self._last else []
                self._last = (candidate, [*before_it, self._writer.call(whole, seal)])
                return out
            case _Written(part=Reasoning() as thought, seal=str(seal), told=False, sealed=sealed):
                # It may stand on the call that follows
                self._waiting[candidate] = (msgspec.structs.replace(thought, text="", seal=sealed), seal)
                return b""
            case _Written(part=Reasoning(), seal=seal, tail=tail):
                return self._thought(candidate, tail, seal)
            case _:
                return b""

    def _waited(self, candidate: int) -> bytes:
        """The seal that waited for a call, on a part of its own."""
        before = self._waiting.pop(candidate, None)
        return b"" if before is None else self._chunk(candidate, [alone(*before)])

    def _released(self) -> bytes:
        last, self._last = self._last, None
        return b"" if last is None else self._chunk(*last)

    def _done(self) -> bytes:
        self._over = True
        out = b"".join(self._closed(candidate, index) for candidate, index in list(self._writing))
        out += b"".join(self._waited(candidate) for candidate in list(self._waiting))
        parts: list[dict[str, Json]] = [{"text": ""}]
        if self._last is not None and list(self._finishes) == [self._last[0]]:
            parts = self._last[1]
        else:
            out += self._released()
        candidates: list[dict[str, Json]] = []
        blocked = not self._begun and self._last is None and "promptFeedback" in self._extras
        for number, finish in sorted(self._finishes.items()) if not blocked else ():
            extras = {name: value for name, value in finish.extras.items() if name != "finishReason"}
            reason = finish.extras.get("finishReason") or WIRE_FINISH[finish.reason]
            content = {"role": "model", "parts": parts}
            candidates.append({"content": content, "finishReason": reason, "index": number, **extras})
        body = {"usageMetadata": wire_usage(self._usage or Usage()), **self._extras}
        return out + self._frame(({"candidates": candidates} if candidates else {}) | body)

    def _chunk(self, candidate: int, parts: list[dict[str, Json]]) -> bytes:
        if not parts:
            return b""
        self._begun = True
        held = self._released()
        return held + self._frame({"candidates": [{"content": {"role": "model", "parts": parts}, "index": candidate}]})

    def _frame(self, body: dict[str, Json]) -> bytes:
        return framed(msgspec.json.encode({**body, "modelVersion": self._model, "responseId": self._id}))


class _Written(Struct):
    """A part of an answer while it is written. ``told``: it has text. ``tail``: text that was not written yet."""

    part: Part
    texts: list[str] = msgspec.field(default_factory=list)
    seal: str | None = None
    sealed: Seal | None = None
    told: bool = False
    tail: str = ""
