"""``aicore-proxy doctor`` against a simulator with each ailment: what it finds, what it advises, how it looks."""

from __future__ import annotations

import datetime
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import trustme
from tests.cli.doctoring import COMMAND, Patient, Report
from tests.end_to_end.conftest import environment

from aicore_proxy.simulator import in_thread
from aicore_proxy.simulator.landscape import DeploymentSpec, Landscape, SubaccountSpec

CLAUDE, GPT, GEMINI = "anthropic--claude-4.5-sonnet", "gpt-5", "gemini-2.5-flash"
EMBEDDING = "text-embedding-3-small"
ENTRIES = {GPT: "azure-openai", CLAUDE: "aws-bedrock"}
EU = SubaccountSpec("eu", (GPT, CLAUDE, GEMINI, EMBEDDING), (DeploymentSpec("orchestration"),), ("default", "team"))
ALL_CALLS = {
    *((model, protocol) for model in (GPT, CLAUDE, GEMINI) for protocol in ("chat", "messages")),
    (EMBEDDING, "embeddings"),
}
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def treated(landscape: Landscape, home: Path, **options: Any) -> Iterator[Patient]:
    with in_thread(landscape, **options) as simulator:
        yield Patient(home, simulator)


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Patient]:
    yield from treated(Landscape((EU,)), tmp_path)


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Patient]:
    yield from treated(Landscape((EU, SubaccountSpec("us", (GPT,)))), tmp_path)


def ill(home: Path, scripts: Sequence[dict[str, Any]], *endpoint: str, models: Sequence[str] = (GPT,)) -> Report:
    """A report on as many subaccounts, ``s0`` ..., each with one of ``scripts`` set."""
    names = [f"s{number}" for number in range(len(scripts))]
    with in_thread(Landscape(tuple(SubaccountSpec(name, tuple(models)) for name in names))) as simulator:
        for name, script in zip(names, scripts, strict=True):
            simulator.script(script, name, **({"endpoint": endpoint[0]} if endpoint else {}))
        return Patient(home, simulator).doctor("--timeout", "3")


def numbered(cases: Sequence[tuple[Any, ...]]) -> list[Any]:
    return [pytest.param(f"s{number}", *case, id=json.dumps(case[0])) for number, case in enumerate(cases)]


def advised(finding: dict[str, Any], *words: str) -> None:
    text = " ".join(finding["advice"])
    for word in words:
        assert word in text, f"{word!r} is not in {text!r}"


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


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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


# The AI API


AI_API: list[tuple[dict[str, Any], list[str]]] = [
    ({"status": 401}, ["AI_API_URL is of another region"]),
    ({"status": 403, "layer": "edge"}, ["AI-Resource-Group", "'extended'", "Entitlements"]),
    ({"status": 404}, ["Resource Groups", "AI_API_URL is not the AI API's"]),
    ({"status": 429}, ["throttles"]),
    ({"status": 500}, ["cloud-service-status"]),
    ({"garbage": "html"}, ["AI_API_URL"]),
    ({"hang": True}, ["Try again"]),
    ({"reset": True}, ["Try again"]),
]


