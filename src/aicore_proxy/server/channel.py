"""What the parent and a worker tell each other: one JSON value a line, over a socket pair that both were born with.

Nothing on a request's path waits for it: sending only writes into a buffer, and what is asked has a time limit. Its end
is news too: a worker whose parent is gone ends, a parent whose worker is gone starts another.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, TypeAlias

import msgspec
from msgspec import Raw, Struct

log = logging.getLogger("aicore_proxy.workers")

LONGEST = 64 * 1024 * 1024
"""Bytes of a message, at most."""
FAREWELL = 2.0
"""Seconds for the last messages to be written."""
UNSENT = 16 * 1024 * 1024
"""Bytes waiting to be read by the other side, beyond which hints are dropped: it hangs."""

Sample: TypeAlias = tuple[str, tuple[tuple[str, str], ...], float]
"""A sample of a metric: its name, its labels in order, its value."""


class Family(Struct, frozen=True, array_like=True):
    """A metric as prometheus_client collects it: ``kind`` is counter, gauge, histogram, info …"""

    name: str
    kind: str
    words: str
    samples: tuple[Sample, ...]


# The parent's words


class Start(Struct, frozen=True, tag=True):
    """The first message. ``listeners``: descriptors that the worker was born with. ``configuration``: what the proxy is
    built from. ``accepting``: serve at once; else when told to (Accept)."""

    listeners: tuple[int, ...]
    configuration: Raw
    log_level: str
    accepting: bool


class Accept(Struct, frozen=True, tag=True):
    """Take connections."""


class Whole(Struct, frozen=True, tag=True):
    """Whether all workers are ready."""

    ready: bool


class Retire(Struct, frozen=True, tag=True):
    """Go on, but let no connection be used for long: the end is near. ``patience``: seconds of silence that close."""

    patience: float


class Drain(Struct, frozen=True, tag=True):
    """Take no more connections, answer what was asked within ``seconds``, end the rest with an error, and exit."""

    patience: float
    seconds: float


class Configure(Struct, frozen=True, tag=True):
    """Another configuration, for all requests to come; Configured answers."""

    number: int
    configuration: Raw


class Expose(Struct, frozen=True, tag=True):
    """Tell your metrics (Exposed)."""

    number: int


class Gathered(Struct, frozen=True, tag=True):
    """The answer to Gather: the metrics of each process, the asking one's too."""

    number: int
    processes: tuple[tuple[Family, ...], ...]


# A worker's words


class Listening(Struct, frozen=True, tag=True):
    """Connections are taken from now on."""


class Readiness(Struct, frozen=True, tag=True):
    """Whether this worker could serve a request, and the models it knows."""

    ready: bool
    models: tuple[str, ...]


class Leaving(Struct, frozen=True, tag=True):
    """Somebody told this worker (SIGTERM) to end: it asks to be replaced."""


class Configured(Struct, frozen=True, tag=True):
    """What came of a Configure: ``problem`` is empty where it is in force."""

    number: int
    problem: str


class Exposed(Struct, frozen=True, tag=True):
    """This worker's metrics; ``number`` is Expose's, or 0: unasked, so that they outlive it."""

    number: int
    families: tuple[Family, ...]


class Gather(Struct, frozen=True, tag=True):
    """Asks for the metrics of all processes."""

    number: int


# Both


class Hint(Struct, frozen=True, tag=True):
    """Something that the other workers should know (a cooldown, a breaker): the parent passes it on to all others."""

    topic: str
    value: Raw


FromParent: TypeAlias = Start | Accept | Whole | Retire | Drain | Configure | Expose | Gathered | Hint
FromWorker: TypeAlias = Listening | Readiness | Leaving | Configured | Exposed | Gather | Hint
Message: TypeAlias = FromParent | FromWorker


class Channel:
    """One side of the socket pair. Owns its stream; lives in one event loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kinds: Any) -> None:
        self._reader = reader
        self._writer = writer
        self._encoder = msgspec.json.Encoder(enc_hook=str)
        self._decoder = msgspec.json.Decoder(kinds)

    @classmethod
    async def over(cls, end: socket.socket, kinds: Any) -> Channel:
        """A channel over one end of a socket pair, reading messages of ``kinds``."""
        return cls(*await asyncio.open_unix_connection(sock=end, limit=LONGEST), kinds)

    def send(self, message: Message) -> None:
        """Sends, without waiting. Hints are dropped while the other side reads nothing; to one that is gone nothing is
        sent."""
        transport = self._writer.transport
        if transport.is_closing():
            return
        if isinstance(message, Hint | Exposed) and transport.get_write_buffer_size() > UNSENT:
            return
        self._writer.write(self._encoder.encode(message) + b"\n")

    async def messages(self) -> AsyncIterator[Any]:
        """What the other side tells, until it is gone. A message of a kind not known here (the other side is of another
        version) is passed over."""
        while True:
            try:
                line = await self._reader.readuntil(b"\n")
            except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
                return
            try:
                message = self._decoder.decode(line)
            except msgspec.ValidationError as error:
                log.warning("A message between parent and worker was not understood: %s", error)
                continue
            yield message

    async def aclose(self) -> None:
        """Closes this side, when what was sent is written or the other side is gone."""
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(FAREWELL):
                await self._writer.drain()
                self._writer.close()
                await self._writer.wait_closed()


def raw(value: object) -> Raw:
    """A value as part of a message."""
    return Raw(msgspec.json.encode(value, enc_hook=str))
