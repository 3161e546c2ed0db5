"""The seam between the HTTP edge and the gateway: what a client asks, and what it gets.

The edge makes one ClientRequest per request and hands it to a Handler. The Handler gives a Reply or a StreamReply; the
edge writes it and closes it exactly once, whatever happens. When the client leaves, the edge sets ``request.gone`` and
cancels the task that runs the Handler or writes the reply: there is no other signal, and nothing to poll.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Literal, NamedTuple, TypeAlias

from msgspec import Struct

from aicore_proxy.protocol.fault import Fault

Fields: TypeAlias = tuple[tuple[str, str], ...]
"""Header fields in order: names in lower case, values in latin-1."""

Ending: TypeAlias = Literal["sent", "client_gone", "failed"]
"""How a reply ended: all of it handed to the client's connection; the client left first; it was cut or failed."""

Closer: TypeAlias = Callable[[Ending], Awaitable[None]]


class Timings(Struct, frozen=True):
    """How long the edge waits, in seconds. Each is a setting."""

    hold: float = 10.0
    """Since the request was complete: so long a stream's status is held back while nothing has come."""
    keepalive: float = 15.0
    """Silence on a stream (after its status went out) that brings a keep-alive."""
    body_gap: float = 30.0
    """Between two pieces of a request's body."""
    body_time: float = 120.0
    """For the whole body, and on top of it a second for every ``body_rate`` bytes."""
    body_rate: int = 256 * 1024


class ClientRequest:
    """One request of a client. Owned by the edge; everything but the body is there from the start.

    ``path``: from the request target, percent-decoded once. ``query``: raw bytes, without the ``?``. ``address``: the
    client's IP address: the peer's, or what a trusted proxy says. ``received``: monotonic seconds, when the head was
    complete. ``request_id``: the client's own where it is 1 to 128 of ``[A-Za-z0-9._-]``, else ours. ``gone`` is set
    when the client has left.
    """

    __slots__ = (
        "_fields",
        "_read",
        "address",
        "complete",
        "content",
        "gone",
        "keeps",
        "method",
        "path",
        "query",
        "received",
        "recorded",
        "request_id",
    )

    def __init__(
        self,
        *,
        method: str,
        path: str,
        query: bytes,
        fields: Sequence[tuple[bytes, bytes]],
        address: str,
        request_id: str,
        received: float,
        gone: asyncio.Event,
        read: Callable[[int], Awaitable[bytes]],
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.address = address
        self.request_id = request_id
        self.received = received
        self.gone = gone
        self.complete: float | None = None
        """Monotonic seconds, when the last byte of the body was there; None: not read yet."""
        self.recorded = False
        """Whether its Record was made."""
        self.keeps = False
        """Whether the body is to be kept as ``content``, for a recording."""
        self.content: bytes | None = None
        self._fields = fields
        self._read = read

    def header(self, name: str) -> str | None:
        """The first field of that name, in any case; None: there is none."""
        wanted = name.lower().encode("latin-1")
        for field, value in self._fields:
            if field == wanted:
                return value.decode("latin-1")
        return None

    def all(self, name: str) -> list[str]:
        """All fields of that name, in order."""
        wanted = name.lower().encode("latin-1")
        return [value.decode("latin-1") for field, value in self._fields if field == wanted]

    def fields(self) -> list[tuple[str, str]]:
        """All fields, in order."""
        return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in self._fields]

    async def body(self, limit: int) -> bytes:
        """The whole body, inflated if it came as gzip, deflate or zstd; to be called once.

        Raises Fault TOO_LARGE (before a byte is read where the client declared the size), UNSUPPORTED with status 415
        for another Content-Encoding, MALFORMED for a damaged one, TIMEOUT with status 408 for a body that drips.
        """
        body = await self._read(limit)
        if self.keeps:
            self.content = body
        return body


class Head(NamedTuple):
    """The status and the fields of an answer. The edge adds what belongs to every answer, and the framing."""

    status: int
    headers: Fields = ()


class Reply:
    """A whole answer. ``close`` is the gateway's; the edge calls it exactly once, with how it ended."""

    __slots__ = ("_closer", "body", "headers", "status")

    def __init__(self, status: int, headers: Fields = (), body: bytes = b"", *, close: Closer | None = None) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self._closer = close

    async def close(self, ending: Ending) -> None:
        """Settle what stands behind the answer."""
        closer, self._closer = self._closer, None
        if closer is not None:
            await closer(ending)


class StreamReply:
    """An answer in pieces, whose first piece may take minutes.

    ``chunks``: whole frames of the client's dialect, nothing of a failed attempt among them. The edge sends no status
    before the first chunk is there, or ``Timings.hold`` has passed; then it sends ``head()`` (called once, at that
    moment, so that it can name the deployment that answered) and, while nothing comes, ``keepalive``; afterwards one
    write per chunk. A Fault raised by ``chunks`` ends the answer: ``refuse(fault)`` gives it as a whole Reply while no
    status was sent (one without a ``close`` of its own), ``fail(fault)`` as the bytes of the dialect's error event
    afterwards. Whatever else it raises is a
    bug: the edge logs it and makes a Fault INTERNAL of it. ``chunks`` is closed (``aclose``) before ``close``.
    """

    __slots__ = ("_closer", "chunks", "fail", "head", "keepalive", "refuse", "status_sent")

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        *,
        head: Callable[[], Head],
        keepalive: bytes,
        refuse: Callable[[Fault], Reply],
        fail: Callable[[Fault], bytes],
        close: Closer | None = None,
    ) -> None:
        self.chunks = chunks
        self.head = head
        self.keepalive = keepalive
        self.refuse = refuse
        self.fail = fail
        self.status_sent = False
        """Set by the edge: the status went out, so from now on a fault is an event."""
        self._closer = close

    async def close(self, ending: Ending) -> None:
        """Settle what stands behind the answer."""
        closer, self._closer = self._closer, None
        if closer is not None:
            await closer(ending)


Handler: TypeAlias = Callable[[ClientRequest], Awaitable[Reply | StreamReply]]
"""The gateway, seen from the edge. A Fault that it raises is answered without a dialect: it should raise none."""