@pytest.fixture(scope="module")
def ai_api_troubles(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return ill(tmp_path_factory.mktemp("ai-api"), [case[0] for case in AI_API], "ai_api")


@pytest.mark.timed
@pytest.mark.parametrize(("subaccount", "script", "advice"), numbered(AI_API))
def test_an_ai_api_in_trouble(
    ai_api_troubles: Report, subaccount: str, script: dict[str, Any], advice: list[str]
) -> None:
    report = ai_api_troubles.of(subaccount)

    group = report.only("ai_api", "failure")
    assert group["data"]["resource_group"] == "default", "the groups could not be listed, so that one was asked"
    advised(group, *advice)
    assert report.at("model_call") == []


def test_a_resource_group_that_is_not_there(patient: Patient) -> None:
    group = patient.doctor(AICORE_PROXY_RESOURCE_GROUPS="taem").only("ai_api", "failure")

    assert group["data"] == {"resource_group": "taem", "status": 403}
    assert "RBAC: access denied" in group["words"]
    advised(
        group, "sees the resource groups default, team", "Did you mean team?", "Core Administration > Resource Groups"
    )

    patient.simulator.switch(admin_resource_groups="refused")
    advised(
        patient.doctor(AICORE_PROXY_RESOURCE_GROUPS="taem").only("ai_api", "failure"), "group 'taem' does not exist"
    )


def test_a_key_that_may_not_list_resource_groups_is_common(patient: Patient) -> None:
    patient.simulator.switch(admin_resource_groups="refused")

    report = patient.doctor()

    report.fine()
    advised(report.only("resource_groups", "note"), "AICORE_RESOURCE_GROUP")


def test_nothing_is_deployed(tmp_path: Path) -> None:
    for patient in treated(Landscape((SubaccountSpec("eu"),)), tmp_path):
        (deployments,) = patient.doctor().at("deployments", "failure")

        advised(deployments, "ML Operations > Configurations > Create", "mloperations_editor", "'extended'", "default")


def test_deployments_that_do_not_run(tmp_path: Path) -> None:
    advice = {"DEAD": "does not come back by itself", "PENDING": "takes minutes", "UNKNOWN": "takes minutes"}
    statuses = (*advice, "STOPPED", "RUNNING")
    models = ("gpt-5", "gpt-5-mini", "gpt-5-nano", "gpt-4o", "gpt-4.1")
    specs = tuple(DeploymentSpec(model, status=status) for model, status in zip(models, statuses, strict=True))  # type: ignore[arg-type]
    for patient in treated(Landscape((SubaccountSpec("eu", (), specs),)), tmp_path):
        report = patient.doctor()

    report.fine()
    told = {f["data"]["status"]: f for f in report.at("deployment", "warning")}
    assert set(told) == set(advice), "what was stopped is only counted"
    for status, words in advice.items():
        advised(told[status], words)
    assert report.at("deployments", "ok")[0]["data"]["statuses"] == dict.fromkeys(statuses, 1)
    assert {f["data"]["model"] for f in report.at("model_call")} == {"gpt-4.1"}


@pytest.mark.parametrize(("days", "level"), [(400, "note"), (30, "warning"), (-3, "warning")])
def test_the_end_of_a_model(patient: Patient, days: int, level: str) -> None:
    retires = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)).date().isoformat()
    version = {
        "name": "2025-01-01",
        "isLatest": True,
        "deprecated": True,
        "retirementDate": retires,
        "suggestedReplacements": ["gpt-6"],
    }
    entries = [{"model": m, "executableId": e, "description": "", "versions": [version]} for m, e in ENTRIES.items()]
    catalogue = {"count": 2, "resources": entries}
    patient.simulator.script({"body": catalogue}, "/v2/lm/scenarios/foundation-models/models", endpoint="ai_api")
    (gpt,) = patient.simulator.deployments(GPT)
    patient.simulator.call("PATCH", f"deployments/{gpt['id']}", {"version": "2025-01-01"})

    report = patient.doctor("--no-calls")

    report.fine()
    ends = {f["data"]["model"]: f for f in report.at("retirement", level)}
    assert set(ends) == {GPT, CLAUDE}
    assert {f["data"]["retires"] for f in ends.values()} == {retires}
    advised(ends[GPT], "gpt-6", "fixed version", "modelVersion latest")
    advised(ends[CLAUDE], "gpt-6", "plan another model")


# Model calls


CALLS: list[tuple[dict[str, Any], str, int | None, list[str]]] = [
    ({"status": 401}, "failure", 401, ["the deployment does not"]),
    ({"status": 403, "layer": "edge"}, "failure", 403, ["no such deployment", "AI-Resource-Group", "'extended'"]),
    ({"status": 404}, "failure", 404, ["deployed only minutes ago", "Deployments"]),
    ({"status": 429}, "warning", 429, ["requests per minute", "CA-ML-AIC"]),
    ({"status": 500}, "failure", 500, ["cloud-service-status"]),
    ({"status": 503, "layer": "edge"}, "failure", 503, ["cloud-service-status"]),
    ({"status": 400}, "failure", 400, ["report the words"]),
    ({"hang": True}, "failure", None, ["longer --timeout"]),
    ({"reset": True}, "failure", None, ["connection breaks"]),
    ({"garbage": "html"}, "failure", None, ["no answer of that model"]),
    ({"empty": True}, "failure", None, ["no answer of that model"]),
]


