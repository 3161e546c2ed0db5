"""Faults of the proxy's own process."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from tests.end_to_end.asking import PATHS, PROTOCOLS, body, error_of
from tests.end_to_end.conftest import Simulator, running_proxy, running_simulator
from tests.reliability.conftest import MODELS, SUBACCOUNTS, House, running_house, until
from tests.reliability.forwarder import natted
from tests.telemetry.reading import look

pytestmark = pytest.mark.timed


def test_p06_a_stalled_event_loop_makes_answers_late_and_nothing_else(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.chaos.broken", "block", "serve"]
    with running_house(tmp_path, command=command, first_byte_timeout="1", between_bytes_timeout="1") as house:
        house.simulator.script({"delay": 0.6})
        began = time.monotonic()

        def block() -> None:
            time.sleep(0.3)
            os.kill(house.proxy.process.pid, signal.SIGUSR1)

        blocking = threading.Thread(target=block)
        blocking.start()
        with ThreadPoolExecutor(40) as pool:
            statuses = Counter(pool.map(lambda n: house.ask(stream=n % 2 == 0).status_code, range(40)))
        blocking.join()

        assert statuses == {200: 40}
        assert time.monotonic() - began >= 2
        text = house.proxy.http.get("/metrics").text
        assert not re.search(r"^aicore_proxy_breaker_state\{[^\n]*\} [12]", text, re.MULTILINE)
        assert 'outcome="timeout"' not in text
        lag = re.search(r"^aicore_proxy_(?:event_)?loop_lag_seconds\S* ([0-9.e+-]+)$", text, re.MULTILINE)
        assert lag is not None


@pytest.mark.skipif(sys.platform != "linux", reason="the clock that is moved is Linux's")
def test_p09_after_an_hour_s_sleep_no_token_is_used_that_ended_meanwhile(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.chaos.broken", "sleep", "serve"]
    with running_house(tmp_path, command=command) as house:
        house.simulator.switch(expires_in=1800)
        house.simulator.revoke_tokens()
        assert {house.ask().status_code for _ in range(8)} == {200}
        assert house.ask().status_code == 200
        asked, tokens = house.received(), house.token_requests()

        house.simulator.revoke_tokens()  # they have ended
        os.kill(house.proxy.process.pid, signal.SIGUSR1)
        time.sleep(0.3)
        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(lambda n: house.ask(stream=n % 2 == 0), range(40)))

        assert Counter(answer.status_code for answer in answers) == {200: 40}
        assert {answer.headers["x-aicore-proxy-attempts"] for answer in answers} == {"1"}
        assert sum(house.since(asked).values()) == 40  # none was sent with a token that had ended
        after = house.token_requests()
        assert {alias: after[alias] - count for alias, count in tokens.items()} == dict.fromkeys(SUBACCOUNTS, 1)


def test_t12_a_clock_that_is_set_costs_no_answer_and_no_token(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.chaos.broken", "jump", "serve"]
    with running_house(tmp_path, command=command) as house:
        house.simulator.switch(expires_in=1800)
        house.simulator.revoke_tokens()
        assert {house.ask().status_code for _ in range(8)} == {200}
        tokens = house.token_requests()

        for _ in range(2):
            os.kill(house.proxy.process.pid, signal.SIGUSR1)
            time.sleep(0.3)
            with ThreadPoolExecutor(20) as pool:
                assert set(pool.map(lambda n: house.ask(stream=n % 2 == 0).status_code, range(40))) == {200}
        assert house.token_requests() == tokens


def test_p05_a_bug_is_the_request_s_own_that_meets_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.chaos.broken", "bug", "serve"]
    with running_house(tmp_path, command=command, deployment_limit="2") as house:
        before = house.received()

        def ask(number: int) -> tuple[int, httpx2.Response]:
            protocol, stream = PROTOCOLS[number % 2], number % 4 < 2
            return number, house.ask(protocol, stream=stream, text="a bug, please" if number % 5 == 0 else "Hello!")

        with ThreadPoolExecutor(10) as pool:
            answers = list(pool.map(ask, range(100)))
        for number, answer in answers:
            assert answer.status_code == (200 if number % 5 else 500)
            if number % 5 == 0:
                message = error_of(PROTOCOLS[number % 2], answer)["message"]
                assert "KeyError" not in answer.text
                assert "the bug" not in message
        assert sum(house.since(before).values()) == 80
        numbers = look(house.proxy.http)
        assert numbers.total("in_flight_requests") == numbers.total("deployment_in_flight_requests") == 0
        assert numbers.total("breaker_state") == 0
        told = "".join(house.proxy.lines)
        assert told.count("KeyError: 'the bug'") == 20
        assert answers[0][1].headers["x-request-id"] in told


def test_p07_spent_descriptors_make_no_busy_loop_and_come_back(tmp_path: Path) -> None:
    command = ["sh", "-c", f'ulimit -n 128 && exec "{sys.executable}" -m aicore_proxy serve']
    with running_house(tmp_path, command=command) as house, ExitStack() as held:
        assert house.ask().status_code == 200
        process = psutil.Process(house.proxy.process.pid)
        for _ in range(300):
            opened = held.enter_context(socket.socket())
            opened.setblocking(False)
            opened.connect_ex(("127.0.0.1", house.proxy.port))
        until(lambda: process.num_fds() >= 127, 5)
        before = process.cpu_times()
        time.sleep(1.5)
        after = process.cpu_times()
        assert after.user + after.system - before.user - before.system < 0.2 * 1.5
        assert house.ask().status_code == 200  # who is there is served

        held.close()
        with httpx2.Client(base_url=house.proxy.url, headers=house.proxy.http.headers, trust_env=False) as fresh:
            asked = body("chat", "gpt-5", "Hello!")
            until(lambda: fresh.post(PATHS["chat"], json=asked).status_code == 200, 2)


@pytest.mark.skipif(sys.platform != "linux", reason="the clock that is moved is Linux's")
def test_p09_after_an_hour_s_sleep_no_connection_is_used_that_was_forgotten_meanwhile(tmp_path: Path) -> None:
    landscape = {"subaccounts": [{"name": name, "models": MODELS} for name in SUBACCOUNTS]}
    with (
        running_simulator(tmp_path, "--fast", landscape=landscape) as plain,
        natted(int(plain.url.rpartition(":")[2])) as nat,
    ):
        simulator = Behind(plain.url, plain.process, nat.port)
        command = [sys.executable, "-m", "tests.chaos.broken", "sleep", "serve"]
        with running_proxy(tmp_path, simulator, command=command, log_level="error", first_byte_timeout="5") as proxy:
            house = House(simulator, proxy)
            with ThreadPoolExecutor(8) as pool:
                assert set(pool.map(lambda _: house.ask().status_code, range(40))) == {200}

            nat.forget()
            os.kill(proxy.process.pid, signal.SIGUSR1)
            time.sleep(0.3)
            with ThreadPoolExecutor(8) as pool:
                answers = list(pool.map(lambda n: house.ask(stream=n % 2 == 0), range(40)))
            assert Counter(answer.status_code for answer in answers) == {200: 40}
            assert {answer.headers["x-aicore-proxy-attempts"] for answer in answers} == {"1"}


class Behind(Simulator):
    """A simulator whose deployments are reached by another port; tokens are had as ever."""

    def __init__(self, url: str, process: Any, port: int) -> None:
        super().__init__(url, process)
        self._place = f"http://127.0.0.1:{port}"

    def service_keys(self) -> dict[str, Any]:
        keys = super().service_keys()
        for key in keys.values():
            key["serviceurls"]["AI_API_URL"] = key["serviceurls"]["AI_API_URL"].replace(self.url, self._place)
        return keys
