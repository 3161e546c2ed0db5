"""A configuration that changes while the proxy serves: by its file, by the files in it, by SIGHUP; under load."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import httpx2
import pytest
import trustme
from tests.end_to_end.asking import PATHS, body, simulate
from tests.end_to_end.configuring import LANDSCAPE, Configured, mounted, serving, until
from tests.end_to_end.conftest import KEY, Simulator, environment, running_simulator, started, stopped

pytestmark = pytest.mark.timed

OTHER = "sk-test-another"


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[Simulator]:
    with running_simulator(tmp_path, landscape=LANDSCAPE) as running:
        yield running


@pytest.fixture
def configured(tmp_path: Path, simulator: Simulator) -> Configured:
    return Configured(tmp_path, simulator.service_keys())


class Load:
    """Clients that ask without a pause, every other one streamed, while something happens."""

    def __init__(self, configured: Configured) -> None:
        self._configured = configured
        self._stop = asyncio.Event()
        self.failed: list[str] = []
        self.done = 0

    async def run(self, clients: int, happening: Any) -> None:
        headers = {"Authorization": f"Bearer {KEY}"}
        async with (
            aiohttp.ClientSession(self._configured.proxy.url, headers=headers) as session,
            asyncio.TaskGroup() as group,
        ):
            for number in range(clients):
                group.create_task(self._ask(session, stream=number % 2 == 0))
            try:
                await happening
            finally:
                self._stop.set()

    async def _ask(self, session: aiohttp.ClientSession, *, stream: bool) -> None:
        text = simulate(events=30, rate=20) if stream else "Hello!"
        while not self._stop.is_set():
            async with session.post(PATHS["chat"], json=body("chat", "gpt-5", text, stream=stream)) as answer:
                told = await answer.text()
                whole = told.endswith("data: [DONE]\n\n") if stream else '"finish_reason"' in told
                if answer.status != 200 or not whole or '"error"' in told:
                    self.failed.append(told[-300:])
                self.done += 1


def tokens_of(simulator: Simulator) -> dict[str, int]:
    return {name: place["token_requests"] for name, place in simulator.state()["subaccounts"].items()}


def subaccounts_that_answer(configured: Configured, model: str = "gpt-5") -> set[str]:
    return {configured.ask(model).headers["x-aicore-proxy-subaccount"] for _ in range(6)}


@pytest.mark.parametrize("workers", [1, 2])
async def test_g02_subaccounts_come_and_go_under_load(
    configured: Configured, simulator: Simulator, workers: int
) -> None:
    """What stays is not touched: no new token, no other discovery."""
    one, both = (configured.settings(*names, workers=workers) for names in (("eu",), ("eu", "us")))
    configured.write(one)
    with serving(configured):
        configured.ask("gpt-5")
        before = tokens_of(simulator)["eu"]
        load = Load(configured)

        async def changes() -> None:
            for number in range(1, 4):
                for settings, what in ((both, "subaccount us added"), (one, "subaccount us removed")):
                    configured.write(settings)
                    await asyncio.to_thread(until, lambda w=what, n=number: configured.log.count(w) == n, 10)
                    await asyncio.sleep(0.4)

        await load.run(24, changes())
        after = tokens_of(simulator)
        last = subaccounts_that_answer(configured)
        log = configured.log

    assert load.failed == []
    assert load.done > 100
    assert after["eu"] == before
    assert after["us"] >= 3 * workers
    assert last == {"eu"}
    assert log.count("Reloaded: ") == 6, "said once, however many workers there are"
    assert "Traceback" not in log
    assert not [key for key in configured.service_keys.values() if key["clientsecret"] in log]


async def test_reloads_during_a_rolling_restart_fail_no_request(configured: Configured) -> None:
    """A worker that begins meanwhile has the newest configuration too."""
    configured.write(configured.settings("eu", "us", workers=2, drain_delay=0.01))
    with serving(configured):
        load = Load(configured)

        async def changes() -> None:
            await asyncio.sleep(0.3)
            configured.proxy.process.send_signal(signal.SIGUSR2)
            for number in range(1, 100):
                aliases = {f"name-{number}": "gpt-5"}
                configured.write(configured.settings("eu", "us", workers=2, drain_delay=0.01, aliases=aliases))
                await asyncio.to_thread(until, lambda n=number: configured.log.count("Reloaded: aliases") == n, 10)
                if "All 2 workers are replaced" in configured.log:
                    break
            asked = [await asyncio.to_thread(ask_anew, configured, f"name-{number}") for _ in range(8)]
            assert asked == [200] * 8

        await load.run(12, changes())
        assert "All 2 workers are replaced" in configured.log
    assert load.failed == []
    assert load.done > 50


def ask_anew(configured: Configured, model: str) -> int:
    return asked(configured, KEY, model)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_revoked_key_is_refused_within_two_seconds_and_a_new_one_serves(configured: Configured, workers: int) -> None:
    settings = configured.settings("eu", workers=workers)
    settings["keys"].append({"name": "other", "key": OTHER})
    configured.write(settings)
    with serving(configured):
        # On new connections, so that every worker is asked
        assert {asked(configured, OTHER) for _ in range(6)} == {200}
        settings["keys"][1] = {"name": "newer", "key": "sk-test-newer"}
        configured.write(settings)
        took = until(lambda: asked(configured, OTHER) == 401, 5, pause=0.1)
        assert took < 2.0 + 0.5 * (workers - 1)
        until(lambda: {asked(configured, OTHER) for _ in range(6)} == {401}, 1, pause=0.2)
        assert {asked(configured, "sk-test-newer") for _ in range(6)} == {200}
        assert {asked(configured, KEY) for _ in range(6)} == {200}
        configured.logged("Reloaded: key newer added, key other removed")
        assert "sk-test" not in configured.log


def asked(configured: Configured, key: str, model: str = "gpt-5") -> int:
    headers = {"Authorization": f"Bearer {key}"}
    with httpx2.Client(base_url=configured.proxy.url, headers=headers, trust_env=False, timeout=20) as client:
        return client.post(PATHS["chat"], json=body("chat", model, "Hello!")).status_code


@pytest.mark.parametrize("workers", [1, 2])
def test_g01_a_bad_file_changes_nothing_and_every_problem_is_said_once(configured: Configured, workers: int) -> None:
    configured.write(configured.settings("eu", workers=workers))
    with serving(configured):
        bad = configured.settings("eu", workers=workers, breakers="perhaps", max_attempt=3, aliases={"fast": "gpt-4o"})
        bad["keys"][0]["key"] = OTHER
        configured.write(bad)
        configured.logged("breakers must be true or false")
        configured.logged("max_attempt is not a setting: did you mean 'max_attempts'?")
        said = configured.log.count("Not reloaded")
        configured.write("subaccounts: [")
        configured.logged("not valid YAML")
        configured.file.unlink()
        configured.logged("cannot be read: No such file")
        assert configured.ask("gpt-5").status_code == 200
        assert configured.ask("fast").status_code == 404
        until(lambda: configured.log.count("Not reloaded") == said + 2, 1)
        assert "aicore_proxy_config_last_reload_success 0.0" in configured.proxy.http.get("/metrics").text
        del bad["max_attempt"]
        configured.write({**bad, "breakers": False})
        configured.logged("Reloaded: ")
        assert asked(configured, OTHER, "fast") == 200
        assert "aicore_proxy_config_last_reload_success 1.0" in configured.proxy.http.get("/metrics").text
        assert asked(configured, KEY) == 401
        assert OTHER not in configured.log


def test_t13_a_rotated_secret_serves_the_next_token_and_the_held_one_meanwhile(
    configured: Configured, simulator: Simulator
) -> None:
    file = configured.home / "eu.json"
    key = dict(configured.service_keys["eu"])
    file.write_text(json.dumps(key))
    settings = configured.settings()
    settings["subaccounts"] = [{"name": "eu", "service_key_file": "eu.json"}]
    configured.write(settings)
    with serving(configured):
        assert configured.ask("gpt-5").status_code == 200
        before = tokens_of(simulator)["eu"]
        rotate(simulator, "eu", "rotated-secret")
        file.write_text(json.dumps({**key, "clientsecret": "rotated-secret"}))
        configured.logged("Reloaded: subaccount eu: new credentials")
        assert configured.ask("gpt-5").status_code == 200
        # A secret that is wrong is known at once, not when the held token ends
        until(lambda: tokens_of(simulator)["eu"] == before + 1, 5)
        simulator.revoke_tokens()
        assert configured.ask("gpt-5").status_code == 200
        assert "rotated-secret" not in configured.log
        file.write_text(json.dumps({**key, "clientsecret": "wrong-secret"}))
        configured.logged("refuses the credentials")
        assert configured.ask("gpt-5").status_code == 200, "the held token serves on"
        file.write_text(json.dumps({**key, "clientsecret": "rotated-secret"}))
        configured.logged("the token service works again")
        assert "wrong-secret" not in configured.log


def rotate(simulator: Simulator, subaccount: str, secret: str) -> None:
    path = f"{simulator.url}/_simulator/subaccounts/{subaccount}"
    httpx2.patch(path, json={"clientsecret": secret}, trust_env=False).raise_for_status()


def test_g03_a_mounted_secret_changes_by_a_link_that_is_swapped(configured: Configured, simulator: Simulator) -> None:
    mount = configured.home / "mount"
    key = dict(configured.service_keys["eu"])
    mounted(mount, "one", {"eu.json": json.dumps(key), "client.key": KEY})
    settings = configured.settings()
    settings["subaccounts"] = [{"name": "eu", "service_key_file": "mount/eu.json"}]
    settings["keys"] = [{"name": "main", "key_file": "mount/client.key"}]
    configured.write(settings)
    with serving(configured):
        assert configured.ask("gpt-5").status_code == 200
        rotate(simulator, "eu", "rotated-secret")
        changed = {"eu.json": json.dumps({**key, "clientsecret": "rotated-secret"}), "client.key": OTHER}
        mounted(mount, "two", changed)
        assert until(lambda: asked(configured, OTHER) == 200, 5, pause=0.2) < 3
        assert asked(configured, KEY) == 401
        simulator.revoke_tokens()
        assert asked(configured, OTHER) == 200
        configured.logged("Reloaded: key main: another value, subaccount eu: new credentials")


def test_a_profile_of_sap_s_sdk_is_watched_too(configured: Configured, simulator: Simulator) -> None:
    """Without subaccounts in the file the credentials are where SAP's SDKs have them."""
    profile = configured.home / ".aicore"
    profile.mkdir()

    def write(secret: str) -> None:
        key = configured.service_keys["eu"]
        values = {"CLIENT_ID": key["clientid"], "CLIENT_SECRET": secret, "AUTH_URL": key["url"]}
        values["BASE_URL"] = key["serviceurls"]["AI_API_URL"] + "/v2"
        (profile / "config.json").write_text(json.dumps({f"AICORE_{name}": value for name, value in values.items()}))

    write(configured.service_keys["eu"]["clientsecret"])
    configured.write(configured.settings())
    with serving(configured):
        assert configured.ask("gpt-5").status_code == 200
        rotate(simulator, "eu", "rotated-secret")
        write("rotated-secret")
        configured.logged("Reloaded: subaccount default: new credentials")
        simulator.revoke_tokens()
        assert configured.ask("gpt-5").status_code == 200
        (profile / "config.json").unlink()
        configured.logged("Not reloaded")
        assert configured.ask("gpt-5").status_code == 200


