"""Events -> a client's stream. The strictest clients decide: ``object``, ``id``, ``created``, ``model`` and
``index`` in every chunk, the role in a candidate's first delta, one finish reason each, usage only where asked for,
``[DONE]`` at the end, but not after an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from aicore_proxy.protocol.dialects import Answering
from aicore_proxy.protocol.dialects.openai_chat.faults import encode_fault
from aicore_proxy.protocol.dialects.openai_chat.reading import NAME
from aicore_proxy.protocol.dialects.openai_chat.response import answer_id_of, image_block, shows_thoughts
from aicore_proxy.protocol.dialects.openai_chat.tools import is_legacy
from aicore_proxy.protocol.dialects.openai_chat.usage import encode_finish, encode_usage
from aicore_proxy.protocol.fault import Fault
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
    Media,
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

ENDING = b"data: [DONE]\n\n"
MIDDLE = b',"logprobs":null,"finish_reason":null}]'

_encode = msgspec.json.Encoder().encode


def framed(payload: bytes) -> bytes:
    """One SSE frame."""
    return b"data: " + payload + b"\n\n"


class Speech(Struct):
    """One candidate being written. ``calls``: how many of its calls were opened."""

    calls: int = 0
    refused: bool = False
    finished: bool = False


class Piece(Struct):
    """One part being written. ``member``: the delta's member that its text goes to; None: it is not shown. ``call``:
    its number among the calls. ``silent``: no argument was written yet."""

    member: str | None
    call: int | None = None
    custom: bool = False
    silent: bool = False


class ChatEncoder:
    """Writes one stream. Chat has no blocks: whatever the order of events, each is a chunk of its own."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self._shows_thoughts = shows_thoughts(answering)
        self._legacy = is_legacy(answering.request.tools)
        self._counts = answering.request.stream_usage
        self._tail = b',"usage":null}\n\n' if self._counts else b"}\n\n"
        self._speeches: dict[int, Speech] = {}
        self._pieces: dict[tuple[int, int], Piece] = {}
        self._usage: Usage | None = None
        self._first: Mapping[str, Json] = NOTHING
        self._head = self._identity("", 0, NOTHING)
        self._ended = False

    def _identity(self, answer_id: str, created: int, extras: Mapping[str, Json]) -> bytes:
        """How every chunk begins, up to its choices."""
        told = {
            "id": answer_id_of(answer_id, self._answering),
            "object": "chat.completion.chunk",
            "created": created or self._answering.now,
            "model": self._answering.request.model,
            **extras,
        }
        return b"data: " + _encode(told)[:-1] + b',"choices":['

    def feed(self, event: Event) -> bytes:
        if self._ended:
            return b""
        match event:
            case Delta(index=index, text=text, candidate=candidate):
                return self._delta(candidate, index, text)
            case Open(index=index, part=part, candidate=candidate):
                return self._open(candidate, index, part)
            case Close(index=index, candidate=candidate):
                return self._close(candidate, index)
            case Annotated():
                return self._annotated(event)
            case Finish():
                return self._finish(event)
            case Start():
                return self._start(event)
            case Tally(usage=usage):
                self._usage = usage
                return b""
            case Done():
                return self._done()
            case Failure(fault=fault):
                return self.fail(fault, self._answering.request_id)
            case _:
                return b""

    def fail(self, fault: Fault, request_id: str) -> bytes:
        """The error frame; nothing after it."""
        if self._ended:
            return b""
        self._ended = True
        return framed(_encode(encode_fault(fault, request_id)[1]))

    def _start(self, event: Start) -> bytes:
        self._usage = event.usage or self._usage
        constant = {name: value for name, value in event.extras.items() if isinstance(value, str)}
        self._first = {name: value for name, value in event.extras.items() if name not in constant}
        self._head = self._identity(event.id, event.created, constant)
        return b""

    def _chunk(self, candidate: int, delta: bytes) -> bytes:
        return b"".join((self._head, b'{"index":%d,"delta":' % candidate, delta, MIDDLE, self._tail))

    def _speech(self, candidate: int, part: Part | None) -> tuple[Speech, bytes]:
        """The candidate's state, and its first chunk if this is its first event: the role."""
        speech = self._speeches.get(candidate)
        if speech is not None:
            return speech, b""
        speech = self._speeches[candidate] = Speech()
        content = None if isinstance(part, ToolCall | Refusal) else ""
        first = self._chunk(candidate, _encode({"role": "assistant", "content": content, "refusal": None}))
        if self._first:
            # What Azure tells of the prompt, once
            first = first[: -len(self._tail)] + b"," + _encode(self._first)[1:-1] + self._tail
            self._first = NOTHING
        return speech, first

    def _open(self, candidate: int, index: int, part: Part) -> bytes:
        speech, first = self._speech(candidate, part)
        if speech.finished:
            return first
        piece, delta = self._opened(speech, part)
        self._pieces[candidate, index] = piece
        return first + self._chunk(candidate, _encode(delta)) if delta else first

    def _opened(self, speech: Speech, part: Part) -> tuple[Piece, dict[str, Any]]:
        match part:
            case Text(text=text):
                return Piece("content"), {"content": text} if text else {}
            case Reasoning(text=text):
                shown = "reasoning_content" if self._shows_thoughts and not part.redacted else None
                return Piece(shown), {shown: text} if shown and text else {}
            case Refusal(text=text):
                speech.refused = True
                return Piece("refusal"), {"refusal": text} if text else {}
            case ToolCall():
                return self._called(speech, part)
            case Media(kind="image"):
                return Piece(None), {"images": [image_block(part)]}
            case _:
                return Piece(None), {}

    def _called(self, speech: Speech, call: ToolCall) -> tuple[Piece, dict[str, Any]]:
        number = speech.calls
        speech.calls += 1
        custom = call.kind == "custom"
        if self._legacy:
            if number:
                return Piece(None), {}  # that form has room for one
            return Piece("function_call", 0, silent=not call.arguments), {
                "function_call": {"name": call.name, "arguments": call.arguments}
            }
        held = {"name": call.name, "input" if custom else "arguments": call.arguments}
        told = {"index": number, "id": call.id, "type": call.kind, call.kind: held, **call.extras}
        silent = not call.arguments and not custom
        return Piece("tool_calls", number, custom, silent), {"tool_calls": [told]}

    def _delta(self, candidate: int, index: int, text: str) -> bytes:
        piece = self._pieces.get((candidate, index))
        if piece is None or piece.member is None or not text or self._speeches[candidate].finished:
            return b""
        if piece.call is None:
            return self._chunk(candidate, b'{"%b":%b}' % (piece.member.encode(), _encode(text)))
        piece.silent = False
        return self._arguments(candidate, piece, text)

    def _arguments(self, candidate: int, piece: Piece, text: str) -> bytes:
        told = _encode(text)
        if piece.member == "function_call":
            return self._chunk(candidate, b'{"function_call":{"arguments":%b}}' % told)
        held = b'"custom":{"input":%b}' if piece.custom else b'"function":{"arguments":%b}'
        return self._chunk(candidate, b'{"tool_calls":[{"index":%d,%b}]}' % (piece.call or 0, held % told))

    def _close(self, candidate: int, index: int) -> bytes:
        piece = self._pieces.pop((candidate, index), None)
        if piece is None or not piece.silent or self._speeches[candidate].finished:
            return b""
        # Clients parse the arguments as JSON, even where there are none
        return self._arguments(candidate, piece, "{}")

    def _annotated(self, event: Annotated) -> bytes:
        piece = self._pieces.get((event.candidate, event.index))
        if event.dialect != NAME or piece is None or self._speeches[event.candidate].finished:
            return b""
        delta = dict(event.block)
        tokens = delta.pop("logprobs", None)
        chunk = self._chunk(event.candidate, _encode(delta))
        if tokens is None:
            return chunk
        held = {"content": None, "refusal": None} | {piece.member or "content": tokens}
        middle = b',"logprobs":' + _encode(held) + b',"finish_reason":null}]'
        return chunk[: -len(MIDDLE + self._tail)] + middle + self._tail

    def _finish(self, event: Finish) -> bytes:
        self._usage = event.usage or self._usage
        speech, first = self._speech(event.candidate, None)
        if speech.finished:
            return first
        left = [place for place in self._pieces if place[0] == event.candidate]
        closed = b"".join(self._close(*place) for place in left)
        speech.finished = True
        reason = encode_finish(event.reason, called=speech.calls > 0, refused=speech.refused, legacy=self._legacy)
        more = b"," + _encode(event.extras)[1:-1] if event.extras else b""
        end = b'{"index":%d,"delta":{},"logprobs":null,"finish_reason":"%b"%b}]' % (
            event.candidate,
            reason.encode(),
            more,
        )
        return first + closed + self._head + end + self._tail

    def _done(self) -> bytes:
        """The end: what has no finish gets one, then usage where it was asked for, then ``[DONE]``."""
        unfinished = [number for number, speech in self._speeches.items() if not speech.finished]
        if not self._speeches:
            unfinished = [0]
        out = [self._finish(Finish("stop", candidate=number)) for number in unfinished]
        if self._counts:
            out.append(self._head + b'],"usage":' + _encode(encode_usage(self._usage)) + b"}\n\n")
        self._ended = True
        return b"".join((*out, ENDING))
