"""The simulator as a process: announced, ended with its parent, configured from files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from aicore_proxy.simulator import Running, demo, running
from aicore_proxy.simulator.cli import simulate
from aicore_proxy.simulator.landscape import LandscapeError, from_json

MODULE = [sys.executable, "-m", "aicore_proxy.simulator", "--port", "0"]


def start(*options: str) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [*MODULE, "--announce", *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())["url"]


def test_it_announces_itself_and_ends_with_its_standard_input() -> None:
    process, url = start()
    assert process.stdin is not None
    assert Running(url).state()["open"] == 0

    process.stdin.close()

    assert process.wait(10) == 0
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(url, timeout=1)


def test_it_ends_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    inner = (
        f"import subprocess, sys, time; p = subprocess.Popen({[*MODULE, '--announce']!r}, "
        "stdin=sys.stdin); print(p.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", inner], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert "url" in parent.stdout.readline()

    parent.kill()
    parent.wait()

    deadline = time.monotonic() + 10
    while _alive(child):
        assert time.monotonic() < deadline, "the simulator outlived its parent"
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] if Path("/proc").exists() else True


def test_sigterm_ends_it_with_streams_open() -> None:
    process, url = start()
    simulator = Running(url)
    simulator.script({"hang": True})

    process.send_signal(signal.SIGTERM)

    assert process.wait(10) == 0


def test_options_reach_it(tmp_path: Path) -> None:
    landscape = {
        "subaccounts": {"one": ["gpt-5"], "two": {"models": ["gpt-4o"], "quota": 5}},
        "switches": {"converse_stream": "json"},
    }
    (tmp_path / "landscape.json").write_text(json.dumps(landscape))

    process, url = start(
        "--landscape", str(tmp_path / "landscape.json"), "--expires-in", "60", "--strict", "--seed", "3", "--fast"
    )

    try:
        simulator = Running(url)
        assert [(d["subaccount"], d["model"]) for d in simulator.deployments()] == [("one", "gpt-5"), ("two", "gpt-4o")]
        switches = simulator.call("GET", "switches")
        assert (switches["expires_in"], switches["strict"], switches["converse_stream"]) == (60, True, "json")
    finally:
        process.terminate()
        process.wait(10)


@pytest.mark.parametrize(
    ("raw", "part"),
    [
        (b"{", "not usable"),
        (b"[]", "not usable"),
        (b'{"subaccounts": [{"name": "a", "model": []}]}', "model"),
        (b'{"subaccounts": [{"name": "a", "deployments": [{"model": "x", "status": "GOOD"}]}]}', "GOOD"),
    ],
)
def test_a_wrong_landscape_says_why(raw: bytes, part: str, tmp_path: Path) -> None:
    with pytest.raises(LandscapeError, match=part):
        from_json(raw)
    (tmp_path / "wrong.json").write_bytes(raw)

    result = CliRunner().invoke(simulate, ["--landscape", str(tmp_path / "wrong.json"), "--port", "0"])

    assert (result.exit_code, part in result.output) == (1, True)


def test_subaccounts_and_ids_occur_once() -> None:
    twice = {"name": "a", "deployments": [{"model": "x", "id": "d1"}, {"model": "y", "id": "d1"}]}
    for subaccounts in ([{"name": "a"}, {"name": "a"}], [twice]):
        with pytest.raises(RuntimeError) as failed:
            _started(from_json(json.dumps({"subaccounts": subaccounts}).encode()))
        assert isinstance(failed.value.__cause__, LandscapeError)


def _started(landscape: Any) -> None:
    from aicore_proxy.simulator import in_thread

    with in_thread(landscape):
        pass


def test_a_taken_port_is_an_error() -> None:
    process, url = start()
    try:
        result = CliRunner().invoke(simulate, ["--port", url.rsplit(":", 1)[1]])
        assert result.exit_code == 1
        assert "in use" in result.output
    finally:
        process.terminate()
        process.wait(10)


async def test_it_runs_beside_asynchronous_code() -> None:
    async with running() as simulator:
        keys = simulator.service_keys()

    assert set(keys) == {"demo-eu", "demo-us"}
    assert set(keys["demo-eu"]) == {
        "clientid", "clientsecret", "url", "identityzone", "identityzoneid", "appname",
        "credential-type", "serviceurls",
    }  # fmt: skip


def test_the_demo_landscape_is_like_a_real_tenants() -> None:
    eu, us = demo().subaccounts

    assert (eu.name, us.name) == ("demo-eu", "demo-us")
    assert eu.models == us.models
    assert [spec.model for spec in eu.deployments[:2]] == ["gpt-5", "anthropic--claude-4.5-sonnet"]
    for subaccount in (eu, us):
        assert {"orchestration"} <= {spec.model for spec in subaccount.deployments}
        assert "STOPPED" in {spec.status for spec in subaccount.deployments}
