"""A Messages client's stream. The strictest clients decide: blocks come one after the other, each opened and closed
once; ``message_start`` has usage; ``message_delta`` has a stop reason and all counts; ``message_stop`` ends it; an
``error`` event ends it too, and nothing comes after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from aicore_proxy.protocol.dialects import Answering
from aicore_proxy.protocol.dialects.anthropic_messages.faults import encode_fault
from aicore_proxy.protocol.dialects.anthropic_messages.reading import NAME
from aicore_proxy.protocol.dialects.anthropic_messages.response import answer_blocks, call_block, hidden
from aicore_proxy.protocol.dialects.anthropic_messages.usage import encode_stop, encode_usage
from aicore_proxy.protocol.fault import Fault
from aicore_proxy.protocol.neutral import (
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
    Seal,
    Sealed,
    Start,
    Tally,
    Text,
    ToolCall,
    Usage,
)

_encode = msgspec.json.Encoder().encode


def frame(kind: str, payload: dict[str, Json]) -> bytes:
    """One SSE frame with the ``event:`` line that Anthropic's SDKs read."""
    return b"event: " + kind.encode() + b"\ndata: " + _encode({"type": kind, **payload}) + b"\n\n"


class Pending:
    """A part that was opened but waits for its turn, or is being written. ``wire``: its block's index once begun."""

    __slots__ = ("closed", "part", "seal", "texts", "wire", "written")

    def __init__(self, part: Part) -> None:
        self.part = part
        self.texts: list[dict[str, Json]] = []
        self.seal: Seal | None = None
        self.wire: int | None = None
        self.written = False
        self.closed = False

    def ready(self, settled: bool) -> bool:
        """Whether there is something to write. A call waits for its first arguments, since its seal may come before
        them; a thought without text is written for its seal, once that is all of it."""
        match self.part:
            case Text() | Refusal():
                return bool(self.texts)
            case Reasoning(redacted=False):
                return bool(self.texts) or (settled and self.seal is not None)
            case ToolCall():
                return bool(self.texts) or (settled and not self.written)
            case _:
                return not self.written


