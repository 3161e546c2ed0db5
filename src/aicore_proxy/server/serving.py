"""The life of a process that serves: it begins to take connections, and ends without losing an answer."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine

from aicore_proxy.protocol.fault import Fault, Kind
from aicore_proxy.server import listen
from aicore_proxy.server.compose import Proxy
from aicore_proxy.server.configuration import Configuration
from aicore_proxy.server.edge import Limits
from aicore_proxy.server.peers import Alone
from aicore_proxy.server.stopping import Stopping, Urgency, on_signal

log = logging.getLogger("aicore_proxy.workers")

LAST_WORDS = 1.0
"""Seconds for errors that end what was not done in time."""
LOOK = 0.25
"""Seconds between two looks for new connections, once the process is to end."""


class Serving:
    """A Proxy that serves. Owns what takes its connections; lives in one event loop."""

    def __init__(self, proxy: Proxy) -> None:
        settings = proxy.settings
        limits = Limits(
            head=settings.head_limit,
            head_time=settings.head_timeout,
            idle=settings.idle_timeout,
            stuck=settings.stuck_timeout,
        )
        tls = proxy.certificate.context if proxy.certificate is not None else None
        self.proxy = proxy
        self.acceptor = listen.Acceptor(listen.server(proxy.application, limits=limits, tls=tls))

    async def open(self, listeners: list[socket.socket]) -> None:
        """Takes connections from now on."""
        self.proxy.supervisor.start("date", self.acceptor.tick())
        await self.acceptor.open(listeners)

    async def leave(self, patience: float) -> None:
        """Serves on, but no connection stays for long, until it is cancelled: work for a Supervisor. ``patience``: as
        in ``drain``."""
        while True:
            self.acceptor.retire(patience)
            await asyncio.sleep(LOOK)

    async def drain(self, patience: float, seconds: float) -> None:
        """Takes no more connections and answers what was asked, within ``seconds``; the rest ends with an error in the
        client's protocol. ``patience``: seconds of silence after which connections are closed; 0: at once."""
        self.acceptor.shut()
        await asyncio.sleep(0)  # what was taken in this very turn
        self.acceptor.retire(patience)
        if await self.acceptor.emptied(seconds):
            return
        if live := self.proxy.endpoint.live:
            log.warning("%d answers were not done in time: they end with an error", live)
        self.proxy.endpoint.cut(Fault(Kind.OVERLOADED, SHUTTING_DOWN, code="shutting_down", retry_after=1.0))
        self.acceptor.retire(0)
        if not await self.acceptor.emptied(LAST_WORDS):
            await self.acceptor.end()


ONLY_ONE = (
    "SIGUSR2 restarts workers one by one: with a single one there is nothing to restart. Set workers to 2 or more."
)
SHUTTING_DOWN = "The proxy is shutting down: send the request again."


async def serve_alone(
    configuration: Configuration,
    listeners: list[socket.socket],
    begun: Callable[[Proxy], Coroutine[object, object, None]],
) -> None:
    """One process that serves until it is told to end. ``begun``: what is to be done beside it, once connections are
    taken."""
    listen.raise_descriptor_limit()
    stopping = Stopping()
    stopping.listen()
    on_signal("SIGUSR2", lambda: log.warning(ONLY_ONE))
    peers = Alone()
    proxy = Proxy(configuration, peers)
    serving = Serving(proxy)
    await proxy.start()
    try:
        await serving.open(listeners)
        proxy.supervisor.start("begun", begun(proxy))
        await stopping.wait(Urgency.NONE)
        peers.leaving = True
        await _ended(serving, stopping, listeners)
    finally:
        await proxy.aclose()


async def _ended(serving: Serving, stopping: Stopping, listeners: list[socket.socket]) -> None:
    settings = serving.proxy.settings
    if stopping.urgency is Urgency.GENTLY:
        serving.proxy.supervisor.start("leaving", serving.leave(settings.drain_delay))
        await stopping.wait(Urgency.GENTLY, settings.drain_delay)
    if live := serving.proxy.endpoint.live:
        log.info("Ending: %d answers may take %g s more (a second signal ends them)", live, settings.drain_timeout)
    listen.close(listeners)

    async def hurried() -> None:
        await stopping.wait(Urgency.NOW)
        serving.acceptor.hurry()

    hurrying = serving.proxy.supervisor.start("second signal", hurried())
    await serving.drain(0, settings.drain_timeout)
    hurrying.cancel()
