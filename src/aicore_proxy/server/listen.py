"""The listening side: sockets, the descriptor limit, and uvicorn's server with our edge as its protocol."""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import socket
import ssl
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import uvicorn

from aicore_proxy.server.edge import EdgeProtocol, Limits

log = logging.getLogger("aicore_proxy.edge")

BACKLOG = 4096
ACCEPTS_PER_TURN = 16
"""uvloop accepts one connection per listening handle and loop turn: a busy loop would starve new clients first. So the
one socket gets several handles (duplicated descriptors: one port, one backlog)."""
RESERVED = 64
"""Descriptors for everything but requests."""
UNSENT = 256 * 1024
"""Bytes that the kernel takes from us beyond what it can send at once: a client that reads nothing holds no more."""


def bind(host: str, port: int) -> list[socket.socket]:
    """Listening sockets for ``host``, each IP address of it, on ``port`` (0: a free one, the same for all).

    Raises OSError where the port is taken or the address is not ours.
    """
    bound: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, address in dict.fromkeys(found):
            listener = _listener(family, (address[0], bound[0].getsockname()[1] if bound else port, *address[2:]))
            if listener is not None:
                bound.append(listener)
    except BaseException:
        close(bound)
        raise
    if not bound:
        raise OSError(f"No address of {host} can be listened on.")
    return bound


def bind_slots(host: str, port: int, slots: int) -> list[list[socket.socket]]:
    """Listening sockets for several processes on one port: a list of them for each.

    On Linux each has sockets of its own, among which the kernel spreads the connections (SO_REUSEPORT); elsewhere all
    share the same ones. Raises OSError as ``bind`` does: a port that others listen on is taken, shared or not.
    """
    first = bind(host, port)
    bound = [first]
    if slots == 1 or sys.platform != "linux":
        return bound * slots
    try:
        for listener in first:  # only now: so it could not join somebody else's group
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.listen(BACKLOG)
        for _ in range(slots - 1):
            bound.append([])
            for listener in first:
                beside = _listener(listener.family, listener.getsockname(), shared=True)
                if beside is not None:
                    bound[-1].append(beside)
    except BaseException:
        close([listener for slot in bound for listener in slot])
        raise
    return bound


def close(listeners: list[socket.socket]) -> None:
    """Closes them; twice does no harm."""
    for listener in listeners:
        listener.close()


def _listener(family: int, address: tuple[Any, ...], *, shared: bool = False) -> socket.socket | None:
    """A listening socket; None: this machine has no such address family, or not that address of it."""
    try:
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError:
        return None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # Accepted sockets inherit it: no system call per connection
        if (option := getattr(socket, "TCP_NOTSENT_LOWAT", 25 if sys.platform == "linux" else None)) is not None:
            listener.setsockopt(socket.IPPROTO_TCP, option, UNSENT)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRNOTAVAIL:
            return None
        raise
    return listener


def server(
    app: Any,
    *,
    limits: Limits | None = None,
    graceful_timeout: float | None = None,
    tls: ssl.SSLContext | None = None,
) -> uvicorn.Server:
    """uvicorn's server with our edge. No proxy headers (the peer's address is the peer's), no version, no access log.

    ``graceful_timeout``: seconds that answers may still take after a signal to stop; None: as long as they need.
    ``tls``: the listeners speak TLS (server/tls.py).
    """
    config = uvicorn.Config(
        app,
        http=partial(EdgeProtocol, limits or Limits()),  # type: ignore[arg-type]  # called like the class that it wants
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        ws="none",
        lifespan="off",
        interface="asgi3",
        backlog=BACKLOG,
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        ssl_context_factory=None if tls is None else lambda _config, _default: tls,
        timeout_graceful_shutdown=None if graceful_timeout is None else max(1, round(graceful_timeout)),
    )
    return uvicorn.Server(config)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's event loops, where there are any."""
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        return None
    return uvloop.new_event_loop


def spread(listeners: list[socket.socket], handles: int = ACCEPTS_PER_TURN) -> list[socket.socket]:
    """The listeners and duplicates of them, for ``uvicorn.Server.serve(sockets=...)``."""
    return [copy for listener in listeners for copy in (listener, *(listener.dup() for _ in range(handles - 1)))]


class Acceptor:
    """Takes connections and lets them go, for one process. Owns uvicorn's server, whose handling of signals it leaves
    out: when to end is decided elsewhere. Lives in one event loop."""

    def __init__(self, server: uvicorn.Server) -> None:
        self._server = server
        self._handles: list[socket.socket] = []
        self._deadline = math.inf
        if not server.config.loaded:
            server.config.load()
        server.lifespan = server.config.lifespan_class(server.config)

    @property
    def answered(self) -> int:
        """Requests answered so far."""
        return self._server.server_state.total_requests

    async def open(self, listeners: list[socket.socket]) -> None:
        """Takes connections from now on. ``listeners`` stay the caller's: what is closed here are duplicates."""
        await self._server.on_tick(0)  # the Date header
        self._handles = spread([listener.dup() for listener in listeners])
        await self._server.startup(sockets=self._handles)

    async def tick(self) -> None:
        """Keeps the Date header right, for ever: work for a Supervisor."""
        while True:
            await asyncio.sleep(1.0 - time.time() % 1.0 + 0.001)
            await self._server.on_tick(0)

    def shut(self) -> None:
        """Takes no more connections."""
        for server in self._server.servers if self._server.started else ():
            server.close()
        close(self._handles)

    def retire(self, patience: float) -> None:
        """Tells clients to come back on another connection: with their next answer, or by closing what was silent for
        ``patience`` seconds; 0: at once."""
        for connection in tuple(self._server.server_state.connections):
            if patience and isinstance(connection, EdgeProtocol):
                connection.retire(patience)
            else:
                connection.shutdown()

    async def emptied(self, seconds: float) -> bool:
        """Waits until no connection is left, at most so long or until ``hurry``; whether none is left."""
        loop = asyncio.get_running_loop()
        self._deadline = min(self._deadline, loop.time() + seconds)
        while self._server.server_state.connections and loop.time() < self._deadline:  # noqa: ASYNC110 - a plain set
            await asyncio.sleep(0.02)
        self._deadline = math.inf
        return not self._server.server_state.connections

    def hurry(self) -> None:
        """Ends the waiting of ``emptied``, also of one that is still to come."""
        self._deadline = 0.0

    async def end(self) -> None:
        """Cuts what is still open."""
        state = self._server.server_state
        for task in tuple(state.tasks):
            task.cancel()
        if state.tasks:
            await asyncio.wait(state.tasks, timeout=1.0)


def most_requests(wanted: int) -> int:
    """How many requests this process can serve at once, up to ``wanted``: each takes two descriptors."""
    try:
        import resource  # noqa: PLC0415 - not on Windows
    except ImportError:
        return wanted
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, (soft - RESERVED) // 2))


def raise_descriptor_limit(wanted: int = 65_536) -> int:
    """Lets the process open as many descriptors as it may, up to ``wanted``; returns how many it now may."""
    try:
        import resource  # noqa: PLC0415 - not on Windows
    except ImportError:
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        except (OSError, ValueError) as error:
            log.warning("The descriptor limit stays at %d: %s", soft, error)
            return soft
        return most
    return soft
