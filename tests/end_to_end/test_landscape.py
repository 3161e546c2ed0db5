"""Deployments that stop, move, change, go and come while the proxy serves; keys with a certificate."""

from __future__ import annotations

import json
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trustme
from tests.end_to_end.conftest import (
    KEY,
    Proxy,
    Simulator,
    environment,
    running_proxy,
    running_simulator,
    started,
    stopped,
)

pytestmark = pytest.mark.timed

LANDSCAPE = {"subaccounts": {"eu": ["gpt-5", "gpt-4o"], "us": ["gpt-5"]}}


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[Simulator]:
    with running_simulator(tmp_path, landscape=LANDSCAPE) as running:
        yield running


def ask(proxy: Proxy, model: str) -> httpx2.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}]}
    return proxy.http.post("/v1/chat/completions", json=body)


def change(simulator: Simulator, method: str, path: str, body: Any = None) -> Any:
    answer = httpx2.request(method, f"{simulator.url}/_simulator/{path}", json=body, trust_env=False)
    return answer.raise_for_status().json()


def deployment(simulator: Simulator, subaccount: str, model: str) -> str:
    places = simulator.state()["subaccounts"][subaccount]["deployments"]
    return next(d["id"] for d in places if d["model"] == model)


def listed(proxy: Proxy) -> set[str]:
    return {entry["id"] for entry in proxy.http.get("/v1/models").json()["data"]}


def until(true: Callable[[], Any], seconds: float) -> float:
    begun = time.monotonic()
    while not true():
        assert time.monotonic() - begun < seconds
        time.sleep(0.05)
    return time.monotonic() - begun


def test_changes_appear_within_the_refresh_time(simulator: Simulator, tmp_path: Path) -> None:
    """With one second instead of five minutes; nobody asks for the models meanwhile."""
    with running_proxy(tmp_path, simulator, discovery_interval="1") as proxy:
        until(lambda: listed(proxy) == {"gpt-5", "gpt-4o"}, 5)
        gpt_4o = deployment(simulator, "eu", "gpt-4o")
        change(simulator, "POST", "deployments", {"subaccount": "us", "model": "gpt-5-mini", "resource_group": "new"})
        until(lambda: "gpt-5-mini" in listed(proxy), 5)
        assert ask(proxy, "gpt-5-mini").status_code == 200
        change(simulator, "PATCH", f"deployments/{gpt_4o}", {"resource_group": "team"})
        time.sleep(3)
        assert ask(proxy, "gpt-4o").status_code == 200, "it moved"
        change(simulator, "PATCH", f"deployments/{gpt_4o}", {"model": "gpt-4.1"})
        until(lambda: listed(proxy) == {"gpt-5", "gpt-4.1", "gpt-5-mini"}, 5)
        assert ask(proxy, "gpt-4.1").status_code == 200
        change(simulator, "PATCH", f"deployments/{gpt_4o}", {"status": "STOPPED"})
        until(lambda: "gpt-4.1" not in listed(proxy), 10)
        assert ask(proxy, "gpt-4.1").status_code == 404
        change(simulator, "PATCH", f"deployments/{gpt_4o}", {"status": "RUNNING"})
        until(lambda: "gpt-4.1" in listed(proxy), 5)
        change(simulator, "DELETE", f"deployments/{gpt_4o}")
        until(lambda: "gpt-4.1" not in listed(proxy), 10)


def test_changes_appear_at_once_after_an_answer_that_says_so(simulator: Simulator, tmp_path: Path) -> None:
    """With the refresh time of five minutes; two looks are at least ten seconds apart."""
    with running_proxy(tmp_path, simulator) as proxy:
        us = deployment(simulator, "us", "gpt-5")
        assert {ask(proxy, "gpt-5").headers["x-aicore-proxy-subaccount"] for _ in range(2)} == {"eu", "us"}
        change(simulator, "PATCH", f"deployments/{us}", {"status": "STOPPED"})
        answers = [ask(proxy, "gpt-5") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200] * 4, "another serves meanwhile"
        looks = simulator.state()["subaccounts"]["us"]["ai_api_requests"]
        until(lambda: simulator.state()["subaccounts"]["us"]["ai_api_requests"] > looks, 15)
        change(simulator, "POST", "deployments", {"subaccount": "eu", "model": "gpt-5-nano"})
        until(lambda: ask(proxy, "gpt-5-nano").status_code == 200, 25)
        time.sleep(0.5)
        before = simulator.received()
        assert all(ask(proxy, "gpt-5").headers["x-aicore-proxy-attempts"] == "1" for _ in range(4))
        assert simulator.received().get(us) == before.get(us), "nobody asks the stopped one any more"


def test_a_key_with_a_certificate_serves(tmp_path: Path) -> None:
    """The whole way: mutual TLS for the token, TLS for the rest, one CA for both."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    issued = authority.issue_cert("client@example.test", key_type=trustme.KeyType.RSA)
    chain, private = issued.cert_chain_pems[0].bytes().decode(), issued.private_key_pem.bytes().decode()
    landscape = {"subaccounts": [{"name": "eu", "models": ["gpt-5"], "certificate": chain}]}
    (tmp_path / "landscape.json").write_text(json.dumps(landscape))
    options = ["--tls-cert", "server.pem", "--client-ca", "ca.pem", "--landscape", "landscape.json"]
    options = [option if option.startswith("--") else str(tmp_path / option) for option in options]
    simulate = [sys.executable, "-m", "aicore_proxy.simulator", "--port", "0", "--announce", *options]
    process, _, line = started(simulate, environment(tmp_path), '"url"')
    try:
        url = json.loads(line)["url"]
        trust = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        with httpx2.Client(verify=trust, trust_env=False) as http:
            key = http.get(f"{url}/_simulator/service-keys").json()["eu"]
        assert key["certurl"].startswith("https://127.0.0.1:")
        vcap = {"aicore": [{"label": "aicore", "name": "models", "credentials": {**key, "key": private}}]}
        environ = environment(
            tmp_path,
            VCAP_SERVICES=json.dumps(vcap),
            SSL_CERT_FILE=str(tmp_path / "ca.pem"),
            AICORE_PROXY_API_KEY=KEY,
            AICORE_PROXY_PORT="0",
        )
        served, lines, said = started([sys.executable, "-m", "aicore_proxy", "serve"], environ, "Base URL")
        proxy = Proxy(said.split()[-1], served, lines)
        try:
            until(lambda: proxy.http.get("/health/ready").status_code == 200, 20)
            answer = ask(proxy, "gpt-5")
            assert answer.status_code == 200
            assert answer.headers["x-aicore-proxy-subaccount"] == "models"
            assert "PRIVATE" not in "".join(lines)
        finally:
            stopped(served)
    finally:
        stopped(process)
