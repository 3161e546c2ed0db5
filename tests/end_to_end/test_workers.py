"""Several workers on one port, and how a proxy ends: real processes, real sockets, real signals."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import httpx2
import psutil
import pytest
from tests.end_to_end.asking import CLAUDE, GPT, PATHS, body, events, simulate
from tests.end_to_end.conftest import KEY, Proxy, Simulator, environment, running_proxy, started, stopped

from aicore_proxy.config.settings import Settings
from aicore_proxy.gateway.keys import client_key
from aicore_proxy.sap.credentials import service_key
from aicore_proxy.server import listen
from aicore_proxy.server.configuration import Configuration
from aicore_proxy.server.stopping import Urgency
from aicore_proxy.server.workers import Workers

COMMAND = [sys.executable, "-m", "aicore_proxy"]
HEADERS = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}


def worker_pids(proxy: Proxy) -> list[int]:
    pids = []
    for child in psutil.Process(proxy.process.pid).children():
        with suppress(psutil.NoSuchProcess):  # a zombie is none any more
            if "aicore_proxy.server.worker" in child.cmdline():
                pids.append(child.pid)
    return sorted(pids)


def wait_until(true: Callable[[], object], seconds: float = 15.0) -> float:
    """Seconds until it is so."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds, "it does not come to that"
        time.sleep(0.02)
    return time.monotonic() - began


def ready(proxy: Proxy) -> bool:
    with httpx2.Client(trust_env=False, timeout=20) as client:
        return client.get(f"{proxy.url}/health/ready").status_code == 200


def log_of(proxy: Proxy) -> str:
    return "".join(proxy.lines)


def session(proxy: Proxy, *, keep: bool = True) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(limit=0, force_close=not keep)
    return aiohttp.ClientSession(proxy.url, connector=connector, headers=HEADERS)


def whole(text: str) -> bool:
    """Whether a streamed Chat answer came to its end."""
    return text.endswith("data: [DONE]\n\n") and '"error"' not in text


def served_by(proxy: Proxy) -> dict[int, int]:
    """A client's port -> the worker that has its connection."""
    return {
        connection.raddr.port: pid
        for pid in worker_pids(proxy)
        for connection in psutil.Process(pid).net_connections("tcp")
        if connection.status == psutil.CONN_ESTABLISHED and connection.laddr.port == proxy.port
    }


async def opened(client: aiohttp.ClientSession, **script: Any) -> tuple[aiohttp.ClientResponse, int]:
    """A stream that has begun, and its port on our side."""
    asked = body("chat", GPT, simulate(**script), stream=True)
    answer = await client.post(PATHS["chat"], json=asked)
    assert answer.status == 200
    assert answer.connection is not None
    assert answer.connection.transport is not None
    return answer, answer.connection.transport.get_extra_info("sockname")[1]


async def told(answer: aiohttp.ClientResponse) -> str | None:
    """The rest of a stream; None: its connection broke."""
    try:
        return (await answer.read()).decode()
    except aiohttp.ClientError:
        return None


def test_two_workers_share_the_connections(tmp_path: Path, simulator: Simulator) -> None:
    simulator.clear()
    with running_proxy(tmp_path, simulator, workers="2", log_level="error") as proxy:
        connections = [socket.create_connection(("127.0.0.1", proxy.port)) for _ in range(1000)]
        ports = {connection.getsockname()[1] for connection in connections}
        wait_until(lambda: ports <= served_by(proxy).keys())
        shares = Counter(pid for port, pid in served_by(proxy).items() if port in ports)
        for connection in connections:
            connection.close()

    assert len(shares) == 2
    assert all(400 <= share <= 600 for share in shares.values()), shares


