"""Chaos: many clients of every protocol, while faults of every kind come and go, and an oracle that judges the answers.

The oracle knows only the schedule of faults as the simulator was told it. A client's error while at least one
deployment of its model was healthy throughout its request is a failure of the proxy. What a fault itself cut after
content, and what a killed worker took with it, is counted apart.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from tests.end_to_end.asking import PATHS, body, events, text_of
from tests.end_to_end.conftest import Proxy, Simulator

MODELS = ("gpt-5", "anthropic--claude-4.5-sonnet", "gemini-2.5-pro")
PIECES = "e0 e1 e2 e3 "
"""The answer where a fault wants several pieces."""
ANSWER = "all is well, as far as one can tell"
MEMORY = 4.0
"""Seconds for which the proxy may leave a deployment alone after it healed: a last probe that runs into a time-out of
two seconds, a breaker of a second, cooldowns of one. The deployment that stays healthy in an episode has been so for
longer."""
CONTENT = re.compile(r'"content":"[^"]|"text_delta"')
FAULTS: tuple[dict[str, Any], ...] = (
    {"status": 429, "retry_after": 1},
    {"status": 500},
    {"status": 503, "layer": "edge"},
    {"status": 529},
    {"status": 401},
    {"status": 408},
    {"reset": True},
    {"silent_close": True},
    {"empty": True},
    {"garbage": "html"},
    {"error_after": 0, "retry_after": 1},
    {"cut_after": 0},
    {"cut_after": 1, "events": 4},
    {"hang": True},
    {"delay": 0.3},
    {"share": 0.5, "status": 500},
)
ELSEWHERE: tuple[tuple[str, dict[str, Any]], ...] = (
    ("token", {"status": 503}),
    ("token", {"garbage": "html"}),
    ("ai_api", {"status": 504}),
    ("ai_api", {"empty": True}),
)


@dataclass(frozen=True)
class Episode:
    """A fault, from before the simulator was told of it until after it was told of its end. Monotonic seconds."""

    begun: float
    ended: float
    subaccounts: frozenset[str]
    script: dict[str, Any]


@dataclass(frozen=True)
class Result:
    """What a client got. ``ended``: monotonic seconds, as ``begun``. ``seen``: whether content had come."""

    begun: float
    ended: float
    model: str
    what: str
    good: bool
    seen: bool
    words: str


@dataclass
class Chaos:
    """One run. Owns its clients, its weather and what came of it all."""

    simulator: Simulator
    proxy: Proxy
    subaccounts: tuple[str, ...]
    seed: int
    clients: int = 200
    episodes: list[Episode] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    kills: list[float] = field(default_factory=list)

    async def run(self, seconds: float, kill: Callable[[], object] | None = None) -> None:
        """``kill``: ends a worker, in the middle of the run."""
        until = time.monotonic() + seconds
        connector = aiohttp.TCPConnector(limit=0)
        headers = {"Authorization": f"Bearer {self.proxy.key}"}
        async with (
            aiohttp.ClientSession(
                self.proxy.url, connector=connector, headers=headers, timeout=aiohttp.ClientTimeout(total=60)
            ) as http,
            asyncio.TaskGroup() as group,
        ):
            group.create_task(self._weather(until))
            for number in range(self.clients):
                group.create_task(self._client(http, random.Random(self.seed * 1000 + number), until))
            if kill is not None:
                await asyncio.sleep(seconds / 2)
                self.kills.append(time.monotonic())
                kill()

    async def _weather(self, until: float) -> None:
        chance = random.Random(self.seed)
        healthy_since = dict.fromkeys(self.subaccounts, float("-inf"))
        async with aiohttp.ClientSession(self.simulator.url) as control:
            while time.monotonic() < until:
                now = time.monotonic()
                steady = [alias for alias in self.subaccounts if now - healthy_since[alias] > MEMORY]
                if not steady:
                    await asyncio.sleep(0.2)
                    continue
                spared = chance.choice(steady)
                others = [alias for alias in self.subaccounts if alias != spared]
                struck = frozenset(chance.sample(others, chance.randint(1, len(others))))
                endpoint, script = chance.choice(
                    [*(("inference", fault) for fault in FAULTS), *(ELSEWHERE if chance.random() < 0.5 else ())]
                )
                begun = time.monotonic()
                await control.post(
                    "/_simulator/scripts", json={"script": script, "at": sorted(struck), "endpoint": endpoint}
                )
                await asyncio.sleep(chance.uniform(0.3, 2.0))
                await control.delete("/_simulator/scripts")
                ended = time.monotonic()
                self.episodes.append(Episode(begun, ended, struck, script))
                healthy_since |= dict.fromkeys(struck, ended)
                await asyncio.sleep(chance.uniform(0, 0.5))

    async def _client(self, http: aiohttp.ClientSession, chance: random.Random, until: float) -> None:
        while time.monotonic() < until:
            await asyncio.sleep(chance.uniform(0, 0.6))
            protocol, model, stream = chance.choice(("chat", "messages")), chance.choice(MODELS), chance.random() < 0.5
            prompt = f'Hello!\nsimulate: {{"text": "{ANSWER}"}}'
            begun, text = time.monotonic(), ""
            try:
                async with http.post(PATHS[protocol], json=body(protocol, model, prompt, stream=stream)) as answer:
                    text = await answer.text()
                    good = answer.status == 200 and said(protocol, text, stream=stream) in (ANSWER, PIECES)
                    words = f"{answer.status} {text[-300:]}"
            except (aiohttp.ClientError, TimeoutError) as error:
                good, words = False, repr(error)
            seen = stream and CONTENT.search(text) is not None
            what = f"{protocol} {'streamed' if stream else 'whole'}"
            self.results.append(Result(begun, time.monotonic(), model, what, good, seen, words))


def said(protocol: str, text: str, *, stream: bool) -> str | None:
    """The text of an answer, None where it is not whole."""
    try:
        if not stream:
            return text_of(protocol, json.loads(text))
        told = [data for _, data in events(text)]
        if protocol == "chat":
            if not told or told[-1] != "[DONE]" or any("error" in chunk for chunk in told[:-1]):
                return None
            return "".join(c["delta"].get("content") or "" for chunk in told[:-1] for c in chunk["choices"])
        if not told or told[-1]["type"] != "message_stop":
            return None
        return "".join(d["delta"].get("text", "") for d in told if d["type"] == "content_block_delta")
    except (ValueError, KeyError, TypeError, IndexError):
        return None


@dataclass(frozen=True)
class Verdict:
    """``failures``: errors that the proxy could have avoided, in words; ``apart``: those that it could not."""

    good: int
    failures: list[str]
    apart: Counter[str]


def judged(
    results: Iterable[Result], episodes: list[Episode], kills: list[float], subaccounts: tuple[str, ...]
) -> Verdict:
    """The oracle."""
    failures: list[str] = []
    apart: Counter[str] = Counter()
    good = 0
    for result in results:
        if result.good:
            good += 1
            continue
        struck: set[str] = set()
        for episode in episodes:
            if episode.begun <= result.ended and result.begun <= episode.ended:
                struck |= episode.subaccounts
        healthy = [alias for alias in subaccounts if alias not in struck]
        if any(result.begun - 0.1 <= kill <= result.ended + 0.1 for kill in kills):
            apart["killed worker"] += 1
        elif result.seen:
            apart["cut after content"] += 1
        elif not healthy:
            apart["all struck"] += 1
        else:
            begun = result.begun - episodes[0].begun if episodes else 0.0
            failures.append(
                f"{result.what} {result.model} at {begun:.2f} s for {result.ended - result.begun:.2f} s, "
                f"healthy {healthy}: {result.words}"
            )
    return Verdict(good, failures, apart)
