"""``aicore-proxy doctor``: this machine, the configuration, time, and how it looks."""

from __future__ import annotations

import datetime
import json
import os
import re
import signal
import socket
import subprocess
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
import trustme
from tests.cli.doctoring import (
    CLAUDE,
    COMMAND,
    ESCAPE,
    EU,
    GPT,
    Patient,
    advised,
    closed_port,
)

from aicore_proxy.simulator import in_thread
from aicore_proxy.simulator.landscape import Landscape

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


@pytest.mark.parametrize(("days", "level"), [(-1, "failure"), (1, "warning"), (90, "ok")])
def test_the_proxys_own_certificate(patient: Patient, days: int, level: str) -> None:
    now = datetime.datetime.now(datetime.UTC)
    issued = trustme.CA().issue_cert("proxy.example", not_after=now + datetime.timedelta(days=days, hours=1))
    files = {"certificate": patient.home / "own.pem", "key": patient.home / "own.key"}
    issued.cert_chain_pems[0].write_to_path(files["certificate"])
    issued.private_key_pem.write_to_path(files["key"])
    variables = {f"AICORE_PROXY_TLS_{name.upper()}": str(path) for name, path in files.items()}

    told = patient.doctor("--no-calls", **variables).only("own_certificate", level)
    files["key"].write_text("no key")
    broken = patient.doctor("--no-calls", **variables).only("own_certificate", "failure")

    assert level == "ok" or "Renew it" in " ".join(told["advice"])
    advised(broken, "PEM files that belong together")


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
        "aliases": {"fast": "gpt-5-mini", "good": CLAUDE, "same": "own"},
        "models": {"exclude": ["llama-*"]},
        "keys": [{"name": "team", "key": "sk-team-key-of-some-length", "models": ["mistral-*", "good", "own"]}],
        "subaccounts": [
            {
                "name": "eu",
                "service_key_file": "eu-key.json",
                "deployments": {"gpt-4o": [claude["id"]], "mine": ["d0000000000000000"], "own": [claude["id"]]},
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
    assert not any("'good'" in words or "'own'" in words or "same stands for" in words for words in warnings)
    advised(next(f for words, f in warnings.items() if words.startswith("fast")), "Did you mean gpt-5?")
    assert done.returncode == 0, "they are warnings"
    assert "sk-team-key" not in done.stdout


def test_a_mistake_in_the_file_does_not_hide_its_subaccounts(patient: Patient) -> None:
    names = ("eu", "us")
    keys = [{"name": name, "service_key": patient.keys["eu"]} for name in names]
    keys[1]["service_key"] = {"clientid": "sb-1"}
    (patient.home / "aicore-proxy.json").write_text(json.dumps({"hots": "x", "subaccounts": keys[:1]}))
    environ = patient.environ()
    del environ["AICORE_PROXY_SERVICE_KEYS"]
    command = [*COMMAND, "doctor", "--json", "--no-calls"]
    run = partial(subprocess.run, command, env=environ, cwd=patient.home, capture_output=True, text=True, check=False)
    found = [f for section in json.loads(run().stdout)["sections"] for f in section["findings"]]
    assert {f["check"]: f["level"] for f in found}.items() >= {("settings", "failure"), ("token", "ok")}

    (patient.home / "aicore-proxy.json").write_text(json.dumps({"hots": "x", "subaccounts": keys[1:]}))
    found = [f for section in json.loads(run().stdout)["sections"] for f in section["findings"]]
    (said,) = [f for f in found if f["check"] == "service_keys" and "clientsecret" in f["words"]]
    assert "subaccounts[0].service_key" in said["words"]
    advised(said, "Copy the whole service key again")


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
