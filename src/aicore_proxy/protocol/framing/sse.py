"""Server-sent events, read as the HTML standard says, and a little more kindly at the end of the stream."""

from __future__ import annotations

import re

import msgspec

from aicore_proxy.protocol.fault import Fault, Kind
from aicore_proxy.protocol.framing.frame import LIMIT, Frame

BOM = b"\xef\xbb\xbf"
DONE = b"[DONE]"

# Two line ends in a row. CRLF is one line end; a CR at the end of the bytes may still get its LF.
_blank_line = re.compile(rb"\n\n|\n\r\n?|\r\r\n?")


class SseDecoder:
    """One stream of ``text/event-stream``: any of LF, CRLF and CR, however the bytes are split.

    Events without ``data`` and comments give no frame. Time is linear in the bytes: a part is searched once when it
    comes, and copied once when its end has come.
    """

    __slots__ = ("_begun", "_held", "_parts", "_skip_lf")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._held = 0
        self._begun = False
        self._skip_lf = False

    def feed(self, chunk: bytes) -> list[Frame]:
        """The frames that ``chunk`` completes. Raises Fault(UPSTREAM_FAILED) for one over 8 MiB."""
        if self._held > LIMIT:
            raise _too_long()
        if self._skip_lf and chunk:
            self._skip_lf = False
            chunk = chunk.removeprefix(b"\n")
        if not self._parts and self._begun and _is_one(chunk):
            return [Frame(chunk, chunk[6:-2])]
        if self._parts:
            # Only what is new, and the three bytes before it, can hold the end
            window = self._parts[-1][-3:] + chunk
            if self._begun and not _has_end(window):
                return self._keep(chunk)
            chunk = b"".join((*self._parts, chunk))
            self._parts = []
            self._held = 0
        if not self._begun:
            if len(chunk) < len(BOM) and BOM.startswith(chunk):
                return self._keep(chunk)
            self._begun = True
            chunk = chunk.removeprefix(BOM)
        frames, rest = self._with_cr(chunk) if b"\r" in chunk else _lf_only(chunk)
        if rest:
            self._parts.append(rest)
            self._held = len(rest)
            if self._held > LIMIT and not frames:
                raise _too_long()
        return frames

    def end(self) -> list[Frame]:
        """The last frame, if it was whole but for its blank line; also a JSON body that is no SSE at all (an error
        with status 200). A frame that was cut inside is left out."""
        rest = b"".join(self._parts)
        self._parts = []
        self._held = 0
        body = rest.strip()
        frame = Frame(rest, body) if body.startswith(b"{") else _frame(rest)
        return [frame] if frame is not None and _whole(frame.data) else []

    def _keep(self, part: bytes) -> list[Frame]:
        if part:
            # Small parts are joined, so that a dripping upstream costs no object per byte
            if self._parts and len(self._parts[-1]) < 4096:
                self._parts[-1] += part
            else:
                self._parts.append(part)
            self._held += len(part)
            if self._held > LIMIT:
                raise _too_long()
        return []

    def _with_cr(self, text: bytes) -> tuple[list[Frame], bytes]:
        frames = []
        start = 0
        for match in _blank_line.finditer(text):
            piece = text[start : match.end()]
            start = match.end()
            if (frame := _frame(piece)) is not None:
                frames.append(frame)
        self._skip_lf = start == len(text) and text.endswith(b"\r")
        return frames, text[start:]


def _is_one(chunk: bytes) -> bool:
    """The commonest case: just one frame of one line."""
    return (
        chunk.startswith(b"data: ")
        and chunk.find(b"\n") == len(chunk) - 2
        and chunk[-1:] == b"\n"
        and b"\r" not in chunk
    )


def _lf_only(text: bytes) -> tuple[list[Frame], bytes]:
    """The common case, quick: whole frames of one line each, ended by LF LF."""
    pieces = text.split(b"\n\n")
    rest = pieces.pop()
    frames = []
    for piece in pieces:
        if piece.startswith(b"data: ") and b"\n" not in piece:
            frames.append(Frame(piece + b"\n\n", piece[6:]))
        elif (frame := _frame(piece + b"\n\n")) is not None:
            frames.append(frame)
    return frames, rest


def _frame(raw: bytes) -> Frame | None:
    """One event's lines; None if it has no data."""
    data: list[bytes] = []
    event: str | None = None
    for line in raw.splitlines():
        name, _, value = line.partition(b":")
        if name == b"data":
            data.append(value.removeprefix(b" "))
        elif name == b"event":
            event = value.removeprefix(b" ").decode("utf-8", "replace")
    if not data:
        return None
    return Frame(raw, b"\n".join(data) if len(data) > 1 else data[0], event)


def _has_end(window: bytes) -> bool:
    return b"\n\n" in window or (b"\r" in window and _blank_line.search(window) is not None)


def _whole(data: bytes) -> bool:
    """Whether a payload at the end of the bytes is more than a torn piece."""
    if data == DONE:
        return True
    try:
        msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _too_long() -> Fault:
    return Fault(Kind.UPSTREAM_FAILED, f"SAP AI Core sent an event of more than {LIMIT // 1024 // 1024} MiB.")
