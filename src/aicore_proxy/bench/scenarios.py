"""What is measured: cells of a table, and how long. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from aicore_proxy.bench.stub import WORD
from aicore_proxy.bench.tally import Plan

KB, LARGE = 1024, 200 * 1024
DIRECT, PROXY, NGINX, LITELLM = "direct", "this proxy", "nginx", "LiteLLM"
CLEAN_RATE = 50
CLEAN_SECONDS = 6
BEGINNING = 2.0
"""Seconds in which the streams of a step begin: users do not come in the same millisecond, each with a handshake."""


class Pace(Struct, frozen=True):
    """How thorough: rounds, seconds of a window and before it, and of the silent streams."""

    rounds: int
    window: float
    warm: float
    silent: float
    silent_streams: int
    clean_runs: int


FULL = Pace(rounds=5, window=1.5, warm=0.5, silent=120.0, silent_streams=10_000, clean_runs=3)
QUICK = Pace(rounds=2, window=0.8, warm=0.3, silent=10.0, silent_streams=1000, clean_runs=1)


class Cell(Struct, frozen=True):
    """One place of a table: who is asked for what. ``upstream``: the stub's port."""

    name: str
    plan: Plan
    subjects: tuple[str, ...]
    family: str = "gpt"
    upstream: str = "plain"


def requests(large: bool, tls: bool, connections: int) -> str:
    """A cell's name."""
    return f"{'200 KB' if large else '1 KB'}, {'TLS' if tls else 'plain'}, {connections}"


def request_cells() -> Iterator[Cell]:
    for tls in (False, True):
        for large in (False, True):
            for connections in (1, 64, 512):
                subjects = [DIRECT, PROXY, NGINX]
                if connections <= 64 and not (large and connections == 1):
                    subjects.append(LITELLM)
                yield Cell(
                    requests(large, tls, connections),
                    Plan(url="", size=LARGE if large else KB, connections=connections, grace=0),
                    tuple(subjects),
                    upstream="tls" if tls else "plain",
                )


def fresh_cells() -> Iterator[Cell]:
    """A new connection to the upstream for each call."""
    for tls in (False, True):
        for connections in (1, 64):
            upstream = f"{'tls' if tls else 'plain'}-close"
            plan = Plan(url="", connections=connections, grace=0)
            yield Cell(f"new, {requests(False, tls, connections)}", plan, (PROXY,), upstream=upstream)


RELAYED = "chat to GPT, relayed"
RELAYED_TLS = "chat to GPT, relayed, TLS"
TRANSLATED = (
    ("chat to Claude", "chat", "claude", (PROXY, LITELLM)),
    ("chat to Gemini", "chat", "gemini", (PROXY,)),
    ("messages to GPT", "messages", "gpt", (PROXY,)),
    ("messages to Gemini", "messages", "gemini", (PROXY,)),
)


def streaming(protocol: str, events: int, rate: int, connections: int) -> Plan:
    note = f"bench:stream:{events}:{rate} "
    return Plan(
        url="", protocol=protocol, stream=True, note=note, connections=connections, grace=0, content=WORD, timeout=900
    )


def event_cells() -> Iterator[Cell]:
    """Endless streams: what an event costs."""
    endless = streaming("chat", 10_000_000, 100, 64)
    yield Cell(RELAYED, endless, (PROXY, NGINX, LITELLM))
    yield Cell(RELAYED_TLS, endless, (PROXY, NGINX, LITELLM), upstream="tls")
    yield Cell("messages to Claude, relayed", streaming("messages", 10_000_000, 100, 64), (PROXY,), "claude")
    for name, protocol, family, subjects in TRANSLATED:
        yield Cell(name, streaming(protocol, 10_000_000, 100, 64), subjects, family)


def first_cells() -> Iterator[Cell]:
    """One short stream after the other: how late the first event is."""
    for upstream in ("plain", "tls"):
        plan = streaming("chat", 1, 0, 1)
        yield Cell(f"first event, {upstream}", plan, (DIRECT, PROXY, NGINX, LITELLM), upstream=upstream)


SICK_RATE = 400
BREAKERS, UNBROKEN = "with breakers", "without breakers"
"""This proxy, its turns in order so that a failing deployment has its turn; without breakers it has every one."""


def sick_cells() -> Iterator[Cell]:
    """A model of four deployments, of which none or one fails: at a steady rate, and one request after the other."""
    steady, alone = Plan(url="", connections=64, rate=SICK_RATE, grace=0), Plan(url="", grace=0)
    for family in ("well", "sick"):
        yield Cell(f"{family}, steady", steady, (BREAKERS, UNBROKEN), family)
        yield Cell(f"{family}, alone", alone, (UNBROKEN,), family)
    yield Cell("attempt, alone", alone, (DIRECT,))


class Ladder(Struct, frozen=True):
    """Ever more streams of ``CLEAN_RATE`` events a second, until they are not clean."""

    name: str
    subject: str
    steps: tuple[int, ...]
    protocol: str = "chat"
    family: str = "gpt"
    upstream: str = "plain"


CLEAN_TARGET = 500
STEPS = (100, 250, 400, 500, 600, 750, 1000)
LADDERS = (
    Ladder("direct", DIRECT, STEPS),
    Ladder("this proxy, relayed", PROXY, STEPS),
    Ladder("this proxy, relayed, TLS", PROXY, STEPS, upstream="tls"),
    Ladder("this proxy, messages to GPT", PROXY, STEPS, protocol="messages"),
    Ladder("nginx", NGINX, STEPS),
    Ladder("LiteLLM", LITELLM, (8, 16, 24, 32, 48, 64)),
)
