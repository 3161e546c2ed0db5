"""What is known of a request when it has ended: for metrics and logs. No content, no secrets."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Literal, Protocol, TypeAlias

from msgspec import Struct

from aicore_proxy.gateway.call import Attempt, Call, Planned
from aicore_proxy.gateway.exchange import ClientRequest, Ending
from aicore_proxy.gateway.keys import Caller
from aicore_proxy.gateway.queues import NoRoom
from aicore_proxy.protocol.fault import Fault, Kind
from aicore_proxy.protocol.neutral import Usage

CLIENT_GONE = 499
"""The status that is recorded where the client left first."""

Phase: TypeAlias = Literal["", "upload", "waiting", "streaming", "writing"]
"""Where a client left: while it sent its request, before any content, in the middle of a stream, while a whole answer
was written."""


class Record(Struct, frozen=True):
    """One request. ``route`` is the endpoint's pattern, never the raw path; ``model`` SAP's name or ``""``;
    ``status`` what the client got (499: it left first); times in seconds."""

    request_id: str
    route: str
    protocol: str
    status: int
    duration: float
    key_name: str = ""
    model: str = ""
    stream: bool = False
    attempts: tuple[Attempt, ...] = ()
    plans: tuple[Planned, ...] = ()
    """Whom it was to ask: one plan, or several where it waited or fell back."""
    fallback: str = ""
    """The model that was asked instead, SAP's name."""
    began: float = 0.0
    """When the request came in, monotonic seconds."""
    kind: str = ""
    """The Fault's kind, where it ended in one, be it in the middle of a stream."""
    no_room: bool = False
    """It was refused since a queue was full, or had waited there for as long as it may."""
    first_byte: float | None = None
    """From the request's arrival to the upstream's first byte of the attempt that served."""
    first_content: float | None = None
    """From the request's arrival to the first content of a stream."""
    content: float = 0.0
    """From a stream's first content to its last."""
    overhead: float | None = None
    """Our own time until the answer began: neither upload nor waiting for SAP. None: no deployment was looked for."""
    left: Phase = ""
    """Where the client left, if it did."""

    @property
    def serving(self) -> Attempt | None:
        """The last attempt: the one that answered, if any did."""
        return self.attempts[-1] if self.attempts else None

    @property
    def usage(self) -> Usage | None:
        """The tokens that the upstream counted, so far as it told them."""
        return self.attempts[-1].usage if self.attempts else None


class Observer(Protocol):
    """Told of what happens. Must not raise, block or await; a failing observer fails no request."""

    def streaming(self, change: int) -> None:
        """A streamed answer begins (+1) or has ended (-1)."""
        ...

    def attempted(self, call: Call, attempt: Attempt) -> None: ...

    def failed_over(self, call: Call, reason: str) -> None: ...

    def finished(self, record: Record) -> None: ...


class Account:
    """What is noted of one request on its way: it makes exactly one Record, whatever the request's end.

    A context around the request's handling: where that breaks off, because the client left or by a bug, there is no
    reply whose closing (``close``) would make the Record.
    """

    __slots__ = (
        "_observer",
        "_streams",
        "call",
        "caller",
        "explains",
        "kind",
        "no_room",
        "overhead",
        "protocol",
        "request",
        "route",
        "status",
    )

    def __init__(
        self, request: ClientRequest, route: str, protocol: str, observer: Observer, *, explains: bool = True
    ) -> None:
        """``explains``: whether the answer says in headers how it came about."""
        self.explains = explains
        self.request = request
        self.route = route
        self.protocol = protocol
        self.caller: Caller | None = None
        self.call: Call | None = None
        self.status = 200
        self.kind = ""
        self.no_room = False
        self.overhead: float | None = None
        self._observer = observer
        self._streams = False

    def __enter__(self) -> Account:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if isinstance(error, asyncio.CancelledError):
            if self.request.gone.is_set():  # else the edge cuts it: it has an answer, which is recorded
                self._end("client_gone")
        elif isinstance(error, Exception):
            self.status, self.kind = 500, Kind.INTERNAL.value
            self._end("failed")

    def fails(self, fault: Fault, status: int | None = None) -> None:
        """The answer is ``fault`` with ``status``; None: a stream, which has its status, ends in it."""
        self.kind, self.no_room = fault.kind.value, isinstance(fault, NoRoom)
        self.status = self.status if status is None else status

    def streams(self) -> None:
        """The answer is a stream, which begins."""
        self._streams = True
        self._observer.streaming(1)

    def answers(self) -> None:
        """The answer begins: what went before and was neither the client's nor SAP's time is ours."""
        if self.call is not None and self.overhead is None:
            now = time.monotonic()
            begun = self.request.complete or self.request.received
            self.overhead = max(0.0, now - begun - self.call.waited(now))

    async def close(self, ending: Ending) -> None:
        """The reply's Closer."""
        if self._streams:
            self._streams = False
            self._observer.streaming(-1)
        self._end(ending)

    def _end(self, ending: Ending) -> None:
        if not self.request.recorded:
            self.request.recorded = True
            self.answers()
            self._observer.finished(self._record(ending))

    def _record(self, ending: Ending) -> Record:
        call, received = self.call, self.request.received
        attempts = tuple(call.attempts) if call is not None else ()
        last = attempts[-1] if attempts else None
        return Record(
            request_id=self.request.request_id,
            route=self.route,
            protocol=self.protocol,
            status=CLIENT_GONE if ending == "client_gone" else self.status,
            duration=time.monotonic() - received,
            key_name=self.caller.name if self.caller is not None else "",
            model=call.sap_model if call is not None else "",
            stream=call.stream if call is not None else False,
            attempts=attempts,
            plans=tuple(call.plans) if call is not None else (),
            fallback=call.fallback if call is not None else "",
            began=received,
            kind=self.kind or (last.kind if last is not None else ""),
            no_room=self.no_room,
            first_byte=last.first_byte - received if last is not None and last.first_byte else None,
            first_content=last.first_content - received if last is not None and last.first_content else None,
            content=last.last_content - last.first_content if last is not None and last.last_content else 0.0,
            overhead=self.overhead,
            left=self._left_in(last) if ending == "client_gone" else "",
        )

    def _left_in(self, last: Attempt | None) -> Phase:
        if self.kind or self.request.method != "POST":
            return "writing"
        if self.request.complete is None:
            return "upload"
        if last is not None and last.first_content:
            return "streaming"
        return "writing" if last is not None and last.outcome is not None and last.outcome.value == "ok" else "waiting"