@pytest.mark.parametrize("workers", [1, 2])
def test_sighup_and_what_only_a_restart_changes(configured: Configured, workers: int) -> None:
    configured.write(configured.settings("eu", workers=workers))
    with serving(configured):
        configured.proxy.process.send_signal(signal.SIGHUP)
        assert configured.logged("nothing has changed") < 2
        changed = configured.settings("eu", workers=workers + 1, host="0.0.0.0", aliases={"fast": "gpt-4o"})
        configured.write(changed)
        configured.proxy.process.send_signal(signal.SIGHUP)
        assert configured.logged("Only a restart changes: host, workers") < 3
        configured.logged("Reloaded: aliases")
        assert configured.ask("fast").headers["x-aicore-proxy-model"] == "gpt-4o"
        assert configured.proxy.process.poll() is None
        assert configured.log.count("Reloaded: ") == 1


def test_settings_of_requests_change_with_the_next_request(configured: Configured) -> None:
    configured.write(configured.settings("eu"))
    with serving(configured):
        long = "x" * 5000
        assert configured.ask("gpt-5", text=long).status_code == 200
        configured.write(configured.settings("eu", body_limit=4000, models={"exclude": ["gpt-4o"]}))
        until(lambda: configured.ask("gpt-5", text=long).status_code == 413, 5)
        assert "gpt-4o" not in configured.listed()
        configured.write(configured.settings("eu", models={"include": ["gpt-4*"]}))
        until(lambda: configured.listed() == {"gpt-4o"}, 5)


