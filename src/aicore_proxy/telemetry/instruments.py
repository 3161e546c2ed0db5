"""What is counted on a request's path: a dictionary and a number each. prometheus_client tells it to the world.

Its own counters and histograms lock, check labels and search their bounds one by one: 60 µs a request where these take
less than 10. One event loop writes; whoever collects, perhaps in a thread, takes a copy.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.utils import floatToGoString


class Gauge(Collector):
    """A number that goes up and down. Owns it."""

    def __init__(self, registry: CollectorRegistry, name: str, words: str) -> None:
        self._name = name
        self._words = words
        self.value = 0.0
        registry.register(self)

    def inc(self, change: float = 1) -> None:
        self.value += change

    def set(self, value: float) -> None:
        self.value = float(value)

    def describe(self) -> Iterable[Metric]:
        return self.collect()

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(self._name, self._words, self.value)


class Constant(Collector):
    """The number 1, with labels that tell something."""

    def __init__(self, registry: CollectorRegistry, name: str, words: str, labels: Mapping[str, str]) -> None:
        self._family = GaugeMetricFamily(name, words, labels=tuple(labels))
        self._family.add_metric(tuple(labels.values()), 1)
        registry.register(self)

    def describe(self) -> Iterable[Metric]:
        return [self._family]

    def collect(self) -> Iterator[Metric]:
        yield self._family


class Counter(Collector):
    """Counts by labels. Owns the counts."""

    def __init__(self, registry: CollectorRegistry, name: str, words: str, *labels: str) -> None:
        self._name = name
        self._words = words
        self._labels = labels
        self._counts: dict[tuple[str, ...], float] = {} if labels else {(): 0}
        registry.register(self)

    def inc(self, *labels: str, by: float = 1) -> None:
        """Adds ``by``. ``labels``: their values, in order."""
        counts = self._counts
        counts[labels] = counts.get(labels, 0) + by

    def describe(self) -> Iterable[Metric]:
        return [CounterMetricFamily(self._name, self._words, labels=self._labels)]

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(self._name, self._words, labels=self._labels)
        for labels, count in list(self._counts.items()):
            family.add_metric(labels, count)
        yield family


class Histogram(Collector):
    """Counts values by labels and size. ``bounds``: upper ones, rising. Owns the counts: per labels one for each bound,
    one for what is above all, and the sum."""

    def __init__(
        self, registry: CollectorRegistry, name: str, words: str, bounds: Sequence[float], *labels: str
    ) -> None:
        self._name = name
        self._words = words
        self._labels = labels
        self._bounds = tuple(bounds)
        self._ends = (*map(floatToGoString, bounds), "+Inf")
        self._cells: dict[tuple[str, ...], list[float]] = {} if labels else {(): self._cell()}
        registry.register(self)

    def observe(self, value: float, *labels: str) -> None:
        """Counts ``value``. ``labels``: their values, in order."""
        cell = self._cells.get(labels)
        if cell is None:
            cell = self._cells[labels] = self._cell()
        cell[bisect_left(self._bounds, value)] += 1
        cell[-1] += value

    def describe(self) -> Iterable[Metric]:
        return [HistogramMetricFamily(self._name, self._words, labels=self._labels)]

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(self._name, self._words, labels=self._labels)
        for labels, cell in list(self._cells.items()):
            *counts, total = list(cell)
            below = 0.0
            buckets = []
            for end, count in zip(self._ends, counts, strict=True):
                below += count
                buckets.append((end, below))
            family.add_metric(labels, buckets, total)
        yield family

    def _cell(self) -> list[float]:
        return [0.0] * (len(self._bounds) + 2)
