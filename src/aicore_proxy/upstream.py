"""The HTTP client behind one Protocol: ``send(UpstreamRequest) -> UpstreamResponse``. Hides aiohttp from all rooms.

What aiohttp does not do by itself is added here: proxies and CA bundles of the environment without a thread per
request, one repeat on a fresh connection when a pooled one was already dead (whatever the method), a deadline for the
head and one between bytes, and connections that end at once when nobody wants their answer any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import socket
import ssl
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextvars import ContextVar
from enum import Enum
from pathlib import Path
from typing import Protocol

import aiohttp
from aiohttp import ClientTimeout
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection
from aiohttp.resolver import ThreadedResolver
from aiohttp.tracing import Trace
from msgspec import Struct
from multidict import CIMultiDict
from yarl import URL

READ_SIZE = 64 * 1024  # what one answer buffers before its connection is no longer read (aiohttp doubles it)
PIECE_SIZE = 256 * 1024  # a larger request body is written in pieces, so that the loop breathes between them
HEAD_LINE_SIZE = 16 * 1024  # bytes of one field of a response head
HEAD_FIELDS = 200
STALE_WITHIN = 1.0  # seconds: later, the model may have run already, and a second request would bill twice
CA_VARIABLES = ("AICORE_PROXY_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


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


class Proxies(Struct, frozen=True):
    """HTTP proxies by scheme of the target, as URLs (with credentials, where there are), and the hosts that go
    without (``NO_PROXY``: names, suffixes, host:port, ``*``)."""

    http: str = ""
    https: str = ""
    bypass: str = ""

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Proxies:
        """``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY`` and ``NO_PROXY``, lower case first. Raises ValueError for
        a proxy that is not spoken to over HTTP (SOCKS)."""

        def variable(name: str) -> str:
            return (environ.get(name.lower()) or environ.get(name.upper()) or "").strip()

        every = variable("all_proxy")
        found = cls(variable("http_proxy") or every, variable("https_proxy") or every, variable("no_proxy"))
        return cls(proxy_url(found.http), proxy_url(found.https), found.bypass)

    def towards(self, url: URL) -> str:
        """The proxy for this target, or nothing."""
        proxy = self.https if url.scheme == "https" else self.http
        return proxy if proxy and not self._bypassed(url.host or "", url.port) else ""

    def _bypassed(self, host: str, port: int | None) -> bool:
        for entry in self.bypass.lower().split(","):
            name = entry.strip().removeprefix("*.").lstrip(".")
            if name and (name in ("*", host, f"{host}:{port}") or host.endswith(f".{name}")):
                return True
        return False


def proxy_url(proxy: str) -> str:
    if not proxy:
        return ""
    url = URL(proxy if "://" in proxy else f"http://{proxy}")
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(f"The proxy {without_credentials(url)} of the environment is not an HTTP proxy.")
    return str(url)


def without_credentials(url: URL) -> str:
    return str(url.with_user(None)) if url.absolute else str(url.origin() if url.host else "?")


def tls_context(environ: Mapping[str, str], client_certificate: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    """Verifies against the system's CAs and those that the variables of ``CA_VARIABLES`` add. ``client_certificate``:
    PEM files of the chain and its key. Reads files: call it before the loop runs. Raises ValueError."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    for variable in CA_VARIABLES:
        if value := environ.get(variable, "").strip():
            path = Path(value)
            try:
                context.load_verify_locations(capath=path) if path.is_dir() else context.load_verify_locations(path)
            except OSError as error:  # SSLError is one
                raise ValueError(f"The CA bundle of {variable}, {value}, cannot be read: {error}") from error
    if client_certificate is not None:
        context.load_cert_chain(*client_certificate)
    return context


