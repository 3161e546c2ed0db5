"""A worker: one of several processes that serve on one port. ``python -m aicore_proxy.server.worker DESCRIPTOR``.

Its parent (workers.py) starts it with one end of a socket pair and tells it everything else over that: nothing secret
is on its command line or in its environment. It ends when it is told to, and when its parent is gone.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from itertools import count
from typing import Any

import msgspec

from aicore_proxy.gateway.listing import names
from aicore_proxy.server import listen
from aicore_proxy.server.channel import (
    Accept,
    Channel,
    Configure,
    Configured,
    Drain,
    Expose,
    Exposed,
    Family,
    FromParent,
    Gather,
    Gathered,
    Hint,
    Leaving,
    Listening,
    Readiness,
    Retire,
    Start,
    Whole,
    raw,
)
from aicore_proxy.server.compose import Proxy
from aicore_proxy.server.configuration import Configuration
from aicore_proxy.server.merging import exposition, families, merged
from aicore_proxy.server.peers import Listener
from aicore_proxy.server.serving import Serving
from aicore_proxy.server.stopping import on_signal
from aicore_proxy.telemetry import logs
from aicore_proxy.telemetry.metrics import Metrics

log = logging.getLogger("aicore_proxy.workers")

LOOK = 0.1
"""Seconds between two looks at the own readiness."""
SNAPSHOT = 0.5
"""Seconds between two snapshots of the metrics, as long as there is traffic: what a killed worker did after its last
one is not counted."""
SNAPSHOT_SHARE = 0.01
"""Share of the time that they may take: with thousands of series they are told more rarely."""
GATHER = 2.0
"""Seconds that the metrics of the others are waited for."""


class Siblings:
    """The other workers, as far as the parent tells. Owns what is asked and not answered yet."""

    def __init__(self, channel: Channel) -> None:
        self.others = True
        self.whole = False
        """Whether all workers are ready, and none of this proxy's processes is told to end."""
        self._channel = channel
        self._numbers = count(1)
        self._asked: dict[int, asyncio.Future[Gathered]] = {}
        self._listeners: dict[str, list[Listener]] = {}

    def ready(self, own: bool) -> bool:
        return own and self.whole

    async def exposition(self, metrics: Metrics) -> tuple[bytes, str]:
        number = next(self._numbers)
        self._asked[number] = asyncio.get_running_loop().create_future()
        self._channel.send(Gather(number))
        try:
            async with asyncio.timeout(GATHER):
                told = await self._asked[number]
        except TimeoutError:
            log.warning("The other workers' metrics did not come in time: only this one's are shown")
            return await asyncio.to_thread(metrics.exposition)
        finally:
            del self._asked[number]
        return await asyncio.to_thread(lambda: exposition(merged(told.processes)))

    def publish(self, topic: str, value: object) -> None:
        self._channel.send(Hint(topic, raw(value)))

    def subscribe(self, topic: str, listener: Listener) -> None:
        self._listeners.setdefault(topic, []).append(listener)

    def gathered(self, answer: Gathered) -> None:
        """The parent's answer to a Gather."""
        asked = self._asked.get(answer.number)
        if asked is not None and not asked.done():
            asked.set_result(answer)

    def hinted(self, hint: Hint) -> None:
        """What another worker published."""
        value = msgspec.json.decode(hint.value)
        for listener in self._listeners.get(hint.topic, ()):
            try:
                listener(value)
            except Exception as crash:  # of another version, perhaps: this worker must not go deaf
                log.error("A hint of %s from another worker was not understood", hint.topic, exc_info=crash)


