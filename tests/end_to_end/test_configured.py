"""A proxy that is configured by a file: subaccounts, names, filters, keys, addresses, its own TLS, its snapshot."""

from __future__ import annotations

import hashlib
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import pytest
import trustme
from tests.end_to_end.asking import PATHS, body, error_of
from tests.end_to_end.configuring import LANDSCAPE, SERVE, Configured, serving, until
from tests.end_to_end.conftest import KEY, Simulator, environment, running_simulator, started

CLAUDE = "claude-sonnet-4-5"
ANTHROPIC = {"anthropic-version": "2023-06-01"}


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    with running_simulator(tmp_path_factory.mktemp("simulator"), landscape=LANDSCAPE) as running:
        yield running


def deployment(simulator: Simulator, subaccount: str, model: str) -> str:
    places = simulator.state()["subaccounts"][subaccount]["deployments"]
    return next(d["id"] for d in places if d["model"] == model)


@pytest.fixture(scope="module")
def configured(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Configured]:
    home = tmp_path_factory.mktemp("configured")
    made = Configured(home, simulator.service_keys())
    (home / "us.json").write_text(json.dumps(made.service_keys["us"]))
    (home / "team.key").write_text("sk-team-of-a-file\n")
    settings = made.settings("eu")
    settings["subaccounts"][0] |= {
        "deployments": {"our-gpt": [deployment(simulator, "eu", "gpt-4o")]},
        "exclude": ["gpt-4o"],
    }
    settings["subaccounts"].append({"name": "us", "service_key_file": "us.json", "resource_groups": ["default"]})
    settings["keys"] += [
        {"name": "team", "key_file": "team.key", "models": ["gpt-5", "fast"], "owner": "team@example.test"},
        {"name": "hashed", "hash": f"sha256:{hashlib.sha256(b'sk-hashed').hexdigest()}"},
        {"name": "variable", "key": "${TEAM_KEY}"},
    ]
    settings |= {"aliases": {"fast": "gpt-5-mini", "typo": "gpt-6"}, "trusted_proxies": ["127.0.0.1"]}
    made.write(settings)
    with serving(made, TEAM_KEY="sk-of-a-variable"):
        until(lambda: "gpt-5" in made.listed() and CLAUDE in made.listed() and "fast" in made.listed(), 10)
        yield made


def test_subaccounts_aliases_and_filters(configured: Configured) -> None:
    assert {configured.ask("gpt-5").headers["x-aicore-proxy-subaccount"] for _ in range(4)} == {"eu", "us"}
    assert configured.ask("fast").headers["x-aicore-proxy-model"] == "gpt-5-mini"
    assert configured.ask(CLAUDE).headers["x-aicore-proxy-subaccount"] == "eu"
    assert configured.ask("our-gpt").headers["x-aicore-proxy-model"] == "gpt-4o"
    assert configured.ask("gpt-4o").status_code == 404, "it is excluded"
    assert "gpt-4o" not in configured.listed()


def test_what_the_file_says_of_names_that_do_not_fit_is_a_warning(configured: Configured) -> None:
    said = [json.loads(line) for line in configured.log.splitlines() if "The alias typo stands for gpt-6" in line]
    assert [line["level"] for line in said] == ["warning"]


@pytest.mark.parametrize("key", [KEY, "sk-hashed", "sk-of-a-variable", "sk-team-of-a-file"])
def test_every_kind_of_key_serves_and_none_is_shown(configured: Configured, key: str) -> None:
    assert configured.ask("gpt-5", key).status_code == 200
    assert key not in configured.log
    secrets = [service_key["clientsecret"] for service_key in configured.service_keys.values()]
    assert not [secret for secret in secrets if secret in configured.log]


def test_a_key_with_models_may_use_those_and_sees_no_others(configured: Configured) -> None:
    key = "sk-team-of-a-file"
    assert configured.ask("fast", key).status_code == 200
    assert configured.listed(key) == {"gpt-5", "fast"}
    assert configured.listed(key, **ANTHROPIC) == {"gpt-5", "fast"}
    for protocol in PATHS:
        refused = configured.ask(CLAUDE, key, protocol)
        assert refused.status_code == 403
        error = error_of(protocol, refused)
        assert error["type"] == ("permission_error" if protocol == "messages" else "invalid_request_error")
        assert f"'team' may not use the model '{CLAUDE}'" in error["message"]
    counted = configured.proxy.http.post(
        "/v1/messages/count_tokens", json=body("messages", CLAUDE, "Hello!"), headers={"Authorization": f"Bearer {key}"}
    )
    assert counted.status_code == 403
    described = configured.proxy.http.get(f"/v1/models/{CLAUDE}", headers={"Authorization": f"Bearer {key}"})
    assert described.status_code == 404


def test_guessers_are_slowed_by_the_address_that_a_trusted_proxy_tells(configured: Configured) -> None:
    def guess(address: str, key: str = "sk-wrong") -> int:
        headers = {"Authorization": f"Bearer {key}", "X-Forwarded-For": address}
        answer = configured.proxy.http.post(PATHS["chat"], json=body("chat", "gpt-5", "Hello!"), headers=headers)
        return answer.status_code

    assert [guess("192.0.2.1", f"sk-wrong-{number}") for number in range(20)] == [401] * 20
    assert guess("192.0.2.1", "sk-wrong-20") == 429
    assert guess("192.0.2.2", "sk-wrong-21") == 401
    assert guess("192.0.2.1", KEY) == 200


