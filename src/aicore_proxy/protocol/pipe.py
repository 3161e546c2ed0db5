"""One stream from an upstream's bytes to the client's: relayed in the same dialect, or translated.

Nothing leaves before the first content event, so that another deployment may answer until then. After it a fault is
the client's dialect's error event: a stream never ends silently before its finish.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from aicore_proxy.protocol.dialects import Answering, Dialect
from aicore_proxy.protocol.estimate import BYTES_PER_TOKEN, estimated, size, spoken
from aicore_proxy.protocol.fault import Fault, Kind
from aicore_proxy.protocol.fold import fold, unfold
from aicore_proxy.protocol.framing import Frame, Framer, SseDecoder
from aicore_proxy.protocol.neutral import (
    Delta,
    Done,
    Event,
    Failure,
    Finish,
    FinishReason,
    Json,
    Open,
    Reasoning,
    Sealed,
    Start,
    Tally,
    Text,
    Usage,
)
from aicore_proxy.protocol.undo import Restoring

HELD_LIMIT = 8 * 1024 * 1024
"""Bytes kept back before the first content."""

EMPTY = (Text(""), Reasoning(""))
"""Parts whose opening says nothing yet."""

Observe = Callable[[Event], None]


class Progress:
    """How far a stream is. Owned by its pipe."""

    __slots__ = ("complete", "counted", "fault", "finished", "finishes", "said", "started", "unfinished", "usage")

    def __init__(self) -> None:
        self.started = False
        self.finished = False
        self.complete = False
        """The upstream said that this is all."""
        self.fault: Fault | None = None
        self.usage: Usage | None = None
        self.counted = False
        """The upstream told the tokens of the answer, not only what it knew at its begin."""
        self.said = 0
        """Bytes of text so far."""
        self.finishes: dict[int, FinishReason] = {}
        self.unfinished: set[int] = set()

    def over(self) -> bool:
        """Whether nothing more is to be read."""
        return self.finished or self.fault is not None

    def note(self, event: Event) -> None:
        match event:
            case Delta(text=text):
                self.started = True
                self.said += size(text)
            case Sealed():
                self.started = True
            case Open(part=part, candidate=candidate):
                # The start of a text that has not come yet is no content: another deployment may still answer
                self.started = self.started or part not in EMPTY
                if candidate not in self.finishes:
                    self.unfinished.add(candidate)
            case Finish(reason=reason, usage=usage, candidate=candidate):
                self.started = True
                self.finishes[candidate] = reason
                self.unfinished.discard(candidate)
                self.usage = usage or self.usage
                self.counted = self.counted or usage is not None
            case Start(usage=usage):
                self.usage = usage or self.usage
            case Tally(usage=usage):
                self.usage = usage
                self.counted = True
            case Done():
                self.complete = True
            case _:
                pass

    def shortfall(self) -> Fault | None:
        """What is wrong with an end of the stream here."""
        if not self.finishes:
            words = "before the answer was complete" if self.started else "before any content"
            return Fault(Kind.UPSTREAM_FAILED, f"SAP AI Core ended the stream {words}.")
        if self.unfinished or len(self.finishes) <= max(self.finishes):
            return Fault(Kind.UPSTREAM_FAILED, "SAP AI Core ended the stream before all candidates were complete.")
        return None


class Pipe(Protocol):
    """One attempt's stream."""

    _progress: Progress

    @property
    def started(self) -> bool:
        """Whether the first content event was seen."""
        return self._progress.started

    @property
    def finished(self) -> bool:
        """Whether the terminal event was written; what comes later is ignored."""
        return self._progress.finished

    @property
    def fault(self) -> Fault | None:
        """What ended the stream; before content nothing was written of it, after content its error event was."""
        return self._progress.fault

    @property
    def usage(self) -> Usage | None:
        return self._progress.usage

    @property
    def finishes(self) -> Mapping[int, FinishReason]:
        """Why each candidate ended."""
        return self._progress.finishes

    def feed(self, chunk: bytes) -> bytes:
        """Whole frames for the client; empty while content has not begun. Never raises a Fault."""
        ...

    def end(self) -> bytes:
        """The upstream closed in an orderly way: what is missing of the end, or the error event."""
        ...

    def fail(self, fault: Fault) -> bytes:
        """The error event for a fault from outside (a cut, a timeout)."""
        ...


