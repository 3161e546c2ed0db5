"""The real proxy in front of the simulator, each a process of its own, over real sockets."""

from __future__ import annotations

import json
import os
import queue
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.end_to_end.driving import Talk

KEY = "sk-test-end-to-end"


class Simulator:
    """A running simulator and its control endpoints."""

    def __init__(self, url: str, process: subprocess.Popen[str], *, verify: ssl.SSLContext | bool = True) -> None:
        self.url = url
        self.process = process
        self._http = httpx2.Client(base_url=url, trust_env=False, timeout=30, verify=verify)

    def script(self, script: Mapping[str, Any], *at: str) -> None:
        body: dict[str, Any] = {"script": dict(script)}
        if at:
            body["at"] = list(at)
        self._http.post("/_simulator/scripts", json=body).raise_for_status()

    def clear(self) -> None:
        self._http.delete("/_simulator/scripts").raise_for_status()

    def state(self) -> dict[str, Any]:
        return self._http.get("/_simulator/state").raise_for_status().json()

    def requests(self) -> list[dict[str, Any]]:
        """The inference requests received last, oldest first."""
        received = self._http.get("/_simulator/requests").raise_for_status().json()
        return [entry for entry in received if entry.get("deployment")]

    def received(self) -> dict[str, int]:
        """Deployment id -> inference requests so far."""
        places = self.state()["subaccounts"].values()
        return {d["id"]: d["received"] for place in places for d in place["deployments"]}

    def service_keys(self) -> dict[str, Any]:
        return self._http.get("/_simulator/service-keys").raise_for_status().json()

    def received_by_subaccount(self, model: str) -> dict[str, int]:
        """Subaccount -> inference requests so far that reached its deployments of ``model``."""
        places = self.state()["subaccounts"].items()
        counts = {name: [d["received"] for d in place["deployments"] if d["model"] == model] for name, place in places}
        return {name: sum(received) for name, received in counts.items() if received}

    def pushed(self) -> int:
        """Bytes of answers so far that the kernel took."""
        return sum(d["pushed"] for place in self.state()["subaccounts"].values() for d in place["deployments"])

    def revoke_tokens(self) -> None:
        self._http.delete("/_simulator/tokens").raise_for_status()

    def switch(self, **switches: Any) -> None:
        self._http.patch("/_simulator/switches", json=switches).raise_for_status()

    def wait_until_free(self, seconds: float = 5.0) -> float:
        """Until no inference request is open: the time it took, in seconds."""
        started = time.monotonic()
        while self.state()["open"]:
            assert time.monotonic() - started < seconds, "inference requests are still open at the simulator"
            time.sleep(0.01)
        return time.monotonic() - started


class Proxy:
    """A running proxy."""

    def __init__(self, url: str, process: subprocess.Popen[str], lines: list[str]) -> None:
        self.url = url
        self.key = KEY
        self.process = process
        self.lines = lines
        self.http = httpx2.Client(
            base_url=url, trust_env=False, timeout=60, headers={"Authorization": f"Bearer {KEY}"},
            limits=httpx2.Limits(max_connections=None),
        )  # fmt: skip

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])


def started(
    command: list[str], environ: Mapping[str, str], ready: str, seconds: float = 30
) -> tuple[Any, list[str], str]:
    """A process, its lines of output (they go on coming), and the first line that holds ``ready``."""
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(environ)
    )
    lines: list[str] = []
    found: queue.Queue[str] = queue.Queue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if ready in line:
                found.put(line)

    threading.Thread(target=read, daemon=True).start()
    try:
        return process, lines, found.get(timeout=seconds)
    except queue.Empty:
        process.kill()
        raise AssertionError(f"{command} did not start:\n{''.join(lines)}") from None


