"""The listening side: sockets, the descriptor limit, and uvicorn's server with our edge as its protocol."""

from __future__ import annotations

import errno
import logging
import socket
import ssl
import sys
from functools import partial
from typing import Any

import uvicorn

from aicore_proxy.server.edge import EdgeProtocol, Limits

log = logging.getLogger("aicore_proxy.edge")

BACKLOG = 4096
ACCEPTS_PER_TURN = 16
"""uvloop accepts one connection per listening handle and loop turn: a busy loop would starve new clients first. So the
one socket gets several handles (duplicated descriptors: one port, one backlog)."""
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
        for listener in bound:
            listener.close()
        raise
    if not bound:
        raise OSError(f"No address of {host} can be listened on.")
    return bound


def _listener(family: int, address: tuple[Any, ...]) -> socket.socket | None:
    """A listening socket; None: this machine has no such address family, or not that address of it."""
    try:
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError:
        return None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
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


def spread(listeners: list[socket.socket], handles: int = ACCEPTS_PER_TURN) -> list[socket.socket]:
    """The listeners and duplicates of them, for ``uvicorn.Server.serve(sockets=...)``."""
    return [copy for listener in listeners for copy in (listener, *(listener.dup() for _ in range(handles - 1)))]


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
