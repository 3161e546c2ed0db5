"""Faults on the way to SAP AI Core: names, and HTTP proxies of the environment."""

from __future__ import annotations

import json
import ssl
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme
from tests.end_to_end.asking import PROTOCOLS, error_of, said, simulate
from tests.end_to_end.conftest import Simulator, running_proxy, running_simulator
from tests.reliability.conftest import MODELS, SUBACCOUNTS, House
from tests.reliability.forwarder import forwarding
from tests.reliability.misled import SLOW
from tests.telemetry.reading import look

pytestmark = pytest.mark.timed

LANDSCAPE = {"subaccounts": [{"name": name, "models": MODELS} for name in SUBACCOUNTS]}
MISLED = [sys.executable, "-m", "tests.reliability.misled", "serve"]
NOBODY = "127.0.0.2"  # where nothing listens: the connection is refused
NOWHERE = "192.0.2.1"  # for documentation (RFC 5737): no answer, or no way there


class Named(Simulator):
    """A simulator whose subaccounts have a host each, their deployments' too; tokens are had elsewhere."""

    def service_keys(self) -> dict[str, Any]:
        """With ``sub-0.test`` for sub-0."""
        keys = super().service_keys()
        for name, key in keys.items():
            key["serviceurls"]["AI_API_URL"] = key["serviceurls"]["AI_API_URL"].replace("127.0.0.1", f"{name}.test")
        return keys


def test_n03_a_host_without_an_address_costs_nobody_an_answer(tmp_path: Path) -> None:
    addresses = {f"{name}.test": ["127.0.0.1"] for name in SUBACCOUNTS}
    with running_simulator(tmp_path, "--fast", landscape=LANDSCAPE) as plain:
        simulator = Named(plain.url, plain.process)
        settings: dict[str, Any] = {"command": MISLED, "breakers": "true", "log_level": "error"}
        settings |= {"breaker_open_time": "60", "discovery_interval": "1"}
        with running_proxy(tmp_path, simulator, environ={"MISLED": json.dumps(addresses)}, **settings):
            snapshot = tmp_path / "state" / "aicore-proxy" / "deployments.json"
            deadline = time.monotonic() + 10
            while not snapshot.is_file() or not all(name in snapshot.read_text() for name in addresses):
                assert time.monotonic() < deadline
                time.sleep(0.02)

        addresses |= {"sub-0.test": [], "sub-1.test": [NOBODY, "127.0.0.1"], "sub-2.test": [NOWHERE, "127.0.0.1"]}
        with running_proxy(tmp_path, simulator, environ={"MISLED": json.dumps(addresses)}, **settings) as proxy:
            house = House(simulator, proxy)
            before = house.received()
            with ThreadPoolExecutor(8) as pool:
                statuses = Counter(pool.map(lambda n: house.ask(stream=n % 2 == 0).status_code, range(80)))
            assert statuses == {200: 80}
            served = house.since(before)
            assert served["sub-0"] == 0
            assert all(served[name] > 0 for name in SUBACCOUNTS[1:])
            numbers = look(proxy.http)
            assert numbers.total("failovers_total", reason="connect") >= 1
            assert numbers.total("upstream_attempts_total", subaccount="sub-0", outcome="ok") == 0
            assert numbers.total("upstream_attempts_total", outcome="unavailable") == numbers.total("failovers_total")
            # the resolver kept a thread waiting, not the event loop
            assert numbers.total("loop_lag_seconds") < SLOW / 2


@pytest.mark.parametrize("fault", ["refuses", "407", "dies"])
def test_n05_an_http_proxy_that_fails_is_told_without_its_password(tmp_path: Path, fault: str) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    trusted = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    options = ["--fast", "--tls-cert", str(tmp_path / "server.pem")]
    with ExitStack() as stack:
        simulator = stack.enter_context(running_simulator(tmp_path, *options, landscape=LANDSCAPE, verify=trusted))
        listening = stack.enter_context(ExitStack())
        forwarder = listening.enter_context(forwarding())
        address = f"127.0.0.1:{forwarder.port}"
        proxy = stack.enter_context(
            running_proxy(
                tmp_path,
                simulator,
                breakers="true",
                breaker_open_time="0.2",
                log_level="info",
                ca_bundle=str(tmp_path / "ca.pem"),
                environ={"HTTPS_PROXY": f"http://user:s3cr%24t@{address}"},
            )
        )
        house = House(simulator, proxy)
        assert {house.ask().status_code for _ in range(8)} == {200}
        assert forwarder.credentials == {"user:s3cr$t"}

        forwarder.fault = fault
        forwarder.cut()
        if fault == "refuses":
            listening.close()
        answers = [(protocol, house.ask(protocol, stream=stream)) for protocol in PROTOCOLS for stream in (True, False)]
        for protocol, answer in answers:
            assert answer.status_code == 502
            message = error_of(protocol, answer)["message"]
            assert f"proxy {address}" in message
            assert "s3cr" not in answer.text + str(answer.headers)

        if fault == "refuses":
            listening.enter_context(forwarding(forwarder.port))
        forwarder.fault = ""
        deadline = time.monotonic() + 5
        while house.ask().status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert "s3cr" not in "".join(proxy.lines) + proxy.http.get("/metrics").text


@pytest.mark.parametrize(("seconds", "share"), [(3, 0.05), pytest.param(180, 0.01, marks=pytest.mark.rows)])
@pytest.mark.timeout(300)
def test_n09_a_far_network_that_resets_now_and_then_costs_nobody_an_answer(
    tmp_path: Path, seconds: float, share: float
) -> None:
    """40 clients. In two subaccounts connections are reset before the head, in the others after it; what the simulator
    draws by lot is seeded, and the short run draws more often."""
    with running_simulator(tmp_path, "--fast", "--seed", "9", landscape=LANDSCAPE) as simulator:
        for number, name in enumerate(SUBACCOUNTS):
            simulator.script({"reset": True, "share": share, **({"cut_after": 0} if number % 2 else {})}, name)
        with running_proxy(tmp_path, simulator, breakers="true", log_level="error") as proxy:
            house = House(simulator, proxy)
            before, end = house.received(), time.monotonic() + seconds

            def client(number: int) -> Counter[str]:
                seen: Counter[str] = Counter()
                protocol, stream = PROTOCOLS[number % 2], number % 4 < 2
                while (began := time.monotonic()) < end:
                    answer = house.ask(protocol, text=simulate(text="whole", delay=0.2), stream=stream)
                    told = answer.text if answer.status_code != 200 or '"error"' in answer.text else ""
                    seen[told or said(protocol, answer)] += 1
                    assert time.monotonic() - began >= 0.2
                return seen

            with ThreadPoolExecutor(40) as pool:
                seen = sum(pool.map(client, range(40)), Counter[str]())
            asked = seen.total()
            lost = sum(house.since(before).values()) - asked

    assert asked > 50 * seconds
    assert seen["whole"] >= 0.9999 * asked, seen
    assert 0.5 * share * asked < lost < 2 * share * asked
