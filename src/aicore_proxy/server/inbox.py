"""The request's side of a conversation: its body, and the news that its client has left."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, TypeAlias

from aicore_proxy.gateway.exchange import ClientRequest, Timings
from aicore_proxy.protocol.fault import Fault, Kind
from aicore_proxy.server.inflate import coding_of, inflate, too_large

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]

UNCLAIMED = 1024 * 1024
"""Bytes of a body that are read before anybody asked for it."""
INFLATING = 2
"""Bodies inflated at once."""
LOOKS = 20
"""Late bodies are found by looks at all that are being read, so many in the shortest time that one may take."""
MOST_HELD = 256 * 1024 * 1024
"""Bytes of bodies that a process holds at most, by default."""


class BodyReads:
    """The bodies of a process, and what they share: the memory that they may take (``most`` bytes), one timer for all,
    and few inflations at once.

    Nearly all bodies are there when they are asked for: a timer for each would cost more than the rest of the reading.
    """

    def __init__(self, timings: Timings, most: int = MOST_HELD) -> None:
        self.timings = timings
        self.held = 0
        """Bytes of the bodies of requests that have not ended."""
        self._most = most
        self.inflating = asyncio.Semaphore(INFLATING)
        self._interval = min(1.0, timings.body_gap / LOOKS, timings.body_time / LOOKS)
        self._reading: set[Inbox] = set()
        self._timer: asyncio.TimerHandle | None = None

    def has_room(self, more: int = 0) -> bool:
        """Whether so many bytes more may be held."""
        return self.held + more <= self._most

    def begin(self, inbox: Inbox) -> None:
        self._reading.add(inbox)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._interval, self._look)

    def end(self, inbox: Inbox) -> None:
        self._reading.discard(inbox)

    def _look(self) -> None:
        self._timer = None
        now = time.monotonic()
        for inbox in list(self._reading):
            inbox.look(now)
        if self._reading:
            self._timer = asyncio.get_running_loop().call_later(self._interval, self._look)


class Inbox:
    """Reads everything that the server tells of one request. Owned by its conversation, which runs ``watch`` as a task.

    Only who reads on learns that a client has left: so ``watch`` reads from the first moment to the last, but for the
    time in which ``body`` does. ``left`` is called, once, when the client is gone before the answer's last piece.
    """

    __slots__ = (
        "_claimed",
        "_complete",
        "_due",
        "_encodings",
        "_expects",
        "_held",
        "_late",
        "_left",
        "_length",
        "_news",
        "_pieces",
        "_reading",
        "_reads",
        "_receive",
        "_signal",
        "_size",
        "_task",
        "_unwanted",
        "_watching",
        "finishing",
        "given_id",
        "gone",
        "request",
    )

    def __init__(
        self,
        receive: Receive,
        fields: Sequence[tuple[bytes, bytes]],
        reads: BodyReads,
        task: asyncio.Task[Any],
        left: Callable[[], None],
    ) -> None:
        self._receive = receive
        self._reads = reads
        self._task = task
        self._left = left
        self.gone = asyncio.Event()
        self.finishing = False
        """Set before the last piece of the answer is sent: from then on there is nothing to stop."""
        self.request: ClientRequest | None = None
        # What the fields say of the body.
        self._length = 0
        self._encodings: list[str] = []
        self._expects = False
        self.given_id: str | None = None
        for name, value in fields:
            if name == b"content-length" and value.isdigit():
                self._length = int(value)
            elif name == b"content-encoding":
                self._encodings.append(value.decode("latin-1"))
            elif name == b"expect":
                self._expects = value.lower() == b"100-continue"
            elif name == b"x-request-id" and self.given_id is None:
                self.given_id = value.decode("latin-1")
        # What has come of it.
        self._pieces: list[bytes] = []
        self._size = 0
        self._held = 0
        self._complete = False
        self._unwanted = False
        self._claimed = False
        # Who reads: the watcher, once it has begun; the asker of the body, if it came first and until it is done.
        self._watching = False
        self._reading = False
        self._signal: asyncio.Future[None] | None = None
        self._news: asyncio.Future[None] | None = None
        self._due = 0.0
        self._late = False

    async def watch(self) -> None:
        """Reads on until the client is gone."""
        while not self.gone.is_set():
            while self._reading or (not self._claimed and (self._expects or self._size > UNCLAIMED)):
                # A client that expects a 100 Continue gets it by being read from: not before its body is wanted
                self._signal = asyncio.get_running_loop().create_future()
                await self._signal
            self._watching = True
            self._take(await self._receive())
            wake(self._news)

    async def body(self, limit: int) -> bytes:
        """ClientRequest.body: all of it, inflated."""
        coding = coding_of(self._encodings) if self._encodings else None
        if self._length > limit:
            raise too_large(limit)
        if self._length and not self._reads.has_room(self._length - self._held):
            raise overloaded()
        self._claimed = True
        self._reading = not self._watching
        if self._watching:
            wake(self._signal)
        self._reads.begin(self)
        try:
            await self._read(limit)
        except BaseException:
            self._unwanted = True
            self._pieces.clear()
            self._hold(-self._held)
            raise
        finally:
            self._reads.end(self)
            self._reading = False
            wake(self._signal)
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        if coding is not None:
            async with self._reads.inflating:
                data = await asyncio.get_running_loop().run_in_executor(None, inflate, data, coding, limit)
            self._hold(len(data) - self._held)
        if self.request is not None:
            self.request.complete = time.monotonic()
        return data

    def close(self) -> None:
        """Lets go of the conversation and the request, which hold it too: what is no cycle is freed at once, with the
        body that hangs on it, and the garbage collector has less to look at."""
        self._left = nobody
        self.request = None
        self._unwanted = True
        self._hold(-self._held)

    def _hold(self, more: int) -> None:
        self._held += more
        self._reads.held += more

    def look(self, now: float) -> None:
        """Ends the reading of a body that is late."""
        if now > self._due and not self._late:
            self._late = True
            self._task.cancel()

    async def _read(self, limit: int) -> None:
        timings = self._reads.timings
        began = time.monotonic()
        self._due = began + min(timings.body_gap, timings.body_time)
        try:
            while not self._complete:
                if self._watching:
                    self._news = asyncio.get_running_loop().create_future()
                    await self._news
                else:
                    self._take(await self._receive())
                if self._size > limit:
                    raise too_large(limit)
                if not self._reads.has_room():
                    raise overloaded()
                if self.gone.is_set():
                    await asyncio.sleep(0)  # the cancellation lands here
                if not self._complete:
                    in_all = began + timings.body_time + self._size / timings.body_rate
                    self._due = min(time.monotonic() + timings.body_gap, in_all)
        except asyncio.CancelledError:
            if not self._late or self.gone.is_set():
                raise
            self._task.uncancel()
            raise Fault(
                Kind.TIMEOUT, "The request body did not come in time.", status=408, code="request_timeout"
            ) from None

    def _take(self, message: Message) -> None:
        if message["type"] == "http.disconnect":
            if not self.gone.is_set():
                self.gone.set()
                if not self.finishing:
                    self._left()
            return
        piece: bytes = message.get("body", b"")
        if piece and not self._unwanted:
            self._pieces.append(piece)
            self._size += len(piece)
            self._hold(len(piece))
        self._complete = not message.get("more_body", False)


def overloaded() -> Fault:
    """That the bodies of others take all the memory that bodies may take."""
    words = "The proxy holds as many request bodies as it may for the moment: send the request again."
    return Fault(Kind.OVERLOADED, words, code="overloaded", retry_after=1.0)


def nobody() -> None:
    """Whom a client's leaving concerns after the answer."""


def wake(waiter: asyncio.Future[None] | None) -> None:
    """Resolves a future that somebody may be waiting for."""
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