def stopped(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def environment(home: Path, **variables: str) -> dict[str, str]:
    """The test's own environment: nobody's credentials, settings or proxies."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AICORE_", "VCAP_")) and not name.lower().endswith("_proxy") and name != "PORT"
    }
    ours = {"XDG_STATE_HOME": str(home / "state"), "PYTHONUNBUFFERED": "1", "AICORE_PROXY_DRAIN_DELAY": "0.01"}
    return {**kept, "HOME": str(home), **ours, **variables}


@contextmanager
def running_simulator(
    home: Path, *options: str, landscape: Any = None, verify: ssl.SSLContext | bool = True
) -> Iterator[Simulator]:
    """``verify``: of its certificate, where it has one."""
    command = [sys.executable, "-m", "aicore_proxy.simulator", "--port", "0", "--announce", *options]
    if landscape is not None:
        (home / "landscape.json").write_text(json.dumps(landscape))
        command += ["--landscape", str(home / "landscape.json")]
    process, _, line = started(command, environment(home), '"url"')
    try:
        yield Simulator(json.loads(line)["url"], process, verify=verify)
    finally:
        stopped(process)


@contextmanager
def running_proxy(
    home: Path,
    simulator: Simulator,
    *,
    command: list[str] | None = None,
    environ: Mapping[str, str] | None = None,
    **variables: str,
) -> Iterator[Proxy]:
    """A proxy in front of ``simulator``; ``variables``: settings without their prefix, in lower case; ``command``: in
    place of ``aicore-proxy serve``; ``environ``: variables that are none of ours."""
    folder = home / "service-keys"
    folder.mkdir(exist_ok=True)
    for name, key in simulator.service_keys().items():
        (folder / f"{name}.json").write_text(json.dumps(key))
    # Turns in order and no memory of faults: what one test breaks must not count for the next
    variables = {"strategy": "round_robin", "breakers": "false", **variables}
    settings = {f"AICORE_PROXY_{name.upper()}": value for name, value in variables.items()}
    ours = {"SERVICE_KEYS": str(folder), "API_KEY": KEY, "PORT": "0"}
    settings |= {f"AICORE_PROXY_{name}": value for name, value in ours.items()}
    given = environment(home, **{**settings, **(environ or {})})
    command = command or [sys.executable, "-m", "aicore_proxy", "serve"]
    process, lines, line = started(command, given, "Base URL")
    proxy = Proxy(line.split()[-1], process, lines)
    try:
        deadline = time.monotonic() + 20
        while proxy.http.get("/health/ready").status_code != 200:
            assert time.monotonic() < deadline, f"not ready:\n{''.join(lines)}"
            time.sleep(0.02)
        yield proxy
    finally:
        stopped(process)


@pytest.fixture(scope="session")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    """The demo landscape."""
    with running_simulator(tmp_path_factory.mktemp("simulator")) as simulator:
        yield simulator


@pytest.fixture
def talk(simulator: Simulator) -> Talk:
    """A conversation whose requests are found at the simulator."""
    return Talk(simulator)


@pytest.fixture(scope="session")
def session_proxy(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with running_proxy(tmp_path_factory.mktemp("proxy"), simulator) as proxy:
        yield proxy


@pytest.fixture
def proxy(simulator: Simulator, session_proxy: Proxy) -> Iterator[Proxy]:
    """The proxy in front of the demo landscape, without any script."""
    simulator.clear()
    yield session_proxy
    simulator.clear()


@pytest.fixture(scope="session")
def four(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Simulator, Proxy]]:
    """Four subaccounts with one deployment of each model."""
    models = ["gpt-5", "anthropic--claude-4.5-sonnet", "gemini-2.5-pro", "text-embedding-3-small"]
    landscape = {"subaccounts": [{"name": f"sub-{n}", "models": models} for n in range(4)]}
    home = tmp_path_factory.mktemp("four")
    with (
        running_simulator(home, "--fast", landscape=landscape) as simulator,
        running_proxy(home, simulator, log_level="error") as proxy,
    ):
        yield simulator, proxy