class AiohttpUpstream:
    """An Upstream on aiohttp: pooled without a cap (the subaccounts of a region share a host), idle connections
    dropped after ``keepalive`` seconds, redirects not followed, cookies not kept.

    Owns its two sessions, opened by the first request: the pool, and one whose connections are used once, for the
    repeat. ``stale_retries`` counts those repeats.
    """

    def __init__(
        self,
        *,
        tls: ssl.SSLContext | None = None,
        proxies: Proxies | None = None,
        keepalive: float = 30.0,
        user_agent: str = "aicore-proxy",
    ) -> None:
        self.stale_retries = 0
        self._tls = tls
        self._proxies = proxies or Proxies()
        self._keepalive = keepalive
        self._user_agent = user_agent
        self._timeouts: dict[float, ClientTimeout] = {}
        self._pool: aiohttp.ClientSession | None = None
        self._single: aiohttp.ClientSession | None = None
        self._closed = False

    async def send(self, request: UpstreamRequest) -> AiohttpResponse:
        """See Upstream. A connection out of the pool that turns out to be dead, at once and before any byte of an
        answer, is replaced by a fresh one, once, for every method: a mesh that closes idle ones makes it common."""
        if self._closed:
            raise UpstreamError(Phase.CONNECT, "The client is closed.")
        if self._pool is None:
            self._pool = self._open(pooled=True)
        loop = asyncio.get_running_loop()
        try:
            return await self._attempt(self._pool, request, _Exchange(loop, request))
        except _StaleConnectionError:
            self.stale_retries += 1
        if self._single is None:
            self._single = self._open(pooled=False)
        return await self._attempt(self._single, request, _Exchange(loop, request))

    async def close(self) -> None:
        """Ends all connections, also those in use."""
        self._closed = True
        for session in (self._pool, self._single):
            if session is not None:
                await session.close()

    def _open(self, *, pooled: bool) -> aiohttp.ClientSession:
        session = aiohttp.ClientSession(
            connector=_Connector(tls=self._tls, keepalive=self._keepalive if pooled else None),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": self._user_agent},
            timeout=ClientTimeout(total=None),
            auto_decompress=False,
            read_bufsize=READ_SIZE,
            max_line_size=HEAD_LINE_SIZE,
            max_field_size=HEAD_LINE_SIZE,
            max_headers=HEAD_FIELDS,
        )
        # aiohttp repeats idempotent requests on its own, also on fresh connections and however late: send() decides
        session._retry_connection = False  # noqa: SLF001
        return session

    async def _attempt(
        self, session: aiohttp.ClientSession, request: UpstreamRequest, exchange: _Exchange
    ) -> AiohttpResponse:
        headers = CIMultiDict(request.headers)
        data: bytes | AsyncIterator[memoryview] | None = request.body
        if request.body is not None and len(request.body) > PIECE_SIZE:
            headers["Content-Length"] = str(len(request.body))
            data = exchange.upload(request.body)
        connect = request.timeouts.connect
        if (timeout := self._timeouts.get(connect)) is None:
            timeout = self._timeouts[connect] = ClientTimeout(total=None, connect=connect)
        token = _current.set(exchange)
        try:
            if not request.url.isascii() or not request.url.isprintable() or " " in request.url:
                raise ValueError("not an encoded URL")
            url = URL(request.url, encoded=True)
            answer = await session.request(
                request.method,
                url,
                data=data,
                headers=headers,
                allow_redirects=False,
                timeout=timeout,
                proxy=self._proxies.towards(url) or None,
                ssl=request.tls if request.tls is not None else True,
            )
        except BaseException as error:
            exchange.abort()
            if isinstance(error, (aiohttp.ClientError, OSError, ValueError)):
                raise exchange.failed(error) from None  # the original may quote a proxy's password
            raise
        finally:
            _current.reset(token)
            exchange.disarm()
        return AiohttpResponse(answer, exchange)


