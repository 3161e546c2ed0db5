"""Who is asked, and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from aicore_proxy.landscape import Deployment

MAX_ATTEMPTS = 5


class Strategy(Protocol):
    """Ranks the deployments of a model for one request, best first."""

    def rank(self, model: str, candidates: Sequence[Deployment]) -> Sequence[Deployment]: ...


class Plan(Struct, frozen=True):
    """The order in which deployments are asked. ``skipped``: those that are not, with the reason."""

    ranked: tuple[Deployment, ...]
    skipped: tuple[tuple[Deployment, str], ...] = ()


class Router:
    """Plans requests. Its strategy owns what changes between them; breakers and cooldowns will have their place
    between candidates and rank, affinity in the strategy."""

    def __init__(self, strategy: Strategy, max_attempts: int = MAX_ATTEMPTS) -> None:
        self._strategy = strategy
        self._max_attempts = max_attempts

    def plan(self, model: str, candidates: Sequence[Deployment]) -> Plan:
        """The Plan for one request: the strategy's first choice, then each time another subaccount before another
        deployment of one that has failed already. ``candidates`` is not empty."""
        ranked = list(self._strategy.rank(model, candidates))
        order = [ranked.pop(0)]
        asked = {order[0].subaccount: 1}
        while ranked:
            following = min(ranked, key=lambda deployment: asked.get(deployment.subaccount, 0))
            ranked.remove(following)
            order.append(following)
            asked[following.subaccount] = asked.get(following.subaccount, 0) + 1
        left = tuple((deployment, "attempts") for deployment in order[self._max_attempts :])
        return Plan(tuple(order[: self._max_attempts]), left)
