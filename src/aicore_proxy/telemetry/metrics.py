"""Numbers for Prometheus, in a registry of their own. What each means: docs/metrics.md.

Labels hold names from closed sets (routes, SAP's model names as deployed, the operator's names), never what a client
sent. The ``gen_ai_`` ones are OpenTelemetry's semantic conventions for generative AI in Prometheus' spelling.
"""

from __future__ import annotations

import asyncio
import platform
import time
from collections import deque
from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.process_collector import ProcessCollector

from aicore_proxy import __version__
from aicore_proxy.telemetry.instruments import Constant, Counter, Gauge, Histogram

LAG_INTERVAL = 0.025
LAG_WINDOW = 10.0
MOST_NAMES = 200
"""Distinct values of a label whose number the operator decides (names of client keys)."""
OTHER = "other"

OVERHEAD = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
# The conventions' own bounds; with some above them, since models think for minutes
DURATION = (
    0.01,
    0.02,
    0.04,
    0.08,
    0.16,
    0.32,
    0.64,
    1.28,
    2.56,
    5.12,
    10.24,
    20.48,
    40.96,
    81.92,
    163.84,
    327.68,
    655.36,
)
FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
               40.0, 80.0, 160.0)  # fmt: skip
PER_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
TOKENS = tuple(float(4**n) for n in range(14))


class Metrics:
    """All metrics of a process. Owns the registry; what it counts is told by the Telemetry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.loop_lag = self._gauge("loop_lag_seconds", "Longest delay of the event loop in the last 10 seconds")
        self.in_flight = self._gauge("in_flight_requests", "Model API requests being handled or answered")
        self.open_streams = self._gauge("open_streams", "Streamed answers being written or waited for")
        self.requests = self._counter("requests", "Requests answered", "protocol", "endpoint", "status")
        self.duration = self._histogram(
            "aicore_proxy_request_duration_seconds",
            "From a request's head to the last byte of its answer",
            DURATION,
            "protocol",
            "endpoint",
        )
        self.overhead = self._histogram(
            "aicore_proxy_overhead_seconds",
            "The proxy's own time until an answer began: neither upload nor waiting for SAP",
            OVERHEAD,
            "protocol",
        )
        self.rejected = self._counter("rejected", "Requests refused before any deployment was asked", "reason")
        self.stream_errors = self._counter("stream_errors", "Streams that ended in an error after content", "reason")
        self.client_disconnects = self._counter(
            "client_disconnects", "Clients that left before their answer's end", "phase"
        )
        self.disconnect_tokens = self._histogram(
            "aicore_proxy_disconnect_output_tokens",
            "Output tokens sent to clients that left in mid-stream: as counted by the model, else streamed events",
            TOKENS[:10],
        )
        self.tokens = self._counter(
            "tokens", "Tokens as SAP counted them; input and output are all, the others are among them",
            "model", "subaccount", "type",
        )  # fmt: skip
        self.uncounted = self._counter("answers_without_usage", "Whole answers that told no tokens", "model")
        self.key_requests = self._counter("key_requests", "Requests by client key", "key", "status_class")
        self.key_tokens = self._counter("key_tokens", "Tokens by client key", "key", "type")
        self.recordings_lost = self._counter("recordings_lost", "Requests that were to be recorded and could not be")
        self._attempt_metrics()
        self._gen_ai_metrics()
        self.reload_success = self._gauge("config_last_reload_success", "Whether the last reload was taken: 1 or 0")
        self.reload_time = self._gauge("config_last_reload_timestamp_seconds", "When the configuration was last taken")
        self.reloaded(True)
        build = {"version": __version__, "python": platform.python_version()}
        Constant(self.registry, "aicore_proxy_build_info", "Always 1", build)
        ProcessCollector(registry=self.registry)
        self.key_names = Bounded(MOST_NAMES)

    def _attempt_metrics(self) -> None:
        self.upstream_attempts = self._counter(
            "upstream_attempts", "Attempts at deployments", "subaccount", "model", "outcome"
        )
        self.amended = self._counter(
            "amended_attempts",
            "Attempts whose deployment said what it does not take and was asked again without",
            "subaccount",
            "model",
        )
        self.failovers = self._counter("failovers", "Moves on to another deployment", "reason")
        self.fallbacks = self._counter("fallbacks", "Requests that another model answered, by that model", "model")
        self.affinity = self._counter(
            "affinity", "Requests of conversations, by whether their deployment holds their prefix", "result"
        )
        self.first_token = self._histogram(
            "aicore_proxy_time_to_first_token_seconds",
            "From an attempt's beginning to the first content of its stream",
            FIRST_TOKEN,
            "model",
            "subaccount",
        )

    def _gen_ai_metrics(self) -> None:
        model = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")
        self.gen_ai_tokens = self._histogram(
            "gen_ai_client_token_usage", "Tokens of an answer", TOKENS, *model, "gen_ai_token_type"
        )
        self.gen_ai_attempt = self._histogram(
            "gen_ai_client_operation_duration_seconds", "Duration of an attempt at SAP", DURATION, *model, "error_type"
        )
        self.gen_ai_request = self._histogram(
            "gen_ai_server_request_duration_seconds", "Duration of a model call", DURATION, *model, "error_type"
        )
        self.gen_ai_first_token = self._histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "From a request's arrival to the first content of its stream",
            FIRST_TOKEN,
            *model,
        )
        self.gen_ai_per_token = self._histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Time between the tokens of a stream, after the first",
            PER_TOKEN,
            *model,
        )

    def reloaded(self, taken: bool) -> None:
        """The configuration was read (again): whether it was taken, or the last good one kept."""
        self.reload_success.set(taken)
        if taken:
            self.reload_time.set(time.time())

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
        return Gauge(self.registry, f"aicore_proxy_{name}", words)

    def _counter(self, name: str, words: str, *labels: str) -> Counter:
        return Counter(self.registry, f"aicore_proxy_{name}", words, *labels)

    def _histogram(self, name: str, words: str, bounds: Sequence[float], *labels: str) -> Histogram:
        return Histogram(self.registry, name, words, bounds, *labels)


class Bounded:
    """Label values of which there may be many: the first ``most`` by name, the others as ``other``. Owns the names that
    it has seen."""

    def __init__(self, most: int, names: Iterable[str] = ()) -> None:
        self._most = most
        self._names = set(names)

    def __call__(self, name: str) -> str:
        if name in self._names:
            return name
        if len(self._names) >= self._most:
            return OTHER
        self._names.add(name)
        return name
