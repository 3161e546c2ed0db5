"""Load-balancing strategies: each ranks a model's deployments for one request. Quick, never awaits."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from aicore_proxy.landscape import Deployment


class RoundRobin:
    """Each model's deployments in turn. Owns one counter per model, under its lock: exact whatever the concurrency."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turn: dict[str, int] = {}

    def rank(self, model: str, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        with self._lock:
            turn = self._turn[model] = self._turn.get(model, -1) + 1
        first = turn % len(candidates)
        return [*candidates[first:], *candidates[:first]]
