"""New connections: names, addresses, proxies and TLS, within one deadline."""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import socket
import ssl
from collections.abc import Callable
from typing import cast

import aiohappyeyeballs
from msgspec import Struct

from aicore_proxy.upstream.connection import Connection, first_line
from aicore_proxy.upstream.routes import Target, authorization, target_of
from aicore_proxy.upstream.seam import Phase, Timeouts, UpstreamError

EYEBALLS_DELAY = 0.25  # seconds until the next address is tried beside the first (RFC 8305)
NAMES_FOR = 10.0  # seconds that an address is taken from memory: many connections are opened at the same time
NAMES_KEPT = 256

AddressInfo = tuple[int, int, int, str, tuple[object, ...]]
Ends = Callable[[Connection], None]


class Way(Struct, frozen=True):
    """What connections have in common that can carry each other's requests. ``tls``: None for plain HTTP;
    ``proxy_tls``: for a proxy that is itself spoken to by TLS."""

    scheme: str
    host: str
    port: int
    place: str
    proxy: str = ""
    tls: ssl.SSLContext | None = None
    proxy_tls: ssl.SSLContext | None = None

    @property
    def forwarded(self) -> bool:
        """Whether a proxy reads the requests, and wants to be told the whole URL."""
        return bool(self.proxy) and self.tls is None


class Dialer:
    """Opens connections. Owns the addresses that it remembers, and what is being looked up."""

    def __init__(self, free: Ends, gone: Ends) -> None:
        self._free = free
        self._gone = gone
        self._names: dict[tuple[str, int], tuple[float, list[AddressInfo]]] = {}
        self._asked: dict[tuple[str, int], asyncio.Task[list[AddressInfo]]] = {}

    async def dial(self, way: Way, seconds: float, opened: list[Connection]) -> Connection:
        """A fresh connection; ``opened`` gets it before it is complete, and what is there when this raises is the
        caller's to end. Raises UpstreamError."""
        deadline = asyncio.timeout(seconds)
        try:
            async with deadline:
                return await self._dial(way, seconds, opened)
        except TimeoutError:
            if not deadline.expired():
                raise
            raise UpstreamError(Phase.CONNECT_TIMEOUT, f"No connection to {way.place} within {seconds:g} s.") from None

    async def _dial(self, way: Way, seconds: float, opened: list[Connection]) -> Connection:
        if not way.proxy:
            try:
                connection = await self._connected(way.host, way.port, opened)
            except OSError as error:
                raise UpstreamError(Phase.CONNECT, f"No connection to {way.place}{words(error)}") from None
            if way.tls is not None:
                await secure(connection, way.tls, way.host, way.place, seconds)
            return connection
        proxy = target_of(way.proxy)
        at = f"{proxy.host}:{proxy.port}"
        try:
            connection = await self._connected(proxy.host, proxy.port, opened)
        except OSError as error:
            raise UpstreamError(Phase.PROXY, f"No connection to the proxy {at}{words(error)}") from None
        if way.proxy_tls is not None:
            await secure(connection, way.proxy_tls, proxy.host, at, seconds)
        if way.tls is not None:
            await self._tunnel(connection, way, proxy, seconds)
            await secure(connection, way.tls, way.host, way.place, seconds)
        return connection

    async def _tunnel(self, connection: Connection, way: Way, proxy: Target, seconds: float) -> None:
        bracketed = f"[{way.host}]" if ":" in way.host else way.host
        place = f"{bracketed}:{way.port}"
        head = f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n{authorization(proxy)}\r\n"
        answer = await connection.ask(head.encode(), None, proxy.place, Timeouts(seconds, seconds), tunnel=True)
        if 200 <= answer.status < 300 and connection.usable:
            return
        if answer.begun:
            words = f"The proxy {proxy.host}:{proxy.port} refused the way to {way.place} with status {answer.status}."
        else:
            words = f"The proxy {proxy.host}:{proxy.port} broke the connection off on the way to {way.place}."
        raise UpstreamError(Phase.PROXY, words)

    async def _connected(self, host: str, port: int, opened: list[Connection]) -> Connection:
        """Raises OSError."""
        loop = asyncio.get_running_loop()
        plain = await aiohappyeyeballs.start_connection(
            await self._addresses(host, port),
            happy_eyeballs_delay=EYEBALLS_DELAY,
            loop=loop,
            socket_factory=open_socket,
        )
        connection = Connection(loop, self._free, self._gone)
        try:
            await loop.create_connection(lambda: connection, sock=plain)
        except BaseException:
            plain.close()
            raise
        opened.append(connection)
        return connection

    async def _addresses(self, host: str, port: int) -> list[AddressInfo]:
        if literal := of_literal(host, port):
            return [literal]
        key = host, port
        loop = asyncio.get_running_loop()
        if (known := self._names.get(key)) is not None and loop.time() < known[0]:
            return known[1]
        if (asking := self._asked.get(key)) is None:
            asking = self._asked[key] = loop.create_task(look_up(host, port))
            asking.add_done_callback(functools.partial(self._answered, key))
        found = await asyncio.shield(asking)
        if len(self._names) >= NAMES_KEPT:
            self._names.clear()
        self._names[key] = loop.time() + NAMES_FOR, found
        return found

    def _answered(self, key: tuple[str, int], asking: asyncio.Task[list[AddressInfo]]) -> None:
        self._asked.pop(key, None)
        if not asking.cancelled():
            asking.exception()  # seen, also where nobody waits for it any more

    def close(self) -> None:
        for asking in self._asked.values():
            asking.cancel()


async def look_up(host: str, port: int) -> list[AddressInfo]:
    """In a thread of the loop's. Raises OSError."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    except UnicodeError:  # a label too long for a name
        raise OSError("it is no name of a host") from None
    if not found:
        raise OSError("its name has no address")
    return cast("list[AddressInfo]", found)


def of_literal(host: str, port: int) -> AddressInfo | None:
    """The address that ``host`` is itself, if it is one: then nothing needs to be looked up."""
    if "%" in host:  # an interface, which needs to be looked up
        return None
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if address.version == 4:
        return socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port)
    return socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port, 0, 0)


def open_socket(address: AddressInfo) -> socket.socket:
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


async def secure(connection: Connection, tls: ssl.SSLContext, host: str, place: str, seconds: float) -> None:
    """Lays TLS over ``connection``. Raises UpstreamError."""
    loop = asyncio.get_running_loop()
    try:
        transport = await loop.start_tls(
            connection.transport, connection, tls, server_hostname=host, ssl_handshake_timeout=seconds + 1
        )
        if transport is None:
            raise ConnectionAbortedError("the connection ended in the handshake")
    except ssl.SSLCertVerificationError as error:
        raise UpstreamError(Phase.TLS, f"The certificate of {place} is refused{words(error)}") from None
    except ssl.SSLError as error:
        raise UpstreamError(Phase.TLS, f"TLS with {place} failed{words(error)}") from None
    except OSError as error:
        raise UpstreamError(Phase.CONNECT, f"No connection to {place}{words(error)}") from None
    connection.secured(transport)


def words(error: BaseException | None) -> str:
    """What is worth saying of an error, as the end of a sentence."""
    match error:
        case None:
            return "."
        case ssl.SSLCertVerificationError():
            return f": {error.verify_message}."
        case OSError() if error.strerror:
            return f": {first_line(error.strerror)}."
    return f": {first_line(str(error))}." if str(error) else "."
