"""Faults of the token service and of the AI API: what a client notices of them."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from tests.end_to_end.asking import PROTOCOLS, error_of
from tests.end_to_end.conftest import KEY, Proxy, Simulator, environment, running_simulator, started, stopped
from tests.reliability.conftest import MODELS, SUBACCOUNTS, House, running_house, until

pytestmark = pytest.mark.timed


def broken(simulator: Simulator, endpoint: str, script: dict[str, Any], *at: str) -> None:
    """Breaks the token service (``token``) or the AI API (``ai_api``)."""
    body = {"script": script, "endpoint": endpoint, **({"at": list(at)} if at else {})}
    httpx2.post(f"{simulator.url}/_simulator/scripts", json=body, trust_env=False).raise_for_status()


def statuses(house: House, seconds: float) -> Counter[int]:
    """Of requests one after the other, for so long."""
    found: Counter[int] = Counter()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found[house.ask().status_code] += 1
        time.sleep(0.005)
    return found


@contextmanager
def starting(home: Path, simulator: Simulator, **settings: str) -> Iterator[Proxy]:
    """A proxy that is not waited for."""
    folder = home / "service-keys"
    folder.mkdir(exist_ok=True)
    for name, key in simulator.service_keys().items():
        (folder / f"{name}.json").write_text(json.dumps(key))
    variables = {f"AICORE_PROXY_{name.upper()}": value for name, value in {"port": "0", **settings}.items()}
    environ = environment(home, AICORE_PROXY_SERVICE_KEYS=str(folder), AICORE_PROXY_API_KEY=KEY, **variables)
    process, lines, line = started([sys.executable, "-m", "aicore_proxy", "serve"], environ, "Base URL")
    try:
        yield Proxy(line.split()[-1], process, lines)
    finally:
        stopped(process)


def test_t01_t02_a_token_service_that_is_down_costs_nobody_an_answer(tmp_path: Path) -> None:
    with running_house(tmp_path) as house:
        house.simulator.switch(expires_in=4)
        house.simulator.revoke_tokens()
        assert set(statuses(house, 1)) == {200}
        broken(house.simulator, "token", {"status": 503}, "sub-0")
        before = house.received()

        assert set(statuses(house, 5)) == {200}  # past the end of its token
        quiet = house.received()
        assert set(statuses(house, 0.5)) == {200}
        assert house.since(before)["sub-0"] > 0  # the held token went on serving
        assert house.received()["sub-0"] == quiet["sub-0"]


def test_t03_all_are_served_again_soon_after_the_service_is_back(tmp_path: Path) -> None:
    with running_house(tmp_path) as house:
        broken(house.simulator, "token", {"status": 500})
        house.simulator.revoke_tokens()
        answers = {protocol: house.ask(protocol) for protocol in PROTOCOLS for _ in range(6)}
        for protocol, answer in answers.items():
            assert answer.status_code == 502
            assert "token" in error_of(protocol, answer)["message"]
        assert house.proxy.http.get("/health/live").status_code == 200
        house.simulator.clear()
        back = time.monotonic()
        while house.ask().status_code != 200:
            assert time.monotonic() < back + 3
            time.sleep(0.05)
        assert set(statuses(house, 1)) == {200}


def test_t04_wrong_credentials_of_one_subaccount_are_tried_once_a_minute(tmp_path: Path) -> None:
    with running_house(tmp_path) as house:
        broken(house.simulator, "token", {"status": 401}, "sub-0")
        house.simulator.revoke_tokens()
        before = house.token_requests()

        assert set(statuses(house, 4)) == {200}
        assert house.token_requests()["sub-0"] - before["sub-0"] <= 2


def test_t10_a_revoked_token_is_renewed_once_for_all(tmp_path: Path) -> None:
    with running_house(tmp_path) as house:
        assert set(statuses(house, 0.5)) == {200}
        before = house.token_requests()
        house.simulator.revoke_tokens()
        with ThreadPoolExecutor(50) as pool:
            answers = Counter(pool.map(lambda _: house.ask().status_code, range(200)))
        after = house.token_requests()

        assert answers == {200: 200}
        assert {alias: after[alias] - count for alias, count in before.items()} == dict.fromkeys(SUBACCOUNTS, 1)


def test_t11_a_subaccount_that_refuses_every_token_is_left_alone(tmp_path: Path) -> None:
    with running_house(tmp_path, breaker_open_time="30") as house:
        house.simulator.script({"status": 401}, "sub-0")
        before, tokens = house.received(), house.token_requests()

        assert set(statuses(house, 2)) == {200}
        # three attempts, each with the token and, as far as one is asked for, the new one
        assert 3 <= house.since(before)["sub-0"] <= 6
        assert house.token_requests()["sub-0"] - tokens["sub-0"] <= 1


def test_a01_the_last_known_deployments_serve_while_the_ai_api_is_away(tmp_path: Path) -> None:
    with running_house(tmp_path, discovery_interval="0.5") as house:
        broken(house.simulator, "ai_api", {"status": 504})
        assert set(statuses(house, 2)) == {200}
        for script in ({"garbage": "html"}, {"garbage": "json"}, {"empty": True}):
            house.simulator.clear()
            broken(house.simulator, "ai_api", script)
            assert set(statuses(house, 1)) == {200}
        assert house.proxy.http.get("/health/ready").status_code == 200


def p99(house: House, seconds: float) -> float:
    """Of what the model calls of two clients take; all are answered."""
    end = time.monotonic() + seconds

    def client(_: int) -> list[float]:
        times = []
        while (began := time.monotonic()) < end:
            assert house.ask().status_code == 200
            times.append(time.monotonic() - began)
            time.sleep(0.02)
        return times

    with ThreadPoolExecutor(2) as pool:
        times = sorted(time for times in pool.map(client, range(2)) for time in times)
    return times[int(len(times) * 0.99)]


def slow_list(house: House, seconds: float | None) -> None:
    """The AI API takes so long for a list of deployments: 5 MiB, with much about each; None: it hangs."""
    here = house.simulator.state()["subaccounts"]["sub-0"]["deployments"]
    resources = [
        {
            "id": each["id"],
            "status": "RUNNING",
            "details": {"resources": {"backendDetails": {"model": {"name": each["model"], "version": "latest"}}}},
            "statusDetails": ["x" * 1000] * 1750,
        }
        for each in here
    ]
    drips = {"body": {"count": len(here), "resources": resources}, "rate": 100 / (seconds or 1)}
    broken(house.simulator, "ai_api", drips if seconds else {"hang": True}, "/v2/lm/deployments")


def asked_of_ai_api(house: House) -> int:
    return int(house.simulator.state()["subaccounts"]["sub-0"]["ai_api_requests"])


@pytest.mark.parametrize("seconds", [None, 0.5])
def test_a09_while_the_ai_api_hangs_or_drips_model_calls_are_none_the_slower(
    tmp_path: Path, seconds: float | None
) -> None:
    with running_house(tmp_path, 1, discovery_interval="0.5") as house:
        usual = p99(house, 0.8)
        slow_list(house, seconds)
        before = asked_of_ai_api(house)
        meanwhile = p99(house, 2)
        assert meanwhile <= usual + 0.15
        if seconds:
            until(lambda: asked_of_ai_api(house) >= before + 3, 5)  # groups, list, groups again: it was read
        else:
            assert before + 1 <= asked_of_ai_api(house) <= before + 2  # it is waited for


@pytest.mark.rows
@pytest.mark.parametrize("seconds", [None, 60])
def test_a09_a_list_of_deployments_is_given_up_after_30_s(tmp_path: Path, seconds: float | None) -> None:
    with running_house(tmp_path, 1, discovery_interval="0.5", log_level="warning") as house:
        usual = p99(house, 5)
        slow_list(house, seconds)
        began = time.monotonic()
        with ThreadPoolExecutor(1) as pool:
            calls = pool.submit(p99, house, 30)
            while "sub-0: GET /v2/lm/deployments: no answer within 30 s" not in "".join(house.proxy.lines):
                assert time.monotonic() < began + 33
                time.sleep(0.1)
            given_up = time.monotonic() - began
            assert calls.result() <= usual + 0.15

    assert given_up >= 29.5


def test_a02_a_start_without_the_ai_api_serves_from_the_snapshot(tmp_path: Path) -> None:
    landscape = {"subaccounts": [{"name": name, "models": MODELS} for name in SUBACCOUNTS]}
    with running_simulator(tmp_path, "--fast", landscape=landscape) as simulator:
        with starting(tmp_path, simulator) as proxy:
            wait_until_ready(proxy, 10)
            time.sleep(0.5)
        broken(simulator, "ai_api", {"status": 503})
        with starting(tmp_path, simulator) as proxy:
            wait_until_ready(proxy, 1.5)
            assert House(simulator, proxy).ask().status_code == 200
            assert "last known" in "".join(proxy.lines)


def test_p04_killed_as_a_whole_it_is_back_at_once_at_the_same_address(tmp_path: Path) -> None:
    landscape = {"subaccounts": [{"name": name, "models": MODELS} for name in SUBACCOUNTS]}
    with running_simulator(tmp_path, "--fast", landscape=landscape) as simulator:
        with starting(tmp_path, simulator, workers="2") as proxy:
            wait_until_ready(proxy, 10)
            port = str(proxy.port)
            whole = [*psutil.Process(proxy.process.pid).children(recursive=True), psutil.Process(proxy.process.pid)]
            for process in reversed(whole):
                process.kill()
            proxy.process.wait(5)
            psutil.wait_procs(whole, 5)
        broken(simulator, "ai_api", {"hang": True})
        with starting(tmp_path, simulator, workers="2", port=port) as proxy:
            wait_until_ready(proxy, 3)
            assert str(proxy.port) == port
            assert {House(simulator, proxy).ask().status_code for _ in range(8)} == {200}


def test_a03_a_start_without_the_ai_api_and_a_snapshot_says_so_and_recovers(tmp_path: Path) -> None:
    landscape = {"subaccounts": [{"name": name, "models": MODELS} for name in SUBACCOUNTS]}
    with running_simulator(tmp_path, "--fast", landscape=landscape) as simulator:
        broken(simulator, "ai_api", {"status": 503})
        with starting(tmp_path, simulator) as proxy:
            house = House(simulator, proxy)
            assert proxy.http.get("/health/ready").status_code == 503
            assert proxy.http.get("/health/live").status_code == 200
            assert proxy.http.get("/v1/models").json()["data"] == []
            for protocol, status in (("chat", 503), ("messages", 529)):
                answer = house.ask(protocol)
                assert answer.status_code == status
                assert "deployment" in error_of(protocol, answer)["message"]
            simulator.clear()
            wait_until_ready(proxy, 4)
            assert house.ask().status_code == 200


def wait_until_ready(proxy: Proxy, seconds: float) -> None:
    end = time.monotonic() + seconds
    while proxy.http.get("/health/ready").status_code != 200:
        assert time.monotonic() < end, "".join(proxy.lines)
        time.sleep(0.02)


def test_a07_a_deployment_that_stops_is_left_out_and_its_streams_go_on(tmp_path: Path) -> None:
    with running_house(tmp_path, discovery_interval="0.5") as house:
        place = house.simulator.state()["subaccounts"]["sub-0"]["deployments"]
        gone = next(d["id"] for d in place if d["model"] == "gpt-5")
        url = f"{house.simulator.url}/_simulator/deployments/{gone}"
        httpx2.patch(url, json={"status": "STOPPED"}, trust_env=False).raise_for_status()
        time.sleep(1.5)
        before = house.received()

        assert set(statuses(house, 1)) == {200}
        assert house.since(before)["sub-0"] == 0
