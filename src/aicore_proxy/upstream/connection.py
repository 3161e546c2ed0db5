"""One connection, and the answer that it is reading: HTTP/1.1 of the client's side on httptools.

A connection carries one request at a time. It reads no further while nobody takes what came, writes a long body in
pieces, and ends at once, without a goodbye, when nobody wants its answer any more.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, cast

import httptools
from httptools import HttpParserError, HttpParserUpgrade

from aicore_proxy.upstream.seam import Phase, Timeouts, UpstreamError

READ_SIZE = 64 * 1024  # what one answer buffers before its connection is no longer read
PIECE_SIZE = 256 * 1024  # a larger request body is written in pieces, so that the loop breathes between them
JOINED_SIZE = 16 * 1024  # a body up to this size is worth its copy: head and body in one write
HEAD_SIZE = 64 * 1024  # bytes of a response head
HEAD_FIELDS = 200
BODILESS = frozenset({204, 304})
LATE = 0.1
"""Seconds. A timer that comes later than this was held up by our own event loop, and so was what it waits for: as much
time is given on top, or a stalled process would see every upstream fail at once."""


class Headers(Mapping[str, str]):
    """Of an answer: names without case, of a repeated field the first value."""

    __slots__ = ("_more", "_values")

    def __init__(self) -> None:
        self._values: dict[bytes, bytes] = {}
        self._more: list[tuple[bytes, bytes]] = []

    def add(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in self._values:
            self._more.append((name, value))
        else:
            self._values[name] = value

    def values_of(self, name: str) -> list[str]:
        key = name.lower().encode()
        found = [self._values[key]] if key in self._values else []
        return [text(value) for value in (*found, *(value for other, value in self._more if other == key))]

    def __getitem__(self, name: str) -> str:
        return text(self._values[name.lower().encode()])

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower().encode() in self._values

    def __iter__(self) -> Iterator[str]:
        return (text(name) for name in self._values)

    def __len__(self) -> int:
        return len(self._values)


def text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


class Answer:
    """See UpstreamResponse. What its connection fills in, and its reader takes."""

    __slots__ = (
        "_closed", "_connection", "_held", "_parts", "_timeouts", "_waiter", "begun", "complete", "failure", "headers",
        "place", "status",
    )  # fmt: skip

    def __init__(self, connection: Connection, place: str, timeouts: Timeouts) -> None:
        self.status = 0
        self.headers: Headers = Headers()
        self.place = place
        self.begun = False
        """Whether the whole head is in."""
        self.complete = False
        """Whether all of the body came; not that it was read."""
        self.failure: UpstreamError | None = None
        self._closed = False
        self._connection = connection
        self._timeouts = timeouts
        self._parts: list[bytes] = []
        self._held = 0
        self._waiter: asyncio.Future[None] | None = None

    def values(self, name: str) -> list[str]:
        return self.headers.values_of(name)

    def chunks(self) -> AsyncIterator[bytes]:
        if "content-encoding" in self.headers and self.headers["content-encoding"].lower() != "identity":
            return inflated(self, self.place)
        return self

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        parts = self._parts
        while not parts:  # a turn may bring no more than a part of a chunk's size
            if self.failure is not None:  # what had come before a cut still counts
                raise self.failure
            if self.complete or self._closed:
                raise StopAsyncIteration
            connection = self._connection
            connection.expect(self._timeouts.between_bytes)
            try:
                await self.changed()
            finally:
                connection.arrived(self)
        piece = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        self._held = 0
        if not self.complete:
            self._connection.read_on()
        return piece

    async def read(self, limit: int) -> bytes:
        parts: list[bytes] = []
        size = 0
        try:
            async for part in self.chunks():
                parts.append(part)
                size += len(part)
                if size >= limit:
                    break
        finally:
            self._end()
        return (parts[0] if len(parts) == 1 else b"".join(parts))[:limit]

    async def close(self) -> None:
        self._end()

    def _end(self) -> None:
        self._closed = True
        self._connection.leave(self)

    # --- what the connection tells

    async def changed(self) -> None:
        """Returns when more came, or nothing more will."""
        self._waiter = self._connection.loop.create_future()
        await self._waiter

    def wake(self) -> None:
        if (waiter := self._waiter) is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def take(self, piece: bytes) -> int:
        """The bytes held by now."""
        if not self._closed:
            self._parts.append(piece)
            self._held += len(piece)
        return self._held

    def fail(self, how: str, *, timed_out: bool) -> None:
        if timed_out:
            words = f"{self.place} sent nothing for {self._timeouts.between_bytes:g} s."
            self.failure = UpstreamError(Phase.BETWEEN_BYTES_TIMEOUT, words)
        else:
            self.failure = UpstreamError(Phase.BODY, f"{self.place} {how} in the middle of its answer.")


class Connection(asyncio.Protocol):
    """A connection to an origin, or to the proxy before it. Owns its transport and, of a request, what is unsent.

    ``free`` is called when it can carry another request, ``gone`` once when it has ended.
    """

    __slots__ = (
        "_answer", "_deaf", "_due", "_fields", "_free", "_gone", "_head", "_interim", "_mute", "_parser", "_persists",
        "_size", "_spoilt", "_timer", "_timer_at", "_transport", "_tunnel", "_upload", "idle_since", "loop", "lost",
        "problem", "received", "reset", "stuck", "timed_out",
    )  # fmt: skip

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        free: Callable[[Connection], None],
        gone: Callable[[Connection], None],
    ) -> None:
        self.loop = loop
        self.idle_since = 0.0
        self.lost = False
        self.reset: Exception | None = None
        """What it ended of, if it was not closed."""
        self.problem = ""
        """What came that is not HTTP."""
        self.stuck = False
        """Whether it ended before all of the request was written."""
        self.timed_out = False
        self.received = False
        """Whether any byte of the present answer came."""
        self._free = free
        self._gone = gone
        self._transport: asyncio.Transport | None = None
        self._parser: Any = parser_for(self)
        self._answer: Answer | None = None
        self._head = 0
        self._fields = 0
        self._interim = False
        self._size = True  # whether the body says where it ends
        self._persists = False  # whether the connection outlives the answer
        self._spoilt = False  # more came than was asked for
        self._tunnel = False
        self._deaf = False  # reading is paused
        self._mute = False  # writing is paused
        self._upload: memoryview | None = None
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    @property
    def usable(self) -> bool:
        return not self.lost and self._transport is not None and not self._transport.is_closing()

    # --- a request and its head

    async def ask(
        self, head: bytes, body: bytes | None, place: str, timeouts: Timeouts, *, tunnel: bool = False
    ) -> Answer:
        """Returns when the head is in, or the connection has ended: then the answer is not ``begun``. Cancelled, it
        ends the connection. ``tunnel``: a CONNECT, whose answer has no body."""
        transport = self._transport
        answer = Answer(self, place, timeouts)
        if transport is None:
            return answer
        self._answer = answer
        self.received = False
        self._head = self._fields = 0
        self._tunnel = tunnel
        if body is None:
            transport.write(head)
        elif len(body) <= JOINED_SIZE:
            transport.write(head + body)
        elif len(body) <= PIECE_SIZE:
            transport.writelines((head, body))
        else:
            transport.write(head)
            self._upload = memoryview(body)
            self._send_on()
        self.expect(timeouts.first_byte)
        try:
            if not answer.begun and not self.lost:
                await answer.changed()
        except BaseException:
            self.leave(answer)
            raise
        self.arrived(answer)
        return answer

    def _send_on(self) -> None:
        """One piece of a long body for each turn of the loop."""
        if (upload := self._upload) is None or self._mute or self.lost or self._transport is None:
            return
        piece, rest = upload[:PIECE_SIZE], upload[PIECE_SIZE:]
        self._upload = rest if len(rest) else None
        self._transport.write(piece)
        if self._upload is not None and not self._mute:
            self.loop.call_soon(self._send_on)

    def abort(self) -> None:
        """Ends the connection now: without a goodbye in TLS, and without sending what is still buffered."""
        self._upload = None
        if self._transport is not None:
            self._transport.abort()

    def leave(self, answer: Answer) -> None:
        """The reader of ``answer`` is done with it."""
        if self._answer is answer:
            self._answer = None
            self.abort()

    def read_on(self) -> None:
        if self._deaf and self._transport is not None:
            self._deaf = False
            self._transport.resume_reading()

    # --- deadlines: one timer, however often they move

    def expect(self, seconds: float) -> None:
        """Unless something else is said within ``seconds``, the connection ends."""
        self._due = due = self.loop.time() + seconds
        if self._timer is None or self._timer_at > due:
            self._arm(due, seconds)

    def arrived(self, answer: Answer) -> None:
        """What ``answer`` waited for is there; by now the connection may carry another one."""
        if self._answer is answer:
            self._due = 0.0

    def _arm(self, due: float, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self.lost:
            return
        self._timer_at = due
        self._timer = self.loop.call_later(seconds, self._check)

    def _check(self) -> None:
        self._timer = None
        if not self._due:
            return
        left = self._due - self.loop.time()
        if left > 0:
            self._arm(self._due, left)
        elif -left > LATE:
            self.expect(-left)
        else:
            self.timed_out = True
            self.abort()

    # --- what the event loop tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are of another family

    def secured(self, transport: asyncio.Transport) -> None:
        """TLS was laid over the connection, perhaps in a proxy's tunnel."""
        self._transport = transport
        self._parser = parser_for(self)

    @property
    def transport(self) -> asyncio.Transport:
        assert self._transport is not None
        return self._transport

    def pause_writing(self) -> None:
        self._mute = True

    def resume_writing(self) -> None:
        self._mute = False
        if self._upload is not None:
            self.loop.call_soon(self._send_on)

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        if answer is None:  # nobody asked
            self.abort()
            return
        self.received = True
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            self._broken("it changes the protocol")
        except HttpParserError as error:
            self._broken(first_line(str(error)) or "garbage")
        if not answer.begun:
            self._head += len(data)
            if self._head > HEAD_SIZE and not self.problem:
                self._broken("its head is too long")
            return
        if answer.complete:
            self._settle()
        answer.wake()

    def _broken(self, problem: str) -> None:
        self._spoilt = True
        self.problem = problem
        if self._answer is None or not self._answer.complete:
            self.abort()

    def _settle(self) -> None:
        """All of the answer is in: the connection serves again, if it can."""
        again = not self._spoilt and self._upload is None and (self._tunnel or self._persists)
        self._answer = None
        self._due = 0.0
        if not again:
            self.abort()
            return
        self.read_on()
        if not self._tunnel:
            self._free(self)

    def eof_received(self) -> None:
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.reset = exc
        self.stuck, self._upload = self._upload is not None, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        answer, self._answer = self._answer, None
        if answer is not None:
            if answer.begun and not answer.complete:
                if self._size or exc is not None or self.timed_out or self.problem:
                    answer.fail("reset the connection" if exc is not None else "stopped", timed_out=self.timed_out)
                else:
                    answer.complete = True  # a body that only the end of its connection ends
            answer.wake()
        self._gone(self)
        self._parser = self._transport = None  # they hold this object

    # --- what the parser tells

    def on_message_begin(self) -> None:
        if (answer := self._answer) is None or answer.complete:
            self._spoilt = True
        else:
            answer.headers = Headers()

    def on_header(self, name: bytes, value: bytes) -> None:
        answer = self._answer
        if answer is None or answer.begun:  # a trailer
            return
        self._fields += 1
        if self._fields > HEAD_FIELDS:
            self._broken("its head has too many fields")
            return
        answer.headers.add(name, value)

    def on_headers_complete(self) -> None:
        answer = self._answer
        if answer is None or answer.begun:
            return
        status = self._parser.get_status_code()
        self._interim = 100 <= status < 200
        if self._interim or self.problem:
            return
        answer.status = status
        answer.begun = True
        self._persists = self._parser.should_keep_alive()
        headers = answer.headers
        self._size = status in BODILESS or "content-length" in headers or "transfer-encoding" in headers
        answer.complete = self._tunnel

    def on_body(self, piece: bytes) -> None:
        answer = self._answer
        if answer is None:
            return
        if self._tunnel or answer.complete:
            self._spoilt = True
        elif answer.take(piece) > READ_SIZE and not self._deaf and self._transport is not None:
            self._deaf = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
        elif self._answer is not None and self._answer.begun:
            self._answer.complete = True


def parser_for(connection: Connection) -> Any:
    """As lenient as other clients: old proxies end a line with LF alone, old servers pad the size of a chunk."""
    parser = httptools.HttpResponseParser(connection)
    parser.set_dangerous_leniencies(lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True)
    return parser


async def inflated(answer: Answer, place: str) -> AsyncIterator[bytes]:
    """The body of an answer that came compressed although nobody asked for it (a gateway's doing)."""
    encoding = answer.headers.get("content-encoding", "").lower()
    if encoding not in ("gzip", "x-gzip", "deflate"):
        await answer.close()
        raise UpstreamError(Phase.BODY, f"{place} answered in an encoding that was not asked for: {encoding[:20]!r}.")
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)
    try:
        async for piece in answer:
            rest = piece
            while rest:
                if part := inflater.decompress(rest, READ_SIZE):
                    yield part
                rest = inflater.unconsumed_tail
    except zlib.error:
        await answer.close()
        raise UpstreamError(Phase.BODY, f"{place} sent a broken {encoding} body.") from None
    if not inflater.eof:
        raise UpstreamError(Phase.BODY, f"{place} ended its {encoding} body in the middle.")


def first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")[:200].rstrip(".: ")
