"""Chaos, and the oracle of the chaos. ``make test-chaos``: for minutes; here, for seconds."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from tests.chaos.chaos import MODELS, Chaos, Episode, Result, Verdict, judged
from tests.end_to_end.conftest import Proxy, Simulator, running_proxy, running_simulator

SECONDS = float(os.environ.get("CHAOS_SECONDS", "6"))
SEED = int(os.environ.get("CHAOS_SEED", "20261125"))
SUBACCOUNTS = tuple(f"sub-{number}" for number in range(4))
SETTINGS = {
    "breakers": "true",
    "breaker_open_time": "0.3",
    "breaker_longest": "1",
    "stream_head_timeout": "2",
    "first_byte_timeout": "2",
    "deadline": "20",
    "recovery_wait": "3",
    "discovery_interval": "1",
    "pool_idle": "2",
}
SOCKETS = 16
"""That may be open at any time: SAP is looked at every second, and 200 clients had as many."""
LONG = 100.0
"""Seconds of a run from which memory says something: in its second half it does not grow."""
GAUGES = tuple(
    f"aicore_proxy_{name}" for name in ("in_flight_requests", "open_streams", "deployment_in_flight_requests")
)
pytestmark = [pytest.mark.timed, pytest.mark.timeout(max(120.0, 3 * SECONDS))]


@contextmanager
def house(home: Path, command: list[str] | None = None, **settings: str) -> Iterator[tuple[Simulator, Proxy]]:
    landscape = {"subaccounts": [{"name": name, "models": list(MODELS)} for name in SUBACCOUNTS]}
    with (
        running_simulator(home, landscape=landscape) as simulator,
        running_proxy(home, simulator, log_level="error", command=command, **{**SETTINGS, **settings}) as proxy,
    ):
        yield simulator, proxy


def metrics(proxy: Proxy) -> dict[str, float]:
    """Every sample of the metrics, its labels in its name."""
    text = proxy.http.get("/metrics").text
    return {m[1]: float(m[2]) for m in re.finditer(r"^([a-z_]+(?:\{[^\n]*\})?) ([0-9.e+-]+)$", text, re.MULTILINE)}


def total(samples: dict[str, float], name: str) -> float:
    return sum(value for sample, value in samples.items() if sample.partition("{")[0] == name)


def leaks(simulator: Simulator, proxy: Proxy) -> list[str]:
    """What has not come back to zero within seconds."""
    found: list[str] = []
    deadline = time.monotonic() + 8
    while time.monotonic() < deadline:
        samples = metrics(proxy)
        found = [f"{name}: {total(samples, name):g}" for name in GAUGES if total(samples, name)]
        if simulator.state()["open"]:
            found.append("requests are open at the simulator")
        if (count := sockets(simulator, proxy)) > SOCKETS:
            found.append(f"sockets: {count}")
        if not found:
            return []
        time.sleep(0.2)
    return found


def sockets(simulator: Simulator, proxy: Proxy) -> int:
    """Connections to the simulator, and of clients other than ``proxy.http``, which has one or two for itself."""
    upstream = int(simulator.url.rpartition(":")[2])
    processes = [proxy.process.pid, *workers(proxy)]
    ends = [end for pid in processes for end in psutil.Process(pid).net_connections("tcp") if end.raddr]
    ours = sum(end.raddr.port == upstream for end in ends)
    return ours + max(0, sum(end.laddr.port == proxy.port for end in ends) - 2)


async def after(seconds: float, look: Callable[[], int]) -> int:
    await asyncio.sleep(seconds)
    return look()


def memory(proxy: Proxy) -> int:
    """Bytes resident, of all workers."""
    return sum(psutil.Process(pid).memory_info().rss for pid in workers(proxy))


def workers(proxy: Proxy) -> list[int]:
    children = psutil.Process(proxy.process.pid).children()
    return [child.pid for child in children if child.status() != psutil.STATUS_ZOMBIE]


def chaos_of(simulator: Simulator, proxy: Proxy, clients: int = 200) -> Chaos:
    return Chaos(simulator, proxy, SUBACCOUNTS, SEED, clients)


def verdict_of(chaos: Chaos) -> Verdict:
    verdict = judged(chaos.results, chaos.episodes, chaos.kills, SUBACCOUNTS)
    print(
        f"\n{len(chaos.results)} requests, {verdict.good} answered, {len(chaos.episodes)} episodes, "
        f"apart: {dict(verdict.apart)}, failures: {len(verdict.failures)}"
    )
    return verdict


async def test_p08_nobody_sees_an_error_that_could_be_avoided(tmp_path: Path) -> None:
    with house(tmp_path, workers="2") as (simulator, proxy):
        chaos = chaos_of(simulator, proxy)
        middle = asyncio.create_task(after(SECONDS / 2, lambda: memory(proxy)))
        await chaos.run(SECONDS)
        grown = memory(proxy) / await middle
        verdict = verdict_of(chaos)
        print(f"memory in the second half: {grown:.1%}")

        assert SECONDS < LONG or grown < 1.1
        assert not verdict.failures, "\n".join(explained(proxy, failure) for failure in verdict.failures[:10])
        assert verdict.good > 20 * SECONDS
        assert len(chaos.episodes) >= SECONDS / 6
        assert await asyncio.to_thread(leaks, simulator, proxy) == []
        assert total(metrics(proxy), "aicore_proxy_requests_total") == len(chaos.results)


async def test_p03_a_worker_that_is_killed_takes_only_its_own_with_it(tmp_path: Path) -> None:
    # Limits are learned here, and not above: neither may cost a client its answer
    with house(tmp_path, workers="2", adaptive_limit="true", adaptive_start="5") as (simulator, proxy):
        before = workers(proxy)
        chaos = chaos_of(simulator, proxy)
        await chaos.run(SECONDS, lambda: os.kill(before[0], signal.SIGKILL))
        verdict = verdict_of(chaos)

        assert not verdict.failures, "\n".join(explained(proxy, failure) for failure in verdict.failures[:10])
        assert verdict.apart["killed worker"] <= 200
        assert before[0] not in workers(proxy)
        assert await asyncio.to_thread(leaks, simulator, proxy) == []
        counted = total(metrics(proxy), "aicore_proxy_requests_total")
        # what the dead one did after its last snapshot, half a second, is lost; nothing is counted twice
        assert 0.9 * len(chaos.results) <= counted <= len(chaos.results)


def explained(proxy: Proxy, failure: str) -> str:
    """A failure, and what the proxy itself says of the request."""
    named = re.search(r"req_[0-9a-f]{24}", failure)
    return failure + (f"\n    {proxy.http.get(f'/why/{named[0]}').text}" if named else "")


# The oracle is tested itself


async def test_without_failover_the_oracle_reports(tmp_path: Path) -> None:
    with house(tmp_path, max_attempts="1") as (simulator, proxy):
        chaos = chaos_of(simulator, proxy, clients=60)
        await chaos.run(5)

        assert verdict_of(chaos).failures


async def test_a_leaked_permit_is_reported(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.chaos.broken", "leak", "serve"]
    with house(tmp_path, command) as (simulator, proxy):
        chaos = chaos_of(simulator, proxy, clients=40)
        await chaos.run(4)

        assert any("deployment_in_flight" in leak for leak in await asyncio.to_thread(leaks, simulator, proxy))


async def test_a_request_that_is_counted_twice_is_reported(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.chaos.broken", "double", "serve"]
    with house(tmp_path, command) as (simulator, proxy):
        chaos = chaos_of(simulator, proxy, clients=40)
        await chaos.run(4)
        await asyncio.to_thread(leaks, simulator, proxy)

        assert total(metrics(proxy), "aicore_proxy_requests_total") > len(chaos.results)


async def test_no_task_is_left(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.chaos.broken", "tasks", "serve"]
    with house(tmp_path, command) as (simulator, proxy):

        def tasks() -> int:
            before = len(proxy.lines)
            os.kill(proxy.process.pid, signal.SIGUSR1)
            while not (told := [line for line in proxy.lines[before:] if line.startswith("tasks: ")]):
                time.sleep(0.02)
            return int(told[0].split()[1])

        before = await asyncio.to_thread(tasks)
        await chaos_of(simulator, proxy, clients=60).run(4)
        assert await asyncio.to_thread(leaks, simulator, proxy) == []
        # one more for a connection of the test's own, for a refresh and a token that are being asked for
        assert await asyncio.to_thread(tasks) <= before + 4


def test_the_oracle_knows_whom_to_blame() -> None:
    def result(begun: float, ended: float, *, good: bool = False, seen: bool = False) -> Result:
        return Result(begun, ended, "m", "chat", good, seen, "")

    all_but_one = Episode(10, 20, frozenset(SUBACCOUNTS[1:]), {})
    everybody = Episode(30, 40, frozenset(SUBACCOUNTS), {})
    cases = [
        (result(11, 12), "failure"),
        (result(5, 6), "failure"),
        (result(31, 32), "all struck"),
        (result(19, 31), "all struck"),
        (result(11, 12, seen=True), "cut after content"),
        (result(49, 51), "killed worker"),
        (result(11, 12, good=True), "good"),
    ]
    for given, expected in cases:
        verdict = judged([given], [all_but_one, everybody], [50.0], SUBACCOUNTS)
        told = "good" if verdict.good else "failure" if verdict.failures else next(iter(verdict.apart))
        assert told == expected
