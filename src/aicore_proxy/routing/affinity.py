"""Prompt-cache affinity: the requests of one conversation go where its prefix is cached.

A new conversation's home is found by rendezvous hashing, so that a lost deployment moves only its own conversations;
a deployment that is loaded far above its siblings is passed over. Where a conversation went is remembered while the
provider's cache is warm. If its home cannot be asked it goes elsewhere; it returns only if its home is still warm.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from hashlib import blake2b

from msgspec import Struct

from aicore_proxy.landscape import Deployment

WARM = 300.0
"""Seconds for which providers keep a prefix after its last use."""
KEPT = 100_000
"""Conversations remembered at most."""
SEEDS = 10_000
MULTIPLIER = 0x9E3779B97F4A7C15
MASK = (1 << 64) - 1
FACTOR = 1.25
SLACK = 4
"""A deployment is full for new conversations with more requests in flight than FACTOR times the mean, plus SLACK."""


class _Place(Struct):
    deployment: str
    used: float
    warm: float


class Affinity:
    """Remembers conversations. One event loop owns it; bounded, the longest unused is forgotten."""

    def __init__(self, kept: int = KEPT) -> None:
        self._places: OrderedDict[int, list[_Place]] = OrderedDict()
        self._kept = kept
        self._seeds: dict[str, int] = {}

    def ranked(
        self, session: int, candidates: Sequence[Deployment], now: float, in_flight: Callable[[Deployment], int]
    ) -> list[Deployment]:
        """``candidates`` in the order in which the conversation should try them.

        ``session``: its 64-bit key; ``in_flight``: requests that a deployment has now.
        """
        # Multiplicative hashing of two numbers that are random already: the same in every process, so that workers
        # agree without a word (Python's own hash of a pair shares out unevenly)
        seeds = self._seed
        ranked = sorted(candidates, key=lambda deployment: (session ^ seeds(deployment)) * MULTIPLIER & MASK)
        homes = [place.deployment for place in self._places.get(session, ()) if now - place.used < place.warm]
        wanted = sorted(ranked, key=lambda d: homes.index(d.id) if d.id in homes else len(homes)) if homes else ranked
        # A home that has far more than its share is full, also for those whose prefix it holds: one prompt that many
        # clients send at once is one conversation here
        first = wanted[0]
        if in_flight(first) >= SLACK:
            loads = [in_flight(deployment) for deployment in wanted]
            most = FACTOR * sum(loads) / len(loads) + SLACK
            # The mean is below it: there is always one
            first = next(deployment for deployment, load in zip(wanted, loads, strict=True) if load < most)
        if first is not ranked[0]:
            ranked.remove(first)
            ranked.insert(0, first)
        return ranked

    def warm(self, session: int, deployment: Deployment, now: float) -> bool:
        """Whether ``deployment`` still holds the conversation's prefix, as far as is known."""
        places = self._places.get(session, ())
        return any(place.deployment == deployment.id and now - place.used < place.warm for place in places)

    def went(self, session: int, deployment: Deployment, now: float, warm: float = WARM) -> None:
        """The conversation was served by ``deployment``, whose cache keeps its prefix for ``warm`` seconds.

        The home that it had stays the first to return to while it is warm.
        """
        places = [place for place in self._places.pop(session, ()) if now - place.used < place.warm]
        for place in places:
            if place.deployment == deployment.id:
                place.used, place.warm = now, max(warm, place.warm)
                break
        else:
            places = [*places[:1], _Place(deployment.id, now, warm)]
        self._places[session] = places
        if len(self._places) > self._kept:
            self._places.popitem(last=False)

    def _seed(self, deployment: Deployment) -> int:
        seed = self._seeds.get(deployment.id)
        if seed is None:
            if len(self._seeds) > SEEDS:
                self._seeds.clear()
            digest = blake2b(deployment.id.encode(), digest_size=8).digest()
            seed = self._seeds[deployment.id] = int.from_bytes(digest, "big")
        return seed

    def __len__(self) -> int:
        return len(self._places)
