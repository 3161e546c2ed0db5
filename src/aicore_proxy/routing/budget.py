"""Retry budget: what failover may add to an outage. One per model.

An attempt beyond the first is free where its target's last answer was a success: a partial outage never runs out of
budget, while a total one adds at most a fifth of the requests and ten a second.
"""

from __future__ import annotations

from collections import deque

from msgspec import Struct


class Allowance(Struct, frozen=True):
    """``share`` of the requests of the last ``window`` seconds, and ``always`` a second besides."""

    share: float = 0.2
    always: float = 10.0
    window: float = 10.0


SLOTS = 20


class RetryBudget:
    """Counts requests and charged attempts of the last seconds. One event loop owns it."""

    def __init__(self, allowance: Allowance | None = None) -> None:
        self._allowance = allowance or Allowance()
        self._width = self._allowance.window / SLOTS
        self._slots: deque[list[int]] = deque()  # slot number, requests, charged attempts
        self._requests = 0
        self._charged = 0

    def requested(self, now: float) -> None:
        """A request came in: its first attempt is never charged."""
        self._slot(now)[1] += 1
        self._requests += 1

    def allows(self, now: float, *, healthy: bool) -> bool:
        """Whether one more attempt may be made; charges it. ``healthy``: the target's last answer was a success."""
        if healthy:
            return True
        slot = self._slot(now)
        if self._charged + 1 > self._allowance.share * self._requests + self._allowance.always * self._allowance.window:
            return False
        if self._charged_lately(slot[0]) + 1 > self._allowance.share * self._requests + self._allowance.always:
            return False
        slot[2] += 1
        self._charged += 1
        return True

    def _charged_lately(self, number: int) -> int:
        """Of the last second: the budget of ten seconds is not spent in one."""
        first = number - max(1, round(1 / self._width)) + 1
        return sum(slot[2] for slot in self._slots if slot[0] >= first)

    def _slot(self, now: float) -> list[int]:
        number = int(now / self._width)
        while self._slots and self._slots[0][0] <= number - SLOTS:
            _, requests, charged = self._slots.popleft()
            self._requests -= requests
            self._charged -= charged
        if not self._slots or self._slots[-1][0] < number:
            self._slots.append([number, 0, 0])
        return self._slots[-1]
