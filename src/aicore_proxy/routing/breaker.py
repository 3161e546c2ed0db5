"""Circuit breaker: an upstream that fails is left alone for a while, then tried by one request at a time.

Closed, open, half open. Judged at the end of an attempt. Pure: time (monotonic seconds) and chance are arguments; one
event loop owns each breaker. Defaults and their reasons: docs/reliability.md.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

from msgspec import Struct


class State(Enum):
    CLOSED = "closed"
    HALF_OPEN = "half_open"
    OPEN = "open"


class Verdict(Enum):
    """What an attempt says of its upstream. IGNORED: nothing (a client's fault, a throttle, a client that left)."""

    GOOD = "good"
    BAD = "bad"
    IGNORED = "ignored"


class Limits(Struct, frozen=True):
    """When a breaker opens, and for how long. Times in seconds, shares of 1."""

    consecutive: int = 5
    error_share: float = 0.5
    error_least: int = 20
    error_window: float = 30.0
    slow_share: float = 0.8
    slow_least: int = 20
    slow_window: float = 60.0
    open_time: float = 10.0
    longest: float = 120.0
    spread: float = 0.2
    """Of the open time, up or down, so that breakers do not probe in step."""
    forgiven: float = 300.0
    """Closed for so long: the next open time is the first again."""
    probes: int = 2
    """Good ones in a row that close it."""


DEFAULT = Limits()
SLOTS = 10


class Tally:
    """How many of the events of the last ``window`` seconds were bad, to a tenth of it."""

    def __init__(self, window: float) -> None:
        self._width = window / SLOTS
        self._slots: deque[list[int]] = deque()  # slot number, events, bad ones

    def add(self, now: float, *, bad: bool) -> None:
        slot = int(now / self._width)
        if not self._slots or self._slots[-1][0] != slot:
            self._slots.append([slot, 0, 0])
            self._forget(slot)
        self._slots[-1][1] += 1
        self._slots[-1][2] += bad

    def exceeds(self, now: float, least: int, share: float) -> bool:
        """Whether of at least so many events such a share was bad."""
        self._forget(int(now / self._width))
        events = sum(slot[1] for slot in self._slots)
        return events >= least and sum(slot[2] for slot in self._slots) >= share * events

    def clear(self) -> None:
        self._slots.clear()

    def _forget(self, slot: int) -> None:
        while self._slots and self._slots[0][0] <= slot - SLOTS:
            self._slots.popleft()


class Breaker:
    """One upstream's breaker. ``begin`` when an attempt is sent, ``end`` with its verdict: always both."""

    def __init__(self, limits: Limits = DEFAULT) -> None:
        self.limits = limits
        self._errors = Tally(limits.error_window)
        self._slow = Tally(limits.slow_window)
        self._failures = 0
        self._until: float | None = None  # open up to then, half open after it; None: closed
        self._open_time = limits.open_time
        self._closed_at = float("-inf")
        self._probing = False
        self._good_probes = 0

    def state(self, now: float) -> State:
        if self._until is None:
            return State.CLOSED
        return State.OPEN if now < self._until else State.HALF_OPEN

    def admits(self, now: float) -> bool:
        """Whether an attempt may be sent: always while closed, one at a time while half open."""
        return self._until is None or (now >= self._until and not self._probing)

    def recovers_at(self, now: float) -> float:
        """When an attempt may be sent again, as far as is known now."""
        return now if self._until is None else max(now, self._until)

    def begin(self, now: float) -> bool:
        """An attempt is sent. Whether it is a probe: ``end`` wants to know. Only where ``admits`` was true."""
        if self._until is None:
            return False
        self._probing = True
        return True

    @property
    def probing(self) -> bool:
        """Whether a probe is waiting for its answer."""
        return self._probing

    def answering(self) -> None:
        """The probe's answer has begun: it may take minutes, so the next one need not wait for its end."""
        self._probing = False

    def end(
        self, now: float, verdict: Verdict, chance: float, *, probe: bool = False, slow: bool | None = None
    ) -> None:
        """An attempt has ended. ``slow``: whether its first byte took too long, None where that is not judged;
        ``chance``: in [0, 1)."""
        if probe:
            self._probing = False
            self._probed(now, verdict, chance)
        elif self._until is None:
            self._judged(now, verdict, chance, slow)
        # What was sent before it opened says nothing new

    def trip(self, now: float, chance: float) -> None:
        """Opens it, for longer each time unless it was closed for long. An open one stays as it is."""
        if self._until is not None and now < self._until:
            return
        self._good_probes = 0
        fresh = self._until is None and now - self._closed_at >= self.limits.forgiven
        self._open_time = (
            self.limits.open_time if fresh else min(self._open_time * 2, max(self.limits.longest, self._open_time))
        )
        spread = 1 + self.limits.spread * (2 * chance - 1)
        self._until = now + min(self._open_time, self.limits.longest) * spread

    def opened_elsewhere(self, until: float, now: float) -> None:
        """Another worker opened its breaker for the same upstream, up to ``until``."""
        if until > now and (self._until is None or self._until < until):
            self._until = until
            self._good_probes = 0

    def closed_elsewhere(self, now: float) -> None:
        """Another worker's probes were good."""
        if self._until is not None:
            self._close(now)

    def _probed(self, now: float, verdict: Verdict, chance: float) -> None:
        if self._until is None:
            return
        if verdict is Verdict.BAD:
            self.trip(now, chance)
        elif verdict is Verdict.GOOD:
            self._good_probes += 1
            if self._good_probes >= self.limits.probes:
                self._close(now)

    def _judged(self, now: float, verdict: Verdict, chance: float, slow: bool | None) -> None:
        limits = self.limits
        if slow is not None:
            self._slow.add(now, bad=slow)
        if verdict is not Verdict.IGNORED:
            bad = verdict is Verdict.BAD
            self._errors.add(now, bad=bad)
            self._failures = self._failures + 1 if bad else 0
        failing = self._failures >= limits.consecutive or (
            verdict is Verdict.BAD and self._errors.exceeds(now, limits.error_least, limits.error_share)
        )
        if failing or (slow and self._slow.exceeds(now, limits.slow_least, limits.slow_share)):
            self.trip(now, chance)

    def _close(self, now: float) -> None:
        self._until = None
        self._closed_at = now
        self._failures = 0
        self._errors.clear()
        self._slow.clear()
