"""Streams of the Messages API: the upstream's events read, the client's written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from aicore_proxy.protocol import surrogates
from aicore_proxy.protocol.dialects.anthropic_messages.faults import decode_fault
from aicore_proxy.protocol.dialects.anthropic_messages.reading import HOME, NAME, rest
from aicore_proxy.protocol.dialects.anthropic_messages.usage import STOPS, count, decode_metrics, decode_usage
from aicore_proxy.protocol.fault import Fault, Kind, kind_of, status_in
from aicore_proxy.protocol.neutral import (
    Annotated,
    Close,
    Delta,
    Done,
    Event,
    Failure,
    Finish,
    Foreign,
    Json,
    Open,
    Part,
    Reasoning,
    Sealed,
    Start,
    Tally,
    Text,
    ToolCall,
    Usage,
)
from aicore_proxy.protocol.seal import restore

_decode = msgspec.json.Decoder().decode
UNREADABLE = "The model's stream has an event that cannot be read."
BROKEN = "The model's stream broke off."
STOPPED = frozenset(("stop_reason", "stop_sequence"))
FINISHED = frozenset(("type", "delta", "usage"))
TOOL_USE = frozenset(("type", "id", "name", "input"))
DELTAS = {"text_delta": "text", "input_json_delta": "partial_json", "thinking_delta": "thinking"}


class Block:
    """One content block being read. ``index``: the neutral one; None for a block that comes whole at its end."""

    __slots__ = ("block", "index", "pieces", "signature", "spoke")

    def __init__(self, index: int | None, block: Mapping[str, Json]) -> None:
        self.index = index
        self.block = block
        self.pieces: list[str] = []
        self.signature = ""
        self.spoke = False


class MessagesDecoder:
    """Reads an upstream's events. Bears missing starts and stops, unknown types, and errors of every shape."""

    def __init__(self) -> None:
        self._blocks: dict[int, Block] = {}
        self._next = 0
        self._usage: Usage | None = None
        self._counted = False
        self._begun = False
        self._finished = False
        self._done = False

    def feed(self, data: bytes) -> list[Event]:
        if self._done or not data.strip():
            return []
        if data.strip() == b"[DONE]":
            return self.end() if self._finished else []
        try:
            event = _decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            if (better := surrogates.mended(data)) is not None:
                return self.feed(better)
            return self._failed(Fault(Kind.UPSTREAM_FAILED, UNREADABLE, code="upstream_error"))
        if not isinstance(event, dict):
            return self._failed(Fault(Kind.UPSTREAM_FAILED, UNREADABLE, code="upstream_error"))
        return self._event(event)

    def end(self) -> list[Event]:
        if self._done:
            return []
        if not self._finished:
            return self._failed(Fault(Kind.UPSTREAM_FAILED, BROKEN, code="upstream_error"))
        self._done = True
        return [*self._close_all(), Done()]

    def _event(self, event: dict[str, Any]) -> list[Event]:
        index = event.get("index")
        at = index if isinstance(index, int) else 0
        match event.get("type"):
            case "message_start":
                return self._start(event.get("message"))
            case "content_block_start":
                return self._open(at, event.get("content_block"))
            case "content_block_delta":
                return self._delta(at, event.get("delta"))
            case "content_block_stop":
                return self._close(at)
            case "message_delta":
                return self._message_delta(event)
            case "message_stop":
                return self._stop(event)
            case "error":
                return self._failed(error_of(event))
            case None if "error" in event or "message" in event:
                return self._failed(error_of(event))
            case _:
                return []

    def _start(self, message: Json) -> list[Event]:
        if self._begun or not isinstance(message, dict):
            return []
        self._begun = True
        self._usage = decode_usage(message.get("usage"))
        return [Start(str(message.get("id") or ""), str(message.get("model") or ""), self._usage)]

    def _open(self, at: int, block: Json) -> list[Event]:
        if not isinstance(block, dict):
            return []
        before = self._close(at) if at in self._blocks else []
        part = opened(block)
        if part is None:
            self._blocks[at] = Block(None, block)
            return before
        index, self._next = self._next, self._next + 1
        mine = self._blocks[at] = Block(index, block)
        events: list[Event] = [*before, Open(index, part)]
        if isinstance(signature := block.get("signature"), str):
            mine.signature = signature
        text = block.get("thinking" if block.get("type") == "thinking" else "text")
        if isinstance(text, str) and text:
            events.append(Delta(index, text))
        return events

    def _delta(self, at: int, delta: Json) -> list[Event]:
        if not isinstance(delta, dict):
            return []
        kind = delta.get("type")
        events: list[Event] = []
        if at not in self._blocks:
            if kind not in ("text_delta", "thinking_delta", "signature_delta"):
                return []
            events = self._open(at, {"type": "text" if kind == "text_delta" else "thinking"})
        mine = self._blocks[at]
        if kind == "signature_delta":
            mine.signature += delta["signature"] if isinstance(delta.get("signature"), str) else ""
            return events
        name = DELTAS.get(str(kind))
        if name is None:
            return [*events, Annotated(mine.index, NAME, noted(delta))] if mine.index is not None else events
        text = delta.get(name)
        if not isinstance(text, str) or not text:
            return events
        mine.spoke = True
        if mine.index is None:
            mine.pieces.append(text)
            return events
        return [*events, Delta(mine.index, text)]

    def _close(self, at: int) -> list[Event]:
        mine = self._blocks.pop(at, None)
        if mine is None:
            return []
        if mine.index is None:
            index, self._next = self._next, self._next + 1
            return [Open(index, Foreign(NAME, whole(mine))), Close(index)]
        events: list[Event] = []
        given = mine.block.get("input")
        if mine.block.get("type") == "tool_use" and not mine.spoke and isinstance(given, dict) and given:
            events.append(Delta(mine.index, msgspec.json.encode(given).decode()))
        if (seal := restore(mine.signature, HOME)) is not None:
            events.append(Sealed(mine.index, seal))
        return [*events, Close(mine.index)]

    def _close_all(self) -> list[Event]:
        return [event for at in list(self._blocks) for event in self._close(at)]

    def _message_delta(self, event: dict[str, Any]) -> list[Event]:
        told = event.get("usage")
        self._usage = decode_usage(told, self._usage)
        self._counted = self._counted or (isinstance(told, dict) and count(told, "output_tokens") is not None)
        usage = self._usage if self._counted else None
        delta = event.get("delta")
        delta = delta if isinstance(delta, dict) else {}
        reason = delta.get("stop_reason")
        if reason is None or self._finished:
            return [Tally(usage)] if usage is not None else []
        self._finished = True
        sequence = delta.get("stop_sequence")
        extras = {**rest(delta, STOPPED), **rest(event, FINISHED)}
        finish = Finish(
            STOPS.get(str(reason), "stop"),
            usage,
            sequence if isinstance(sequence, str) else None,
            extras=extras,
        )
        return [*self._close_all(), finish]

    def _stop(self, event: dict[str, Any]) -> list[Event]:
        events = self._close_all()
        if not self._counted and (usage := decode_metrics(event.get("amazon-bedrock-invocationMetrics"))):
            self._usage, self._counted = usage, True
            events += [Tally(usage)] if self._finished else []
        if not self._finished:
            events.append(Finish("stop", self._usage if self._counted else None))
        self._finished = self._done = True
        return [*events, Done()]

    def _failed(self, fault: Fault) -> list[Event]:
        self._done = True
        return [Failure(fault)]


