"""A small HTTP/1.1 server that has every byte in its hand: chunks of any size, cuts, resets, early answers.

One task per request; a client that leaves (FIN or RST) cancels it at once. No HTTP/2, no WebSocket.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Protocol, cast
from urllib.parse import parse_qsl, unquote, urlsplit

import httptools

log = logging.getLogger("aicore_proxy.simulator")

WRITE_HIGH_WATER = 64 * 1024
BODY_LIMIT = 512 * 1024 * 1024


class Request:
    """One request: ``path`` is decoded, ``query`` the first value of each name, header names are lower case;
    ``certificate``: that the client showed, DER."""

    __slots__ = ("body", "certificate", "headers", "keep_alive", "method", "path", "query", "target")

    def __init__(self, method: str, target: str, headers: dict[str, str]) -> None:
        parts = urlsplit(target if target.startswith("/") else "/" + target.split("://", 1)[-1].partition("/")[2])
        self.method = method
        self.target = target
        self.path = unquote(parts.path)
        self.query: dict[str, str] = {}
        for name, value in parse_qsl(parts.query, keep_blank_values=True):
            self.query.setdefault(name, value)
        self.headers = headers
        self.body = b""
        self.certificate: bytes | None = None
        self.keep_alive = True


class Disconnected(Exception):
    """The client is gone."""


class Reply:
    """Writes the answer to one request. Owned by that request's task."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._chunked = False
        self.started = False
        self.ended = False
        self.pushed = 0
        """Bytes of body handed to the network so far."""
        self.dated = ""
        """The time that the answer tells, as HTTP writes it; empty: none."""

    def head(self, status: int, headers: Mapping[str, str], length: int | None) -> None:
        """Status line and headers; ``length`` None: chunked."""
        self.started = True
        self._chunked = length is None
        lines = [f"HTTP/1.1 {status} {_phrase(status)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        lines += [f"date: {self.dated}"] if self.dated else []
        lines.append("transfer-encoding: chunked" if length is None else f"content-length: {length}")
        self._connection.write("\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape"))

    async def write(self, data: bytes) -> None:
        """One chunk of the body, once the client takes it. Raises Disconnected."""
        if not data:
            return
        if self._chunked:
            self._connection.write(b"%x\r\n%b\r\n" % (len(data), data))
        else:
            self._connection.write(data)
        self.pushed += len(data)
        if self._connection.paused:
            await self._connection.drained()

    def end(self, *, close: bool = False) -> None:
        """The orderly end; ``close``: and of the connection, without having announced it."""
        if self._chunked:
            self._connection.write(b"0\r\n\r\n")
        self.ended = True
        if close:
            self._connection.close()

    async def send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """A whole answer in one write."""
        self.started = self.ended = True
        lines = [f"HTTP/1.1 {status} {_phrase(status)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        lines += [f"date: {self.dated}"] if self.dated else []
        lines.append(f"content-length: {len(body)}")
        self._connection.write("\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape") + body)
        self.pushed += len(body)
        if self._connection.paused:
            await self._connection.drained()

    async def raw(self, data: bytes) -> None:
        """Bytes outside of all framing, as a broken server would send them."""
        self.started = True
        self._connection.write(data)
        if self._connection.paused:
            await self._connection.drained()

    def cut(self, *, reset: bool = False) -> None:
        """Ends the connection in the middle: after what was written with FIN, or at once with RST."""
        self.ended = True
        self._connection.close(reset=reset)


class Application(Protocol):
    """What the server calls."""

    async def __call__(self, request: Request, reply: Reply) -> None:
        """Answers one request. Cancelled when the client leaves."""

    def early(self, request: Request) -> Callable[[Reply], Awaitable[None]] | None:
        """An answer that is given before the body has been read, or None. ``request`` has no body yet."""