def test_a_request_that_began_before_a_reload_keeps_what_it_began_with(configured: Configured) -> None:
    """Its key is revoked, its subaccount removed, and its body not all sent."""
    settings = configured.settings("us", "eu")
    settings["keys"].append({"name": "other", "key": OTHER})
    configured.write(settings)
    sent = json.dumps(body("chat", "gpt-5-mini", "Hello!")).encode()
    head = (
        f"POST {PATHS['chat']} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {OTHER}\r\n"
        f"Content-Type: application/json\r\nConnection: close\r\nContent-Length: {len(sent)}\r\n\r\n"
    )
    with serving(configured):
        until(lambda: {"gpt-5-mini", "gpt-4o"} <= configured.listed(), 5)
        with socket.create_connection(("127.0.0.1", configured.proxy.port), timeout=20) as connection:
            connection.sendall(head.encode() + sent[:20])
            until(lambda: "aicore_proxy_in_flight_requests 1.0" in configured.proxy.http.get("/metrics").text, 5)
            configured.write(configured.settings("eu"))
            configured.logged("Reloaded: key other removed, subaccount us removed")
            assert asked(configured, OTHER) == 401
            connection.sendall(sent[20:])
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200 "), answer[:500]
    assert b"x-aicore-proxy-subaccount: us" in answer


