"""How many requests at once a deployment bears, learned from its answers: one more after a round of successes, a good
part less after a refusal (additive increase, multiplicative decrease).

Latency says nothing of it, since a prompt's length decides that. Pure: time (monotonic seconds) is an argument; one
event loop owns each limit.
"""

from __future__ import annotations

from msgspec import Struct


class Learning(Struct, frozen=True):
    """How a limit is learned. ``start``, ``least``, ``most``: requests in flight."""

    start: int = 20
    least: int = 2
    most: int = 500
    factor: float = 0.7
    """Of the limit, what is left of it after a refusal."""
    pause: float = 1.0
    """Seconds after a decrease in which nothing else changes it: what is refused meanwhile was sent before. Also how
    long ago the limit may have been reached for a success to say that it holds."""


class LearnedLimit:
    """One deployment's limit. Told of each attempt's end; ``in_flight`` is the deployment's, as each method says."""

    __slots__ = ("_changed_until", "_crowd", "_crowded_until", "_learning", "_reached_at", "_successes", "value")

    def __init__(self, learning: Learning) -> None:
        self.value = 0
        self._successes = 0
        self._reached_at = self._changed_until = self._crowded_until = float("-inf")
        self._crowd = learning.most
        self.become(learning)
        self.value = self._within(learning.start)

    def become(self, learning: Learning) -> None:
        """Takes other bounds; what is learned stays, within them."""
        self._learning = learning
        self.value = self._within(self.value)

    @property
    def sure(self) -> int:
        """With fewer in flight there is room, whatever the time."""
        return min(self.value, self._crowd)

    def full(self, in_flight: int, now: float) -> bool:
        """Whether one more than ``in_flight`` would be too many."""
        return in_flight >= self.value or (in_flight >= self._crowd and self.was_crowded(now))

    def was_crowded(self, now: float) -> bool:
        """Whether somebody was refused for want of room a moment ago."""
        return now < self._crowded_until

    def succeeded(self, in_flight: int, now: float) -> None:
        """An answer was good. It counts where so many were really in flight lately, ``in_flight`` with this one: else
        the limit would grow without meaning while there is little to do."""
        if in_flight >= self.value:
            self._reached_at = now
        if now < self._changed_until or now - self._reached_at > self._learning.pause:
            return
        self._successes += 1
        if self._successes >= self.value:
            self.value = self._within(self.value + 1)
            self._successes = 0
            self._reached_at = float("-inf")

    def refused(self, now: float) -> None:
        """A throttle or an overload."""
        self._successes = 0
        if now >= self._changed_until:
            self.value = self._within(int(self.value * self._learning.factor))
            self._changed_until = now + self._learning.pause

    def crowded(self, in_flight: int, now: float) -> None:
        """One more than ``in_flight`` was too many just now, whatever was learned: for a moment only what ends there
        makes room. Else what was refused would be sent again at once, and be refused again."""
        self._crowd = in_flight
        self._crowded_until = now + self._learning.pause

    def restart(self) -> None:
        """After an outage: as at first, or with less, if that was all it bore."""
        self.value = min(self.value, self._within(self._learning.start))

    def _within(self, value: int) -> int:
        most = self._learning.most
        return min(max(value, min(self._learning.least, most)), most)