class AiohttpResponse:
    """See UpstreamResponse. Owns its connection until the body was read to its end, or it is closed."""

    __slots__ = (
        "_answer", "_content", "_exchange", "_failure", "_taken",
        "_timer", "_waits_since", "headers", "status",
    )  # fmt: skip

    def __init__(self, answer: aiohttp.ClientResponse, exchange: _Exchange) -> None:
        self.status = answer.status
        self.headers: Mapping[str, str] = answer.headers
        self._answer = answer
        self._content = answer.content
        self._exchange = exchange
        self._taken = 0
        self._timer: asyncio.TimerHandle | None = None
        self._waits_since = 0.0
        self._failure: UpstreamError | None = None

    def values(self, name: str) -> list[str]:
        return self._answer.headers.getall(name, [])

    def chunks(self) -> AsyncIterator[bytes]:
        if self.headers.get("Content-Encoding", "identity").lower() != "identity":
            return inflated(self, self._exchange.host)
        return self

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._failure is not None:
            raise self._failure
        content = self._content
        if content.total_bytes == self._taken and not content.is_eof():
            self._waits_since = self._exchange.loop.time()
            if self._timer is None:
                self._arm(self._exchange.timeouts.between_bytes)
        try:
            piece = await content.readany()
        except (aiohttp.ClientError, OSError, RuntimeError):
            self._failure = self._cut()
            # what had come before the cut still counts
            piece = content._read_nowait(-1) if content.total_bytes > self._taken else b""  # noqa: SLF001
            if not piece:
                raise self._failure from None
        finally:
            self._waits_since = 0.0
        if piece:
            self._taken += len(piece)
            return piece
        self._end()
        if self._exchange.timed_out or self._exchange.reset:
            # a body that only the end of its connection ends: neither of these is that end
            raise self._cut()
        raise StopAsyncIteration

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
        return b"".join(parts)[:limit]

    async def close(self) -> None:
        self._end()

    def _end(self) -> None:
        self._disarm()
        if not self._answer.closed or self._exchange.uploading:
            self._exchange.abort()
            self._answer.close()

    def _cut(self) -> UpstreamError:
        self._end()
        exchange = self._exchange
        if exchange.timed_out:
            seconds = exchange.timeouts.between_bytes
            return UpstreamError(Phase.BETWEEN_BYTES_TIMEOUT, f"{exchange.host} sent nothing for {seconds:g} s.")
        how = "reset the connection" if exchange.reset else "stopped"
        return UpstreamError(Phase.BODY, f"{exchange.host} {how} in the middle of its answer.")

    def _arm(self, seconds: float) -> None:
        self._timer = self._exchange.loop.call_later(seconds, self._check)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self) -> None:
        """One timer per answer, however many pieces: it looks how long the reader has been waiting by now."""
        limit = self._exchange.timeouts.between_bytes
        waited = self._exchange.loop.time() - self._waits_since if self._waits_since else 0.0
        if waited < limit:
            self._arm(limit - waited)
        elif (late := waited - limit) > LATE:
            self._waits_since += late
            self._arm(late)
        else:
            self._exchange.expire()
            self._answer.close()


async def inflated(answer: AiohttpResponse, host: str) -> AsyncIterator[bytes]:
    """The body of an answer that came compressed although nobody asked for it (a gateway's doing). aiohttp's own
    decompression does not notice a gzip body that was cut."""
    encoding = answer.headers.get("Content-Encoding", "").lower()
    if encoding not in ("gzip", "x-gzip", "deflate"):
        await answer.close()
        raise UpstreamError(Phase.BODY, f"{host} answered in an encoding that was not asked for: {encoding[:20]!r}.")
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
        raise UpstreamError(Phase.BODY, f"{host} sent a broken {encoding} body.") from None
    if not inflater.eof:
        raise UpstreamError(Phase.BODY, f"{host} ended its {encoding} body in the middle.")


LATE = 0.1
"""Seconds. A timer that comes later than this was held up by our own event loop, and so was what it waits for: as much
time is given on top, or a stalled process would see every upstream fail at once."""


class _StaleConnectionError(Exception):
    """A connection out of the pool was dead."""


