"""The comparison itself: runs the scenarios in turn on whatever could be started, and keeps what was measured."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Sequence

import msgspec
from msgspec import Struct, field

from aicore_proxy.bench import generator, machine, scenarios
from aicore_proxy.bench.peers import KEY, Peer, PeerError, Stage
from aicore_proxy.bench.scenarios import CLEAN_RATE, CLEAN_SECONDS, LITELLM, Cell, Ladder, Pace
from aicore_proxy.bench.tally import Plan, Progress, Tally

Say = Callable[[str], None]

LITELLM_STREAMS = 16
ALONE = {"silent", "sick"}
"""Parts that measure this proxy only."""
SPARE = 600
"""Descriptors for everything but streams."""


class Sample(Struct, frozen=True):
    """One window. Seconds; ``cpu`` per request or event is None where no process was measured or nothing came."""

    requests_per_second: float
    cpu_per_request: float | None
    cpu_per_event: float | None
    p50: float
    p99: float
    first: float
    failed: int
    p90: float = 0.0


class Clean(Struct, frozen=True):
    """How many streams a subject held, at most; the first number that it did not hold, and what went wrong; what new
    clients waited meanwhile, at most, and what beside as many streams as the target has."""

    held: int
    broke: int | None = None
    why: str = ""
    newcomer: float = 0.0
    at_target: float | None = None
    core: float = 0.0


class Silent(Struct, frozen=True):
    """Streams that stood open without a word. Bytes per stream; shares of a core."""

    streams: int
    dropped: int
    seconds: float
    memory: float
    core: float


class Circumstances(Struct, frozen=True):
    """When a part was measured; load averages before and after it, of which the measuring itself makes up to 2."""

    date: str
    before: float
    after: float
    pace: Pace


class Results(Struct, kw_only=True):
    """All that was measured. ``parts``: when and how; ``absent``: who could not be measured, and why."""

    described: str
    pinned: bool
    parts: dict[str, Circumstances] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    samples: dict[str, dict[str, list[Sample]]] = field(default_factory=dict)
    clean: dict[str, Clean] = field(default_factory=dict)
    silent: dict[str, Silent] = field(default_factory=dict)
    started: dict[str, float] = field(default_factory=dict)
    idle: dict[str, int] = field(default_factory=dict)
    loaded: dict[str, machine.Memory] = field(default_factory=dict)

    def median(self, cell: str, subject: str, value: str) -> float | None:
        """Of all rounds; None where there is none."""
        found = [getattr(sample, value) for sample in self.samples.get(cell, {}).get(subject, [])]
        known = [number for number in found if number is not None]
        return statistics.median(known) if known else None


class Comparison:
    """Owns the peers while it runs."""

    def __init__(self, stage: Stage, pace: Pace, say: Say, kept: Results | None = None) -> None:
        """``kept``: what was measured on this machine before; parts that are not measured again stay."""
        self._stage = stage
        self._pace = pace
        self._say = say
        self._peers: dict[str, Peer] = {}
        described, pinned = machine.described(), stage.measured is not None
        same = kept is not None and (kept.described, kept.pinned) == (described, pinned)
        self.results = kept if kept is not None and same else Results(described=described, pinned=pinned)

    def run(self, only: Sequence[str] = (), done: Callable[[Results], None] = lambda _: None) -> None:
        """Everything; ``only``: parts of it. ``done`` is told after each part."""
        self._start(everyone=not only or not set(only) <= ALONE)
        parts = {
            "requests": self._requests,
            "events": self._events,
            "clean": self._ladders,
            "silent": self._silences,
            "sick": self._sick,
        }
        with machine.on_core(self._stage.rest):
            for name, part in parts.items():
                if not only or name in only:
                    before = machine.load_average()
                    date = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
                    part()
                    self.results.parts[name] = Circumstances(date, before, machine.load_average(), self._pace)
                    done(self.results)

    def _start(self, *, everyone: bool) -> None:
        ports = self._stage.stub()
        if "tls" not in ports:
            self.results.absent["TLS to the upstream"] = "openssl is not installed: no certificate for the stub"
        self._peers[scenarios.DIRECT] = self._stage.direct()
        if not everyone:
            self._peers[scenarios.PROXY] = self._stage.proxy()
            return
        self.results.absent.clear()
        starts = (
            (scenarios.PROXY, self._stage.proxy),
            (scenarios.NGINX, self._stage.nginx),
            (LITELLM, self._stage.litellm),
        )
        for name, start in starts:
            self._say(f"starting {name}")
            try:
                peer = self._peers[name] = start()
            except PeerError as error:
                self.results.absent[name] = str(error)
                self._say(f"{name} is not measured: {error}")
                continue
            self.results.started[name], self.results.idle[name] = peer.started, peer.idle

    def _requests(self) -> None:
        self._rounds("requests", [*scenarios.request_cells(), *scenarios.fresh_cells()])
        for name, peer in self._peers.items():
            if family := peer.family("plain"):
                self.results.loaded[name] = machine.memory(family)

    def _events(self) -> None:
        self._rounds("streams", [*scenarios.event_cells(), *scenarios.first_cells()])

    def _sick(self) -> None:
        """With a proxy of its own that has breakers and one that has none."""
        for subject, breakers in ((scenarios.BREAKERS, "true"), (scenarios.UNBROKEN, "false")):
            self._peers[subject] = self._stage.proxy(["plain"], strategy="round_robin", breakers=breakers)
        self._rounds("sick upstream", [*scenarios.sick_cells()])

    def _rounds(self, what: str, cells: Sequence[Cell]) -> None:
        for cell in cells:
            self.results.samples.pop(cell.name, None)
        for number in range(self._pace.rounds):
            for cell in cells:
                if cell.upstream not in self._stage.ports:
                    continue
                # Who comes first changes from round to round
                subjects = cell.subjects[number % len(cell.subjects) :] + cell.subjects[: number % len(cell.subjects)]
                for subject in subjects:
                    if (peer := self._peers.get(subject)) is not None:
                        sample = self._measured(peer, cell)
                        self.results.samples.setdefault(cell.name, {}).setdefault(subject, []).append(sample)
            self._say(f"{what}: round {number + 1} of {self._pace.rounds}")

    def _plan(self, peer: Peer, plan: Plan, family: str, upstream: str, **more: object) -> Plan:
        model = peer.models[family]
        if peer.name == LITELLM and upstream == "tls":
            model += "-tls"
        given = {"url": peer.urls[upstream], "model": model, "key": KEY, "ca": self._stage.certificate}
        return msgspec.structs.replace(plan, **given, **more)

    def _measured(self, peer: Peer, cell: Cell) -> Sample:
        """One window: what came, and what it cost, between its first and its last report."""
        slow = peer.name == LITELLM
        plan = self._plan(peer, cell.plan, cell.family, cell.upstream, every=0.1)
        if slow and plan.stream and plan.connections > 1:
            plan = msgspec.structs.replace(plan, connections=LITELLM_STREAMS)
        window = self._pace.window * (2 if slow else 1)
        plan = msgspec.structs.replace(plan, duration=window, warm=self._pace.warm)
        family = peer.family(cell.upstream)
        marks: list[tuple[Progress, float]] = []

        def look(progress: Progress) -> None:
            if 0 <= progress.at <= window:
                marks.append((progress, machine.cpu_seconds(family)))

        tally = generator.run(plan, look)
        return sample_of(tally, marks, measured=bool(family))

    # --- streams

    def _ladders(self) -> None:
        for ladder in scenarios.LADDERS:
            peer = self._peers.get(ladder.subject)
            if peer is not None and ladder.upstream in self._stage.ports:
                self.results.clean[ladder.name] = found = self._climb(peer, ladder)
                self._say(
                    f"clean streams, {ladder.name}: {found.held}" + (f", not {found.broke}" if found.broke else "")
                )

    def _climb(self, peer: Peer, ladder: Ladder) -> Clean:
        best = Clean(0)
        for step in ladder.steps:
            tries = [self._held(peer, ladder, step) for _ in range(self._pace.clean_runs)]
            clean = [found for found in tries if not found.why]
            if len(clean) * 2 <= len(tries):
                return msgspec.structs.replace(best, broke=step, why=next(found.why for found in tries if found.why))
            found = max(clean, key=lambda each: each.newcomer)
            at_target = found.newcomer if step == scenarios.CLEAN_TARGET else best.at_target
            best = msgspec.structs.replace(found, at_target=at_target)
        return best

    def _held(self, peer: Peer, ladder: Ladder, streams: int) -> Clean:
        """Whether ``streams`` streams at once are clean, while new clients come."""
        events = CLEAN_RATE * CLEAN_SECONDS
        shape = scenarios.streaming(ladder.protocol, events, CLEAN_RATE, streams)
        timing = {"count": streams, "rate": streams / scenarios.BEGINNING, "grace": CLEAN_SECONDS * 3.0, "every": 0.5}
        plan = self._plan(peer, shape, ladder.family, ladder.upstream, **timing)
        if ladder.protocol == "messages":
            plan = msgspec.structs.replace(plan, last="message_stop")
        newcomers = self._plan(peer, Plan(url=""), "gpt", ladder.upstream, rate=5.0, fresh=True, duration=4.0)
        told: list[Tally] = []

        def come() -> None:
            time.sleep(1.5)
            told.append(generator.run(newcomers))

        family = peer.family(ladder.upstream)
        before, began = machine.cpu_seconds(family), time.perf_counter()
        visiting = threading.Thread(target=come)
        visiting.start()
        tally = generator.run(plan)
        core = (machine.cpu_seconds(family) - before) / (time.perf_counter() - began)
        visiting.join()
        return Clean(streams, None, wrong(tally, streams, events), told[0].waited.largest if told else 0.0, core)

    def _silences(self) -> None:
        """Silent streams through the proxy alone, one that has borne no load yet: memory is not given back."""
        peer = self._stage.proxy() if scenarios.PROXY in self._peers else None
        for upstream in ("plain", "tls"):
            if peer is not None and upstream in self._stage.ports:
                self.results.silent[upstream] = found = self._silence(peer, upstream)
                self._say(f"silent streams, {upstream}: {found.streams}, {found.memory / 1024:.1f} KB each")

    def _silence(self, peer: Peer, upstream: str) -> Silent:
        streams = min(self._pace.silent_streams, (machine.descriptors() - SPARE) // 2)
        opening = streams / 300
        shape = scenarios.streaming("chat", 0, 0, streams)
        plan = self._plan(peer, shape, "gpt", upstream, duration=opening + self._pace.silent, every=1.0)
        family = peer.family(upstream)
        before = machine.memory(family).resident
        marks: list[tuple[float, float, int]] = []

        def look(progress: Progress) -> None:
            if progress.at >= opening:
                marks.append((progress.at, machine.cpu_seconds(family), machine.memory(family).resident))

        tally = generator.run(plan, look)
        first, last = marks[0], marks[-2 if len(marks) > 2 else -1]
        core = (last[1] - first[1]) / max(1e-9, last[0] - first[0])
        held = tally.unfinished
        return Silent(
            held, max(tally.failed, streams - held), self._pace.silent, (last[2] - before) / max(1, held), core
        )


def sample_of(tally: Tally, marks: Sequence[tuple[Progress, float]], *, measured: bool) -> Sample:
    """What the window between the first and the last mark says."""
    if len(marks) < 2:
        return Sample(0.0, None, None, 0.0, 0.0, 0.0, tally.failed)
    (begin, cpu_before), (end, cpu_after) = marks[0], marks[-1]
    done, events, cpu = end.finished - begin.finished, end.events - begin.events, cpu_after - cpu_before
    return Sample(
        done / (end.at - begin.at),
        cpu / done if measured and done else None,
        cpu / events if measured and events else None,
        tally.latency.quantile(0.5),
        tally.latency.quantile(0.99),
        tally.first.quantile(0.5),
        tally.failed,
        tally.latency.quantile(0.9),
    )


def wrong(tally: Tally, streams: int, events: int) -> str:
    """What was not clean; nothing where all was."""
    if tally.succeeded != streams:
        return f"{streams - tally.succeeded} streams did not end whole"
    if tally.events != streams * events:
        return f"{streams * events - tally.events} events are missing"
    if tally.stalls:
        return f"{tally.stalls} stalls, the longest {tally.gaps.largest * 1000:.0f} ms"
    return ""