def test_s07_a_stream_outlives_its_key_its_subaccount_and_its_alias(configured: Configured) -> None:
    settings = configured.settings("us", "eu", aliases={"mini": "gpt-5-mini"})
    settings["keys"].append({"name": "other", "key": OTHER})
    configured.write(settings)
    told: list[str] = []

    def stream() -> None:
        asked = body("chat", "mini", simulate(events=60, rate=15), stream=True)
        headers = {"Authorization": f"Bearer {OTHER}"}
        told.append(configured.proxy.http.post(PATHS["chat"], json=asked, headers=headers).text)

    with serving(configured):
        until(lambda: "mini" in configured.listed(), 5)
        streaming = threading.Thread(target=stream)
        streaming.start()
        configured.write(configured.settings("eu"))
        configured.logged("Reloaded: ")
        until(lambda: asked(configured, OTHER) == 401, 2)
        assert configured.ask("mini").status_code == 404
        streaming.join(20)
    assert told[0].count('"content"') >= 60
    assert told[0].endswith("data: [DONE]\n\n")


def test_a_folder_of_service_keys_is_watched(configured: Configured) -> None:
    """One file per subaccount comes and goes; the log level changes on the way."""
    folder = configured.home / "keys"
    folder.mkdir()
    (folder / "eu.json").write_text(json.dumps(configured.service_keys["eu"]))
    configured.write(configured.settings(service_keys=str(folder)))
    with serving(configured):
        assert subaccounts_that_answer(configured) == {"eu"}
        (folder / "us.json").write_text(json.dumps(configured.service_keys["us"]))
        configured.logged("Reloaded: subaccount us added")
        until(lambda: subaccounts_that_answer(configured) == {"eu", "us"}, 5)
        (folder / "eu.json").unlink()
        configured.logged("Reloaded: subaccount eu removed")
        assert subaccounts_that_answer(configured) == {"us"}
        assert lines_of_requests(configured, 5) == 3
        configured.write(configured.settings(service_keys=str(folder), log_level="warning"))
        until(lambda: lines_of_requests(configured, 0.5) == 0, 10)


