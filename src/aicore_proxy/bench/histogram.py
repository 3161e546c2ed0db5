"""Times in buckets of equal relative width: bounded memory, whatever the number of values; mergeable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

SUB = 7
"""Bits that a bucket tells apart: a value is known to 1/128 of itself."""
UNIT = 1e-7
"""Seconds. Below it nothing is told apart."""
SCALE = 1 / UNIT
HALF = 1 << SUB
QUANTILES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))
BARS = 12


class Histogram:
    """Seconds, counted. Owns its buckets; one owner at a time."""

    __slots__ = ("_counts", "count", "largest", "total")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self.count = 0
        self.total = 0.0
        self.largest = 0.0

    def record(self, seconds: float, times: int = 1) -> None:
        """``seconds`` below 0 (a clock that was set) count as 0."""
        units = int(seconds * SCALE) if seconds > 0 else 0
        shift = units.bit_length() - SUB - 1
        index = (shift << SUB) + (units >> shift) if shift > 0 else units
        counts = self._counts
        counts[index] = counts.get(index, 0) + times
        self.count += times
        if seconds > 0:
            self.total += seconds * times
            if seconds > self.largest:  # noqa: PLR1730 - twice as quick, and this is the hot path
                self.largest = seconds

    def merge(self, other: Histogram) -> None:
        for index, count in other._counts.items():
            self._counts[index] = self._counts.get(index, 0) + count
        self.count += other.count
        self.total += other.total
        self.largest = max(self.largest, other.largest)

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else 0.0

    def quantile(self, share: float) -> float:
        """The least recorded value that ``share`` of all do not exceed, rounded up by at most 1/128; 0 of nothing."""
        rank = max(1, -int(-share * self.count // 1))
        for index, count in sorted(self._counts.items()):
            rank -= count
            if rank <= 0:
                return min(ceiling(index), self.largest)
        return self.largest

    def above(self, seconds: float) -> int:
        """How many certainly took longer."""
        return sum(count for index, count in self._counts.items() if floor(index) > seconds)

    def bars(self, number: int = BARS) -> list[tuple[float, float, int]]:
        """From, to and how many: ``number`` steps at most, each as wide as the one before by the same factor, from the
        smallest to the largest value."""
        if not self.count:
            return []
        low, high = max(floor(min(self._counts)), UNIT), max(self.largest, UNIT)
        factor = max((high / low) ** (1 / number), 1.05)
        bars: list[tuple[float, float, int]] = []
        left, edge = sorted(self._counts.items()), low
        while left:
            upper = edge * factor
            within = [item for item in left if floor(item[0]) < upper]
            left = left[len(within) :]
            bars.append((edge, upper, sum(count for _, count in within)))
            edge = upper
        return bars

    def summary(self) -> dict[str, float]:
        """``mean``, ``p50``, ``p90``, ``p99`` and ``max`` in seconds; 0 of nothing."""
        return {"mean": self.mean} | {name: self.quantile(share) for name, share in QUANTILES} | {"max": self.largest}

    def packed(self) -> dict[str, Any]:
        """As JSON, for ``unpacked``."""
        return {"counts": sorted(self._counts.items()), "total": self.total, "largest": self.largest}

    @classmethod
    def unpacked(cls, packed: dict[str, Any]) -> Histogram:
        histogram = cls()
        histogram._counts = {int(index): int(count) for index, count in packed["counts"]}
        histogram.count = sum(histogram._counts.values())
        histogram.total, histogram.largest = float(packed["total"]), float(packed["largest"])
        return histogram


def floor(index: int) -> float:
    """The smallest number of seconds that a bucket holds."""
    if index < 2 * HALF:
        return index * UNIT
    shift = (index >> SUB) - 1
    return float(((index & (HALF - 1)) + HALF) << shift) * UNIT


def ceiling(index: int) -> float:
    """The number of seconds that a bucket ends at."""
    return floor(index + 1)


def drawn(bars: Sequence[tuple[float, float, int]], width: int, block: str = "#") -> Iterator[str]:
    """One line per bar, at most ``width`` characters."""
    most = max((count for _, _, count in bars), default=0)
    digits = len(str(most))
    room = max(4, width - 24 - digits)
    for low, high, count in bars:
        length = round(room * count / most)
        drawing = block * max(length, 1 if count else 0)
        yield f"{seconds_text(low):>9} to {seconds_text(high):>9} {count:>{digits}} {drawing}".rstrip()


def seconds_text(seconds: float) -> str:
    """``3.21 ms``."""
    for unit, scale in (("s", 1.0), ("ms", 1e3)):
        if seconds * scale >= 1:
            return f"{seconds * scale:.3g} {unit}" if seconds * scale < 1000 else f"{seconds * scale:.0f} {unit}"
    return f"{seconds * 1e6:.3g} µs"
