"""``aicore-proxy doctor``: a healthy account, and ailments of credentials and of the way to SAP."""

from __future__ import annotations

import datetime
import json
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import trustme
from tests.cli.doctoring import (
    ALL_CALLS,
    CLAUDE,
    COMMAND,
    EU,
    GPT,
    Patient,
    Report,
    advised,
    closed_port,
    ill,
    numbered,
    treated,
)
from tests.end_to_end.conftest import environment

from aicore_proxy.simulator import in_thread
from aicore_proxy.simulator.landscape import Landscape, SubaccountSpec


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Patient]:
    yield from treated(Landscape((EU, SubaccountSpec("us", (GPT,)))), tmp_path)


# All well


def test_a_healthy_account_is_looked_at_from_end_to_end(two: Patient) -> None:
    report = two.doctor()

    report.fine()
    assert report.value["format"] == 1
    assert report.value["complete"] is True
    assert [section["name"] for section in report.value["sections"]] == ["", "eu", "us"]
    checks = {finding["check"] for finding in report.findings}
    assert checks >= {
        *("settings", "service_keys", "client_keys", "state_folder", "port", "descriptors", "ca_bundle", "http_proxy"),
        *("service_key", "token_host", "ai_api_host", "clock", "token", "resource_groups", "deployments", "model_call"),
    }
    assert {f["level"] for f in report.findings} == {"ok", "note"}, "the note: orchestration is not served"
    (token, _) = report.at("token", "ok")
    assert token["data"]["life"] == 43199
    assert token["data"]["scopes"]
    calls = {(f["data"]["model"], f["data"]["protocol"]) for f in report.at("model_call")}
    assert calls == ALL_CALLS
    received = [entry for entry in two.simulator.requests() if entry.get("deployment")]
    assert len(received) == 9, "two of each chat model, one of the other, in each subaccount"


def test_a_call_costs_few_tokens_and_without_calls_none_is_made(patient: Patient) -> None:
    assert patient.doctor("--no-calls").at("model_call") == []
    assert patient.simulator.requests() == []

    patient.doctor("--model", "claude-*")
    made = patient.simulator.requests()
    (claude,) = patient.simulator.deployments(CLAUDE)
    assert [entry["deployment"] for entry in made] == [claude["id"], claude["id"]]
    assert all(entry["body"]["max_tokens"] <= 16 for entry in made)


def test_a_pattern_that_meets_nothing_is_no_success(patient: Patient) -> None:
    report = patient.doctor("--model", "gpt-9")

    assert report.code == 1
    advised(report.only("model_call", "failure"), "aicore-proxy models")