@pytest.fixture(scope="module")
def call_troubles(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("calls")
    return ill(folder, [case[0] for case in CALLS], models=(GPT, CLAUDE, GEMINI, EMBEDDING))


@pytest.mark.timed
@pytest.mark.parametrize(("subaccount", "script", "level", "status", "advice"), numbered(CALLS))
def test_a_model_in_trouble(
    call_troubles: Report, subaccount: str, script: dict[str, Any], level: str, status: int | None, advice: list[str]
) -> None:
    report = call_troubles.of(subaccount)
    calls = report.at("model_call")

    assert report.only("model_calls", level)["data"]["status"] == status, "all fail alike"
    assert {(f["data"]["model"], f["data"]["protocol"]) for f in calls} == ALL_CALLS
    for finding in calls:
        assert (finding["level"], finding["data"]["status"]) == (level, status)
        advised(finding, *advice)


def test_where_all_fail_alike_it_is_none_of_them(patient: Patient) -> None:
    patient.simulator.script({"status": 403, "layer": "edge"})

    _, text = patient.in_terminal(100, "doctor")

    shown = " ".join(ESCAPE.sub("", text).split())
    assert "all 4 deployments fail with 403" in shown
    assert shown.count("service plan 'extended'") == 1
    assert "SAP says 403 also where" not in shown, "it is not about a deployment"


def test_an_error_inside_a_stream_is_one(patient: Patient) -> None:
    patient.simulator.script({"error_after": 1})

    bad = patient.doctor().at("model_call", "failure")

    assert {f["data"]["model"] for f in bad if f["data"]["protocol"] == "messages"} == {GPT, CLAUDE, GEMINI}


def test_a_deployment_that_is_listed_but_gone(patient: Patient) -> None:
    (gpt,) = patient.simulator.deployments(GPT)
    patient.simulator.call("PATCH", f"deployments/{gpt['id']}", {"status": "STOPPED", "listed_status": "RUNNING"})

    report = patient.doctor()
    bad = report.at("model_call", "failure")

    assert report.at("model_calls") == [], "the others answer"
    assert {f["data"]["deployment"] for f in bad} == {gpt["id"]}
    advised(bad[0], "stopped or deleted a moment ago")


# This machine


def test_a_port_that_is_taken(patient: Patient) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
        report = patient.doctor("--no-calls", AICORE_PROXY_PORT=str(port))
    finding = report.only("port", "failure")
    advised(finding, f"sport = :{port}", "--port")


def test_a_port_that_the_proxy_itself_has(patient: Patient) -> None:
    port = closed_port()
    serving = subprocess.Popen(
        [*COMMAND, "serve"],
        env=patient.environ(AICORE_PROXY_PORT=str(port)),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert serving.stdout is not None
    try:
        assert any("Models:" in line for line in serving.stdout)
        report = patient.doctor("--no-calls", AICORE_PROXY_PORT=str(port))
    finally:
        serving.terminate()
        serving.wait(20)
        serving.stdout.close()
    assert report.only("port", "ok")["data"]["running"] is True


def test_a_public_address_without_a_key_and_one_that_is_not_ours(patient: Patient) -> None:
    public = {"AICORE_PROXY_HOST": "192.0.2.7", "AICORE_PROXY_PORT": "3001"}
    open_to_all = patient.doctor("--no-calls", **public)
    elsewhere = patient.doctor("--no-calls", AICORE_PROXY_API_KEY="sk-something-long-enough", **public)

    assert "AICORE_PROXY_API_KEY" in open_to_all.only("settings", "failure")["words"]
    advised(elsewhere.only("port", "failure"), "no address of this machine")


def test_a_state_folder_that_cannot_be_written(patient: Patient) -> None:
    (patient.home / "file").write_text("")
    state = str(patient.home / "file" / "state")

    needed = patient.doctor("--no-calls", XDG_STATE_HOME=state)
    optional = patient.doctor("--no-calls", XDG_STATE_HOME=state, AICORE_PROXY_API_KEY="sk-something-long-enough")

    advised(needed.only("state_folder", "failure"), "XDG_STATE_HOME", "key cannot be kept")
    assert optional.only("state_folder", "warning")
    optional.fine()
    assert "sk-something-long-enough" not in optional.text


def test_few_descriptors_are_a_warning(patient: Patient) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", 'ulimit -n 256; exec "$@"', "sh", *COMMAND, "doctor", "--json", "--no-calls"],
        env=patient.environ(),
        cwd=patient.home,
        capture_output=True,
        text=True,
        check=True,
    )
    findings = [f for section in json.loads(done.stdout)["sections"] for f in section["findings"]]
    (limit,) = [f for f in findings if f["check"] == "descriptors"]
    assert (limit["level"], limit["data"]["limit"]) == ("warning", 256)
    advised(limit, "LimitNOFILE")


# The configuration


def test_names_that_the_deployments_do_not_bear_out(patient: Patient) -> None:
    (claude,) = patient.simulator.deployments(CLAUDE)
    configuration = {
        "aliases": {"fast": "gpt-5-mini", "good": CLAUDE},
        "models": {"exclude": ["llama-*"]},
        "keys": [{"name": "team", "key": "sk-team-key-of-some-length", "models": ["mistral-*"]}],
        "subaccounts": [
            {
                "name": "eu",
                "service_key_file": "eu-key.json",
                "deployments": {"gpt-4o": [claude["id"]], "mine": ["d0000000000000000"]},
                "include": ["gpt-*", "claude-*", "qwen-*"],
            }
        ],
    }
    (patient.home / "eu-key.json").write_text(json.dumps(patient.keys["eu"]))
    (patient.home / "aicore-proxy.json").write_text(json.dumps(configuration))
    environ = patient.environ()
    del environ["AICORE_PROXY_SERVICE_KEYS"]
    done = subprocess.run(
        [*COMMAND, "doctor", "--json"], env=environ, cwd=patient.home, capture_output=True, text=True, check=False
    )
    patient.told(done.stdout + done.stderr)
    report = json.loads(done.stdout)

    warnings = {f["words"]: f for s in report["sections"] for f in s["findings"] if f["level"] == "warning"}
    text = "\n".join(warnings)
    assert "fast stands for gpt-5-mini, which nobody serves" in text
    assert f"configured as gpt-4o, but deployment {claude['id']} runs {CLAUDE}" in text
    assert "deployment d0000000000000000, configured as mine, does not run" in text
    assert "include 'qwen-*' meets none" in text
    assert "models.exclude: 'llama-*' meets no model" in text
    assert "the key team may use 'mistral-*', which meets no model" in text
    advised(next(f for words, f in warnings.items() if words.startswith("fast")), "Did you mean gpt-5?")
    assert done.returncode == 0, "they are warnings"
    assert "sk-team-key" not in done.stdout


def test_settings_that_are_wrong_do_not_hide_the_rest(patient: Patient) -> None:
    report = patient.doctor(AICORE_PROXY_PROT="3001", AICORE_PROXY_HOLD="soon")

    settings = report.at("settings", "failure")
    assert len(settings) == 2
    assert any("AICORE_PROXY_PORT" in f["words"] for f in settings)
    assert report.only("token", "ok")


# Time


@pytest.mark.timed
def test_it_never_hangs(patient: Patient) -> None:
    patient.simulator.script({"hang": True})
    began = time.monotonic()

    report = patient.doctor("--timeout", "30", "--deadline", "2")

    assert 2 <= time.monotonic() - began < 15
    assert report.value["complete"] is False
    advised(report.only("deadline", "failure"), "--no-calls")
    assert report.only("token", "ok"), "what was seen until then is told"


SLOW_RESOLVER = """
import socket, time
known = socket.getaddrinfo
def getaddrinfo(host, *args, **kwargs):
    if str(host).endswith(".slow.example"):
        time.sleep(90)
    return known(host, *args, **kwargs)
socket.getaddrinfo = getaddrinfo
"""


@pytest.mark.timed
@pytest.mark.parametrize("deadline", ["1", "30"])
def test_a_resolver_that_hangs_does_not_hang_the_command(patient: Patient, deadline: str) -> None:
    (patient.home / "site").mkdir()
    (patient.home / "site" / "sitecustomize.py").write_text(SLOW_RESOLVER)
    patient.keys["eu"]["url"] = "http://acme.slow.example"
    path = os.pathsep.join([str(patient.home / "site"), *filter(None, [os.environ.get("PYTHONPATH", "")])])
    began = time.monotonic()

    report = patient.doctor("--timeout", "2", "--deadline", deadline, PYTHONPATH=path)

    assert time.monotonic() - began < 20
    if deadline == "1":
        assert report.only("deadline", "failure")
    else:
        assert report.only("token_host", "failure")["data"]["stage"] == "dns"
    models = patient.run("models", "--timeout", "2", PYTHONPATH=path)
    assert models.returncode == 1
    assert time.monotonic() - began < 40


@pytest.mark.timed
def test_ctrl_c_ends_it_at_once_and_cleanly(patient: Patient) -> None:
    patient.simulator.script({"hang": True})
    child = subprocess.Popen(
        [*COMMAND, "doctor"],
        env=patient.environ(),
        cwd=patient.home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 30
    while not patient.simulator.state()["open"]:
        assert time.monotonic() < until
        time.sleep(0.05)
    began = time.monotonic()
    child.send_signal(signal.SIGINT)
    output, errors = child.communicate(timeout=20)

    assert time.monotonic() - began < 5
    assert child.returncode == 130
    assert errors == "Interrupted.\n"
    assert "This machine" in output, "what was seen until then is there"


def test_a_reader_that_leaves_is_no_traceback(patient: Patient) -> None:
    child = subprocess.Popen(
        [*COMMAND, "doctor", "--no-calls"],
        env=patient.environ(),
        cwd=patient.home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    child.stdout.close()
    assert child.stderr is not None
    errors = child.stderr.read()
    child.stderr.close()
    child.wait(30)

    assert "Traceback" not in errors


# How it looks


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_in_a_terminal_every_line_fits_and_has_its_mark(patient: Patient, columns: int) -> None:
    patient.simulator.script({"status": 403, "layer": "edge"}, GPT)
    patient.simulator.script({"status": 429}, CLAUDE)

    code, text = patient.in_terminal(columns, "doctor")

    lines = [ESCAPE.sub("", line.rpartition("\r")[2]) for line in text.replace("\r\n", "\n").split("\n")]
    assert code == 1
    assert [line for line in lines if len(line) > columns] == []
    assert "\x1b[31m\x1b[1m✗\x1b[0m" in text
    marks = {line.strip()[:1] for line in lines if line.startswith("  ")}
    assert {"✓", "!", "✗", "·", "→"} <= marks
    shown = " ".join(" ".join(lines).split())
    assert "chat, messages: 403 RBAC: access denied" in shown, "what both protocols say is said once"
    assert shown.count("SAP says 403 also where there is no such deployment") == 1
    assert "2 failures, 2 warnings, " in shown


def test_without_colours_and_without_unicode(patient: Patient) -> None:
    patient.simulator.script({"status": 404}, GPT)

    _, plain = patient.in_terminal(80, "doctor", NO_COLOR="1")
    _, dumb = patient.in_terminal(80, "doctor", TERM="dumb")
    _, ascii_only = patient.in_terminal(80, "doctor", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    piped = patient.run("doctor").stdout

    for text in (plain, dumb, piped):
        assert "✗ gpt-5" in text
    assert "\x1b[3" not in plain
    assert "\x1b" not in dumb
    assert "\x1b" not in piped
    assert ascii_only.isascii()
    assert "XX" in ascii_only
    assert "ok" in ascii_only


def test_words_of_foreign_hosts_cannot_steer_the_terminal(patient: Patient) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\u202e" + "x" * 2000
    patient.simulator.script({"status": 500, "message": evil, "layer": "edge"}, GPT)
    patient.simulator.script({"status": 500, "message": evil}, endpoint="ai_api")

    code, text = patient.in_terminal(80, "doctor")

    assert code == 1
    assert "\x1b]" not in text
    assert "\x1b[2J" not in text
    assert "\u202e" not in text


def test_a_terminal_shows_what_comes_while_it_works(tmp_path: Path) -> None:
    with in_thread(Landscape((EU,))) as simulator:
        patient = Patient(tmp_path, simulator)
        patient.simulator.script({"delay": 0.3})
        _, text = patient.in_terminal(80, "doctor")

    assert re.search(r"\r\x1b\[K\d+ looked at: ", text)
    assert "model calls." in text