class _Exchange:
    """One request on its connection. Owned by the attempt that made it; the connector fills it in.

    Holds nothing of the body: a connection keeps the context that it was opened in, and so this, for all its life.
    """

    __slots__ = (
        "_due", "_timer", "_url", "connection", "fresh", "loop", "started", "timed_out", "timeouts", "transport",
        "uploading",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop, request: UpstreamRequest) -> None:
        self.loop = loop
        self.timeouts = request.timeouts
        self._url = request.url
        self.started = loop.time()
        self.fresh = False
        self.timed_out = False
        self.uploading = False  # a long body, of which not all was given to the connection
        self.transport: asyncio.Transport | None = None
        self.connection: _Connection | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    @property
    def host(self) -> str:
        url = URL(self._url)
        return url.host_port_subcomponent or "The upstream"

    @property
    def reset(self) -> bool:
        return self.connection is not None and self.connection.reset

    def connected(self, connection: Connection) -> None:
        assert isinstance(connection.protocol, _Connection)
        self.connection = connection.protocol
        self.transport = connection.transport
        self.fresh = not self.connection.used
        self.connection.used = True
        self._arm(self.timeouts.first_byte)

    def _arm(self, seconds: float) -> None:
        self._due = self.loop.time() + seconds
        self._timer = self.loop.call_later(seconds, self._check)

    def _check(self) -> None:
        late = self.loop.time() - self._due
        if late > LATE:
            self._arm(late)
        else:
            self.expire()

    async def upload(self, body: bytes) -> AsyncIterator[memoryview]:
        self.uploading = True
        view = memoryview(body)
        for start in range(0, len(view), PIECE_SIZE):
            yield view[start : start + PIECE_SIZE]
        self.uploading = False

    def disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def expire(self) -> None:
        self.timed_out = True
        self.abort()

    def abort(self) -> None:
        """Ends the connection now: without a goodbye in TLS, and without sending what is still buffered."""
        if self.transport is not None:
            self.transport.abort()

    def failed(self, error: Exception) -> UpstreamError | _StaleConnectionError:
        host, timeouts = self.host, self.timeouts
        if self.timed_out:
            return UpstreamError(Phase.FIRST_BYTE_TIMEOUT, f"{host} did not answer within {timeouts.first_byte:g} s.")
        match error:
            case aiohttp.ConnectionTimeoutError():
                return UpstreamError(Phase.CONNECT_TIMEOUT, f"No connection to {host} within {timeouts.connect:g} s.")
            case aiohttp.ClientHttpProxyError(status=status):
                return UpstreamError(Phase.PROXY, f"The proxy refused the way to {host} with status {status}.")
            case aiohttp.ClientProxyConnectionError(host=proxy, port=port):
                return UpstreamError(Phase.PROXY, f"No connection to the proxy {proxy}:{port}{words(error.os_error)}")
            case aiohttp.ClientConnectorCertificateError():
                return UpstreamError(Phase.TLS, f"The certificate of {host} is refused{words(error.certificate_error)}")
            case aiohttp.ClientSSLError():
                return UpstreamError(Phase.TLS, f"TLS with {host} failed{words(error.os_error)}")
            case aiohttp.ClientConnectorError():
                return UpstreamError(Phase.CONNECT, f"No connection to {host}{words(error.os_error)}")
        if self.transport is None:
            detail = (
                "." if isinstance(error, (ValueError, aiohttp.NonHttpUrlClientError)) else words(error)
            )  # they quote the URL
            return UpstreamError(Phase.CONNECT, f"No connection to {host}{detail}")
        if isinstance(error, ValueError):
            return UpstreamError(Phase.SEND, f"The request to {host} cannot be sent: a header or its URL is not valid.")
        if self._stale(error):
            return _StaleConnectionError()
        if isinstance(error, aiohttp.ClientResponseError):
            return UpstreamError(Phase.HEAD, f"{host} sent an answer that is not HTTP: {parse_error(error)}.")
        if isinstance(error, OSError) and "write" in str(error):
            return UpstreamError(Phase.SEND, f"{host} broke the connection off during the request{words(error)}")
        return UpstreamError(Phase.HEAD, f"{host} broke the connection off before it answered{words(error)}")

    def _stale(self, error: Exception) -> bool:
        """Whether a connection out of the pool ended at once and without any byte of an answer."""
        if self.fresh or self.connection is None or self.connection.began:
            return False
        if isinstance(error, aiohttp.ServerDisconnectedError):
            ended = isinstance(error.message, str)  # else aiohttp puts there what it had of a head
        else:
            # Where a body could not be written, aiohttp has what happened as the cause only
            ended = any(isinstance(e, ConnectionError) for e in (error, error.__cause__)) or getattr(
                error, "errno", None
            ) in (errno.ECONNRESET, errno.EPIPE)
        return ended and self.loop.time() - self.started < STALE_WITHIN


