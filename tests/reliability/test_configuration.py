"""Configurations that do not fit: something twice, nothing usable, an upstream that is the proxy itself."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise, product
from pathlib import Path

import httpx2
import pytest
from tests.end_to_end.asking import PROTOCOLS, error_of
from tests.end_to_end.configuring import Configured, serving, until
from tests.end_to_end.conftest import running_proxy, running_simulator
from tests.reliability.conftest import MODELS, House
from tests.reliability.forwarder import natted
from tests.telemetry.reading import Change, changed, look

CLOSED = "http://127.0.0.1:9"


def test_g04_what_stands_twice_is_one_with_a_warning(tmp_path: Path) -> None:
    """The same service key; another one that lists the same deployment; the same key again, after a reload."""
    same = {"model": "gpt-5", "id": "d0123456789abcde"}
    landscape = {"subaccounts": [{"name": name, "deployments": [same]} for name in ("eu", "us")]}
    with running_simulator(tmp_path, landscape=landscape) as simulator:
        made = Configured(tmp_path, simulator.service_keys())
        settings = made.settings("eu", "eu", "us", deployment_limit=1)
        settings["subaccounts"][1] = {**settings["subaccounts"][0], "name": "again"}
        made.write(settings)
        with serving(made):
            made.logged("us: 1 of its deployments are also those of eu, and are served once, from there.")
            assert "subaccounts[1].service_key: it is the service key of eu too: it is used once" in made.log
            simulator.script({"delay": 0.2})
            with ThreadPoolExecutor(4) as pool:
                answers = list(pool.map(lambda _: made.ask("gpt-5"), range(4)))
            assert {answer.status_code for answer in answers} == {200}
            assert {answer.headers["x-aicore-proxy-subaccount"] for answer in answers} == {"eu"}
            assert simulator.received_by_subaccount("gpt-5") == {"eu": 4, "us": 0}
            came = [entry["at"] for entry in simulator.requests()]
            assert min(later - earlier for earlier, later in pairwise(came)) >= 0.18  # never two at once

            settings["subaccounts"].append({**settings["subaccounts"][2], "name": "us again"})
            made.write(settings)
            made.logged("subaccounts[3].service_key: it is the service key of us too: it is used once")
            assert made.ask("gpt-5").headers["x-aicore-proxy-subaccount"] == "eu"


def test_g06_without_a_usable_subaccount_it_starts_says_why_and_is_there_once_one_is(tmp_path: Path) -> None:
    with running_simulator(tmp_path, landscape={"subaccounts": {"eu": ["gpt-5"], "us": ["gpt-5"]}}) as simulator:
        made = Configured(tmp_path, simulator.service_keys())
        settings = made.settings("eu", "us")
        refused, away = ({**one, "service_key": {**one["service_key"]}} for one in settings["subaccounts"])
        refused["service_key"]["clientsecret"] = "another"
        away["service_key"] |= {"url": CLOSED, "serviceurls": {"AI_API_URL": CLOSED}}
        made.write({**settings, "subaccounts": [refused, away]})
        with serving(made, ready=False):
            made.logged("Bad credentials")
            made.logged("127.0.0.1:9")
            assert made.proxy.http.get("/health/live").status_code == 200
            assert made.proxy.http.get("/health/ready").status_code == 503
            assert made.listed() == set()
            for protocol, status in (("chat", 503), ("messages", 529)):
                answer = made.ask("gpt-5", protocol=protocol)
                assert answer.status_code == status
                assert "No deployment is known yet" in error_of(protocol, answer)["message"]
                assert int(answer.headers["retry-after"]) >= 1
            made.write({**settings, "subaccounts": [refused, settings["subaccounts"][1]]})
            until(lambda: made.proxy.http.get("/health/ready").status_code == 200, 10)
            assert made.ask("gpt-5").status_code == 200


@pytest.mark.parametrize("workers", [1, 2])
def test_g05_an_upstream_that_is_the_proxy_itself_is_told_after_one_hop(tmp_path: Path, workers: int) -> None:
    """SAP lists deployments of one subaccount with the address of a balancer whose backend is the proxy."""
    with natted(0) as balancer:
        url = f"http://127.0.0.1:{balancer.port}"
        looped = {"name": "sub-0", "deployments": [{"model": model, "url": url} for model in MODELS]}
        landscape = {"subaccounts": [looped, {"name": "sub-1", "models": [MODELS[0]]}]}
        settings = {"breakers": "true", "breaker_open_time": "60", "log_level": "error", "workers": str(workers)}
        with (
            running_simulator(tmp_path, "--fast", landscape=landscape) as simulator,
            running_proxy(tmp_path, simulator, **settings) as proxy,
        ):
            house = House(simulator, proxy)
            balancer.target = proxy.port
            before, tokens = look(proxy.http), house.token_requests()

            answers = [house.ask(*way, stream=stream) for *way, stream in product(PROTOCOLS, MODELS[1:], (False, True))]
            for (protocol, _, _), answer in zip(product(PROTOCOLS, MODELS[1:], (False, True)), answers, strict=True):
                assert answer.status_code == 508
                assert "A loop: the address of the deployment sub-0/" in error_of(protocol, answer)["message"]
                assert answer.headers["x-should-retry"] == "false"
                assert "x-aicore-proxy-hop" not in answer.headers  # nobody else is to know it
            change = changed(proxy.http, before, 2 * len(answers))
            assert change("requests_total", status="508") == 2 * len(answers)
            assert change("upstream_attempts_total") == len(answers)
            assert house.token_requests() == tokens, "no token was refused"

            # Where there is another way nobody sees it, and once the breaker is open nobody goes there
            before = look(proxy.http)
            assert Counter(house.ask(protocol).status_code for protocol in PROTOCOLS * 20) == {200: 40}
            assert 5 <= Change(before, look(proxy.http))("requests_total", status="508") <= 5 * workers


def test_g05_a_header_that_is_not_ours_is_refused_like_any_other(tmp_path: Path) -> None:
    with running_simulator(tmp_path) as simulator, running_proxy(tmp_path, simulator) as proxy:
        assert House(simulator, proxy).ask().status_code == 200
        (sent,) = {record["headers"]["x-aicore-proxy-hop"] for record in simulator.requests()}
        http = httpx2.Client(base_url=proxy.url, trust_env=False)
        for hop, statuses in ((sent, [508, 508, 508]), (f"{sent}0", [401, 404, 405]), ("", [401, 404, 405])):
            ways = (("GET", "/v1/models"), ("GET", "/v1/none"), ("GET", "/v1/messages"))
            told = [http.request(*way, headers={"x-aicore-proxy-hop": hop}).status_code for way in ways]
            assert told == statuses
        # With a key it is let in: whoever has one is no loop
        assert proxy.http.get("/v1/models", headers={"x-aicore-proxy-hop": sent}).status_code == 200
