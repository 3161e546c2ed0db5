"""Strategies: how one model's requests are shared out over its deployments."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from msgspec import Struct

from aicore_proxy.landscape import Deployment
from aicore_proxy.routing.affinity import Affinity
from aicore_proxy.routing.health import Health

T = TypeVar("T")

UNMEASURED = 1.0
"""Seconds that a deployment without a measured latency counts as."""


class Query(Struct, frozen=True):
    """What a request wants to be routed by. ``model``: SAP's name; ``now``: monotonic seconds; ``chance``: in [0, 1);
    ``session``: the conversation's 64-bit key, None: it has none."""

    model: str
    now: float = 0.0
    chance: float = 0.0
    session: int | None = None


class Strategy(Protocol):
    """Ranks the deployments of a model for one request, best first. ``candidates`` is not empty."""

    def rank(self, query: Query, candidates: Sequence[Deployment]) -> Sequence[Deployment]: ...


class RoundRobin:
    """Each model's deployments in turn. Owns one counter per model, under its lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turn: dict[str, int] = {}

    def rank(self, query: Query, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        with self._lock:
            turn = self._turn[query.model] = self._turn.get(query.model, -1) + 1
        first = turn % len(candidates)
        return [*candidates[first:], *candidates[:first]]


class Weighted:
    """Turns in proportion to weights, evenly mixed (nginx's smooth weighted round robin).

    ``weights``: by deployment id or subaccount alias, the former first; others weigh 1; 0: only when nothing else is
    left. Owns each deployment's credit, under its lock.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._weights = weights
        self._lock = threading.Lock()
        self._credit: dict[tuple[str, str], float] = {}

    def rank(self, query: Query, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        weights = {d.id: named(self._weights, d, 1.0) for d in candidates}
        with self._lock:
            for deployment_id, weight in weights.items():
                key = (query.model, deployment_id)
                self._credit[key] = self._credit.get(key, 0.0) + weight
            ranked = sorted(
                candidates, key=lambda d: (weights[d.id] > 0, self._credit[query.model, d.id]), reverse=True
            )
            self._credit[query.model, ranked[0].id] -= sum(weights.values())
        return ranked


class LeastOutstanding:
    """The better of two that chance picks, by requests in flight and latency; then the others by the same measure.

    Two choices instead of the best of all: many requests at once do not all take the same one.
    """

    def __init__(self, health: Health) -> None:
        self._health = health

    def rank(self, query: Query, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        count = len(candidates)
        if count == 1:
            return candidates
        first, second = divmod(int(query.chance * count * (count - 1)), count - 1)
        second += second >= first
        costs = [self._cost(deployment, query.now) for deployment in candidates]
        if costs[second] < costs[first]:
            first, second = second, first
        rest = sorted((i for i in range(count) if i not in (first, second)), key=costs.__getitem__)
        return [candidates[i] for i in (first, second, *rest)]

    def _cost(self, deployment: Deployment, now: float) -> float:
        return (self._health.in_flight(deployment) + 1) * (self._health.slowness(deployment, now) or UNMEASURED)


class Sticky:
    """Conversations stay where their prefix is cached; requests that belong to none go by ``otherwise``."""

    def __init__(self, affinity: Affinity, health: Health, otherwise: Strategy) -> None:
        self._affinity = affinity
        self._health = health
        self._otherwise = otherwise

    def rank(self, query: Query, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        if query.session is None:
            return self._otherwise.rank(query, candidates)
        return self._affinity.ranked(query.session, candidates, query.now, self._health.in_flight)


class Tiered:
    """Tiers before each other; within a tier the inner strategy.

    ``tiers``: by deployment id or subaccount alias, the former first; the lowest number first, others are in tier 0.
    """

    def __init__(self, tiers: Mapping[str, int], inner: Strategy) -> None:
        self._tiers = tiers
        self._inner = inner

    def rank(self, query: Query, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        tiers: dict[int, list[Deployment]] = {}
        for deployment in candidates:
            tiers.setdefault(named(self._tiers, deployment, 0), []).append(deployment)
        first, *later = [tiers[number] for number in sorted(tiers)]
        # Only the tier that is asked takes a turn
        return [*self._inner.rank(query, first), *(deployment for tier in later for deployment in tier)]


def named(values: Mapping[str, T], deployment: Deployment, otherwise: T) -> T:
    """What ``values`` has for a deployment: by its id, else by its subaccount's alias, else ``otherwise``."""
    return values.get(deployment.id, values.get(deployment.subaccount, otherwise))