def test_no_secret_is_told_to_a_worker_on_its_command_line_or_by_its_environment(
    tmp_path: Path, simulator: Simulator
) -> None:
    folder = tmp_path / "keys"
    folder.mkdir()
    (folder / "demo.json").write_text(json.dumps(simulator.service_keys()["demo-eu"]))
    environ = environment(tmp_path, AICORE_PROXY_SERVICE_KEYS=str(folder))
    process, lines, _ = started([*COMMAND, "serve", "--port", "0", "--workers", "2"], environ, "Models: ")
    try:
        made = (tmp_path / "state" / "aicore-proxy" / "api-key").read_text().strip()
        children = psutil.Process(process.pid).children()
        shown = [f"{child.cmdline()} {child.environ()}" for child in children]
        secret = simulator.service_keys()["demo-eu"]["clientsecret"]
    finally:
        stopped(process)

    assert len(shown) == 2
    assert not [text for text in shown if made in text or secret in text]
    text = "".join(lines)
    assert (text.count("API key:"), text.count("Models:"), text.count("Base URL:")) == (1, 1, 1)
    assert secret not in text


@pytest.mark.timed
async def test_a_killed_worker_is_replaced_and_its_siblings_streams_go_on(tmp_path: Path, simulator: Simulator) -> None:
    simulator.clear()
    with running_proxy(tmp_path, simulator, workers="2", log_level="error") as proxy:
        async with session(proxy, keep=False) as client:
            streams = [await opened(client, events=60, rate=20) for _ in range(40)]
            owner = served_by(proxy)
            before = worker_pids(proxy)
            victim, survivor = before
            assert Counter(owner[port] for _, port in streams)[victim] > 5
            asking = connection_to(proxy, survivor)
            os.kill(victim, signal.SIGKILL)
            killed = time.monotonic()
            await asyncio.to_thread(wait_until, lambda: health(asking) == 503, 2)
            answers = [await client.post(PATHS["chat"], json=body("chat", GPT, "Hello!")) for _ in range(10)]
            served = time.monotonic() - killed
            statuses = [answer.status for answer in answers]
            await asyncio.to_thread(wait_until, lambda: ready(proxy))
            back = time.monotonic() - killed
            ends = [(owner[port], await told(answer)) for answer, port in streams]
        after = worker_pids(proxy)

    assert statuses == [200] * 10
    assert served < 5
    assert back < 5
    assert len(after) == 2
    assert survivor in after
    assert victim not in after
    assert all(text is not None and whole(text) for pid, text in ends if pid == survivor)
    assert all(text is None or not whole(text) for pid, text in ends if pid == victim)
    assert f"(pid {victim}) was killed by signal 9" in log_of(proxy)


def connection_to(proxy: Proxy, pid: int) -> http.client.HTTPConnection:
    """A connection that this worker has."""
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=20)
        assert health(connection) == 200
        if served_by(proxy)[connection.sock.getsockname()[1]] == pid:
            return connection
        connection.close()


def health(connection: http.client.HTTPConnection) -> int:
    connection.request("GET", "/health/ready")
    answer = connection.getresponse()
    answer.read()
    return answer.status


