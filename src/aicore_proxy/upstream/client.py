"""The client: a pool of connections, and the one repeat of a request whose pooled connection was dead."""

from __future__ import annotations

import asyncio
import functools
import re
import ssl
from contextvars import Context

from aicore_proxy.clock import elapsed
from aicore_proxy.upstream.connection import Answer, Connection
from aicore_proxy.upstream.dialing import Dialer, Way, words
from aicore_proxy.upstream.routes import Proxies, Target, authorization, target_of, tls_context
from aicore_proxy.upstream.seam import Phase, UpstreamError, UpstreamRequest

STALE_WITHIN = 1.0  # seconds: later, the model may have run already, and a second request would bill twice
BODY_METHODS = frozenset({"POST", "PUT", "PATCH"})
_name = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
_forbidden = re.compile(r"[\r\n\0]").search


class PooledUpstream:
    """An Upstream: pooled without a cap (the subaccounts of a region share a host), idle connections dropped after
    ``keepalive`` seconds, redirects not followed, cookies not kept. HEAD is not spoken.

    Owns its connections. ``stale_retries`` counts the repeats.
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
        self._defaults = (("Accept", "*/*"), ("Accept-Encoding", "identity"), ("User-Agent", user_agent))
        self._idle: dict[Way, dict[Connection, None]] = {}  # the last of each was used last
        self._ways: dict[Connection, Way] = {}
        self._dialer = Dialer(self._free, self._gone)
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False
        self._way = functools.lru_cache(maxsize=1024)(self._way_to)

    async def send(self, request: UpstreamRequest) -> Answer:
        """See Upstream. A connection out of the pool that turns out to be dead, at once and before any byte of an
        answer, is replaced by a fresh one, once, for every method: a mesh that closes idle ones makes it common."""
        if self._closed:
            raise UpstreamError(Phase.CONNECT, "The client is closed.")
        try:
            target = target_of(request.url)
        except ValueError:
            raise UpstreamError(Phase.CONNECT, "No connection: the upstream's URL is not valid.") from None
        way = self._way(target.scheme, target.host, target.port, target.place, request.tls)
        try:
            head = self._head(request, target, way)
        except ValueError:
            problem = f"The request to {target.place} cannot be sent: a header or its URL is not valid."
            raise UpstreamError(Phase.SEND, problem) from None
        if (connection := self._pooled(way)) is not None:
            loop = connection.loop
            started = loop.time()
            answer = await connection.ask(head, request.body, target.place, request.timeouts)
            if answer.begun:
                return answer
            ended = connection.lost and not (connection.received or connection.timed_out)
            if not ended or loop.time() - started >= STALE_WITHIN:
                raise unanswered(connection, target, request)
            self.stale_retries += 1
        connection = await self._dial(way, request.timeouts.connect)
        answer = await connection.ask(head, request.body, target.place, request.timeouts)
        if not answer.begun:
            raise unanswered(connection, target, request)
        return answer

    async def _dial(self, way: Way, seconds: float) -> Connection:
        opened: list[Connection] = []
        # In a context of its own: a connection keeps the one that it was opened in for all its life
        dialing = asyncio.get_running_loop().create_task(self._dialer.dial(way, seconds, opened), context=Context())
        try:
            connection = await dialing
            if self._closed:
                raise UpstreamError(Phase.CONNECT, "The client is closed.")
        except BaseException:
            for each in opened:
                each.abort()
            raise
        if not connection.lost:
            self._ways[connection] = way
        return connection

    async def close(self) -> None:
        """Ends all connections, also those in use."""
        self._closed = True
        self._dialer.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in list(self._ways):
            connection.abort()
        await asyncio.sleep(0)  # the event loop closes them in its next turn

    def _way_to(self, scheme: str, host: str, port: int, place: str, tls: ssl.SSLContext | None) -> Way:
        proxy = self._proxies.towards(Target(scheme, host, port, place, "/"))
        if self._tls is None and (scheme == "https" or proxy.startswith("https:")):
            self._tls = tls_context({})
        proxy_tls = self._tls if proxy.startswith("https:") else None
        return Way(scheme, host, port, place, proxy, (tls or self._tls) if scheme == "https" else None, proxy_tls)

    def _head(self, request: UpstreamRequest, target: Target, way: Way) -> bytes:
        """Raises ValueError."""
        if not _name(request.method):
            raise ValueError("no method")
        path = f"http://{target.place}{target.path}" if way.forwarded else target.path
        lines = [f"{request.method} {path} HTTP/1.1", f"Host: {target.place}"]
        given = set()
        for name, value in request.headers:
            if _name(name) is None or _forbidden(value) is not None:
                raise ValueError("no header field")
            given.add(name.lower())
            lines.append(f"{name}: {value}")
        for name, value in self._defaults:
            if name.lower() not in given:
                lines.append(f"{name}: {value}")
        if request.body is not None or request.method in BODY_METHODS:
            lines.append(f"Content-Length: {len(request.body or b'')}")
        if way.forwarded and (told := authorization(target_of(way.proxy))):
            lines.append(told.rstrip())
        lines.append("\r\n")
        return "\r\n".join(lines).encode()

    # --- the pool

    def _pooled(self, way: Way) -> Connection | None:
        """The one used last: then the others grow old, and go."""
        idle = self._idle.get(way)
        while idle:
            connection, _ = idle.popitem()
            if connection.usable and elapsed() - connection.idle_since < self._keepalive:
                return connection
            connection.abort()
        return None

    def _free(self, connection: Connection) -> None:
        if self._closed or (way := self._ways.get(connection)) is None:
            connection.abort()
            return
        connection.idle_since = elapsed()  # after a sleep the other end has forgotten it, or a NAT in between
        if (idle := self._idle.get(way)) is None:
            idle = self._idle[way] = {}
        idle[connection] = None
        if self._sweeper is None:
            self._sweeper = connection.loop.call_later(self._keepalive, self._sweep)

    def _gone(self, connection: Connection) -> None:
        if (way := self._ways.pop(connection, None)) is not None and (idle := self._idle.get(way)) is not None:
            idle.pop(connection, None)
            if not idle:
                del self._idle[way]

    def _sweep(self) -> None:
        """Ends what nobody used for so long."""
        self._sweeper = None
        loop = asyncio.get_running_loop()
        now = elapsed()
        for idle in self._idle.values():
            for connection in idle:
                if now - connection.idle_since < self._keepalive:
                    break
                connection.abort()  # it is gone from here in the next turn
        if self._idle:
            self._sweeper = loop.call_later(self._keepalive, self._sweep)


def unanswered(connection: Connection, target: Target, request: UpstreamRequest) -> UpstreamError:
    """Why no head of an answer came."""
    place = target.place
    if connection.timed_out:
        seconds = request.timeouts.first_byte
        return UpstreamError(Phase.FIRST_BYTE_TIMEOUT, f"{place} did not answer within {seconds:g} s.")
    if connection.problem:
        return UpstreamError(Phase.HEAD, f"{place} sent an answer that is not HTTP: {connection.problem}.")
    why = words(connection.reset)
    if connection.stuck:
        return UpstreamError(Phase.SEND, f"{place} broke the connection off during the request{why}")
    return UpstreamError(Phase.HEAD, f"{place} broke the connection off before it answered{why}")
