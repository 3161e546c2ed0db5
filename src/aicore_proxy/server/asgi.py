"""Raw ASGI in, ClientRequest and Reply out: the edge's half of the seam to the gateway (gateway/exchange.py).

Works on any ASGI server; what the server must do by itself (limits and deadlines of a head, framing) is edge.py's.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any, TypeAlias

from msgspec import Struct

from aicore_proxy.gateway.exchange import ClientRequest, Ending, Fields, Handler, Reply, StreamReply, Timings
from aicore_proxy.protocol.fault import Fault, Kind
from aicore_proxy.server.forwarded import TrustedProxies
from aicore_proxy.server.inbox import MOST_HELD, BodyReads, Inbox, Message, Receive

log = logging.getLogger("aicore_proxy.edge")

Send: TypeAlias = Callable[[Message], Awaitable[None]]

GUARDS = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class Room(Struct, frozen=True):
    """What a process bears; beyond it requests are refused at once. ``requests``: being handled or answered;
    ``bodies``: bytes of theirs that are held."""

    requests: int = 10_000
    bodies: int = MOST_HELD


class Endpoint:
    """An ASGI application that hands every request to one Handler. Owns what the conversations share."""

    def __init__(
        self,
        handler: Handler,
        timings: Timings | None = None,
        count: Callable[[int], None] = lambda _: None,
        proxies: TrustedProxies | None = None,
        refuse: Callable[[ClientRequest, Fault], Reply] | None = None,
        room: Room | None = None,
    ) -> None:
        """``count`` is told +1 and -1 as requests come and go. ``proxies``: whose word on the client's address counts;
        None: nobody's. ``refuse``: a Fault as an answer in the client's dialect, where no handler is there to give
        one."""
        self._handler = handler
        self._timings = timings or Timings()
        self._count = count
        self.proxies = proxies or TrustedProxies()
        self._request_ids = RequestIds()
        self._room = room or Room()
        self._reads = BodyReads(self._timings, self._room.bodies)
        self._refuse = refuse or (lambda request, fault: bare(fault, request.request_id))
        self._live: set[Conversation] = set()

    def become(self, handler: Handler, timings: Timings, proxies: TrustedProxies, room: Room) -> None:
        """Hands the requests that come from now on to another Handler."""
        self._handler, self._timings, self.proxies, self._room = handler, timings, proxies, room
        self._reads = BodyReads(timings, room.bodies)

    @property
    def live(self) -> int:
        """How many requests are being handled or answered."""
        return len(self._live)

    def cut(self, fault: Fault) -> None:
        """Ends every request that is being handled or answered with ``fault``: a status, or the dialect's error event
        where a status was sent."""
        for conversation in tuple(self._live):
            conversation.cut(fault)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"The model API does not speak {scope['type']}.")
        self._count(1)
        if self.proxies and (client := scope.get("client")):
            scope["client"] = (self.proxies.client(client[0], scope["headers"]), client[1])
        conversation = Conversation(scope, receive, send, self._timings, self._reads, self._request_ids, self._refuse)
        handler = self._handler if len(self._live) < self._room.requests else self._full
        self._live.add(conversation)
        try:
            await conversation.run(handler)
        finally:
            self._live.discard(conversation)
            self._count(-1)

    async def _full(self, request: ClientRequest) -> Reply:
        words = "The proxy has as many requests as it can bear for the moment: send the request again."
        return self._refuse(request, Fault(Kind.OVERLOADED, words, code="overloaded", retry_after=1.0))


class RequestIds:
    """Request ids: ``req_`` and 24 hexadecimal digits, random. Owns a block of random bytes."""

    def __init__(self) -> None:
        self._block = ""
        self._position = 0

    def __call__(self, given: str | None) -> str:
        """The client's own id where it is fit for headers and logs, else a new one."""
        if given is not None and REQUEST_ID.fullmatch(given) is not None:
            return given
        if self._position >= len(self._block):
            self._block, self._position = os.urandom(3072).hex(), 0
        start = self._position
        self._position = start + 24
        return "req_" + self._block[start : self._position]


