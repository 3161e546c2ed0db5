"""What one worker learns of a deployment, the others know: cooldowns, breakers, a worker that begins later."""

from __future__ import annotations

import http.client
import json
import os
import signal
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.end_to_end.asking import PATHS, body
from tests.end_to_end.conftest import KEY
from tests.reliability.conftest import House, running_house

HEADERS = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
pytestmark = pytest.mark.timed


def by_worker(house: House, count: int, **asked: Any) -> Counter[int]:
    """Asks over new connections, which the kernel spreads over the workers."""
    statuses: Counter[int] = Counter()
    for _ in range(count):
        connection = http.client.HTTPConnection("127.0.0.1", house.proxy.port, timeout=20)
        connection.request("POST", PATHS["chat"], json.dumps(body("chat", "gpt-5", "Hello!", **asked)), HEADERS)
        answer = connection.getresponse()
        answer.read()
        statuses[answer.status] += 1
        connection.close()
    return statuses


def pids(house: House) -> list[int]:
    found = []
    for child in psutil.Process(house.proxy.process.pid).children():
        with suppress(psutil.NoSuchProcess):  # a zombie is none any more
            if "aicore_proxy.server.worker" in child.cmdline():
                found.append(child.pid)
    return found


def test_a_throttle_that_one_worker_meets_is_kept_by_all(tmp_path: Path) -> None:
    with running_house(tmp_path, workers="3") as house:
        assert by_worker(house, 30) == {200: 30}
        house.simulator.script({"status": 429, "retry_after": 60}, "sub-0")
        before = house.received()
        while house.since(before)["sub-0"] == 0:
            by_worker(house, 1)
        time.sleep(0.2)
        before = house.received()

        assert by_worker(house, 60) == {200: 60}
        assert house.since(before)["sub-0"] == 0

        # one that begins later is told too
        killed = pids(house)[0]
        os.kill(killed, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while killed in pids(house) or len(pids(house)) < 3 or house.proxy.http.get("/health/ready").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        before = house.received()
        assert by_worker(house, 60)[200] == 60
        assert house.since(before)["sub-0"] == 0


def test_a_breaker_that_one_worker_opens_is_open_in_all(tmp_path: Path) -> None:
    with running_house(tmp_path, workers="3", breaker_open_time="30") as house:
        house.simulator.script({"status": 500}, "sub-0")
        before = house.received()
        assert by_worker(house, 120) == {200: 120}
        failed = house.since(before)["sub-0"]
        time.sleep(1)

        # each worker counts for itself until one has five in a row
        assert 5 <= failed <= 15
        assert by_worker(house, 60) == {200: 60}
        assert house.since(before)["sub-0"] == failed


def test_turns_over_workers_differ_by_no_more_than_one_each(tmp_path: Path) -> None:
    with running_house(tmp_path, workers="2") as house:
        before = house.received()
        assert by_worker(house, 102) == {200: 102}
        counts = house.since(before).values()

        assert sum(counts) == 102
        assert max(counts) - min(counts) <= 2
