"""Cooldowns: who answered 429 is not asked again before the time that it named, or a growing one if it named none."""

from __future__ import annotations

from collections.abc import Hashable

from msgspec import Struct

SHORTEST = 0.1
LONGEST = 3600.0
FIRST_UNTOLD = 10.0
LONGEST_UNTOLD = 60.0
"""SAP's windows are a minute."""
TRIAL = 1.0
"""Seconds in which one request tries whether a throttle that named no time is over, before the others follow."""


class _Cooling(Struct):
    until: float
    untold: int = 0
    """Throttles in a row that named no time."""
    tried_until: float = float("-inf")


class Cooldowns:
    """Until when each target cools down: a (subaccount, model), or one deployment. Times in monotonic seconds.

    One event loop owns it. Bounded by the number of targets; those that are long over are forgotten.
    """

    def __init__(self) -> None:
        self._cooling: dict[Hashable, _Cooling] = {}

    def __bool__(self) -> bool:
        return bool(self._cooling)

    def throttled(self, target: Hashable, now: float, retry_after: float | None = None) -> float:
        """A 429 of ``target``, with the seconds that it named. A cooldown is only ever extended. Gives its end."""
        cooling = self._cooling.setdefault(target, _Cooling(now))
        if retry_after is None or not retry_after > 0:
            # Several answers of one burst are one throttle
            if now >= cooling.until:
                cooling.untold += 1
            wait = min(FIRST_UNTOLD * 2 ** max(0, cooling.untold - 1), LONGEST_UNTOLD)
        else:
            wait = min(max(retry_after, SHORTEST), LONGEST)
        cooling.until = max(cooling.until, now + wait)
        return cooling.until

    def extend(self, target: Hashable, until: float, untold: int = 0) -> None:
        """A cooldown that another worker told of, and how many throttles in a row named no time."""
        cooling = self._cooling.setdefault(target, _Cooling(until))
        cooling.until = max(cooling.until, until)
        cooling.untold = max(cooling.untold, untold)

    def begun(self, target: Hashable, now: float) -> None:
        """A request is sent to ``target``. The first after a throttle that named no time tries for all."""
        cooling = self._cooling.get(target)
        if cooling is not None and cooling.untold and cooling.tried_until <= cooling.until <= now:
            cooling.tried_until = now + TRIAL

    def tried(self, target: Hashable, now: float) -> bool:
        """Whether a request tries just now if it is throttled still: others do better elsewhere."""
        cooling = self._cooling.get(target)
        return cooling is not None and cooling.until <= now < cooling.tried_until

    def untold(self, target: Hashable) -> int:
        """How many throttles of ``target`` in a row named no time."""
        cooling = self._cooling.get(target)
        return 0 if cooling is None else cooling.untold

    def served(self, target: Hashable, now: float) -> None:
        """An answer of ``target``: the next throttle without a time is a first one again."""
        cooling = self._cooling.get(target)
        if cooling is not None and now >= cooling.until:
            del self._cooling[target]

    def until(self, target: Hashable) -> float:
        """The end of a target's cooldown; minus infinity: there is none."""
        cooling = self._cooling.get(target)
        return float("-inf") if cooling is None else cooling.until

    def active(self, now: float) -> dict[Hashable, float]:
        """Every target that cools down now, with the end of it."""
        return {target: cooling.until for target, cooling in self._cooling.items() if now < cooling.until}

    def forget(self, now: float) -> None:
        """Drops what has been over for longer than any throttle without a time lasts."""
        for target in [t for t, cooling in self._cooling.items() if now - cooling.until > LONGEST_UNTOLD]:
            del self._cooling[target]
