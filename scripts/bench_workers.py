"""CPU per request with two workers against one: ``python scripts/bench_workers.py [--rounds 5] [--seconds 5]``.

Both proxies are alive side by side in front of one simulator; rounds alternate; medians count. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = "sk-bench-workers"
BODY = json.dumps({"model": "gpt-5", "messages": [{"role": "user", "content": "x" * 900}]}).encode()


@contextmanager
def running(module: str, arguments: list[str], mark: str, environ: dict[str, str]) -> Iterator[tuple[int, str]]:
    """A process of ours: its id and the first line of its output that holds ``mark``."""
    command = [sys.executable, "-m", module, *arguments]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True, env=environ)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if mark in line:
                yield process.pid, line
                return
        raise SystemExit(f"{' '.join(command)} did not start")
    finally:
        process.terminate()
        process.wait(20)


def service_keys(url: str) -> dict[str, Any]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{url}/_simulator/service-keys") as answer:
        keys: dict[str, Any] = json.load(answer)
    return keys


def cpu(pid: int) -> float:
    """Seconds that a process and its children have used."""
    parent = psutil.Process(pid)
    return sum(p.cpu_times().user + p.cpu_times().system for p in (parent, *parent.children(recursive=True)))


async def asked(url: str, connections: int, seconds: float) -> int:
    """Requests answered within so many seconds."""
    end = time.monotonic() + seconds
    done = 0
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}

    async def client(session: aiohttp.ClientSession) -> None:
        nonlocal done
        while time.monotonic() < end:
            async with session.post("/v1/chat/completions", data=BODY) as answer:
                await answer.read()
                assert answer.status == 200, await answer.text()
                done += 1

    connector = aiohttp.TCPConnector(limit=0)
    async with (
        aiohttp.ClientSession(url, connector=connector, headers=headers) as session,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(connections):
            group.create_task(client(session))
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--connections", type=int, default=64)
    options = parser.parse_args()
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("AICORE_", "VCAP_"))}
    with ExitStack() as stack:
        home = stack.enter_context(tempfile.TemporaryDirectory())
        simulator = ["--port", "0", "--announce", "--fast"]
        _, line = stack.enter_context(running("aicore_proxy.simulator", simulator, '"url"', environ))
        for name, key in service_keys(json.loads(line)["url"]).items():
            (Path(home) / f"{name}.json").write_text(json.dumps(key))
        settings = {"SERVICE_KEYS": home, "API_KEY": KEY, "LOG_LEVEL": "error", "DRAIN_DELAY": "0.01"}
        environ |= {f"AICORE_PROXY_{name}": value for name, value in settings.items()} | {"PYTHONUNBUFFERED": "1"}
        proxies: dict[int, tuple[int, str]] = {}
        for workers in (1, 2):
            serve = ["serve", "--port", "0", "--workers", str(workers)]
            pid, line = stack.enter_context(running("aicore_proxy", serve, "Base URL", environ))
            proxies[workers] = pid, line.split()[-1]
        measured = measure(proxies, options)
    medians = {workers: round(statistics.median(costs) * 1e6, 1) for workers, costs in measured.items()}
    result = {"us_per_request": medians, "ratio": round(medians[2] / medians[1], 3), "rounds": measured}
    print(json.dumps(result))


def measure(proxies: dict[int, tuple[int, str]], options: argparse.Namespace) -> dict[int, list[float]]:
    """Workers -> CPU seconds per request, one for each round."""
    measured: dict[int, list[float]] = {workers: [] for workers in proxies}
    for number in range(options.rounds + 1):
        for workers, (pid, url) in proxies.items() if number % 2 else reversed(proxies.items()):
            before = cpu(pid)
            done = asyncio.run(asked(url, options.connections, options.seconds))
            if number:  # the first round only warms up
                measured[workers].append((cpu(pid) - before) / done)
    return measured


if __name__ == "__main__":
    main()
