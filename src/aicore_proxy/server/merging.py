"""Metrics of several processes as those of one: counters and histograms are summed, gauges as each one's name says."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from aicore_proxy.server.channel import Family

ADDED = ("_requests", "_streams", "_connections", "_clients", "_bytes", "_fds", "_tasks", "_permits", "_waiting")
"""Endings of gauges that count what is there now: the sum is the truth. Of others (a lag, an age, a state) the largest
value is."""
SMALLEST = ("_created", "process_start_time_seconds", "_success")
"""Endings of those whose smallest value is: when something began, whether all went well."""
LASTING = ("counter", "histogram", "summary")
"""Kinds that outlive the process that counted."""


def families(registry: CollectorRegistry) -> Iterator[Family]:
    """What a process tells of its metrics, one after the other: there may be thousands of samples. Values that are no
    finite numbers are left out."""
    for metric in registry.collect():
        samples = ((s.name, tuple(s.labels.items()), s.value) for s in metric.samples if math.isfinite(s.value))
        yield Family(metric.name, metric.type, metric.documentation, tuple(samples))


def lasting(told: Iterable[Family]) -> tuple[Family, ...]:
    """What stays of a process that ended."""
    return tuple(family for family in told if family.kind in LASTING)


def merged(processes: Iterable[Iterable[Family]]) -> tuple[Family, ...]:
    """The metrics of all processes together."""
    found: dict[str, tuple[Family, dict[tuple[str, tuple[tuple[str, str], ...]], float]]] = {}
    for told in processes:
        for family in told:
            _, values = found.setdefault(family.name, (family, {}))
            for name, labels, value in family.samples:
                key = (name, labels)
                values[key] = _together(name, family.kind, values[key], value) if key in values else value
    return tuple(
        Family(family.name, family.kind, family.words, tuple((*key, value) for key, value in values.items()))
        for family, values in found.values()
    )


def _together(name: str, kind: str, one: float, other: float) -> float:
    if name.endswith(SMALLEST):
        return min(one, other)
    if kind in LASTING or name.endswith(ADDED):
        return one + other
    return max(one, other)


def exposition(told: Sequence[Family]) -> tuple[bytes, str]:
    """Metrics in Prometheus' text format, and its content type."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Told(told))
    return generate_latest(registry), CONTENT_TYPE_LATEST


class _Told(Collector):
    """Gives prometheus_client what processes told."""

    def __init__(self, told: Sequence[Family]) -> None:
        self._told = told

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        for family in self._told:
            metric = Metric(family.name, family.words, family.kind)
            for name, labels, value in family.samples:
                metric.add_sample(name, dict(labels), value)
            yield metric
