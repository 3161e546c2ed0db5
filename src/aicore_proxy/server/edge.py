"""The HTTP/1.1 edge: what stands between a socket that anybody may open and the ASGI application.

An asyncio protocol for uvicorn's server (``uvicorn.Config(http=...)``), in place of uvicorn's own, which knows no limit
and no deadline for a request head and keeps silent connections for ever. llhttp (httptools, strict) does the parsing;
this module adds limits, deadlines, the checks of RFC 9112 that defend against request smuggling, and flow control in
both directions. A connection that broke a rule gets its 4xx and is closed; nothing after the break is ever parsed.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, cast
from urllib.parse import unquote

import httptools
from msgspec import Struct
from uvicorn.config import Config
from uvicorn.server import ServerState

from aicore_proxy.server.message import Exchange, Refusal, refusal

log = logging.getLogger("aicore_proxy.edge")

App: TypeAlias = Callable[..., Awaitable[None]]


class Limits(Struct, frozen=True):
    """What a connection may cost. Sizes in bytes, times in seconds; each is a setting."""

    head: int = 64 * 1024
    """Request line and fields, trailers too."""
    fields: int = 200
    target: int = 16 * 1024
    head_time: float = 20.0
    """For a head, from its first byte."""
    idle: float = 75.0
    """For a connection without a request, new or kept alive; for a closing one until its last bytes are taken."""
    stuck: float = 600.0
    """For a client that takes nothing of its answer."""
    held: int = 256 * 1024
    """Of a body that the application has not asked for yet, and of pipelined requests: then reading stops."""
    pipelined: int = 8
    """Requests that wait for the one before them."""
    linger: float = 2.0
    """After an answer that came before the request's end: so long, and for so many bytes, the rest is thrown away, so
    that the client gets to read the answer instead of a reset."""
    lingered: int = 2 * 1024 * 1024


HOST = re.compile(rb"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+(?:%25[A-Za-z0-9._~-]+)?\])(?::[0-9]{1,5})?")
ABSOLUTE = re.compile(rb"[Hh][Tt][Tt][Pp][Ss]?://[^/?#\\@]+(?=[/?]|$)")
UNFIT_PATH = re.compile(r"[\x00-\x1f\x7f]")
LOOKS = 4
"""How often in the time for a stuck client its progress is looked at."""
CHUNK_OVERHEAD = 16
"""Bytes of chunked framing for each byte of body that are still honest: chunks of one byte take six."""


class EdgeProtocol(asyncio.Protocol):
    """One connection. Owns its parser, its one timer, the exchange that is being answered and those that wait.

    Constructed by uvicorn's server for each connection; ``limits`` is bound beforehand (functools.partial).
    """

    __slots__ = (
        "_absorbed",
        "_app",
        "_app_state",
        "_begun",
        "_body_bytes",
        "_client",
        "_current",
        "_deadline",
        "_drop",
        "_fields",
        "_head_bytes",
        "_in_head",
        "_last_words",
        "_limits",
        "_lingering",
        "_loop",
        "_parser",
        "_queue",
        "_raw_bytes",
        "_reading",
        "_reading_paused",
        "_replaying",
        "_retiring",
        "_scheme",
        "_server",
        "_server_state",
        "_stalled",
        "_target",
        "_timer",
        "_transport",
        "_unsent",
        "_writable",
        "write_paused",
    )

    def __init__(
        self,
        limits: Limits,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._limits = limits
        self._app: App = config.loaded_app
        self._server_state = server_state
        self._app_state = app_state
        self._loop = _loop or asyncio.get_running_loop()
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport
        self._scheme = "http"
        self._client: tuple[str, int] | None = None
        self._server: tuple[str, int | None] | None = None
        # What is being answered, what waits behind it, what is still being read (one of these, or None).
        self._current: Exchange | None = None
        self._queue: deque[Exchange] = deque()
        self._reading: Exchange | None = None
        self._last_words: Refusal | None = None
        self._drop = False
        self._retiring = 0.0  # seconds of silence before it closes, once its process is to end
        self._lingering = False
        self._absorbed = 0
        # The head that is being read.
        self._in_head = False
        self._begun = False
        self._replaying = False
        self._target = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._head_bytes = 0
        self._body_bytes = 0
        self._raw_bytes = 0
        # Time and flow.
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._reading_paused = False
        self.write_paused = False
        self._unsent = 0
        self._stalled = 0
        self._writable: list[asyncio.Future[None]] = []

    # --- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._server_state.connections.add(self)  # type: ignore[arg-type]
        self._client = _address(transport.get_extra_info("peername"))
        self._server = _address(transport.get_extra_info("sockname"))
        if transport.get_extra_info("sslcontext") is not None:
            self._scheme = "https"
        self._expect(self._limits.idle)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server_state.connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._drop = True
        self._leave()
        self._parser = None  # it holds our methods: a cycle that only the garbage collector would find

    def eof_received(self) -> bool:
        # FIN: a client that left cannot be told from one that only half-closed, and a model must not go on for nobody.
        self._drop = True
        self._leave()
        self._close()
        return False

    def data_received(self, data: bytes) -> None:
        if self._drop:
            self._absorb(len(data))
            return
        self._begun = False
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            self._break(_cause(error, data))
            return
        if self._in_head:
            self._watch_head(len(data))
        elif self._reading is not None:
            self._watch_framing(len(data))

    def pause_writing(self) -> None:
        self.write_paused = True
        self._unsent = self._stalled = 0
        self._expect(self._limits.stuck / LOOKS)

    def resume_writing(self) -> None:
        self.write_paused = False
        self._unsent = 0
        if self._transport.is_closing():
            self._leave()  # room, because the transport threw away what nobody will take
        elif self._current is not None:
            self._deadline = 0.0
        self._let_write()

    def shutdown(self) -> None:
        """Called by uvicorn's server: answer what has begun, then close."""
        if self._current is None:
            self._drop = True
            self._close()
            return
        self._current.keep_alive = False

    def retire(self, patience: float) -> None:
        """The process is to end: one more answer says ``Connection: close``, ``patience`` seconds of silence close.

        So no request meets a connection that is just being closed. ``shutdown`` is for when that no longer matters.
        """
        if self._retiring or self._drop:
            return
        self._retiring = patience
        if self._current is None:
            if not self._in_head:
                self._expect(patience)
        elif not self._current.begun:
            self._current.keep_alive = False

    # --- the parser's side

    def on_message_begin(self) -> None:
        if self._replaying:
            return
        self._in_head = self._begun = True
        self._target = b""
        self._fields = []
        self._head_bytes = self._body_bytes = self._raw_bytes = 0

    def on_url(self, piece: bytes) -> None:
        if self._replaying:
            return
        self._target += piece
        if len(self._target) > self._limits.target:
            raise refusal(414, f"The request target is longer than {self._limits.target} bytes.")

    def on_header(self, name: bytes | None, value: bytes | None) -> None:
        if self._replaying:
            return
        name, value = name or b"", value or b""
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes + len(self._target) > self._limits.head:
            raise refusal(431, f"The request head is larger than {self._limits.head} bytes.")
        if len(self._fields) >= self._limits.fields:
            raise refusal(431, f"The request has more than {self._limits.fields} header fields.")
        # Trailers count against the same limits and are dropped: fields may not change once the head was judged.
        self._fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._replaying:
            return
        parser = self._parser
        if parser is None:
            return
        method = parser.get_method().decode("ascii")
        version = parser.get_http_version()
        # What the fields were not counted with: the rest of the request line, and the empty line
        if self._head_bytes + len(self._target) + len(method) + len("  HTTP/1.1\r\n\r\n") > self._limits.head:
            raise refusal(431, f"The request head is larger than {self._limits.head} bytes.")
        path, raw_path, query = self._judge_target(method)
        expects = self._judge_fields(version)
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": version,
            "server": self._server,
            "client": self._client,
            "scheme": self._scheme,
            "method": method,
            "root_path": "",
            "path": path,
            "raw_path": raw_path,
            "query_string": query,
            "headers": self._fields,
            "state": self._app_state.copy(),
        }
        self._fields = []  # what follows are trailers
        keep_alive = parser.should_keep_alive() and not self._retiring
        exchange = Exchange(self, scope, keep_alive=keep_alive, expects=expects)
        self._in_head = False
        self._reading = exchange
        if self._current is None:
            self._start(exchange)
        else:
            self._queue.append(exchange)

    def on_body(self, piece: bytes) -> None:
        exchange = self._reading
        if exchange is None:
            return
        self._body_bytes += len(piece)
        if exchange.answered:
            self._absorb(len(piece))
            return
        exchange.take(piece)
        if exchange.held > self._limits.held:
            self._pause_reading()

    def on_message_complete(self) -> None:
        exchange, self._reading = self._reading, None
        if exchange is None:
            return
        exchange.end()
        if not exchange.keep_alive:
            self._drop = True  # RFC 9112, 9.6: nothing after a request that said close is a request
        elif len(self._queue) > self._limits.pipelined:
            self._pause_reading()

    def _feed(self, data: bytes) -> None:
        if self._parser is None:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline_upgrade(data[upgrade.args[0] :])

    def _decline_upgrade(self, rest: bytes) -> None:
        """An upgrade is declined by not taking it up (RFC 9110, 7.8): the request is answered in HTTP/1.1.

        llhttp stops at it and skips the body, so a fresh parser reads on, as if the head had asked for nothing.
        """
        exchange = self._queue[-1] if self._queue else self._current
        if exchange is None:
            return
        exchange.complete = False  # its task has not begun to run
        self._reading = exchange
        self._drop = False
        self._parser = httptools.HttpRequestParser(self)
        self._replaying = True
        try:
            self._parser.feed_data(_plain_head(exchange.scope["headers"]))
        finally:
            self._replaying = False
        if rest and not self._drop:
            self._feed(rest)

    # --- judging a head

    def _judge_target(self, method: str) -> tuple[str, bytes, bytes]:
        """Path (percent-decoded once), raw path and query. They come from the target alone, never from Host."""
        target = self._target
        if not target.isascii() or b"#" in target or b"\\" in target:
            raise refusal(400, "The request target is not a valid URI.")
        if not target.startswith(b"/"):
            absolute = ABSOLUTE.match(target)
            if absolute is not None:
                target = target[absolute.end() :]
                target = target if target.startswith(b"/") else b"/" + target
            elif method != "OPTIONS" or target != b"*":
                raise refusal(400, "The request target must be a path.")
        raw_path, _, query = target.partition(b"?")
        path = raw_path.decode("ascii")
        if "%" in path:
            path = unquote(path)
            if UNFIT_PATH.search(path):
                raise refusal(400, "The request target holds control characters.")
        return path, raw_path, query

    def _judge_fields(self, version: str) -> bool:
        """Refuses what two servers could read in two ways; says whether the client awaits a 100 Continue."""
        if version not in ("1.1", "1.0"):
            raise refusal(400, "Only HTTP 1.1 and 1.0 are spoken here.")
        hosts = lengths = codings = 0
        expects = False
        for name, value in self._fields:
            if name == b"host":
                hosts += 1
                if HOST.fullmatch(value) is None:
                    raise refusal(400, "The Host header is not valid.")
            elif name == b"content-length":
                lengths += 1
                if not value.isdigit() or len(value) > 18:
                    raise refusal(400, "The Content-Length header is not valid.")
            elif name == b"transfer-encoding":
                codings += 1
                if value.strip().lower() != b"chunked" or version == "1.0":
                    raise refusal(400, "Only the transfer coding chunked is understood.")
            elif name == b"expect":
                if value.lower() != b"100-continue":
                    raise refusal(417, "Only 100-continue can be expected.")
                expects = version == "1.1"
        if hosts != 1:
            raise refusal(400, "A request needs exactly one Host header.")
        if lengths + codings > 1:
            raise refusal(400, "A request may have one Content-Length or one Transfer-Encoding, not more.")
        return expects

    def _watch_head(self, size: int) -> None:
        """A head is incomplete: start its clock with its first bytes, and count what the parser has not shown yet."""
        if not self._begun:
            self._raw_bytes += size
            if self._raw_bytes > self._limits.head + self._limits.held:
                self._break(refusal(431, f"The request head is larger than {self._limits.head} bytes."))
        elif self._current is None:
            self._expect(self._limits.head_time)

    def _watch_framing(self, size: int) -> None:
        """A body is incomplete: chunk extensions and trailers must not go on for ever."""
        self._raw_bytes += size
        allowed = (CHUNK_OVERHEAD + 1) * self._body_bytes + self._limits.head + self._limits.held
        if self._raw_bytes > allowed:
            self._break(refusal(400, "The body is almost nothing but framing."))

    # --- exchanges

    def _start(self, exchange: Exchange) -> None:
        self._current = exchange
        self._deadline = 0.0
        task = self._loop.create_task(exchange.run(self._app))
        self._server_state.tasks.add(task)
        task.add_done_callback(self._server_state.tasks.discard)

    def answered(self, exchange: Exchange) -> None:
        """The exchange wrote the last byte of its answer: the next one, or silence, or the end."""
        self._server_state.total_requests += 1
        if exchange is not self._current:
            return
        self._current = None
        if self._transport.is_closing():
            return
        if not exchange.complete:
            self._linger()
        elif not exchange.keep_alive:
            if self._drop:  # the client said that it is the last; what it sends nevertheless must not reset the answer
                self._linger()
            else:
                self._drop = True
                self._close()
        elif self._queue:
            self._start(self._queue.popleft())
            self.resume_reading()
        elif self._last_words is not None:
            self._refuse(self._last_words)
        else:
            self.resume_reading()
            self._expect(self._limits.head_time if self._in_head else self._retiring or self._limits.idle)

    def _leave(self) -> None:
        """Tells every exchange that its client is gone."""
        current, self._current = self._current, None
        waiting, self._queue = self._queue, deque()
        self._reading = None
        for exchange in (current, *waiting):
            if exchange is not None:
                exchange.leave()
        self._let_write()  # whoever waits for room need not wait for what nobody takes

    def abandon(self, exchange: Exchange) -> None:
        """The application failed in mid-answer: cut the connection, so that nobody takes the answer for whole."""
        if exchange is self._current:
            self._drop = True
            self._transport.abort()

    # --- breaking and closing

    def _break(self, why: Refusal) -> None:
        """Stops parsing for good. The refusal goes out once what was asked before it is answered."""
        self._drop = True
        broken, self._reading = self._reading, None
        if broken is not None and broken is not self._current:
            self._queue.remove(broken)
        if self._current is not None and broken is not self._current:
            self._last_words = why
            return
        if broken is not None:
            self._current = None
            begun = broken.begun
            broken.leave()
            if begun:
                self._transport.abort()
                return
        self._refuse(why)

    def _refuse(self, why: Refusal) -> None:
        log.info("Refused the request %s: %s", why.id, why.message, extra={"status": why.status})
        self._transport.write(why.answer(self._server_state.default_headers, self._target))
        self._linger()

    def _linger(self) -> None:
        """Closes our side, and for a moment throws away what still comes, so that the answer is not lost to a reset."""
        self._drop = self._lingering = True
        self.resume_reading()
        if self._transport.can_write_eof():
            self._transport.write_eof()
            self._expect(self._limits.linger)
        else:
            self._close()

    def _absorb(self, size: int) -> None:
        self._absorbed += size
        if self._absorbed > self._limits.lingered:
            self._pause_reading()

    def _close(self) -> None:
        """Closes after what is still to be sent; a client that takes none of it is cut off in the end."""
        self._transport.close()
        self._expect(self._limits.idle)

    # --- time: one timer per connection, moved lazily

    def _expect(self, seconds: float) -> None:
        """Something must happen within ``seconds``."""
        self._deadline = self._loop.time() + seconds
        if self._timer is not None:
            if self._timer.when() <= self._deadline:
                return  # it fires early, looks, and sets itself again
            self._timer.cancel()
        self._set_timer()

    def _set_timer(self) -> None:
        # What is due within a millisecond gets no timer from uvloop, but a handle that does not know when
        self._timer = self._loop.call_at(max(self._deadline, self._loop.time() + 0.002), self._look)

    def _look(self) -> None:
        self._timer = None
        if self._deadline == 0.0:
            return  # a request is being answered: its times are the application's
        if self._loop.time() < self._deadline:
            self._set_timer()
        elif unsent := self._transport.get_write_buffer_size():
            self._watch_reader(unsent)
        elif self._lingering or self._transport.is_closing():
            self._transport.abort()
        elif self._current is not None:
            self._deadline = 0.0
        elif self._in_head:
            self._break(refusal(408, f"The request head was not complete after {self._limits.head_time:g} s."))
        else:
            self._drop = True
            self._close()

    def _watch_reader(self, unsent: int) -> None:
        """Some of an answer is still to be sent: whoever takes of it may be slow, whoever takes nothing is cut off."""
        if unsent < self._unsent or not self._unsent:
            self._stalled = 0
        else:
            self._stalled += 1
        self._unsent = unsent
        if self._stalled >= LOOKS:
            self._transport.abort()
        else:
            self._expect((self._limits.idle if self._current is None else self._limits.stuck) / LOOKS)

    # --- flow

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    async def drained(self) -> None:
        """Returns when the client has taken enough for more to be written, or is gone."""
        waiter = self._loop.create_future()
        self._writable.append(waiter)
        await waiter

    def _let_write(self) -> None:
        waiting, self._writable = self._writable, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    def _pause_reading(self) -> None:
        if not self._reading_paused and not self._transport.is_closing():
            self._reading_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._reading_paused and not self._transport.is_closing():
            self._reading_paused = False
            self._transport.resume_reading()

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        """The date, as uvicorn's server keeps it."""
        return self._server_state.default_headers


def _address(pair: object) -> tuple[str, int] | None:
    return (str(pair[0]), int(pair[1])) if isinstance(pair, tuple) and len(pair) >= 2 else None


def _cause(error: httptools.HttpParserError, data: bytes) -> Refusal:
    if isinstance(error.__context__, Refusal):
        return error.__context__
    if data.startswith(b"\x16\x03"):  # a ClientHello
        return refusal(400, "TLS was spoken where there is none: the base URL begins with http:// here.")
    return refusal(400, "The request is not valid HTTP/1.1.")


def _plain_head(fields: list[tuple[bytes, bytes]]) -> bytes:
    """A request line with only the fields that frame a body."""
    framing = (name + b": " + value for name, value in fields if name in (b"content-length", b"transfer-encoding"))
    return b"\r\n".join([b"POST / HTTP/1.1", *framing, b"", b""])
