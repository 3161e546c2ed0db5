"""Load-balancing strategies: each ranks a model's deployments for one request. Quick, never awaits."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Protocol

from aicore_proxy.landscape import Deployment
from aicore_proxy.routing.health import Health

UNMEASURED = 1.0
"""Seconds that a deployment without a measured latency counts as."""


class Strategy(Protocol):
    """Ranks the deployments of a model for one request, best first. ``chance``: in [0, 1)."""

    def rank(self, model: str, candidates: Sequence[Deployment], chance: float) -> Sequence[Deployment]: ...


class RoundRobin:
    """Each model's deployments in turn. Owns one counter per model, under its lock: exact whatever the concurrency."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turn: dict[str, int] = {}

    def rank(self, model: str, candidates: Sequence[Deployment], chance: float = 0.0) -> Sequence[Deployment]:
        with self._lock:
            turn = self._turn[model] = self._turn.get(model, -1) + 1
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

    def rank(self, model: str, candidates: Sequence[Deployment], chance: float = 0.0) -> Sequence[Deployment]:
        weights = {d.id: self._weight(d) for d in candidates}
        with self._lock:
            for deployment_id, weight in weights.items():
                key = (model, deployment_id)
                self._credit[key] = self._credit.get(key, 0.0) + weight
            ranked = sorted(candidates, key=lambda d: (weights[d.id] > 0, self._credit[model, d.id]), reverse=True)
            self._credit[model, ranked[0].id] -= sum(weights.values())
        return ranked

    def _weight(self, deployment: Deployment) -> float:
        return self._weights.get(deployment.id, self._weights.get(deployment.subaccount, 1.0))


class LeastOutstanding:
    """The better of two that chance picks, by requests in flight and latency; then the others by the same measure.

    Two choices instead of the best of all: many requests at once do not all take the same one.
    """

    def __init__(self, health: Health) -> None:
        self._health = health

    def rank(self, model: str, candidates: Sequence[Deployment], chance: float = 0.0) -> Sequence[Deployment]:
        count = len(candidates)
        if count == 1:
            return candidates
        pair = int(chance * count * (count - 1))
        first, second = divmod(pair, count - 1)
        second += second >= first
        costs = [self._cost(deployment) for deployment in candidates]
        if costs[second] < costs[first]:
            first, second = second, first
        rest = sorted((i for i in range(count) if i not in (first, second)), key=costs.__getitem__)
        return [candidates[i] for i in (first, second, *rest)]

    def _cost(self, deployment: Deployment) -> float:
        return (self._health.in_flight(deployment) + 1) * (self._health.latency(deployment) or UNMEASURED)


class Tiered:
    """Tiers before each other; within a tier the inner strategy.

    ``tiers``: by deployment id or subaccount alias, the former first; the lowest number first, others are in tier 0.
    """

    def __init__(self, tiers: Mapping[str, int], inner: Strategy) -> None:
        self._tiers = tiers
        self._inner = inner

    def rank(self, model: str, candidates: Sequence[Deployment], chance: float = 0.0) -> Sequence[Deployment]:
        tiers: dict[int, list[Deployment]] = {}
        for deployment in candidates:
            tier = self._tiers.get(deployment.id, self._tiers.get(deployment.subaccount, 0))
            tiers.setdefault(tier, []).append(deployment)
        first, *later = [tiers[number] for number in sorted(tiers)]
        # Only the tier that is asked takes a turn
        return [*self._inner.rank(model, first, chance), *(deployment for tier in later for deployment in tier)]
