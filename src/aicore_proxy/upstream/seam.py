"""What all rooms know of the HTTP client: a request, an answer, and how either can fail."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from enum import Enum
from typing import Protocol

from msgspec import Struct


class Timeouts(Struct, frozen=True):
    """Seconds. ``connect``: name, connection, TLS and proxy; ``first_byte``: from there to the whole head of the
    answer, the upload included; ``between_bytes``: of the body."""

    connect: float = 10.0
    first_byte: float = 600.0
    between_bytes: float = 600.0


DEFAULT_TIMEOUTS = Timeouts()


class UpstreamRequest(Struct, frozen=True):
    """One request. ``url`` is absolute and already encoded; ``headers`` are all that is sent, but for Host,
    Content-Length and defaults for Accept, Accept-Encoding (identity) and User-Agent. ``tls``: instead of the client's
    own, for a request that shows a client certificate; its connections are not shared with others."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    timeouts: Timeouts = DEFAULT_TIMEOUTS
    tls: ssl.SSLContext | None = None


class Phase(Enum):
    """How far a request had come when it failed."""

    CONNECT = "connect"
    TLS = "tls"
    PROXY = "proxy"
    SEND = "send"
    HEAD = "head"
    BODY = "body"
    CONNECT_TIMEOUT = "connect_timeout"
    FIRST_BYTE_TIMEOUT = "first_byte_timeout"
    BETWEEN_BYTES_TIMEOUT = "between_bytes_timeout"


class UpstreamError(Exception):
    """No answer, or not all of it. The message names host and cause and holds no secret: it may go to clients."""

    def __init__(self, phase: Phase, message: str) -> None:
        super().__init__(message)
        self.phase = phase
        self.message = message

    def __repr__(self) -> str:
        return f"UpstreamError({self.phase.name}, {self.message!r})"


class UpstreamResponse(Protocol):
    """An answer: its head, and its body as it arrives."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Case-insensitive; of a repeated field the first value."""
        ...

    def values(self, name: str) -> list[str]:
        """All values of a repeated header field."""
        ...

    def chunks(self) -> AsyncIterator[bytes]:
        """The body, one piece per read, as it came. Raises UpstreamError where it ends too early or stalls."""
        ...

    async def read(self, limit: int) -> bytes:
        """The body, cut at ``limit`` bytes; the response is closed then. Raises UpstreamError like ``chunks``."""
        ...

    async def close(self) -> None:
        """Ends the connection at once unless the body was read to its end. Never waits; may be called twice."""
        ...


class Upstream(Protocol):
    """Sends requests. One for all subaccounts; lives as long as its process."""

    async def send(self, request: UpstreamRequest) -> UpstreamResponse:
        """Returns when the head is in. Raises UpstreamError. Cancelled, it ends the connection at once."""
        ...

    async def close(self) -> None: ...
