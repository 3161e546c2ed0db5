"""The commands as a person runs them: what they print, and that they leave nothing behind."""

from __future__ import annotations

import json
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import psutil
import pytest
from tests.end_to_end.asking import body, said
from tests.end_to_end.conftest import KEY, Simulator, environment, started, stopped

COMMAND = [sys.executable, "-m", "aicore_proxy"]


def refused(home: Path, *arguments: str, **variables: str) -> str:
    """What a command that must not start prints."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        env=environment(home, **variables),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_without_a_service_key_a_demo_runs_and_leaves_nothing_behind(tmp_path: Path, how: signal.Signals) -> None:
    process, lines, try_it = started([*COMMAND, "run", "--port", "0"], environment(tmp_path), "Try: ")
    text = "".join(lines)
    base = re.search(r"Base URL: (\S+)", text)
    simulator = re.search(r"Simulator: (\S+)", text)
    key = re.search(r"API key: (\S+)", text)
    assert base
    assert simulator
    assert key
    assert "Demo mode" in text
    assert {"gpt-5", "claude-sonnet-4-5", "gemini-2.5-pro"} <= set(re.split(r"[,\s]+", text))
    children = psutil.Process(process.pid).children(recursive=True)
    assert children, "the simulator is a process of its own"

    for model in ("gpt-5", "claude-sonnet-4-5", "gemini-2.5-pro"):
        for protocol, path in (("chat", "/v1/chat/completions"), ("messages", "/v1/messages")):
            answer = httpx2.post(
                base[1] + path, json=body(protocol, model, "Hello!"), headers={"x-api-key": key[1]}, trust_env=False
            )
            assert said(protocol, answer)
    tried = subprocess.run(try_it.removeprefix("Try: "), shell=True, capture_output=True, text=True, check=True)
    assert json.loads(tried.stdout)["choices"]

    process.send_signal(how)

    assert process.wait(10) == 0
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive
    assert free(int(base[1].rsplit(":", 1)[1]))
    assert free(int(simulator[1].rsplit(":", 1)[1]))
    assert "Traceback" not in "".join(lines)


def test_a_killed_demo_leaves_no_simulator(tmp_path: Path) -> None:
    process, _, _ = started([*COMMAND, "run", "--port", "0"], environment(tmp_path), "Try: ")
    children = psutil.Process(process.pid).children(recursive=True)

    process.kill()
    process.wait()

    assert children
    assert not psutil.wait_procs(children, timeout=5)[1]


def test_a_made_key_is_printed_once_and_kept_for_its_owner_only(tmp_path: Path, simulator: Simulator) -> None:
    raw = json.dumps(simulator.service_keys()["demo-eu"])
    printed = []
    for _ in range(2):
        process, lines, _ = started(
            [*COMMAND, "serve", "--port", "0"], environment(tmp_path, AICORE_SERVICE_KEY=raw), "Models: "
        )
        stopped(process)
        printed.append("".join(lines))

    path = tmp_path / "state" / "aicore-proxy" / "api-key"
    key = path.read_text().strip()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert key in printed[0]
    assert key not in printed[1]
    assert str(path) in printed[1]
    assert "Demo" not in printed[0]


def test_a_given_key_is_never_printed(tmp_path: Path, simulator: Simulator) -> None:
    raw = json.dumps(simulator.service_keys()["demo-eu"])
    variables = {"AICORE_SERVICE_KEY": raw, "AICORE_PROXY_API_KEY": KEY}
    process, lines, _ = started([*COMMAND, "serve", "--port", "0"], environment(tmp_path, **variables), "Models: ")
    stopped(process)

    assert KEY not in "".join(lines)
    assert not (tmp_path / "state" / "aicore-proxy" / "api-key").exists()


def test_what_is_missing_or_wrong_is_told_before_the_port_opens(tmp_path: Path) -> None:
    assert "AICORE_SERVICE_KEY" in refused(tmp_path, "serve")
    assert "AICORE_PROXY_API_KEY" in refused(tmp_path, "serve", "--host", "0.0.0.0")
    wrong = refused(tmp_path, "serve", AICORE_PROXY_PROT="1", AICORE_PROXY_HOLD="soon")
    assert "AICORE_PROXY_PORT" in wrong
    assert "AICORE_PROXY_HOLD" in wrong
    broken = refused(tmp_path, "serve", AICORE_SERVICE_KEY='{"clientid": "x", "clientsecret": "hush-hush"}')
    assert "AI_API_URL" in broken
    assert "hush-hush" not in broken


def test_a_taken_port_is_told(tmp_path: Path, simulator: Simulator) -> None:
    raw = json.dumps(simulator.service_keys()["demo-eu"])
    port = simulator.url.rsplit(":", 1)[1]

    assert port in refused(tmp_path, "serve", "--port", port, AICORE_SERVICE_KEY=raw)


def test_port_comes_from_the_option_then_port_then_our_variable(tmp_path: Path, simulator: Simulator) -> None:
    raw = json.dumps(simulator.service_keys()["demo-eu"])
    ports = []
    for _ in range(3):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(str(probe.getsockname()[1]))
    option, port, ours = ports
    for arguments, variables, expected in (
        (["--port", option], {"PORT": port, "AICORE_PROXY_PORT": ours}, option),
        ([], {"PORT": port, "AICORE_PROXY_PORT": ours}, port),
        ([], {"AICORE_PROXY_PORT": ours}, ours),
    ):
        environ = environment(tmp_path, AICORE_SERVICE_KEY=raw, **variables)
        process, _, line = started([*COMMAND, "serve", *arguments], environ, "Base URL")
        stopped(process)
        assert line.strip().endswith(f":{expected}")


@pytest.mark.timed
def test_a_warm_serve_is_up_within_a_second_or_a_few_on_a_busy_machine(tmp_path: Path, simulator: Simulator) -> None:
    raw = json.dumps(simulator.service_keys()["demo-eu"])
    environ = environment(tmp_path, AICORE_SERVICE_KEY=raw, AICORE_PROXY_API_KEY=KEY)
    began = time.monotonic()
    process, _, line = started([*COMMAND, "serve", "--port", "0"], environ, "Base URL")
    while True:
        with socket.create_connection(("127.0.0.1", int(line.strip().rsplit(":", 1)[1]))) as connection:
            connection.sendall(b"GET /health/ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            if connection.recv(65536).startswith(b"HTTP/1.1 200"):
                break
        time.sleep(0.02)
        assert time.monotonic() - began < 10
    took = time.monotonic() - began
    stopped(process)

    assert took < 5


def test_a_working_directory_that_is_gone_is_told(tmp_path: Path) -> None:
    script = 'mkdir gone && cd gone && rmdir ../gone && exec "$@"'
    command = [sys.executable, "-P", "-m", "aicore_proxy", "health"]
    done = subprocess.run(
        ["sh", "-c", script, "sh", *command],
        cwd=tmp_path,
        env=environment(tmp_path),
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "is gone" in done.stderr


def test_version_and_help(tmp_path: Path) -> None:
    for arguments, words in (
        (["--version"], "aicore-proxy, version"),
        (["--help"], "simulate"),
        (["serve", "-h"], "--port"),
    ):
        done = subprocess.run(
            [*COMMAND, *arguments], env=environment(tmp_path), capture_output=True, text=True, check=True
        )
        assert words in done.stdout
