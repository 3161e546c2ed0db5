"""Whether a host can be reached, by the way that the proxy itself would take, and what time it is there."""

from __future__ import annotations

import asyncio
import email.utils
import socket
import ssl
import time
from collections.abc import Mapping

from msgspec import Struct

from aicore_proxy.upstream import (
    Phase,
    Proxies,
    Timeouts,
    Upstream,
    UpstreamError,
    UpstreamRequest,
    target_of,
    without_credentials,
)

CONNECTING = frozenset({Phase.CONNECT, Phase.PROXY, Phase.CONNECT_TIMEOUT})


class Reached(Struct, frozen=True):
    """``phase``: where it failed, None where an answer of any status came. ``seconds``: it took; ``skew``: how far this
    machine's clock is ahead of that one's, seconds, None where it does not say the time. ``proxy``: the one on the
    way, without credentials; ``known``: whether the name (the proxy's, where there is one) resolves."""

    host: str
    phase: Phase | None = None
    words: str = ""
    seconds: float = 0.0
    skew: float | None = None
    proxy: str = ""
    known: bool = True


async def reach(
    upstream: Upstream, url: str, proxies: Proxies, seconds: float, tls: ssl.SSLContext | None = None
) -> Reached:
    """Asks ``url`` for anything, without credentials. Never raises."""
    try:
        target = target_of(url)
    except ValueError:
        return Reached(url, Phase.CONNECT, f"{url} is not the URL of an HTTP server.", known=False)
    host = target.place
    proxy = proxies.towards(target)
    shown = without_credentials(proxy) if proxy else ""
    limits = Timeouts(connect=min(10.0, seconds), first_byte=seconds, between_bytes=seconds)
    began, wall = time.monotonic(), time.time()
    try:
        answer = await upstream.send(UpstreamRequest("GET", url, (("Connection", "close"),), None, limits, tls))
        await answer.close()
    except UpstreamError as error:
        nearest = target_of(proxy) if proxy else target
        known = error.phase not in CONNECTING or await resolves(nearest.host, nearest.port, min(5.0, seconds))
        return Reached(host, error.phase, error.message, time.monotonic() - began, proxy=shown, known=known)
    took = time.monotonic() - began
    return Reached(host, seconds=took, skew=skew_of(answer.headers, wall + took / 2), proxy=shown)


async def resolves(host: str, port: int, seconds: float) -> bool:
    """Whether the name is known; a resolver that does not answer within ``seconds`` knows nothing."""
    try:
        async with asyncio.timeout(seconds):
            await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError, UnicodeError):
        return False
    return True


def skew_of(headers: Mapping[str, str], wall: float) -> float | None:
    """Seconds by which ``wall`` (Unix seconds) is ahead of the ``Date`` of an answer."""
    try:
        return wall - email.utils.parsedate_to_datetime(headers["date"]).timestamp()
    except (KeyError, ValueError, TypeError, IndexError, OverflowError):
        return None


def variable_of(environ: Mapping[str, str], url: str) -> str:
    """The variable that names the proxy towards ``url``: the one that ``Proxies.from_environ`` heeds."""
    scheme = url.partition("://")[0]
    names = (f"{scheme}_proxy", f"{scheme.upper()}_PROXY", "all_proxy", "ALL_PROXY")
    return next((name for name in names if environ.get(name, "").strip()), "")