_current: ContextVar[_Exchange] = ContextVar("exchange")


class _Connector(aiohttp.TCPConnector):
    """Tells each exchange on which connection it is. Inherits, as aiohttp has no other hook for it."""

    def __init__(self, *, tls: ssl.SSLContext | None, keepalive: float | None) -> None:
        super().__init__(
            limit=0,
            ssl=tls if tls is not None else True,
            resolver=ThreadedResolver(),
            socket_factory=open_socket,
            keepalive_timeout=keepalive,
            force_close=keepalive is None,
        )
        connection: Callable[..., ResponseHandler] = _Connection
        self._factory = functools.partial(connection, loop=self._loop)

    async def connect(self, req: ClientRequest, traces: list[Trace], timeout: ClientTimeout) -> Connection:  # noqa: ASYNC109
        connection = await super().connect(req, traces, timeout)
        _current.get().connected(connection)
        return connection


class _Connection(ResponseHandler):
    """A connection that knows more of its end than aiohttp's: whether it was reset, and in the middle of a head.
    It also wakes the reader of a body whose framing was garbage, which aiohttp leaves waiting for ever."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.used = False
        self.reset = False
        self.began = False

    def connection_lost(self, exc: BaseException | None) -> None:
        payload = self._payload
        if exc is not None:
            self.reset = True
            if (payload is None or payload.is_eof()) and self._parser is not None:
                with contextlib.suppress(Exception):
                    self.began = self._parser.feed_eof() is not None
        super().connection_lost(exc)
        if payload is not None and not payload.is_eof() and payload.exception() is None:
            payload.set_exception(aiohttp.ClientPayloadError("its framing is not HTTP"))


def open_socket(address: tuple[int, int, int, str, tuple[object, ...]]) -> socket.socket:
    """A socket for a new connection, with TCP keep-alives: while a model thinks for minutes nothing is sent, and a
    NAT on the way forgets silent connections."""
    family, kind, protocol, _, _ = address
    opened = socket.socket(family, kind, protocol)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # Not all at the same moment: of the probes of 10,000 connections that went silent together, the kernel drops so
    # many for want of room that some connections lose all of theirs, and end
    idle = 40 + opened.fileno() % 61
    for option, value in (("TCP_KEEPIDLE", idle), ("TCP_KEEPINTVL", 20), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):  # macOS has no TCP_KEEPIDLE before 3.10
            opened.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return opened


def parse_error(error: aiohttp.ClientResponseError) -> str:
    return first_line(error.message.partition(": b'")[0])  # without what was read


def words(error: BaseException | None) -> str:
    """What is worth saying of an error, as the end of a sentence."""
    match error:
        case None | aiohttp.ServerDisconnectedError():
            return "."
        case ssl.SSLCertVerificationError():
            return f": {error.verify_message}."
        case OSError() if error.strerror:
            return f": {first_line(error.strerror)}."
    return f": {first_line(str(error))}." if str(error) else "."


def first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")[:200].rstrip(".: ")