class Held:
    """What is kept back until content begins. Owned by its pipe."""

    __slots__ = ("_parts", "_size")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def keep(self, data: bytes) -> None:
        """Raises Fault(UPSTREAM_FAILED) above 8 MiB."""
        self._parts.append(data)
        self._size += len(data)
        if self._size > HELD_LIMIT:
            raise Fault(Kind.UPSTREAM_FAILED, "SAP AI Core sent more than 8 MiB before any content.")

    def released(self) -> list[bytes]:
        """All that was kept; from now on nothing is."""
        parts, self._parts = self._parts, []
        return parts


class Relay(Pipe):
    """The upstream speaks the client's dialect: payloads pass byte for byte, framed as the client needs it. On the side
    all of them are read until content begins, afterwards only those that hold one of ``dialect.notable``: usage, a
    finish, an error, the end. (``scripts/bench_codecs.py``: looking for these costs a third of reading every one.)"""

    def __init__(self, dialect: Dialect, framer: Framer, answering: Answering) -> None:
        self._dialect = dialect
        self._framed = dialect.framed
        self._demanded = dialect.counted
        # Of several candidates each must be seen to begin, so that none is missed at the end
        several = (answering.request.sampling.n or 1) > 1
        self._notable = (b"",) if several else dialect.notable
        self._framer = framer
        self._answering = answering
        self._decoder = dialect.stream_decoder()
        self._keepalives = frozenset(_compact(frame.data) for frame in SseDecoder().feed(dialect.keepalive))
        self._unread = b""
        self._opened = False
        self._progress = Progress()
        self._held = Held()

    def feed(self, chunk: bytes) -> bytes:
        if self._progress.over():
            return b""
        try:
            return self._passed(self._framer.feed(chunk))
        except Fault as fault:
            return self._failed(fault)

    def end(self) -> bytes:
        progress = self._progress
        if progress.over():
            return b""
        try:
            last = self._passed(self._framer.end())
        except Fault as fault:
            return self._failed(fault)
        if progress.over():
            return last
        if self._unread and (wrong := self._read(self._unread)) is not None:
            # What came last may be of a candidate that nothing notable was read of: it is not finished then
            return last + self._failed(wrong)
        for event in self._decoder.end():
            if isinstance(event, Failure):
                return last + self._failed(event.fault)
            progress.note(event)
        if (wrong := progress.shortfall()) is not None:
            return last + self._failed(wrong)
        progress.finished = True
        return last + self._dialect.ending

    def fail(self, fault: Fault) -> bytes:
        if self._progress.over():
            return b""
        self._progress.started = True
        return self._failed(fault)

    def _passed(self, frames: Sequence[Frame]) -> bytes:
        progress = self._progress
        out: list[bytes] = []
        for frame in frames:
            data = frame.data
            if not progress.started and b'": ' in data:
                # Not as SAP writes JSON: what to look for may be spelled in other ways, so every payload is read
                self._notable = (b"",)
            wrong = None
            if progress.started and not self._is_notable(data):
                self._unread = data
                progress.said += BYTES_PER_TOKEN  # an event for a token
            else:
                wrong = self._read(data)
                if self._demanded is not None and not progress.counted and (progress.finishes or not progress.usage):
                    data = self._demanded(data, self._estimate)
            if wrong is None and progress.complete:
                wrong = progress.shortfall()
            if wrong is not None:
                return b"".join((*out, self._failed(wrong)))
            if len(data) > 40 or _compact(data) not in self._keepalives:
                if b"\n" in data:
                    data = data.replace(b"\n", b" ")
                if self._opened:
                    out.append(self._framed(data))
                else:
                    out += self._begun(data)
            if progress.complete:
                progress.finished = True
                break
        return b"".join(out)

    def _begun(self, data: bytes) -> list[bytes]:
        """Keeps a payload until content begins: then the frames of all."""
        if not self._progress.started:
            self._held.keep(data)
            return []
        self._opened = True
        return [self._framed(payload) for payload in self._dialect.opening([*self._held.released(), data])]

    def _is_notable(self, data: bytes) -> bool:
        for needle in self._notable:  # noqa: SIM110  any() over a generator costs three times as much
            if needle in data:
                return True
        return False

    def _read(self, data: bytes) -> Fault | None:
        """Notes the events of a payload. The Fault that ends the stream, if it is one."""
        for event in self._decoder.feed(data):
            if isinstance(event, Failure):
                # What nobody can read is for the client to judge; before content it counts as a failed attempt
                readable = _readable(data) or not self._progress.started
                return event.fault if readable else None
            self._progress.note(event)
        return None

    def _estimate(self) -> Usage:
        return estimated(self._answering.request, self._progress.said, self._progress.usage)

    def _failed(self, fault: Fault) -> bytes:
        """Ends the stream: with the error event after content, else with nothing."""
        self._progress.fault = fault
        if not self._progress.started:
            return b""
        self._progress.finished = True
        return self._dialect.stream_encoder(self._answering).fail(fault, self._answering.request_id)