def lines_of_requests(configured: Configured, seconds: float) -> int:
    """Lines of the log that three requests make, waited for up to so long."""
    answers = [configured.ask("gpt-5") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3
    ids = [answer.headers["x-request-id"] for answer in answers]

    def told() -> int:
        return sum(any(each in line for each in ids) for line in tuple(configured.proxy.lines))

    deadline = time.monotonic() + seconds
    while told() < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    return told()


def test_a_mounted_binding_with_a_certificate_is_renewed(tmp_path: Path) -> None:
    """As on Kyma: X.509 keys live for days, and the operator swaps the whole secret."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")

    def issued() -> tuple[str, str]:
        pair = authority.issue_cert("client@example.test", key_type=trustme.KeyType.RSA)
        return pair.cert_chain_pems[0].bytes().decode(), pair.private_key_pem.bytes().decode()

    chain, private = issued()
    landscape = {"subaccounts": [{"name": "eu", "models": ["gpt-5"], "certificate": chain}]}
    options = ["--tls-cert", str(tmp_path / "server.pem"), "--client-ca", str(tmp_path / "ca.pem")]
    (tmp_path / "landscape.json").write_text(json.dumps(landscape))
    options += ["--landscape", str(tmp_path / "landscape.json")]
    command = [sys.executable, "-m", "aicore_proxy.simulator", "--port", "0", "--announce", *options]
    process, _, line = started(command, environment(tmp_path), '"url"')
    trust = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    try:
        url = json.loads(line)["url"]
        with httpx2.Client(base_url=url, verify=trust, trust_env=False) as control:
            key = control.get("/_simulator/service-keys").json()["eu"]

            def mount(version: str, chain: str, private: str) -> None:
                texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in key.items()}
                files = {**texts, "certificate": chain, "key": private, "type": "aicore"}
                mounted(tmp_path / "bindings" / "models", version, files)

            mount("one", chain, private)
            configured = Configured(tmp_path, {})
            configured.write(configured.settings())
            variables = {"SERVICE_BINDING_ROOT": str(tmp_path / "bindings"), "SSL_CERT_FILE": str(tmp_path / "ca.pem")}
            with serving(configured, **variables):
                assert configured.ask("gpt-5").status_code == 200
                mount("two", "-----BEGIN CERTIFICATE-----\nnone\n-----END CERTIFICATE-----\n", private)
                configured.logged("Not reloaded")
                assert configured.ask("gpt-5").status_code == 200
                renewed = issued()
                control.patch("/_simulator/subaccounts/eu", json={"certificate": renewed[0]}).raise_for_status()
                mount("three", *renewed)
                configured.logged("Reloaded: subaccount models: new credentials")
                control.delete("/_simulator/tokens").raise_for_status()
                assert configured.ask("gpt-5").status_code == 200
                assert "PRIVATE" not in configured.log
    finally:
        stopped(process)


def test_a_file_that_was_found_and_is_deleted_is_an_error(configured: Configured) -> None:
    """Not a reason to look elsewhere, and to serve without keys and subaccounts."""
    configured.file = configured.home / ".config" / "aicore-proxy" / "config.yaml"
    configured.file.parent.mkdir(parents=True)
    settings = configured.settings("eu")
    configured.write(settings)
    with serving(configured, AICORE_PROXY_CONFIG="", AICORE_SERVICE_KEY=json.dumps(configured.service_keys["us"])):
        configured.file.unlink()
        configured.logged("cannot be read: No such file")
        assert subaccounts_that_answer(configured) == {"eu"}
        configured.write({**settings, "aliases": {"fast": "gpt-4o"}})
        configured.logged("Reloaded: aliases (fast)")
