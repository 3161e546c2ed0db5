"""A tally as JSON and as text. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aicore_proxy.bench.histogram import QUANTILES, Histogram, drawn, seconds_text
from aicore_proxy.bench.tally import STALL, Plan, Progress, Tally

TIMES = (
    ("latency", "latency"),
    ("waited", "from when due"),
    ("first", "to first token"),
    ("gaps", "between tokens"),
)
SATURATED = 0.9


def as_json(plan: Plan, tally: Tally) -> dict[str, Any]:
    """What ``--json`` prints. Times in seconds, rates per second. Holds no key."""
    return {
        "url": plan.url,
        "protocol": plan.protocol,
        "model": plan.model,
        "stream": plan.stream,
        "connections": plan.connections,
        "rate": plan.rate,
        "body_bytes": plan.size,
        "seconds": tally.elapsed,
        "requests": {
            "begun": tally.begun,
            "succeeded": tally.succeeded,
            "failed": tally.failed,
            "unfinished": tally.unfinished,
        },
        "requests_per_second": per_second(tally.succeeded, tally),
        "events": tally.events,
        "events_per_second": per_second(tally.events, tally),
        "stalls": tally.stalls,
        "bytes_received": tally.received,
        "connections_opened": tally.connections,
        "statuses": {str(status): count for status, count in sorted(tally.statuses.items())},
        "failures": dict(sorted(tally.failures.items())),
        "times": {
            name: getattr(tally, name).summary() | {"count": getattr(tally, name).count}
            for name, _ in TIMES
            if getattr(tally, name).count
        },
        "histogram": [{"from": low, "to": high, "count": count} for low, high, count in tally.latency.bars()],
        "generator_cpu_seconds": tally.own_cpu,
    }


def as_text(plan: Plan, tally: Tally, width: int = 100, block: str = "#") -> Iterator[str]:
    """Lines of at most ``width`` characters (of a terminal that is at least 60 wide)."""
    yield f"{tally.succeeded} of {tally.begun} requests succeeded in {tally.elapsed:.1f} s" + (
        f", {tally.unfinished} were unfinished" if tally.unfinished else ""
    )
    yield f"{'requests/s':<16}{per_second(tally.succeeded, tally):.1f}"
    if tally.events:
        yield f"{'events/s':<16}{per_second(tally.events, tally):.1f}"
        yield f"{'stalls':<16}{tally.stalls} (gaps over {STALL * 1000:.0f} ms)"
    yield ""
    if tally.latency.count or tally.first.count:
        yield " " * 16 + "".join(f"{name:>11}" for name in (*(name for name, _ in QUANTILES), "max", "mean"))
    for name, label in TIMES:
        histogram: Histogram = getattr(tally, name)
        if histogram.count:
            summary = histogram.summary()
            cells = (seconds_text(summary[column]) for column in ("p50", "p90", "p99", "max", "mean"))
            yield f"{label:<16}" + "".join(f"{cell:>11}" for cell in cells)
    if tally.latency.count:
        yield ""
        yield from drawn(tally.latency.bars(), width, block)
        yield ""
    yield from _ends(plan, tally)


def _ends(plan: Plan, tally: Tally) -> Iterator[str]:
    for status, count in sorted(tally.statuses.items()):
        yield f"{f'status {status}':<16}{count}"
    for words, count in sorted(tally.failures.items()):
        yield f"{words}: {count}"
    if plan.rate is None and plan.connections and tally.latency.count:
        yield "Each connection asked again when it had its answer: a slow moment is seen by few. See --rate."
    if tally.elapsed and tally.own_cpu / tally.elapsed > SATURATED:
        yield "The load generator itself was busy all the time: the endpoint may be faster than this."


def per_second(count: int, tally: Tally) -> float:
    return count / tally.elapsed if tally.elapsed else 0.0


def bar(plan: Plan, progress: Progress, width: int) -> str:
    """One line of ``width`` characters at most: how far a run is."""
    shares = [0.0]
    if plan.count:
        shares.append(progress.finished / plan.count)
    if plan.duration and progress.at > 0:
        shares.append(progress.at / plan.duration)
    share = min(1.0, max(shares))
    told = f" {share:4.0%}  {progress.finished} done  {progress.failed} failed  {progress.open} open"
    if progress.events:
        told += f"  {progress.events} events"
    told = told[: max(0, width - 6)]
    room = max(4, min(40, width - len(told) - 2))
    filled = round(share * room)
    return f"[{'#' * filled}{'.' * (room - filled)}]{told}"[:width]
