"""Reads answers, cheaply: just enough of HTTP/1.1 and of server-sent events to count right. Pure."""

from __future__ import annotations

import re

HEAD_LIMIT = 64 * 1024


class BrokenAnswerError(Exception):
    """Bytes that are no HTTP/1.1 answer."""


class Answer:
    """One answer after another on a connection. ``feed`` gives the body's bytes; ``done`` tells that it has ended."""

    __slots__ = ("_chunk", "_chunked", "_held", "_left", "closes", "done", "status", "streamed")

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Before each request."""
        self.status = 0
        self.done = False
        self.closes = False
        self.streamed = False
        self._held = b""
        self._left = -1
        self._chunked = False
        self._chunk = 0

    def feed(self, data: bytes) -> bytes:
        """What of ``data`` is body. Raises BrokenAnswerError."""
        if self.done:
            raise BrokenAnswerError("bytes after the answer")
        if not self.status:
            data = self._head(self._held + data if self._held else data)
            if not self.status:
                return b""
        if self._chunked:
            return self._chunks(data)
        if self._left >= 0:
            self._left -= len(data)
            if self._left <= 0:
                self.done = True
                if self._left < 0:
                    raise BrokenAnswerError("more bytes than announced")
        return data

    def end(self) -> bool:
        """The connection ended: whether that is the answer's end."""
        if self.status and not self._chunked and self._left < 0:
            self.done = True
        return self.done

    def _head(self, data: bytes) -> bytes:
        end = data.find(b"\r\n\r\n")
        if end < 0:
            if len(data) > HEAD_LIMIT or not b"HTTP/1."[: len(data)] == data[:7]:
                raise BrokenAnswerError("no HTTP/1.1 head")
            self._held = data
            return b""
        head, rest = data[:end].lower(), data[end + 4 :]
        status = head[9:12]
        if not head.startswith(b"http/1.") or not status.isdigit():
            raise BrokenAnswerError("no HTTP/1.1 head")
        if status.startswith(b"1"):
            return self._head(rest)
        self._held = b""
        self.status = int(status)
        self.closes = b"\r\nconnection: close" in head or head.startswith(b"http/1.0")
        self.streamed = b"text/event-stream" in head
        if b"\r\ntransfer-encoding: chunked" in head:
            self._chunked = True
        elif (at := head.find(b"\r\ncontent-length:")) >= 0:
            length = head[at + 17 :].partition(b"\r\n")[0].strip()
            if not length.isdigit():
                raise BrokenAnswerError("no content length")
            self._left = int(length)
        elif self.status in (204, 304):
            self._left = 0
        else:
            self.closes = True
        return rest

    def _chunks(self, data: bytes) -> bytes:
        if self._held:
            data, self._held = self._held + data, b""
        pieces: list[bytes] = []
        at, size = 0, len(data)
        while at < size:
            if self._chunk:  # bytes of the chunk that are still to come, with its line end
                taken = min(self._chunk, size - at)
                content = min(max(0, self._chunk - 2), taken)
                if content:
                    pieces.append(data[at : at + content])
                self._chunk -= taken
                at += taken
                continue
            line = data.find(b"\r\n", at)
            if line < 0:
                self._held = data[at:]
                break
            try:
                length = int(data[at:line].partition(b";")[0], 16)
            except ValueError:
                raise BrokenAnswerError("no chunk size") from None
            if length == 0:
                end = data.find(b"\r\n\r\n", line)
                if end < 0:
                    self._held = data[at:]
                    break
                self.done = True
                if end + 4 < size:
                    raise BrokenAnswerError("bytes after the answer")
                break
            self._chunk = length + 2
            at = line + 2
        return b"".join(pieces) if len(pieces) != 1 else pieces[0]


class Frames:
    """Counts the frames of one server-sent event stream. ``last``: one came that ends a whole stream; ``failed``: one
    that tells of an error."""

    __slots__ = ("_content", "_last", "_rest", "failed", "last")

    def __init__(self, content: re.Pattern[bytes], last: bytes) -> None:
        """``content``: what a frame holds that counts; ``last``: what the last one holds."""
        self._content = content
        self._last = last
        self._rest = b""
        self.last = False
        self.failed = False

    def feed(self, piece: bytes) -> int:
        """How many frames with content have ended in it."""
        text = self._rest + piece if self._rest else piece
        if b"\r" in text:
            text = text.replace(b"\r\n", b"\n")
        *frames, self._rest = text.split(b"\n\n")
        found = 0
        for frame in frames:
            if self._content.search(frame) is not None:
                found += 1
            elif self._last in frame:
                self.last = True
            elif frame.startswith((b"event: error", b'data: {"error"')) or b'"type":"error"' in frame:
                self.failed = True
        return found