class Conversation:
    """One request and its reply. Owns the inbox's watcher, the timer and a keep-alive that is being written.

    The watcher waits for the client's leaving from the first moment, and then cancels the task that serves it.
    """

    __slots__ = (
        "_beat",
        "_cancelled",
        "_cut",
        "_ending",
        "_hold_until",
        "_inbox",
        "_last",
        "_loop",
        "_refuse",
        "_request",
        "_send",
        "_streaming",
        "_task",
        "_timer",
        "_timings",
        "_writing",
    )

    def __init__(
        self,
        scope: MutableMapping[str, Any],
        receive: Receive,
        send: Send,
        timings: Timings,
        reads: BodyReads,
        request_ids: RequestIds,
        refuse: Callable[[ClientRequest, Fault], Reply],
    ) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("A request is served by a task.")
        self._task = task
        self._loop = task.get_loop()
        self._send = send
        self._timings = timings
        self._refuse = refuse
        self._cancelled = False
        self._cut: Fault | None = None
        self._ending = False
        fields: list[tuple[bytes, bytes]] = scope["headers"]
        client = scope.get("client")
        self._inbox = Inbox(receive, fields, reads, task, self._cancel)
        self._request = self._inbox.request = ClientRequest(
            method=scope["method"],
            path=scope["path"],
            query=scope["query_string"],
            fields=fields,
            address=client[0] if client else "",
            request_id=request_ids(self._inbox.given_id),
            received=time.monotonic(),
            gone=self._inbox.gone,
            read=self._inbox.body,
        )
        # The answer.
        self._streaming: StreamReply | None = None
        self._writing = False
        self._last = 0.0
        self._hold_until = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._beat: asyncio.Task[None] | None = None

    async def run(self, handler: Handler) -> None:
        """Serves the request. Returns when the reply is written and closed, or the client gone and all of it undone."""
        watcher = self._loop.create_task(self._inbox.watch())
        reply: Reply | StreamReply | None = None
        ending: Ending = "failed"
        try:
            reply = await self._handled(handler)
            ending = await self._pour(reply) if isinstance(reply, StreamReply) else await self._put(reply)
        except asyncio.CancelledError:
            if self._cut is not None and self._task.uncancel() == 0:
                reply = reply or self._refused(self._cut)
                ending = await self._cut_off(reply, self._cut)
            else:
                ending = "client_gone" if self._cancelled else "failed"
                if not self._cancelled or self._task.uncancel() > 0:
                    raise
                self._cancelled = False
        finally:
            await self._end(watcher, reply, ending)

    def cut(self, fault: Fault) -> None:
        """Ends the answer with ``fault``, wherever it stands; nothing where it is ending anyway."""
        if self._cut is None and not self._ending and not self._cancelled and not self._inbox.finishing:
            self._cut = fault
            self._task.cancel()

    async def _cut_off(self, reply: Reply | StreamReply, fault: Fault) -> Ending:
        if isinstance(reply, StreamReply):
            return await self._fail(reply, fault)
        return await self._put(reply)

    async def _handled(self, handler: Handler) -> Reply | StreamReply:
        try:
            return await handler(self._request)
        except Fault as fault:
            return self._refused(fault)
        except Exception as crash:
            log.error("The request %s met a bug", self._request.request_id, exc_info=crash)
            return self._refused(bug())

    def _refused(self, fault: Fault) -> Reply:
        try:
            return self._refuse(self._request, fault)
        except Exception as crash:
            log.error("The refusal of %s met a bug", self._request.request_id, exc_info=crash)
            return bare(fault, self._request.request_id)

    async def _end(self, watcher: asyncio.Task[None], reply: Reply | StreamReply | None, ending: Ending) -> None:
        """Ends what this owns, then closes the reply: the one place for it, on every way out."""
        self._ending = True
        if self._timer is not None:
            self._timer.cancel()
        watcher.cancel()
        try:
            if self._cancelled:  # the client left in the moment when all was done: the cancellation is still to come
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(0)
                self._task.uncancel()
            await ended(watcher)
            if self._beat is not None:
                self._beat.cancel()
                await ended(self._beat)
        finally:
            self._inbox.close()
            self._streaming = self._timer = None
            try:
                if isinstance(reply, StreamReply):
                    await closed(reply.chunks)
            finally:
                if reply is not None:
                    await reply.close(ending)

    def _cancel(self) -> None:
        if not self._cancelled:
            self._cancelled = True
            self._task.cancel()

    # --- the answer

    async def _put(self, reply: Reply) -> Ending:
        """Writes a whole answer."""
        await self._begin(reply.status, reply.headers, (b"content-length", b"%d" % len(reply.body)))
        return await self._finish(reply.body)

    async def _pour(self, reply: StreamReply) -> Ending:
        """Writes an answer in pieces: one chunk in, one write out."""
        self._streaming = reply
        waited = time.monotonic() - (self._request.complete or self._request.received)
        self._last = self._loop.time()
        self._hold_until = self._last + max(0.0, self._timings.hold - waited)
        self._timer = self._loop.call_at(min(self._hold_until, self._last + self._timings.keepalive), self._tick)
        try:
            async for chunk in reply.chunks:
                if self._beat is not None:
                    await self._beaten()
                if not reply.status_sent:
                    await self._open(reply)
                if chunk:
                    await self._write(chunk)
        except Fault as fault:
            return await self._fail(reply, fault)
        except Exception as crash:
            log.error("The answer to %s met a bug", self._request.request_id, exc_info=crash)
            return await self._fail(reply, bug())
        await self._beaten()
        if not reply.status_sent:
            await self._open(reply)
        return await self._finish(b"")

    async def _fail(self, reply: StreamReply, fault: Fault) -> Ending:
        """A fault is a status as long as none was sent, an event of the dialect afterwards."""
        await self._beaten()
        self._streaming = None
        if reply.status_sent:
            await self._finish(reply.fail(fault))
        else:
            await self._put(reply.refuse(fault))
        return "failed"

    async def _open(self, reply: StreamReply) -> None:
        head = reply.head()
        reply.status_sent = True
        await self._begin(head.status, head.headers)

    async def _begin(self, status: int, headers: Fields, *further: tuple[bytes, bytes]) -> None:
        fields = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers]
        await self._send({"type": "http.response.start", "status": status, "headers": [*fields, *GUARDS, *further]})

    async def _write(self, piece: bytes) -> None:
        self._writing = True
        self._last = self._loop.time()
        await self._send({"type": "http.response.body", "body": piece, "more_body": True})
        self._writing = False
        self._last = self._loop.time()

    async def _finish(self, piece: bytes) -> Ending:
        self._inbox.finishing = self._writing = True
        await self._send({"type": "http.response.body", "body": piece, "more_body": False})
        return "client_gone" if self._inbox.gone.is_set() else "sent"

    # --- time

    def _tick(self) -> None:
        """Looks whether the client is due a keep-alive, and sets itself again."""
        reply = self._streaming
        if reply is None:
            return
        now = self._loop.time()
        due = self._last + self._timings.keepalive if reply.status_sent else self._hold_until
        if self._writing:
            due = now + self._timings.keepalive  # a client that is behind with reading needs none
        elif now >= due:
            self._beat = self._loop.create_task(self._keep_alive(reply))
            due = now + self._timings.keepalive
        self._timer = self._loop.call_at(due, self._tick)

    async def _keep_alive(self, reply: StreamReply) -> None:
        if not reply.status_sent:
            await self._open(reply)
        await self._write(reply.keepalive)

    async def _beaten(self) -> None:
        """Waits until a keep-alive that is being written is written."""
        beat, self._beat = self._beat, None
        if beat is not None:
            await beat


def bug() -> Fault:
    """What a client is told of an error of ours."""
    return Fault(Kind.INTERNAL, "The proxy failed. The request id names the log entry.", code="internal_error")


def bare(fault: Fault, request_id: str) -> Reply:
    """A Fault as an answer without a dialect."""
    kind = "server_error" if fault.status >= 500 else "invalid_request_error"
    error = {"message": fault.message, "type": kind, "param": fault.param, "code": fault.code}
    body = json.dumps({"error": error, "request_id": request_id}).encode()
    fields = (("content-type", "application/json"), ("x-request-id", request_id), *fault.headers)
    return Reply(fault.status, fields, body)


async def ended(task: asyncio.Task[None]) -> None:
    """Waits for a task that was cancelled. Raises CancelledError only where the waiting one is cancelled itself."""
    try:
        await task
    except asyncio.CancelledError:
        if not task.cancelled():
            raise
    except Exception as crash:
        log.error("A watcher or keep-alive failed", exc_info=crash)


async def closed(chunks: object) -> None:
    """Closes a generator, at whatever piece it stands; another iterator has nothing to close."""
    aclose: Callable[[], Awaitable[None]] | None = getattr(chunks, "aclose", None)
    if aclose is not None:
        await aclose()