class Worker:
    """This process. Owns its Serving and what it has told its parent."""

    def __init__(self, channel: Channel, start: Start, proxy: Proxy, peers: Siblings) -> None:
        self._channel = channel
        self._listeners = [socket.socket(fileno=number) for number in start.listeners]
        self._proxy = proxy
        self._peers = peers
        self._serving = Serving(proxy)
        self._draining: asyncio.Task[None] | None = None
        self._over = asyncio.Event()
        self._told: Readiness | None = None

    async def live(self, messages: AsyncIterator[Any], *, accepting: bool) -> None:
        """Serves until it is told to end, or the parent is gone."""
        on_signal("SIGTERM", lambda: self._channel.send(Leaving()))
        await self._proxy.start()
        try:
            if accepting:
                await self._accept()
            for name, work in (
                ("parent", self._hear(messages)),
                ("readiness", self._tell_readiness()),
                ("snapshots", self._tell_snapshots()),
            ):
                self._proxy.supervisor.start(name, work)
            await self._over.wait()
        finally:
            self._channel.send(Exposed(0, tuple(families(self._proxy.metrics.registry))))
            await self._proxy.aclose()

    async def _hear(self, messages: AsyncIterator[Any]) -> None:
        async for message in messages:
            await self._heard(message)
        if self._draining is None:
            log.error("The parent process is gone: this worker ends too")
        self._drain(Drain(0, 0))

    async def _heard(self, message: FromParent) -> None:
        match message:
            case Accept():
                await self._accept()
            case Whole(ready):
                self._peers.whole = ready
            case Retire(patience):
                self._proxy.supervisor.start("leaving", self._serving.leave(patience))
            case Drain():
                self._drain(message)
            case Configure(number, configuration):
                await self._configure(number, configuration)
            case Expose(number):
                await self._tell_metrics(number)
            case Gathered():
                self._peers.gathered(message)
            case Hint():
                self._peers.hinted(message)
            case Start():
                log.error("The parent started this worker twice")

    async def _accept(self) -> None:
        if self._draining is not None:
            return
        await self._serving.open(self._listeners)
        listen.close(self._listeners)
        self._channel.send(Listening())

    def _drain(self, order: Drain) -> None:
        """Ends; told again, at once."""
        if self._draining is not None:
            self._serving.acceptor.hurry()
            return

        async def drain() -> None:
            try:
                await self._serving.drain(order.patience, order.seconds)
            finally:
                self._over.set()

        self._draining = self._proxy.supervisor.start("drain", drain())

    async def _configure(self, number: int, configuration: msgspec.Raw) -> None:
        problem = ""
        try:
            await self._proxy.reload(msgspec.json.decode(configuration, type=Configuration))
        except Exception as crash:
            log.error("The new configuration is not in force in this worker", exc_info=crash)
            problem = str(crash) or type(crash).__name__
        self._channel.send(Configured(number, problem))

    # --- what the parent is told without asking

    async def _tell_readiness(self) -> None:
        while True:
            now = Readiness(self._proxy.ready(), tuple(names(self._proxy.landscape.catalog)))
            if now != self._told:
                self._told = now
                self._channel.send(now)
            await asyncio.sleep(LOOK)

    async def _tell_snapshots(self) -> None:
        seen, took = -1, 0.0
        while True:
            await asyncio.sleep(max(SNAPSHOT, took / SNAPSHOT_SHARE))
            answered = self._serving.acceptor.answered
            if answered != seen or self._proxy.endpoint.live:
                seen = answered
                took = await self._tell_metrics(0)

    async def _tell_metrics(self, number: int) -> float:
        """Tells all metrics, letting others run in between; returns the seconds that it took itself."""
        told: list[Family] = []
        took, began = 0.0, time.perf_counter()
        for family in families(self._proxy.metrics.registry):
            told.append(family)
            took += time.perf_counter() - began
            await asyncio.sleep(0)
            began = time.perf_counter()
        self._channel.send(Exposed(number, tuple(told)))
        return took


async def work(descriptor: int) -> None:
    """Everything that a worker does."""
    channel = await Channel.over(socket.socket(fileno=descriptor), FromParent)
    messages = channel.messages()
    start = await anext(messages, None)
    if not isinstance(start, Start):
        return  # the parent ended meanwhile
    configuration = msgspec.json.decode(start.configuration, type=Configuration)
    logs.set_up(start.log_level, configuration.settings.log_format)
    listen.raise_descriptor_limit()
    peers = Siblings(channel)
    worker = Worker(channel, start, Proxy(configuration, peers), peers)
    await worker.live(messages, accepting=start.accepting)
    await channel.aclose()


def main() -> None:
    """A worker's process."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # for the parent to act on, also where all processes get them
    with asyncio.Runner(loop_factory=listen.loop_factory()) as runner:
        runner.run(work(int(sys.argv[1])))


if __name__ == "__main__":
    main()
