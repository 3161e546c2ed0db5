"""What a run has counted, as values that travel between processes as JSON."""

from __future__ import annotations

from collections import Counter
from typing import Any

from msgspec import Struct, field

from aicore_proxy.bench.histogram import Histogram

STALL = 0.2
"""Seconds between two events of a stream from which a reader sees it stand still."""


class Plan(Struct, frozen=True, kw_only=True):
    """What the generator does. Ends after ``count`` requests or ``duration`` seconds, whichever comes first; None: no
    such end.

    ``rate``: requests per second that are begun whatever the endpoint does, None: each connection asks again when it
    has its answer. ``content`` (a regular expression) and ``last``: what frames hold, see ``reading.Frames``.
    ``timeout``: seconds without any byte. ``grace``: seconds after the end for what is under way. ``opening``:
    connections that are opened at the same time, at most. ``ca``: a PEM file; ``verify``: whether certificates are
    checked.
    """

    url: str
    protocol: str = "chat"
    key: str = ""
    model: str = ""
    size: int = 1024
    note: str = ""
    max_tokens: int = 256
    stream: bool = False
    connections: int = 1
    duration: float | None = None
    count: int | None = None
    rate: float | None = None
    fresh: bool = False
    """A new connection for every request."""
    warm: float | None = None
    """Seconds after all connections are open: what was before is not counted, and ``duration`` begins there."""
    timeout: float = 60.0
    grace: float = 60.0
    opening: int = 128
    content: str = ""
    last: str = ""
    ca: str = ""
    verify: bool = True
    every: float = 0.25
    """Seconds between two reports of progress."""

    def __repr__(self) -> str:
        return f"Plan(url={self.url!r}, …)"


class Progress(Struct, frozen=True):
    """Totals so far. ``at``: seconds since the start, -1 while it warms up."""

    at: float
    begun: int
    finished: int
    failed: int
    events: int
    open: int
    """Requests under way."""


class Tally(Struct, kw_only=True):
    """What has been counted. Owned by one run.

    ``statuses``: whole answers by status, errors too; ``failures``: requests that had no whole answer, by cause.
    ``latency``: whole answers with a status of success, seconds from sending to the last byte; ``waited``: the same
    from the moment the request was due, where there is a rate; ``first``: to the first content of a stream;
    ``gaps``: between two events of a stream (0 where they came together).
    """

    begun: int = 0
    succeeded: int = 0
    events: int = 0
    received: int = 0
    stalls: int = 0
    unfinished: int = 0
    connections: int = 0
    elapsed: float = 0.0
    own_cpu: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    latency: Histogram = field(default_factory=Histogram)
    waited: Histogram = field(default_factory=Histogram)
    first: Histogram = field(default_factory=Histogram)
    gaps: Histogram = field(default_factory=Histogram)

    @property
    def failed(self) -> int:
        """Requests without a whole answer of success, but for those that were under way at the end."""
        return sum(self.failures.values()) + sum(n for status, n in self.statuses.items() if not 200 <= status < 300)

    def packed(self) -> dict[str, Any]:
        names = (
            "begun",
            "succeeded",
            "events",
            "received",
            "stalls",
            "unfinished",
            "connections",
            "elapsed",
            "own_cpu",
        )
        return {name: getattr(self, name) for name in names} | {
            "statuses": {str(status): count for status, count in self.statuses.items()},
            "failures": dict(self.failures),
            **{name: getattr(self, name).packed() for name in ("latency", "waited", "first", "gaps")},
        }

    @classmethod
    def unpacked(cls, packed: dict[str, Any]) -> Tally:
        values = dict(packed)
        values["statuses"] = Counter({int(status): count for status, count in packed["statuses"].items()})
        values["failures"] = Counter(packed["failures"])
        for name in ("latency", "waited", "first", "gaps"):
            values[name] = Histogram.unpacked(packed[name])
        return cls(**values)
