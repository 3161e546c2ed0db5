"""Numbers for Prometheus, in a registry of their own."""

from __future__ import annotations

import asyncio
import platform
from collections import deque

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from aicore_proxy import __version__

LAG_INTERVAL = 0.025
LAG_WINDOW = 10.0


class Metrics:
    """All metrics of a process. Owns the registry; labels hold names from closed sets, never what a client sent."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self.loop_lag = self._gauge("loop_lag_seconds", "Longest delay of the event loop in the last 10 seconds")
        self.in_flight = self._gauge("in_flight_requests", "Model API requests being handled or answered")
        self.requests = self._counter("requests", "Requests answered", "protocol", "status_class")
        self.upstream_attempts = self._counter("upstream_attempts", "Attempts at deployments", "outcome")
        self.failovers = self._counter("failovers", "Moves on to another deployment", "reason")
        self.client_disconnects = self._counter("client_disconnects", "Clients that left before their answer's end")
        self.token_refresh = self._counter("token_refresh", "Token requests to SAP", "result")
        build = Gauge("aicore_proxy_build_info", "Always 1", ("version", "python"), registry=self.registry)
        build.labels(__version__, platform.python_version()).set(1)

    def exposition(self) -> tuple[bytes, str]:
        """All metrics in Prometheus' text format, and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST

    async def watch_loop_lag(self, interval: float = LAG_INTERVAL, window: float = LAG_WINDOW) -> None:
        """For ever: sleeps ``interval`` seconds and shows by how much the sleep was longer, as the worst of the last
        ``window`` seconds. A stall shows within one interval of its true length. One supervised task per process."""
        loop = asyncio.get_running_loop()
        worst: deque[tuple[float, float]] = deque()  # (when, lag): lags fall from left to right
        shown = -1.0
        while True:
            before = loop.time()
            await asyncio.sleep(interval)
            now = loop.time()
            lag = max(0.0, now - before - interval)
            while worst and worst[-1][1] <= lag:
                worst.pop()
            worst.append((now, lag))
            while worst[0][0] < now - window:
                worst.popleft()
            if worst[0][1] != shown:
                shown = worst[0][1]
                self.loop_lag.set(shown)

    def _gauge(self, name: str, words: str) -> Gauge:
        return Gauge(f"aicore_proxy_{name}", words, registry=self.registry)

    def _counter(self, name: str, words: str, *labels: str) -> Counter:
        return Counter(f"aicore_proxy_{name}", words, labels, registry=self.registry)