class Connection(asyncio.Protocol):
    """One client connection. Owns its parser, its queue of requests and the task of the one being answered."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._waiting: deque[Request] = deque()
        self._writable: asyncio.Future[None] | None = None
        self.paused = False
        self._ignoring = False
        self._target = bytearray()
        self._headers: dict[str, str] = {}
        self._chunks: list[bytes] = []
        self._size = 0
        self._request: Request | None = None
        self._certificate: bytes | None = None

    # --- asyncio's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)  # uvloop's own class is not a subclass
        self._transport = transport
        transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)
        raw = transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        session = transport.get_extra_info("ssl_object")
        if session is not None:
            self._certificate = session.getpeercert(binary_form=True)
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        self._transport = None
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()
        if self._writable is not None and not self._writable.done():
            self._writable.set_exception(Disconnected())
            self._writable.exception()

    def eof_received(self) -> bool:
        # A client that has sent FIN has left: what is still unsent is for nobody.
        if self._transport is not None:
            self._transport.abort()
        return False

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    def data_received(self, data: bytes) -> None:
        if self._ignoring:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(400)
        except httptools.HttpParserError:
            self._refuse(400)

    # --- httptools' callbacks

    def on_message_begin(self) -> None:
        self._target = bytearray()
        self._headers = {}
        self._chunks = []
        self._size = 0

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        key = name.decode("latin-1").lower()
        text = value.decode("utf-8", "surrogateescape")
        self._headers[key] = f"{self._headers[key]}, {text}" if key in self._headers else text

    def on_headers_complete(self) -> None:
        target = bytes(self._target).decode("latin-1")
        self._request = request = Request(self._parser.get_method().decode(), target, self._headers)
        request.keep_alive = self._parser.should_keep_alive()
        request.certificate = self._certificate
        early = self._server.application.early(request)
        if early is not None and self._task is None:
            self._ignoring = True
            self._task = asyncio.get_running_loop().create_task(self._answer_early(early))
        elif self._headers.get("expect", "").lower() == "100-continue":
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self._size > BODY_LIMIT:
            self._refuse(413)
        elif not self._ignoring:
            self._chunks.append(body)

    def on_message_complete(self) -> None:
        if self._ignoring or self._request is None:
            return
        self._request.body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks = []
        self._waiting.append(self._request)
        if self._task is None:
            self._next()

    # --- the answer

    def _next(self) -> None:
        self._task = None
        if self._waiting and self._transport is not None:
            request = self._waiting.popleft()
            self._task = asyncio.get_running_loop().create_task(self._answer(request))

    async def _answer(self, request: Request) -> None:
        reply = Reply(self)
        try:
            await self._server.application(request, reply)
        except Disconnected:
            self.close()
            return
        except Exception:
            # A request behind it on this connection would otherwise wait for ever
            log.exception("The simulator failed at %s %s", request.method, request.path)
            self.close(reset=True)
            return
        if not reply.ended or not request.keep_alive:
            self.close()
        else:
            self._next()

    async def _answer_early(self, early: Callable[[Reply], Awaitable[None]]) -> None:
        with contextlib.suppress(Disconnected):
            await early(Reply(self))
        # Long enough for the client to read the answer before the rest of its body is met by RST.
        await asyncio.sleep(0.2)
        self.close()

    def write(self, data: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            raise Disconnected
        self._transport.write(data)

    async def drained(self) -> None:
        if not self.paused or self._transport is None:
            return
        self._writable = asyncio.get_running_loop().create_future()
        try:
            await self._writable
        finally:
            self._writable = None

    def close(self, *, reset: bool = False) -> None:
        if self._transport is None:
            return
        if not reset:
            self._transport.close()
            return
        raw = self._transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def _refuse(self, status: int) -> None:
        self._ignoring = True
        with contextlib.suppress(Disconnected):
            self.write(
                f"HTTP/1.1 {status} {_phrase(status)}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode()
            )
        self.close()


class Server:
    """Listening sockets and connections. Lives on the event loop that started it."""

    def __init__(self, application: Application) -> None:
        self.application = application
        self.connections: set[Connection] = set()
        self._servers: list[asyncio.Server] = []

    async def start(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> int:
        """Listens, once more if it does already; returns the port (a free one where ``port`` is 0). Raises OSError."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: Connection(self), host, port, backlog=4096, ssl=tls, reuse_address=True
        )
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Closes everything at once."""
        for server in self._servers:
            server.close()
        for connection in list(self.connections):
            connection.close(reset=True)
        await asyncio.sleep(0)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Status"
