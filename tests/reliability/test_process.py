"""Faults of the proxy's own process."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from tests.end_to_end.asking import PROTOCOLS, error_of
from tests.reliability.conftest import SUBACCOUNTS, running_house
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