def opened(block: Mapping[str, Json]) -> Part | None:
    """The part that a block begins; None for one that only Claude's own clients know."""
    match block.get("type"):
        case "text":
            return Text("")
        case "thinking":
            return Reasoning()
        case "redacted_thinking":
            data = block.get("data")
            return Reasoning("", restore(data if isinstance(data, str) else None, HOME), redacted=True)
        case "tool_use":
            return ToolCall(str(block.get("id") or ""), str(block.get("name") or ""), extras=rest(block, TOOL_USE))
        case _:
            return None


def noted(delta: Mapping[str, Json]) -> Mapping[str, Json]:
    """A delta that only Claude's own clients know, as members of the block: lists add up."""
    if delta.get("type") == "citations_delta":
        return {"citations": [delta.get("citation")]}
    return {"deltas": [delta]}


def whole(mine: Block) -> dict[str, Json]:
    """A foreign block with the input that came in pieces."""
    block = dict(mine.block)
    if mine.pieces:
        try:
            block["input"] = _decode("".join(mine.pieces).encode())
        except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError):
            block["input"] = "".join(mine.pieces)
    return block


def error_of(event: Mapping[str, Json]) -> Fault:
    """The Fault of an error event: Anthropic's own, SAP's ``{"error": "<Label>", "message"}``, OpenAI's shape, AWS's
    bare ``{"message"}`` (SAP AI Core wire facts 8.2 and 8.3)."""
    if (fault := decode_fault(200, event)) is not None:
        return fault
    error = event.get("error")
    inner = error if isinstance(error, dict) else event
    code = next((str(v) for v in (inner.get("code"), error, inner.get("type")) if isinstance(v, str | int)), None)
    words = next((v for v in (inner.get("message"), event.get("message")) if isinstance(v, str) and v), None)
    words = words or (error if isinstance(error, str) and error else BROKEN)
    return Fault(kind_of(status_of(code, words), words, code), words, code=code)


def status_of(code: str | None, words: str) -> int:
    """What the status would have been."""
    said = f"{code or ''} {words}".lower()
    if code is not None and (status := status_in(code)) is not None:
        return status
    if "throttl" in said or "toomanyrequest" in said or "too many" in said or "rate_limit" in said:
        return 429
    if "unavailable" in said or "overloaded" in said:
        return 503
    if "timeout" in said or "timed out" in said:
        return 504
    return 400 if "validation" in said or "invalid_request" in said or "badrequest" in said else 500
