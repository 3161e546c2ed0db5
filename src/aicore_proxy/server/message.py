"""One request and its answer on a connection: the ASGI side of the edge."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any, Protocol

log = logging.getLogger("aicore_proxy.edge")

MESSAGES = b"/messages"
GUARDED = b"cache-control: no-store\r\nx-content-type-options: nosniff\r\n"

Message = MutableMapping[str, Any]


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


STATUS_LINES = {status: f"HTTP/1.1 {status} {_phrase(status)}\r\n".encode() for status in range(200, 600)}


class Refusal(Exception):
    """A request that broke a rule of HTTP or a limit: answered by the edge itself, and closed."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.id = f"req_{secrets.token_hex(12)}"

    def answer(self, default_headers: list[tuple[bytes, bytes]], target: bytes = b"") -> bytes:
        """The whole answer as bytes. Its shape is that of the API whose path ``target`` shows, else OpenAI's."""
        ours = self.status >= 500
        told: dict[str, Any] = {"type": "server_error" if ours else "invalid_request_error", "message": self.message}
        names = [b"x-request-id"]
        if MESSAGES in target:
            error: dict[str, Any] = {"type": "error", "error": {**told, "type": "api_error"} if ours else told}
            names.append(b"request-id")
        else:
            error = {"error": {**told, "param": None, "code": None}}
        body = json.dumps({**error, "request_id": self.id}).encode()
        fields = [*default_headers, (b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        fields += [(name, self.id.encode()) for name in names]
        lines = [STATUS_LINES[self.status], *(name + b": " + value + b"\r\n" for name, value in fields)]
        return b"".join([*lines, GUARDED, b"connection: close\r\n\r\n", body])


def refusal(status: int, message: str) -> Refusal:
    """A Refusal; ``message`` is for the client."""
    return Refusal(status, message)


class Connection(Protocol):
    """What an Exchange needs of the connection that it lives on."""

    write_paused: bool

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]: ...
    def write(self, data: bytes) -> None: ...
    async def drained(self) -> None: ...
    def resume_reading(self) -> None: ...
    def answered(self, exchange: Exchange) -> None: ...
    def abandon(self, exchange: Exchange) -> None: ...


class Exchange:
    """One request and its answer. Owned by its connection; the application sees ``receive`` and ``send``."""

    __slots__ = (
        "_chunked",
        "_connection",
        "_ended",
        "_expects",
        "_left",
        "_pieces",
        "_told",
        "_waiter",
        "answered",
        "begun",
        "complete",
        "gone",
        "held",
        "keep_alive",
        "scope",
    )

    def __init__(self, connection: Connection, scope: dict[str, Any], *, keep_alive: bool, expects: bool) -> None:
        self._connection = connection
        self.scope = scope
        self.keep_alive = keep_alive
        self._expects = expects
        # The request.
        self._pieces: list[bytes] = []
        self.held = 0
        self.complete = False
        self._told = False
        self.gone = False
        self._waiter: asyncio.Future[None] | None = None
        # The answer.
        self.begun = False
        self.answered = False
        self._chunked = False
        self._ended = False
        self._left: int | None = None

    # --- the connection's side

    def take(self, piece: bytes) -> None:
        """A piece of the body."""
        self._pieces.append(piece)
        self.held += len(piece)
        self._wake()

    def end(self) -> None:
        """The body is complete."""
        self.complete = True
        self._wake()

    def leave(self) -> None:
        """The client is gone."""
        self.gone = True
        self._pieces.clear()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def run(self, app: Callable[..., Awaitable[None]]) -> None:
        """Runs the application; whatever it does, the client gets a whole answer or a cut connection."""
        try:
            await app(self.scope, self.receive, self.send)
        except asyncio.CancelledError:
            if not self.gone and not self.answered:
                self._connection.abandon(self)
            raise
        except Exception as crash:
            if not self.gone:
                log.error("The application failed", exc_info=crash)
                await self._fall()
        else:
            if not self.answered and not self.gone:
                await self._fall()

    async def _fall(self) -> None:
        if self.answered:
            return
        if self.begun:
            self._connection.abandon(self)
            return
        self.begun = self.answered = True
        self.keep_alive = False
        answer = refusal(500, "The proxy failed.").answer(self._connection.default_headers, self.scope["raw_path"])
        self._connection.write(answer)
        self._connection.answered(self)

    # --- the application's side

    async def receive(self) -> Message:
        """ASGI: the next piece of the body, or the news that the client left (or has its answer)."""
        if self._expects and not self.begun:
            self._expects = False
            if not self.complete and not self._pieces:
                self._connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while True:
            if self.gone or self.answered:
                return {"type": "http.disconnect"}
            if self._pieces or (self.complete and not self._told):
                return self._piece()
            self._connection.resume_reading()
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def _piece(self) -> Message:
        body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self.held = 0
        self._told = self.complete
        return {"type": "http.request", "body": body, "more_body": not self.complete}

    async def send(self, message: Message) -> None:
        """ASGI: the head or a piece of the answer. Returns when the client has room for the next one."""
        if self._connection.write_paused:
            await self._connection.drained()
        if self.gone:
            return
        match message["type"]:
            case "http.response.start" if not self.begun:
                self._begin(message)
                return
            case "http.response.body" if self.begun and not self._ended:
                self._ended = not message.get("more_body", False)
                self._write_body(message.get("body", b""))
            case kind:
                raise RuntimeError(f"The application sent {kind} out of turn.")
        if self._connection.write_paused:
            await self._connection.drained()
        if self._ended and not self.gone:
            self.answered = True
            self._wake()
            self._connection.answered(self)

    def _begin(self, message: Message) -> None:
        status: int = message["status"]
        bodiless = self.scope["method"] == "HEAD" or status in (204, 304)
        head = [STATUS_LINES[status]]
        framed = False
        for name, value in [*self._connection.default_headers, *message.get("headers", ())]:
            lowered = name.lower()
            if lowered == b"content-length":
                framed = True
                self._left = None if bodiless else int(value)
            elif lowered == b"connection":
                self.keep_alive = self.keep_alive and b"close" not in value.lower()
                continue
            elif lowered == b"transfer-encoding":
                continue
            head.append(name + b": " + value + b"\r\n")
        if not framed and not bodiless:
            # Without a length, HTTP/1.0 knows the end of a body only by the end of the connection.
            self._chunked = self.scope["http_version"] == "1.1"
            self.keep_alive = self.keep_alive and self._chunked
            if self._chunked:
                head.append(b"transfer-encoding: chunked\r\n")
        if not self.complete:
            self.keep_alive = False  # an answer before the end of the request: what still comes is never a request
        if not self.keep_alive:
            head.append(b"connection: close\r\n")
        elif self.scope["http_version"] == "1.0":
            head.append(b"connection: keep-alive\r\n")
        head.append(b"\r\n")
        block = b"".join(head)
        if block.count(b"\r") != len(head) or block.count(b"\n") != len(head) or b"\0" in block:
            raise RuntimeError("The application sent a header field that would break the head.")
        self.begun = True
        self._connection.write(block)

    def _write_body(self, body: bytes) -> None:
        if self.scope["method"] == "HEAD":
            body = b""
        elif self._chunked:
            size = len(body)
            if size:
                body = b"%x\r\n%b\r\n%b" % (size, body, b"0\r\n\r\n" if self._ended else b"")
            elif self._ended:
                body = b"0\r\n\r\n"
        elif self._left is not None:
            self._left -= len(body)
            if self._left < 0 or (self._ended and self._left > 0):
                raise RuntimeError("The answer's body does not fit its Content-Length.")
        if body:
            self._connection.write(body)