class MessagesEncoder:
    """Writes one stream. Blocks of the wire never overlap: a text or thought ends when the next part begins, a call
    when it is closed; what comes for another part meanwhile waits."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self._hidden = hidden(answering)
        self._parts: dict[int, Pending] = {}
        self._current: Pending | None = None
        self._wire = 0
        self._begun = False
        self._ended = False
        self._called = False
        self._refused = False
        self._finish: Finish | None = None
        self._usage: Usage | None = None

    def feed(self, event: Event) -> bytes:
        """The frames for ``event``; none after the end, none for candidates beside the first."""
        if self._ended or getattr(event, "candidate", 0) != 0:
            self._usage = getattr(event, "usage", None) or self._usage
            return b""
        match event:
            case Start():
                return self._start(event)
            case Open(index=index, part=part):
                return self._start(None) + self._open(index, part)
            case Delta(index=index, text=text):
                return self._delta(index, text)
            case Sealed(index=index, seal=seal):
                return self._sealed(index, seal)
            case Annotated(index=index, dialect=dialect, block=block):
                mine = self._parts.get(index)
                if dialect != NAME or mine is None or mine.closed or not isinstance(mine.part, Text):
                    return b""
                return self._note(mine, block)
            case Close(index=index):
                return self._close(index)
            case Finish():
                self._finish = event
                self._usage = event.usage or self._usage
                return self._start(None) + self._close_all()
            case Tally(usage=usage):
                self._usage = usage
                return b""
            case Done():
                return self._end()
            case Failure(fault=fault):
                return self.fail(fault, "")

    def fail(self, fault: Fault, request_id: str) -> bytes:
        """What is open closed, then the error event."""
        if self._ended:
            return b""
        out = self._stop_current() if self._begun else b""
        self._ended = True
        _, body = encode_fault(fault, request_id)
        return out + frame("error", {name: value for name, value in body.items() if name != "type"})

    # The message

    def _start(self, event: Start | None) -> bytes:
        if self._begun:
            if event is not None and event.usage is not None:
                self._usage = event.usage
            return b""
        self._begun = True
        self._usage = event.usage if event is not None else self._usage
        message: dict[str, Any] = {
            "id": (event.id if event is not None else "") or f"msg_{self._answering.fresh_id}",
            "type": "message",
            "role": "assistant",
            "model": self._answering.request.model or (event.model if event is not None else ""),
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": encode_usage(self._usage),
        }
        return frame("message_start", {"message": message})

    def _end(self) -> bytes:
        self._ended = True
        out = self._start(None) + self._close_all()
        finish = self._finish
        delta = {
            "stop_reason": encode_stop(
                finish.reason if finish is not None else None, called=self._called, refused=self._refused
            ),
            "stop_sequence": finish.stop_sequence if finish is not None else None,
        }
        usage = encode_usage(self._usage)
        return out + frame("message_delta", {"delta": delta, "usage": usage}) + frame("message_stop", {})

    # Its blocks

    def _open(self, index: int, part: Part) -> bytes:
        # A thought or text is over when something else begins, said or not
        out = self._next(settled=True)
        if self._current is not None and not isinstance(self._current.part, ToolCall):
            out += self._stop_current()
        self._refused = self._refused or isinstance(part, Refusal)
        self._parts[index] = mine = Pending(part)
        if isinstance(part, Reasoning | ToolCall):
            mine.seal = part.seal
        match part:
            case Text(text=text, extras=extras):
                # Citations before any text of theirs: clients add them to the block as they come
                if text:
                    mine.texts.append({"type": "text_delta", "text": text})
                if isinstance(extras.get("citations"), list):
                    mine.texts += [{"type": "citations_delta", "citation": one} for one in extras["citations"]]
            case Reasoning(text=text, redacted=False) if text and not self._hidden:
                mine.texts.append({"type": "thinking_delta", "thinking": text})
            case ToolCall(arguments=text) if text:
                mine.texts.append({"type": "input_json_delta", "partial_json": text})
            case Refusal(text=text) if text:
                mine.texts.append({"type": "text_delta", "text": text})
        return out + self._turn(mine)

    def _delta(self, index: int, text: str) -> bytes:
        mine = self._parts.get(index)
        if mine is None or mine.closed or not text:
            return b""
        match mine.part:
            case ToolCall():
                return self._say(mine, {"type": "input_json_delta", "partial_json": text})
            case Reasoning(redacted=False):
                return b"" if self._hidden else self._say(mine, {"type": "thinking_delta", "thinking": text})
            case Text() | Refusal():
                return self._say(mine, {"type": "text_delta", "text": text})
            case _:
                return b""

    def _note(self, mine: Pending, block: Mapping[str, Json]) -> bytes:
        for citation in block.get("citations", ()):
            mine.texts.append({"type": "citations_delta", "citation": citation})
        mine.texts += block.get("deltas", ())
        return self._turn(mine)

    def _sealed(self, index: int, seal: Seal) -> bytes:
        mine = self._parts.get(index)
        if mine is None or mine.closed:
            return b""
        mine.seal = seal
        return b""

    def _close(self, index: int) -> bytes:
        mine = self._parts.get(index)
        if mine is None or mine.closed:
            return b""
        mine.closed = True
        out = self._turn(mine)
        if mine is self._current:
            out += self._stop_current()
        return out + self._next()

    def _close_all(self) -> bytes:
        return b"".join(self._close(index) for index in list(self._parts))

    def _say(self, mine: Pending, delta: dict[str, Json]) -> bytes:
        if mine is self._current and not mine.texts:
            return frame("content_block_delta", {"index": mine.wire, "delta": delta})
        mine.texts.append(delta)
        return self._turn(mine)

    def _turn(self, mine: Pending, *, settled: bool = False) -> bytes:
        """Writes what ``mine`` has to say, if it has and if it is its turn. ``settled``: no more of it is awaited."""
        if not mine.ready(settled or mine.closed):
            return b""
        out = b""
        if mine is not self._current:
            if self._current is not None:
                if isinstance(self._current.part, ToolCall):
                    return b""
                out = self._stop_current()
            for earlier in self._parts.values():
                # Calls keep their order: the first of several may be the one that is sealed
                if earlier is mine or self._current is not None:
                    break
                if isinstance(earlier.part, ToolCall):
                    out += self._turn(earlier, settled=True)
            if self._current is not None:
                return out
            out += self._begin(mine)
        said, mine.texts = mine.texts, []
        return out + b"".join(frame("content_block_delta", {"index": mine.wire, "delta": delta}) for delta in said)

    def _begin(self, mine: Pending) -> bytes:
        """The start of the block of ``mine``; a part that came whole is written whole."""
        mine.written = True
        out = b""
        block: dict[str, Json]
        match mine.part:
            case ToolCall() as part:
                self._called = True
                if data := self._answering.sealer(mine.seal):
                    out = self._whole({"type": "redacted_thinking", "data": data})
                block = call_block(part, self._answering, self._wire)
            case Reasoning(redacted=False):
                block = {"type": "thinking", "thinking": "", "signature": ""}
            case Text() | Refusal():
                block = {"type": "text", "text": ""}
            case part:
                return b"".join(self._whole(block) for block in answer_blocks(part, self._answering, self._wire))
        mine.wire, self._wire = self._wire, self._wire + 1
        self._current = mine
        return out + frame("content_block_start", {"index": mine.wire, "content_block": block})

    def _whole(self, block: dict[str, Json]) -> bytes:
        """A block that comes at once; a text still in a delta, since clients read only those."""
        index, self._wire = self._wire, self._wire + 1
        if block["type"] == "text":
            start, delta = {**block, "text": ""}, {"type": "text_delta", "text": block["text"]}
            out = frame("content_block_start", {"index": index, "content_block": start})
            out += frame("content_block_delta", {"index": index, "delta": delta})
        else:
            out = frame("content_block_start", {"index": index, "content_block": block})
        return out + frame("content_block_stop", {"index": index})

    def _stop_current(self) -> bytes:
        mine, self._current = self._current, None
        if mine is None:
            return b""
        out = b""
        if isinstance(mine.part, Reasoning) and (signature := self._answering.sealer(mine.seal)):
            delta = {"type": "signature_delta", "signature": signature}
            out = frame("content_block_delta", {"index": mine.wire, "delta": delta})
            mine.seal = None
        return out + frame("content_block_stop", {"index": mine.wire})

    def _next(self, *, settled: bool = False) -> bytes:
        """The parts that waited for their turn."""
        out = b""
        for mine in list(self._parts.values()):
            if mine is self._current:
                continue
            if self._current is not None and isinstance(self._current.part, ToolCall):
                break
            out += self._turn(mine, settled=settled and not isinstance(mine.part, ToolCall))
            if mine.closed and mine is self._current:
                out += self._stop_current()
        return out
