"""The results as Markdown: the measured part of docs/benchmarks.md. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from aicore_proxy.bench.comparison import LITELLM_STREAMS, Results
from aicore_proxy.bench.scenarios import (
    BEGINNING,
    BREAKERS,
    CLEAN_RATE,
    CLEAN_SECONDS,
    CLEAN_TARGET,
    DIRECT,
    LADDERS,
    LITELLM,
    NGINX,
    PROXY,
    RELAYED,
    RELAYED_TLS,
    SICK_RATE,
    UNBROKEN,
    event_cells,
    requests,
)

BEGIN, END = "<!-- measured: written by `make bench`, not by hand -->", "<!-- end of what was measured -->"
MEASURED = (PROXY, NGINX, LITELLM)


def placed(page: str, measured: str) -> str:
    """``page`` with its measured part replaced, or appended where it has none."""
    before, found, rest = page.partition(BEGIN)
    after = rest.partition(END)[2] if found else "\n"
    return f"{before.rstrip()}\n\n{BEGIN}\n\n{measured.strip()}\n\n{END}{after}"


def rendered(results: Results) -> str:
    """Everything, as Markdown."""
    return "\n".join(
        line
        for part in (_circumstances, _targets, _cost, _latency, _pooling, _streams, _clean, _silent, _sick, _memory)
        for line in (*part(results), "")
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def number(value: float | None, scale: float = 1.0, form: str = ".3g") -> str:
    if value is None:
        return "–"
    scaled = value * scale
    return f"{scaled:,.0f}" if abs(scaled) >= 100 else f"{scaled:{form}}"


def ratio(value: float | None, of: float | None) -> str:
    return f"{value / of:.1f} ×" if value is not None and of else "–"


PARTS = {
    "requests": "requests",
    "events": "cost of events",
    "clean": "clean streams",
    "silent": "silent streams",
    "sick": "sick upstream",
}


def _circumstances(results: Results) -> Iterator[str]:
    where = (
        "What is measured has one core to itself as far as this benchmark goes, stub and load generator have the other."
        if results.pinned
        else "Nothing is pinned to a core."
    )
    yield f"Machine: {results.described}. {where}"
    yield ""
    rows = []
    for name, label in PARTS.items():
        if (part := results.parts.get(name)) is not None:
            pace = part.pace
            how = {
                "clean": f"{pace.clean_runs} runs of each step",
                "silent": "one run",
            }.get(name, f"medians of {pace.rounds} alternating rounds, windows of {pace.window:g} s")
            rows.append((label, part.date, how, f"{part.before:.1f}", f"{part.after:.1f}"))
    yield from table(("part", "measured", "how", "load before", "load after"), rows)
    for name, why in results.absent.items():
        yield f"\n**Not measured:** {name}: {why}."


def _targets(results: Results) -> Iterator[str]:
    def cpu(large: bool, tls: bool, subject: str = PROXY) -> float | None:
        return results.median(requests(large, tls, 64), subject, "cpu_per_request")

    def event(cell: str, subject: str = PROXY) -> float | None:
        return results.median(cell, subject, "cpu_per_event")

    rows = [
        (
            f"{size} request, {how}, ms",
            target,
            number(cpu(large, tls), 1e3),
            ratio(cpu(large, tls), cpu(large, tls, NGINX)),
        )
        for size, large in (("1 KB", False), ("200 KB", True))
        for how, tls, target in (
            ("plain", False, "0.8" if large else "0.25"),
            ("TLS", True, "0.9" if large else "0.30"),
        )
    ]
    rows += [
        (f"event relayed, {how}, µs", target, number(event(cell), 1e6), ratio(event(cell), event(cell, NGINX)))
        for how, cell, target in (("plain", RELAYED, "35"), ("TLS", RELAYED_TLS, "45"))
    ]
    translated = [
        value for cell in event_cells() if "relayed" not in cell.name and (value := event(cell.name)) is not None
    ]
    rows.append(("event translated (dearest), µs", "60", number(max(translated, default=None), 1e6), "–"))
    if (clean := results.clean.get("this proxy, relayed")) is not None:
        of = results.clean.get("nginx")
        rows.append(
            (
                f"clean streams of {CLEAN_RATE} events/s",
                str(CLEAN_TARGET),
                str(clean.held),
                f"nginx {of.held}" if of else "–",
            )
        )
        waits = [number(each.at_target, 1e3) if each and each.at_target is not None else "–" for each in (clean, of)]
        rows.append(
            (f"a new client beside {CLEAN_TARGET} of them waits, ms", "no delay", waits[0], f"nginx {waits[1]}")
        )
    for upstream, target in (("plain", "30"), ("tls", "70")):
        if (silent := results.silent.get(upstream)) is not None:
            how = "TLS" if upstream == "tls" else upstream
            rows.append((f"silent stream, {how}, KB", target, number(silent.memory, 1 / 1024), "–"))
    if (idle := results.idle.get(PROXY)) is not None:
        rows.append(("idle memory, MB", "90", number(idle, 1e-6), ratio(idle, results.idle.get(NGINX))))
    ours, theirs = cpu(False, False), cpu(False, False, LITELLM)
    if ours and theirs:
        rows.append(("requests per core, times LiteLLM's", "25", number(theirs / ours), "–"))
    yield "### Against the targets"
    yield ""
    yield from table(("CPU on one core", "target (quiet machine)", "this run", "times nginx, same run"), rows)


def _cost(results: Results) -> Iterator[str]:
    yield "### Requests: CPU each, and requests per second of one core's time"
    yield ""
    rows = []
    for large in (False, True):
        for tls in (False, True):
            name = requests(large, tls, 64)
            row = [name.rpartition(",")[0]]
            for subject in MEASURED:
                cpu = results.median(name, subject, "cpu_per_request")
                row.append(number(cpu, 1e3) + " ms" if cpu else "–")
                row.append(number(1 / cpu if cpu else None))
            rows.append(row)
    head = ["64 connections", *(f"{subject}{what}" for subject in MEASURED for what in ("", ": requests/s"))]
    yield from table(head, rows)


def _latency(results: Results) -> Iterator[str]:
    yield "### Requests: what is added to a direct call, p50 / p99 in ms"
    yield ""
    yield "Every connection asks again when it has its answer: with 64 and 512 the time is that of the queue."
    yield ""
    rows = []
    for large in (False, True):
        for tls in (False, True):
            for connections in (1, 64, 512):
                name = requests(large, tls, connections)
                row = [name]
                direct = [results.median(name, DIRECT, value) for value in ("p50", "p99")]
                row.append(" / ".join(number(value, 1e3) for value in direct))
                for subject in MEASURED:
                    found = [results.median(name, subject, value) for value in ("p50", "p99")]
                    added = [
                        max(0.0, value - base) if value is not None and base is not None else None
                        for value, base in zip(found, direct, strict=True)
                    ]
                    row.append("–" if added[0] is None else "+" + " / +".join(number(value, 1e3) for value in added))
                rows.append(row)
    yield from table(("body, upstream, connections", "direct", *MEASURED), rows)


def _pooling(results: Results) -> Iterator[str]:
    yield "### Pooled connections to the upstream against a new one per call (1 KB, this proxy)"
    yield ""
    rows = []
    for tls in (False, True):
        for connections in (1, 64):
            name = requests(False, tls, connections)
            for value, label, scale in (("p50", "p50, ms", 1e3), ("cpu_per_request", "CPU, ms", 1e3)):
                pooled, new = (results.median(cell, PROXY, value) for cell in (name, f"new, {name}"))
                less = f"{(1 - pooled / new) * 100:.0f} % less" if pooled and new else "–"
                rows.append((f"{name.partition(', ')[2]}: {label}", number(pooled, scale), number(new, scale), less))
    yield from table(("upstream, connections", "pooled", "new connection", "pooled is"), rows)


def _streams(results: Results) -> Iterator[str]:
    yield f"### Streams: CPU per event (64 streams of 100 events/s; LiteLLM {LITELLM_STREAMS}), µs"
    yield ""
    rows = [
        (cell.name, *(number(results.median(cell.name, subject, "cpu_per_event"), 1e6) for subject in MEASURED))
        for cell in event_cells()
    ]
    yield from table(("", *MEASURED), rows)
    yield ""
    rows = []
    for upstream in ("plain", "tls"):
        name = f"first event, {upstream}"
        direct = results.median(name, DIRECT, "first")
        row = [f"added time to the first event, {upstream}, ms"]
        for subject in MEASURED:
            first = results.median(name, subject, "first")
            row.append("–" if first is None or direct is None or not first else "+" + number(first - direct, 1e3))
        rows.append(tuple(row))
    yield from table(("one stream at a time", *MEASURED), rows)


def _clean(results: Results) -> Iterator[str]:
    if not results.clean:
        return
    yield f"### Streams of {CLEAN_RATE} events/s held clean for {CLEAN_SECONDS} s"
    yield ""
    yield (
        f"Clean: every frame there, no gap over 200 ms, in most runs of a step, whose streams begin within "
        f"{BEGINNING:.0f} s. New clients: the longest of 20 waits "
        "to connect and be answered meanwhile."
    )
    yield ""
    rows = []
    for ladder in LADDERS:
        if (clean := results.clean.get(ladder.name)) is not None:
            broke = f"{clean.broke}: {clean.why}" if clean.broke else "all steps held"
            core = "–" if ladder.name == DIRECT or clean.core < 0 else f"{clean.core:.0%}"
            rows.append((ladder.name, str(clean.held), core, f"{number(clean.newcomer, 1e3)} ms", broke))
    yield from table(("", "held", "of a core", "new clients", "first step not held"), rows)


def _silent(results: Results) -> Iterator[str]:
    if not results.silent:
        return
    yield "### Silent streams, one process"
    yield ""
    rows = [
        (
            "TLS" if upstream == "tls" else upstream,
            f"{found.streams:,}",
            f"{found.seconds:.0f} s",
            str(found.dropped),
            f"{found.memory / 1024:.1f} KB",
            f"{found.core:.1%}",
        )
        for upstream, found in results.silent.items()
    ]
    yield from table(("upstream", "streams", "held for", "dropped", "memory each", "of a core"), rows)


def failover(results: Results) -> float | None:
    """Seconds that a failover adds beyond the failed attempt, which takes what a direct call takes. Every fourth
    request fails over: of all, the 90th percentile is one of those."""
    sick, well = (results.median(f"{name}, alone", UNBROKEN, "p90") for name in ("sick", "well"))
    attempt = results.median("attempt, alone", DIRECT, "p50")
    return None if sick is None or well is None or attempt is None else sick - well - attempt


def _sick(results: Results) -> Iterator[str]:
    if (added := failover(results)) is None:
        return
    yield f"### A sick upstream: one of four deployments answers 500, {SICK_RATE} requests/s in turn"
    yield ""
    rows = []
    for label, subject in (("this proxy", BREAKERS), ("breakers off: every fourth request fails over", UNBROKEN)):
        for value in ("p50", "p99"):
            well, sick = (results.median(f"{name}, steady", subject, value) for name in ("well", "sick"))
            more = "–" if well is None or sick is None else f"{(sick - well) * 1e3:+.3g}"
            rows.append((f"{label}: {value}, ms", number(well, 1e3), number(sick, 1e3), more))
    yield from table(("", "none sick", "one sick", "added"), rows)
    yield ""
    yield f"What failover adds beyond the failed attempt, one request at a time: {number(added, 1e3)} ms (aim: 5)."


def _memory(results: Results) -> Iterator[str]:
    yield "### Start and memory"
    yield ""
    rows = []
    for subject in MEASURED:
        if (started := results.started.get(subject)) is not None:
            loaded = results.loaded.get(subject)
            rows.append(
                (
                    subject,
                    f"{started:.2f} s",
                    f"{results.idle[subject] / 1e6:.0f} MB",
                    f"{loaded.resident / 1e6:.0f} MB" if loaded else "–",
                    f"{loaded.peak / 1e6:.0f} MB" if loaded else "–",
                )
            )
    yield from table(("", "from start to ready", "idle", "after the load", "most under load"), rows)
