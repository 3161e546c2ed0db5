"""Limits of requests in flight that are learned: what a deployment bears is found, kept to, and found anew."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from tests.end_to_end.asking import PROTOCOLS, said
from tests.reliability.conftest import House, running_house, until
from tests.telemetry.reading import Change, look

from aicore_proxy.config.settings import RoutingSettings, Settings
from aicore_proxy.landscape import Deployment
from aicore_proxy.server.routing import build_router

pytestmark = pytest.mark.timed

LIMITED = {"status": 429, "concurrency": 10, "events": 4, "rate": 20}
"""Of more than ten at once the rest is throttled without a word when to come back; answers take 0.15 s."""


@contextmanager
def asking(house: House, clients: int, pause: float = 0.0) -> Iterator[Counter[int]]:
    """So many clients that ask again and again; who is refused, after ``pause``. Statuses so far."""
    statuses: Counter[int] = Counter()
    done = Event()

    def ask(number: int) -> None:
        while not done.is_set():
            answer = house.ask(PROTOCOLS[number % 2], stream=True)
            statuses[answer.status_code] += 1
            if answer.status_code == 200:
                assert said(PROTOCOLS[number % 2], answer)
            else:
                time.sleep(pause)

    with ThreadPoolExecutor(clients) as pool:
        asked = [pool.submit(ask, number) for number in range(clients)]
        try:
            yield statuses
        finally:
            done.set()
            house.simulator.clear()  # whoever waits is answered soon
        for one in asked:
            one.result()


def limit(house: House) -> float:
    return look(house.proxy.http).total("deployment_limit_requests", model="gpt-5")


def at_simulator(house: House) -> dict[str, Any]:
    places = house.simulator.state()["subaccounts"].values()
    return next(d for place in places for d in place["deployments"] if d["model"] == "gpt-5")


@pytest.mark.parametrize(
    ("workers", "warm", "seconds"),
    [
        (1, 1.2, 1.5),
        pytest.param(1, 30.0, 30.0, marks=pytest.mark.rows),
        pytest.param(2, 30.0, 20.0, marks=pytest.mark.rows),
    ],
)
def test_o04_how_many_at_once_an_upstream_accepts_is_learned(
    tmp_path: Path, workers: int, warm: float, seconds: float
) -> None:
    with running_house(tmp_path, 1, adaptive_limit="true", workers=str(workers)) as house:
        house.simulator.script(LIMITED)
        with asking(house, 40) as statuses:
            time.sleep(warm)
            before = look(house.proxy.http)
            time.sleep(seconds)
            change = Change(before, look(house.proxy.http))

        assert set(statuses) == {200}
        attempts = change("upstream_attempts_total")
        assert change("upstream_attempts_total", outcome="throttled") <= 0.05 * attempts
        assert attempts >= seconds * 10 / 0.15 * 0.4  # and what it bears is used
        assert 2 * workers <= change.after.total("deployment_limit_requests", model="gpt-5") <= 12 * workers


def test_o04_a_model_that_a_pattern_meets_learns_and_with_a_time_told_it_cools_as_ever(tmp_path: Path) -> None:
    (tmp_path / "proxy.yaml").write_text("routing: {adaptive_limits: {'gpt-*': true}}\n")
    settings = {"config": str(tmp_path / "proxy.yaml"), "adaptive_start": "10", "recovery_wait": "0"}
    with running_house(tmp_path, 1, **settings) as house:
        numbers = look(house.proxy.http)
        assert numbers.values("deployment_limit_requests", "model") == {"gpt-5"}
        assert numbers.total("deployment_limit_requests") == 10

        house.simulator.script({"status": 429, "concurrency": 4, "events": 6, "rate": 10})
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda _: house.ask(stream=True), range(12)))
        assert {answer.status_code for answer in answers} == {200}
        assert limit(house) < 10

        house.simulator.script({"status": 429, "concurrency": 1, "events": 6, "rate": 10, "retry_after": 30})
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda _: house.ask(stream=True), range(12)))
        throttled = [answer for answer in answers if answer.status_code == 429]
        assert throttled
        assert all(25 <= int(answer.headers["retry-after"]) <= 30 for answer in throttled)
        assert house.ask().status_code == 429


@pytest.mark.parametrize(("model", "start"), [("gpt-5", 7), ("gpt-4o", None), ("anthropic--claude-4.5-sonnet", 7)])
@pytest.mark.parametrize("everywhere", [True, False])
def test_o04_whose_limits_are_learned(model: str, start: int | None, everywhere: bool) -> None:
    patterns = {"gpt-4*": False, "gpt-*": True} | ({} if everywhere else {"claude-*": True, "gemini-*": False})
    settings = Settings(adaptive_limit=everywhere, adaptive_start=7, routing=RoutingSettings(adaptive_limits=patterns))
    router, _ = build_router(settings)

    assert router.health.limit(Deployment("d0", "a", "default", "any", model, "u")) == start
    assert router.health.limit(Deployment("d0", "a", "default", "any", "gemini-2.5-pro", "u")) == (
        7 if everywhere else None
    )


def test_d05_an_overload_shrinks_the_limit(tmp_path: Path) -> None:
    with running_house(tmp_path, 1, adaptive_limit="true") as house:
        house.simulator.script({"status": 529})
        assert house.ask("messages").status_code == 529
        assert limit(house) == 14


def test_d32_the_one_that_is_well_gets_no_more_than_it_bears_and_the_others_wait(tmp_path: Path) -> None:
    with running_house(tmp_path, adaptive_limit="true") as house:
        house.simulator.script({**LIMITED, "rate": 60}, "sub-3")
        house.simulator.script({"status": 500}, "sub-0", "sub-1", "sub-2")

        with ThreadPoolExecutor(100) as pool:
            answers = list(pool.map(lambda _: house.ask(stream=True), range(300)))

        assert Counter(answer.status_code for answer in answers) == {200: 300}


@pytest.mark.parametrize("clients", [40, pytest.param(200, marks=pytest.mark.rows)])
def test_o05_after_an_outage_it_starts_low_and_there_is_no_second_one(tmp_path: Path, clients: int) -> None:
    settings = {
        "adaptive_limit": "true",
        "adaptive_start": "3",
        "breaker_open_time": "0.4",
        "queue_length": str(clients),
    }
    with running_house(tmp_path, 1, **settings) as house:
        house.simulator.script({"events": 4, "rate": 100})
        with asking(house, clients, pause=0.1):
            until(lambda: limit(house) >= 12, 10)
            house.simulator.script({"status": 500})
            until(lambda: look(house.proxy.http).total("breaker_state", model="gpt-5") == 1, 5)
            # It is back, but bears little as yet: with as many as before it would fail again
            house.simulator.script({"status": 500, "concurrency": 6, "events": 4, "rate": 6})
            until(lambda: look(house.proxy.http).total("breaker_state", model="gpt-5") == 0, 5)
            before, received, most = look(house.proxy.http), at_simulator(house)["received"], 0
            second = time.monotonic() + 0.9
            while time.monotonic() < second:
                most = max(most, at_simulator(house)["open"])
                time.sleep(0.01)
            first_second = at_simulator(house)["received"] - received
            change = Change(before, look(house.proxy.http))
            now = limit(house)

        assert 3 <= most <= now <= 6
        assert 0 < first_second <= 2 * now
        assert change("upstream_attempts_total", outcome="ok") > 0
        assert change("upstream_attempts_total", outcome="unavailable") == 0
        assert change.after.total("breaker_state", model="gpt-5") == 0