def test_demo_needs_no_account(tmp_path: Path) -> None:
    environ = environment(tmp_path)
    done = subprocess.run(
        [*COMMAND, "doctor", "--demo", "--model", "gpt-5"], env=environ, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing of your account is looked at" in " ".join(done.stdout.split())
    assert "All well" in done.stdout


# Credentials


def test_without_credentials_the_ways_to_give_them_are_told(tmp_path: Path) -> None:
    environ = {**environment(tmp_path), "AICORE_PROXY_PORT": "0"}
    done = subprocess.run([*COMMAND, "doctor"], env=environ, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    for word in ("AICORE_SERVICE_KEY", "BTP cockpit", "AICORE_PROXY_SERVICE_KEYS", "doctor --demo"):
        assert word in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("content", "says", "advice"),
    [
        ('{"clientid": "sb-x", "clientsecret": "hush-hush"', "not valid JSON", "single quotes"),
        ('{"clientid": "sb-x", "clientsecret": "hush-hush"}', "AI_API_URL", "Service Keys > View"),
        (
            '{"clientid": "sb-x", "url": "https://a.example", "AI_API_URL": "https://b.example"}',
            "clientsecret",
            "Service",
        ),
    ],
)
def test_a_key_that_is_none_is_told_member_by_member(tmp_path: Path, content: str, says: str, advice: str) -> None:
    environ = {**environment(tmp_path), "AICORE_PROXY_PORT": "0", "AICORE_SERVICE_KEY": content}
    done = subprocess.run(
        [*COMMAND, "doctor", "--json"], env=environ, cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert "hush-hush" not in done.stdout + done.stderr
    findings = [f for section in json.loads(done.stdout)["sections"] for f in section["findings"]]
    failures = [f for f in findings if f["check"] == "service_keys" and f["level"] == "failure"]
    assert any(says in f["words"] for f in failures)
    assert any(advice in step for f in failures for step in f["advice"])


def test_a_wrong_secret_is_a_deleted_or_rotated_key(two: Patient) -> None:
    two.simulator.call("PATCH", "subaccounts/eu", {"clientsecret": "another"})

    report = two.doctor()

    token = report.at("token", "failure")
    assert len(token) == 1
    assert "Bad credentials" in token[0]["words"]
    advised(token[0], "rotated", "Create a new service key", str(two.home / "service-keys"))
    assert report.failures() == {"token"}
    assert {f["data"]["model"] for f in report.at("model_call", "ok")} == {GPT}, "the other subaccount works"


TOKEN: list[tuple[dict[str, Any], str, str]] = [
    ({"status": 429, "retry_after": 30}, "429", "wait a minute"),
    ({"status": 503}, "503", "cloud-service-status"),
    ({"garbage": "html"}, "access_token", "authentication.<region>.hana.ondemand.com"),
    ({"hang": True}, "did not answer", "try again"),
]


@pytest.fixture(scope="module")
def token_troubles(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return ill(tmp_path_factory.mktemp("token"), [case[0] for case in TOKEN], "token")


@pytest.mark.timed
@pytest.mark.parametrize(("subaccount", "script", "says", "advice"), numbered(TOKEN))
def test_a_token_service_in_trouble(
    token_troubles: Report, subaccount: str, script: dict[str, Any], says: str, advice: str
) -> None:
    token = token_troubles.of(subaccount).only("token", "failure")

    assert says in token["words"]
    advised(token, advice)


def test_a_token_url_of_something_else(patient: Patient) -> None:
    patient.keys["eu"]["url"] += "/elsewhere"

    token = patient.doctor().only("token", "failure")

    assert "404" in token["words"]
    advised(token, "no token service")


def test_a_token_that_lives_for_a_minute_is_a_warning(patient: Patient) -> None:
    patient.simulator.switch(expires_in=60)

    assert patient.doctor().only("token", "warning")["data"]["life"] == 60


def certified(home: Path, **dates: Any) -> tuple[trustme.CA, dict[str, Any], dict[str, str]]:
    """A CA, members of an X.509 service key, and the environment that trusts it."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(home / "ca.pem")
    issued = authority.issue_cert("client@example.test", key_type=trustme.KeyType.RSA, **dates)
    chain = "".join(pem.bytes().decode() for pem in issued.cert_chain_pems)
    members = {"certificate": chain, "key": issued.private_key_pem.bytes().decode()}
    return authority, members, {"AICORE_PROXY_CA_BUNDLE": str(home / "ca.pem")}


@pytest.mark.parametrize(("days", "level"), [(-1, "failure"), (1, "warning"), (30, "ok")])
def test_the_end_of_a_certificate_is_told(tmp_path: Path, days: int, level: str) -> None:
    now = datetime.datetime.now(datetime.UTC)
    dates = {"not_before": now - datetime.timedelta(days=9), "not_after": now + datetime.timedelta(days=days, hours=1)}
    authority, members, trusting = certified(tmp_path, **dates)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    mutual = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(mutual)
    mutual.load_verify_locations(tmp_path / "ca.pem")
    mutual.verify_mode = ssl.CERT_REQUIRED
    spec = SubaccountSpec("eu", (GPT,), certificate=members["certificate"])
    with in_thread(Landscape((spec,)), tls=tls, certified=mutual) as simulator:
        patient = Patient(tmp_path, simulator)
        patient.keys["eu"] |= members

        report = patient.doctor(**trusting)

    certificate = report.only("certificate", level)
    assert report.code == (1 if level == "failure" else 0)
    if level != "ok":
        advised(certificate, "Create a new service key")
    else:
        assert "X.509" in report.only("service_key", "ok")["words"]
        assert report.only("token", "ok")


# The way to SAP


def test_a_name_that_nobody_knows(patient: Patient) -> None:
    patient.keys["eu"]["url"] = "http://no-such-zone.invalid"

    report = patient.doctor()

    host = report.only("token_host", "failure")
    assert host["data"]["stage"] == "dns"
    assert "no-such-zone.invalid" in host["words"]
    advised(host, "cannot resolve", "HTTPS_PROXY", "getent hosts no-such-zone.invalid")
    assert report.only("ai_api_host", "ok"), "the other host is told apart"
    assert report.at("token") == [], "what cannot work is not tried"


def test_a_port_that_takes_no_connections(patient: Patient) -> None:
    patient.keys["eu"]["serviceurls"]["AI_API_URL"] = f"http://127.0.0.1:{closed_port()}"

    host = patient.doctor().only("ai_api_host", "failure")

    assert host["data"]["stage"] == "connect"
    advised(host, "The name is known", "firewall")


@pytest.mark.timed
def test_a_host_that_says_nothing(patient: Patient) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        patient.keys["eu"]["url"] = f"http://127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        host = patient.doctor("--timeout", "1").only("token_host", "failure")

    assert host["data"]["stage"] == "first_byte_timeout"
    advised(host, "says nothing")
    assert 1.0 <= time.monotonic() - began < 15


@pytest.mark.timed
def test_a_host_that_drops_what_comes(patient: Patient) -> None:
    with closing(socket.socket()) as full, ExitStack() as waiting:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):  # a full queue: Linux drops further attempts without a word
            client = waiting.enter_context(closing(socket.socket()))
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        patient.keys["eu"]["url"] = f"http://127.0.0.1:{full.getsockname()[1]}"
        host = patient.doctor("--timeout", "2").only("token_host", "failure")

    assert host["data"]["stage"] == "connect_timeout"
    advised(host, "a firewall drops the packets")


def test_a_certificate_that_nobody_trusts_and_the_bundle_that_mends_it(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    with in_thread(Landscape((EU,)), tls=tls) as simulator:
        patient = Patient(tmp_path, simulator)
        refused = patient.doctor()
        trusted = patient.doctor(AICORE_PROXY_CA_BUNDLE=str(tmp_path / "ca.pem"))
        missing = patient.doctor(SSL_CERT_FILE=str(tmp_path / "nowhere.pem"))

    host = refused.only("token_host", "failure")
    assert host["data"]["stage"] == "tls"
    advised(host, "inspects TLS", "AICORE_PROXY_CA_BUNDLE", "openssl s_client -connect 127.0.0.1:")
    trusted.fine()
    bundle = missing.only("ca_bundle", "failure")
    assert "SSL_CERT_FILE" in bundle["words"]
    advised(bundle, "unset SSL_CERT_FILE")


def test_tls_where_none_is_spoken(patient: Patient) -> None:
    patient.keys["eu"]["serviceurls"]["AI_API_URL"] = patient.simulator.url.replace("http:", "https:")

    host = patient.doctor().only("ai_api_host", "failure")

    assert host["data"]["stage"] == "tls"
    advised(host, "does not speak TLS")


def test_the_certificate_of_another_host(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("elsewhere.example").configure_cert(tls)
    with in_thread(Landscape((EU,)), tls=tls) as simulator:
        report = Patient(tmp_path, simulator).doctor(AICORE_PROXY_CA_BUNDLE=str(tmp_path / "ca.pem"))

    advised(report.only("ai_api_host", "failure"), "Another host answers under that name")


@pytest.mark.parametrize(("variable", "host"), [("http_proxy", "127.0.0.1"), ("HTTP_PROXY", "no-such-proxy.invalid")])
def test_a_proxy_variable_that_leads_nowhere(patient: Patient, variable: str, host: str) -> None:
    report = patient.doctor(**{variable: f"http://someone:hush-hush@{host}:{closed_port()}"})

    finding = report.only("token_host", "failure")
    assert finding["data"]["proxy"].startswith(f"http://{host}:")
    advised(finding, variable, "NO_PROXY=127.0.0.1", "cannot resolve" if "invalid" in host else "allow CONNECT")
    assert f"proxy http://{host}:" in finding["words"]
    assert "hush-hush" not in report.text
    assert patient.doctor(**{variable: f"http://{host}:1", "NO_PROXY": "127.0.0.1"}).code == 0


def test_proxy_variables_that_do_not_mean_what_they_seem_to(patient: Patient) -> None:
    socks = patient.doctor(ALL_PROXY="socks5://127.0.0.1:1080").only("http_proxy", "failure")
    advised(socks, "HTTPS_PROXY=http://host:port")

    report = patient.doctor(https_proxy="http://a.example:1", HTTPS_PROXY="http://b.example:1", NO_PROXY="10.0.0.0/8")
    warnings = " ".join(f["words"] for f in report.at("http_proxy", "warning"))
    assert "https_proxy and HTTPS_PROXY differ" in warnings
    assert "10.0.0.0/8" in warnings
    report.fine()


@pytest.mark.parametrize(("ahead", "words"), [(3600, "behind"), (-600, "ahead of")])
def test_a_clock_that_is_wrong(patient: Patient, ahead: float, words: str) -> None:
    patient.simulator.switch(clock=ahead)

    report = patient.doctor()

    clock = report.only("clock", "warning")
    assert words in clock["words"]
    assert abs(clock["data"]["seconds"] + ahead) < 10
    advised(clock, "timedatectl")
    report.fine()
