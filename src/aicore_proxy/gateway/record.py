"""What is known of a request when it has ended: for metrics and logs. No content, no secrets."""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from aicore_proxy.gateway.call import Attempt, Call


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
    kind: str = ""
    """The Fault's kind, where it ended in one."""
    first_byte: float | None = None
    """From the request's arrival to the upstream's first byte of the attempt that served."""


class Observer(Protocol):
    """Told of what happens. Must not raise, block or await; a failing observer fails no request."""

    def attempted(self, call: Call, attempt: Attempt) -> None: ...

    def failed_over(self, call: Call, reason: str) -> None: ...

    def finished(self, record: Record) -> None: ...
