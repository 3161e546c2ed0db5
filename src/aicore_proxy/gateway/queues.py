"""Where requests wait for a deployment that has as many as it may have: one bounded queue per model.

Fair over client keys: each key's requests have turns, so that one that sends a hundred times as much delays only
itself. Within a key the first comes first; once its oldest has waited for long the newest does, since its client is
still there.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from msgspec import Struct

from aicore_proxy.protocol.fault import Fault, Kind

LOOK = 1.0
"""Seconds after which a request that waits looks by itself: a cooldown that ends wakes nobody."""


class NoRoom(Fault):
    """Every deployment has as many requests as it may have, and waiting was no way out."""


class QueueLimits(Struct, frozen=True):
    """``length``: requests that may wait, per model; ``wait``: seconds; ``stale``: after which the newest go first."""

    length: int = 256
    wait: float = 30.0
    stale: float = 5.0


class Place:
    """One request's place in a queue. To be left, always."""

    def __init__(self, queue: _Queue, key_id: str, now: float, deadline: float) -> None:
        self.since = now
        self._queue = queue
        self._key_id = key_id
        self._deadline = deadline
        self._woken = asyncio.Event()

    async def turn(self) -> None:
        """Waits until it is worth a look. Raises NoRoom where it has waited for as long as it may."""
        left = self._deadline - self._queue.clock()
        if left <= 0:
            raise self._queue.refusal("waited for as long as it may")
        try:
            async with asyncio.timeout(min(LOOK, left)):
                await self._woken.wait()
        except TimeoutError:
            return
        self._woken.clear()

    def wake(self) -> bool:
        """Gives it a turn; False: it has one already."""
        if self._woken.is_set():
            return False
        self._woken.set()
        return True

    def leave(self, *, room: bool = False) -> None:
        """Gives the place up. A turn that it did not use goes to the next; so does one that ``room`` for more gives."""
        self._queue.leave(self._key_id, self)
        if room or self._woken.is_set():
            self._queue.freed(counts=False)


class _Queue:
    """One model's queue: by key, the keys in the order of their turns."""

    def __init__(self, model: str, limits: QueueLimits, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.waiting = 0
        self._model = model
        self.limits = limits
        self._by_key: OrderedDict[str, deque[Place]] = OrderedDict()
        self._freed_at: float | None = None  # since the queue is not empty
        self._pace: float | None = None  # seconds between two that are freed while others wait, a moving average

    def enter(self, key_id: str, deadline: float) -> Place:
        if self.waiting >= self.limits.length:
            raise self.refusal("did not wait, since too many do")
        if not self.waiting:
            self._freed_at = None  # a gap in which nobody waited says nothing of the pace
        now = self.clock()
        place = Place(self, key_id, now, min(deadline, now + self.limits.wait))
        self._by_key.setdefault(key_id, deque()).append(place)
        self.waiting += 1
        return place

    def leave(self, key_id: str, place: Place) -> None:
        places = self._by_key.get(key_id)
        if places is None or place not in places:
            return
        places.remove(place)
        self.waiting -= 1
        if not places:
            del self._by_key[key_id]

    def freed(self, *, counts: bool = True) -> None:
        """Wakes the next."""
        now = self.clock()
        if counts:
            if self._freed_at is not None:
                pause = min(now - self._freed_at, self.limits.wait)
                self._pace = pause if self._pace is None else 0.9 * self._pace + 0.1 * pause
            self._freed_at = now
        for key_id in tuple(self._by_key):
            places = self._by_key[key_id]
            order = reversed(places) if now - places[0].since > self.limits.stale else places
            if any(place.wake() for place in order):
                self._by_key.move_to_end(key_id)
                return

    def refusal(self, why: str) -> NoRoom:
        """That nobody has time, and when to come back."""
        words = f"Every deployment of the model '{self._model}' has as many requests as it may have; this one {why}."
        expected = min(max(1.0, (self._pace or 0.0) * self.waiting), self.limits.wait)
        return NoRoom(Kind.OVERLOADED, words, code="overloaded", retry_after=expected)


class Queues:
    """Owns the queue of each model. Lives in one event loop."""

    def __init__(self, limits: QueueLimits | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits or QueueLimits()
        self._clock = clock
        self._queues: dict[str, _Queue] = {}

    def become(self, limits: QueueLimits) -> None:
        """Takes other limits, for requests that come from now on."""
        self._limits = limits
        for queue in self._queues.values():
            queue.limits = limits

    def enter(self, model: str, key_id: str, deadline: float) -> Place:
        """A place in the model's queue. Raises NoRoom where it is full."""
        queue = self._queues.get(model)
        if queue is None:
            queue = self._queues[model] = _Queue(model, self._limits, self._clock)
        return queue.enter(key_id, deadline)

    def waiting(self, model: str) -> int:
        """How many wait for ``model``."""
        queue = self._queues.get(model)
        return 0 if queue is None else queue.waiting

    def freed(self, model: str) -> None:
        """A request of ``model`` has ended: the next one has its turn."""
        if (queue := self._queues.get(model)) is not None and queue.waiting:
            queue.freed()