def test_i21_metrics_are_for_keys_where_others_come_in(configured: Configured) -> None:
    """Behind a proxy on the same machine every connection comes from loopback."""
    http = httpx2.Client(base_url=configured.proxy.url, trust_env=False)
    away = {"X-Forwarded-For": "192.0.2.7"}
    assert http.get("/metrics").status_code == 200, "on this machine, and nobody forwarded it"
    assert http.get("/metrics", headers=away).status_code == 401
    assert http.get("/metrics", headers={**away, "x-api-key": "sk-wrong"}).status_code == 401
    assert http.get("/metrics", headers={**away, "x-api-key": KEY}).status_code == 200


@pytest.mark.timed
@pytest.mark.parametrize("workers", [1, 2])
def test_tls_of_our_own_and_a_renewed_certificate(simulator: Simulator, tmp_path: Path, workers: int) -> None:
    authority = trustme.CA()
    certificate, private = tmp_path / "tls.crt", tmp_path / "tls.key"

    def renew() -> bytes:
        issued = authority.issue_cert("127.0.0.1")
        private.write_bytes(issued.private_key_pem.bytes())
        certificate.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        return ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode())

    made = Configured(tmp_path, simulator.service_keys())
    first = renew()
    made.write(made.settings("eu", tls_certificate="tls.crt", tls_key="tls.key", workers=workers))
    trust = ssl.create_default_context()
    authority.configure_trust(trust)

    def shown() -> bytes:
        port = int(made.proxy.url.rsplit(":", 1)[1])
        return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", port)))

    with serving(made, ready=False):
        assert made.proxy.url.startswith("https://127.0.0.1:")
        made.proxy.http = httpx2.Client(base_url=made.proxy.url, verify=trust, trust_env=False, timeout=30)
        until(lambda: made.proxy.http.get("/health/ready").status_code == 200, 20)
        assert made.ask("gpt-5").status_code == 200
        assert shown() == first
        second = renew()
        until(lambda: {shown() for _ in range(8)} == {second}, 12)
        assert made.ask("gpt-5").status_code == 200, "the open connection goes on"


@contextmanager
def ai_api(simulator: Simulator) -> Iterator[tuple[str, threading.Event]]:
    """A way to the simulator whose AI API is down while the event is set: its URL, and the event."""
    down = threading.Event()

    class Way(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._pass_on()

        def do_POST(self) -> None:
            self._pass_on()

        def _pass_on(self) -> None:
            sent = self.rfile.read(int(self.headers.get("content-length", 0)))
            status, content = 503, b"no healthy upstream"
            if not down.is_set() or "/inference/" in self.path:
                passed = {name: value for name, value in self.headers.items() if name.lower() != "content-length"}
                answer = httpx2.request(
                    self.command, simulator.url + self.path, content=sent, headers=passed, trust_env=False
                )
                status, content = answer.status_code, answer.content
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Way)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", down
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.timed
def test_a_start_survives_an_ai_api_that_is_down(simulator: Simulator, tmp_path: Path) -> None:
    """With the deployments that were last known; without them it starts too, and goes on looking."""
    made = Configured(tmp_path, simulator.service_keys())
    with ai_api(simulator) as (url, down):
        settings = made.settings("eu")
        settings["subaccounts"][0]["service_key"] |= {"serviceurls": {"AI_API_URL": url}}
        made.write(settings)
        with serving(made):
            assert made.ask("gpt-5").status_code == 200
            until((tmp_path / "state" / "aicore-proxy" / "deployments.json").exists, 5)
        down.set()
        with serving(made, ready=False):
            until(lambda: made.proxy.http.get("/health/ready").status_code == 200, 5)
            assert made.ask("gpt-5").status_code == 200
            assert "deployments as last known on" in made.log
        (tmp_path / "state" / "aicore-proxy" / "deployments.json").unlink()
        with serving(made, ready=False):
            assert made.ask("gpt-5").status_code == 503
            assert made.proxy.http.get("/health/ready").status_code == 503
            down.clear()
            until(lambda: made.proxy.http.get("/health/ready").status_code == 200, 15)


def test_an_unusable_file_says_everything_and_opens_no_port(simulator: Simulator, tmp_path: Path) -> None:
    made = Configured(tmp_path, simulator.service_keys())
    settings = made.settings("eu", strategi="round_robin")
    del settings["subaccounts"][0]["service_key"]["clientsecret"]
    settings["keys"].append({"name": "main", "key": "sk-other"})
    made.write(settings)
    environ = environment(tmp_path, AICORE_PROXY_CONFIG=str(made.file))
    process, lines, _ = started(SERVE, environ, "not usable")
    assert process.wait(10) == 1
    told = "".join(lines)
    assert "strategi is not a setting: did you mean 'strategy'?" in told
    assert "Base URL" not in told
    assert "sk-other" not in told