class Translation(Pipe):
    """The upstream speaks another dialect: frames to events, what the request needed turned back, events to frames.
    ``observe`` sees every event as the client's dialect gets it."""

    def __init__(
        self,
        source: Dialect,
        target: Dialect,
        framer: Framer,
        answering: Answering,
        observe: Observe | None = None,
    ) -> None:
        self._target = target
        self._framer = framer
        self._answering = answering
        self._observe = observe
        self._decoder = source.stream_decoder()
        self._encoder = target.stream_encoder(answering)
        self._restore = Restoring(answering.undo, source.name, target.name, answering.fresh_id)
        self._progress = Progress()
        self._held = Held()

    def feed(self, chunk: bytes) -> bytes:
        if self._progress.over():
            return b""
        out: list[bytes] = []
        try:
            for frame in self._framer.feed(chunk):
                self._take(self._decoder.feed(frame.data), out)
                if self._progress.finished:
                    break
        except Fault as fault:
            return self._failed(fault, out)
        return self._given(out)

    def end(self) -> bytes:
        progress = self._progress
        if progress.over():
            return b""
        out: list[bytes] = []
        try:
            for frame in self._framer.end():
                self._take(self._decoder.feed(frame.data), out)
            if not progress.finished:
                self._take(self._decoder.end(), out)
            if not progress.finished:
                self._take((Done(),), out)
        except Fault as fault:
            return self._failed(fault, out)
        return self._given(out)

    def fail(self, fault: Fault) -> bytes:
        if self._progress.over():
            return b""
        if not self._progress.started:
            # What it wrote so far was never sent
            self._encoder = self._target.stream_encoder(self._answering)
            self._held = Held()
            self._progress.started = True
        return self._failed(fault, [])

    def _take(self, events: Sequence[Event], out: list[bytes]) -> None:
        """Writes ``events`` to ``out``. Raises the Fault that ends the stream."""
        progress = self._progress
        for event in events:
            if progress.finished:
                return
            if isinstance(event, Failure):
                raise event.fault
            progress.note(event)
            if progress.complete:
                if (fault := progress.shortfall()) is not None:
                    raise fault
                progress.finished = True
                if not progress.counted:
                    usage = estimated(self._answering.request, progress.said, progress.usage)
                    out.append(self._encoder.feed(Tally(usage)))
            for restored in self._restore(event):
                if self._observe is not None:
                    self._observe(restored)
                out.append(self._encoder.feed(restored))

    def _given(self, out: list[bytes]) -> bytes:
        written = b"".join(out)
        if self._progress.started:
            return b"".join((*self._held.released(), written))
        try:
            self._held.keep(written)
        except Fault as fault:
            self._progress.fault = fault
        return b""

    def _failed(self, fault: Fault, out: list[bytes]) -> bytes:
        """Ends the stream: with the error event after content, else with nothing."""
        self._progress.fault = fault
        if not self._progress.started:
            return b""
        self._progress.finished = True
        out.append(self._encoder.fail(fault, self._answering.request_id))
        return b"".join((*self._held.released(), *out))


def translate_response(
    source: Dialect,
    target: Dialect,
    body: bytes | Mapping[str, Json],
    answering: Answering,
    observe: Observe | None = None,
) -> dict[str, Json]:
    """A whole answer in ``target``, with the same things turned back as in a stream. Raises Fault(UPSTREAM_FAILED) if
    ``body`` is no answer of ``source``."""
    if isinstance(body, bytes):
        try:
            body = msgspec.json.decode(body, type=dict[str, Json])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise Fault(Kind.UPSTREAM_FAILED, "SAP AI Core sent an answer that is no JSON object.") from None
    restore = Restoring(answering.undo, source.name, target.name, answering.fresh_id)
    events = [restored for event in unfold(source.decode_response(body)) for restored in restore(event)]
    if observe is not None:
        for event in events:
            observe(event)
    response = fold(events)
    if response.usage is None:
        response = msgspec.structs.replace(response, usage=estimated(answering.request, spoken(events)))
    return target.encode_response(response, answering)


def _compact(data: bytes) -> bytes:
    return data.replace(b" ", b"")


def _readable(data: bytes) -> bool:
    try:
        msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True