class Load:
    """Clients that ask without a pause, on kept and on new connections, streamed and not. Owns what failed."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.done = 0
        self.failed: list[str] = []
        self._stop = asyncio.Event()

    async def run(self, clients: int, while_running: Any) -> None:
        async with session(self.proxy) as kept, session(self.proxy, keep=False) as new, asyncio.TaskGroup() as group:
            for number in range(clients):
                group.create_task(self._ask(kept if number % 2 else new, stream=number % 4 < 2))
            try:
                await while_running
            finally:
                self._stop.set()

    async def _ask(self, client: aiohttp.ClientSession, *, stream: bool) -> None:
        asked = body("chat", GPT, simulate(events=6, rate=20) if stream else "Hello!", stream=stream)
        while not self._stop.is_set():
            try:
                async with client.post(PATHS["chat"], json=asked) as answer:
                    text = await answer.text()
                    good = answer.status == 200 and (whole(text) if stream else '"finish_reason"' in text)
            except (aiohttp.ClientError, OSError) as error:
                good, text = False, repr(error)
            self.done += 1
            if not good:
                self.failed.append(text[-300:])


@pytest.mark.timed
async def test_a_rolling_restart_under_load_fails_no_request(tmp_path: Path, simulator: Simulator) -> None:
    simulator.clear()
    with running_proxy(tmp_path, simulator, workers="2", log_level="info") as proxy:
        before = worker_pids(proxy)
        load = Load(proxy)

        async def restarted() -> None:
            await asyncio.sleep(0.5)
            proxy.process.send_signal(signal.SIGUSR2)
            await asyncio.to_thread(wait_until, lambda: "All 2 workers are replaced" in log_of(proxy), 30)
            assert ready(proxy)
            await asyncio.sleep(0.5)

        await load.run(16, restarted())
        await asyncio.to_thread(wait_until, lambda: not set(before) & set(worker_pids(proxy)))
        after = worker_pids(proxy)
        counted = total(proxy, "aicore_proxy_requests_total")

    assert load.failed == []
    assert load.done > 100
    assert len(after) == 2
    assert counted == load.done


@pytest.mark.timed
@pytest.mark.parametrize("moment", [0.1, 0.6, 1.2])
def test_a_restart_that_is_interrupted_by_the_end_leaves_nothing(
    tmp_path: Path, simulator: Simulator, moment: float
) -> None:
    simulator.clear()
    with running_proxy(tmp_path, simulator, workers="2", log_level="info") as proxy:
        proxy.process.send_signal(signal.SIGUSR2)
        time.sleep(moment)
        children = psutil.Process(proxy.process.pid).children(recursive=True)
        proxy.process.send_signal(signal.SIGTERM)
        assert proxy.process.wait(10) == 0

    assert not psutil.wait_procs(children, timeout=3)[1]
    assert "Traceback" not in log_of(proxy)
    assert "crashed" not in log_of(proxy)


@pytest.mark.timed
async def test_a_worker_that_is_told_to_end_is_replaced_first(tmp_path: Path, simulator: Simulator) -> None:
    simulator.clear()
    with running_proxy(tmp_path, simulator, workers="2", log_level="error") as proxy:
        first, second = worker_pids(proxy)
        load = Load(proxy)

        async def told_to_end() -> None:
            os.kill(first, signal.SIGTERM)
            await asyncio.to_thread(wait_until, lambda: first not in worker_pids(proxy), 30)

        await load.run(8, told_to_end())
        after = worker_pids(proxy)

    assert load.failed == []
    assert len(after) == 2
    assert second in after


def total(proxy: Proxy, name: str) -> float:
    """The sum of a counter over all labels."""
    text = proxy.http.get("/metrics").text
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))


@pytest.mark.timed
def test_r07_metrics_are_those_of_all_workers_also_of_dead_ones(tmp_path: Path, simulator: Simulator) -> None:
    simulator.clear()
    with running_proxy(tmp_path, simulator, workers="2", log_level="error") as proxy:

        def ask(times: int) -> None:
            for _ in range(times):
                answer = httpx2.post(
                    proxy.url + PATHS["chat"], json=body("chat", GPT, "Hello!"), headers=HEADERS, trust_env=False
                )
                assert answer.status_code == 200

        ask(30)
        shown = {total(proxy, "aicore_proxy_requests_total") for _ in range(5)}
        time.sleep(1.0)  # a killed worker's last snapshot is half a second old at most
        victim = worker_pids(proxy)[0]
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: victim not in worker_pids(proxy) and ready(proxy))
        ask(30)
        after = total(proxy, "aicore_proxy_requests_total")
        attempts = total(proxy, "aicore_proxy_upstream_attempts_total")
        text = proxy.http.get("/metrics").text

    assert shown == {30}
    assert after == 60
    assert attempts == 60
    assert 'aicore_proxy_workers{state="ready"} 2.0' in text
    assert 'aicore_proxy_worker_ends_total{reason="crash"} 1.0' in text
    assert len(re.findall(r"^aicore_proxy_in_flight_requests 0\.0$", text, re.MULTILINE)) == 1


@pytest.mark.timed
@pytest.mark.parametrize("workers", ["1", "2"])
async def test_p01_sigterm_not_ready_first_then_no_new_work_then_what_is_in_flight(
    tmp_path: Path, simulator: Simulator, workers: str
) -> None:
    simulator.clear()
    with running_proxy(tmp_path, simulator, workers=workers, drain_delay="1.5", log_level="error") as proxy:
        async with session(proxy, keep=False) as client:
            streams = [await opened(client, events=80, rate=20) for _ in range(20)]
            told_at = time.monotonic()
            proxy.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(wait_until, lambda: not ready(proxy))
            unready = time.monotonic() - told_at
            late = await client.post(PATHS["chat"], json=body("chat", GPT, "Hello!"))
            assert late.status == 200
            await asyncio.sleep(2.2 - (time.monotonic() - told_at))
            with pytest.raises(OSError):
                socket.create_connection(("127.0.0.1", proxy.port))
            ends = [await told(answer) for answer, _ in streams]
        code = proxy.process.wait(10)
        took = time.monotonic() - told_at

    assert unready < 1
    assert all(text is not None and whole(text) for text in ends)
    assert code == 0
    assert 2.2 < took < 10


ENDS = {
    "deadline": (["SIGTERM"], "0.01"),
    "SIGTERM twice": (["SIGTERM", "SIGTERM"], "0.01"),
    "SIGINT twice": (["SIGINT", "SIGINT"], "0.01"),
    "both, before new connections are refused": (["SIGTERM", "SIGINT"], "60"),
}
"""Signals, half a second apart, and the drain delay."""


@pytest.mark.timed
@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("how", ENDS)
async def test_p01_p02_what_is_not_done_in_time_ends_with_an_error_in_the_clients_protocol(
    tmp_path: Path, simulator: Simulator, workers: str, how: str
) -> None:
    simulator.clear()
    signals, delay = ENDS[how]
    settings = {"drain_delay": delay, "drain_timeout": "1" if how == "deadline" else "60"}
    before = sum(simulator.received().values())
    with running_proxy(tmp_path, simulator, workers=workers, log_level="error", **settings) as proxy:
        children = psutil.Process(proxy.process.pid).children(recursive=True)
        async with session(proxy, keep=False) as client:
            endless = simulate(events=100_000, rate=20)
            stalled = simulate(delay=60)
            asked = [
                ("chat", body("chat", GPT, endless, stream=True)),
                ("chat", body("chat", CLAUDE, endless, stream=True)),
                ("messages", body("messages", CLAUDE, endless, stream=True)),
                ("messages", body("messages", GPT, endless, stream=True)),
            ]
            streams = [(protocol, await client.post(PATHS[protocol], json=text)) for protocol, text in asked]
            waiting = [
                (protocol, asyncio.create_task(client.post(PATHS[protocol], json=body(protocol, GPT, stalled))))
                for protocol in PATHS
            ]
            for _, stream in streams:
                assert await stream.content.readany()
            # Whoever was not accepted yet would be refused
            await asyncio.to_thread(wait_until, lambda: sum(simulator.received().values()) >= before + 4 + len(PATHS))
            for number, name in enumerate(signals):
                await asyncio.sleep(0.5 * number)
                assert proxy.process.poll() is None
                proxy.process.send_signal(getattr(signal, name))
            told_at = time.monotonic()
            ends = [(protocol, await told(stream)) for protocol, stream in streams]
            refusals = [(protocol, await answer) for protocol, answer in waiting]
            bodies = [(protocol, answer.status, await answer.json()) for protocol, answer in refusals]
        code = proxy.process.wait(10)
        took = time.monotonic() - told_at

    assert code == 0, log_of(proxy)
    assert (0.9 if how == "deadline" else 0) < took < (3.5 if how == "deadline" else 2.0)
    for protocol, text in ends:
        assert text is not None, log_of(proxy)
        name, last = list(events(text))[-1]
        if protocol == "chat":
            assert last["error"]["code"] == "shutting_down"
            assert "[DONE]" not in text
        else:
            assert (name, last["error"]["type"]) == ("error", "overloaded_error")
            assert "message_stop" not in text
    for protocol, status, value in bodies:
        assert status == (503 if protocol == "chat" else 529)
        assert "shutting down" in value["error"]["message"]
    assert not psutil.wait_procs(children, timeout=5)[1]


@pytest.mark.timed
async def test_a_killed_parent_leaves_no_worker(tmp_path: Path, simulator: Simulator) -> None:
    simulator.clear()
    with running_proxy(tmp_path, simulator, workers="2", log_level="error") as proxy:
        children = psutil.Process(proxy.process.pid).children(recursive=True)
        async with session(proxy, keep=False) as client:
            streams = [(await opened(client, events=100_000, rate=20))[0] for _ in range(8)]
            proxy.process.kill()
            killed = time.monotonic()
            ends = [await told(stream) for stream in streams]
        gone, alive = await asyncio.to_thread(psutil.wait_procs, children, 5)
        took = time.monotonic() - killed

    assert len(children) == 2
    assert len(gone) == 2
    assert not alive
    assert took < 4
    assert all(text is not None and "shutting_down" in text for text in ends)


@pytest.mark.timed
async def test_a_worker_whose_loop_stands_still_is_killed_and_replaced(tmp_path: Path, simulator: Simulator) -> None:
    """Run with 1.5 s instead of 30."""
    simulator.clear()
    keys = tuple(service_key(raw, name, "the simulator") for name, raw in simulator.service_keys().items())
    configuration = Configuration(Settings(), (client_key("default", KEY),), keys, direct=True)
    slots = listen.bind_slots("127.0.0.1", 0, 2)
    workers = Workers(slots, configuration, log_level="error", drain_delay=0.01, drain_timeout=1, hung_after=1.5)
    running = asyncio.create_task(workers.run())
    await asyncio.wait_for(workers.first_ready.wait(), 20)
    first, second = (
        child.pid for child in psutil.Process().children() if "aicore_proxy.server.worker" in child.cmdline()
    )
    await asyncio.sleep(2)
    os.kill(first, signal.SIGSTOP)
    stopped_at = time.monotonic()
    await asyncio.to_thread(wait_until, lambda: not psutil.pid_exists(first))
    took = time.monotonic() - stopped_at
    workers.first_ready.clear()
    await asyncio.wait_for(workers.first_ready.wait(), 20)
    assert psutil.pid_exists(second)
    workers.stopping.ask(Urgency.NOW)
    await asyncio.wait_for(running, 5)

    assert 1 < took < 4
    assert not psutil.pid_exists(second)


def test_a_port_that_other_workers_listen_on_is_taken(tmp_path: Path, simulator: Simulator) -> None:
    raw = json.dumps(simulator.service_keys()["demo-eu"])
    with running_proxy(tmp_path, simulator, workers="2", log_level="error") as proxy:
        environ = environment(tmp_path, AICORE_SERVICE_KEY=raw)
        done = subprocess.run(
            [*COMMAND, "serve", "--workers", "2", "--port", str(proxy.port)],
            env=environ, capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip

    assert done.returncode == 1
    assert str(proxy.port) in done.stderr
    assert "Traceback" not in done.stderr


def test_workers_that_never_start_end_the_parent_with_the_reason(tmp_path: Path, simulator: Simulator) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif 'aicore_proxy.server.worker' in sys.orig_argv:\n    os._exit(7)\n"
    )
    raw = json.dumps(simulator.service_keys()["demo-eu"])
    done = subprocess.run(
        [*COMMAND, "serve", "--workers", "2", "--port", "0"],
        env=environment(tmp_path, AICORE_SERVICE_KEY=raw, PYTHONPATH=str(tmp_path)),
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip

    assert done.returncode == 1
    assert re.search(r"The workers do not start: number [12] ended with code 7, 3 times in a row", done.stderr)
    assert "Traceback" not in done.stderr
