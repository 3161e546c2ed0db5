"""Running ``doctor`` and ``models`` as a person or a script does, against a simulator."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.end_to_end.conftest import environment

from aicore_proxy.simulator import Running, in_thread
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
COMMAND = [sys.executable, "-m", "aicore_proxy"]
LIMIT = 60


class Report:
    """What ``doctor --json`` told."""

    def __init__(self, code: int, text: str) -> None:
        self.code = code
        self.text = text
        self.value: dict[str, Any] = json.loads(text)

    @property
    def findings(self) -> list[dict[str, Any]]:
        return [finding for section in self.value["sections"] for finding in section["findings"]]

    def of(self, subaccount: str) -> Report:
        """The same of one subaccount."""
        sections = [section for section in self.value["sections"] if section["name"] == subaccount]
        return Report(self.code, json.dumps({**self.value, "sections": sections}))

    def at(self, check: str, level: str | None = None) -> list[dict[str, Any]]:
        return [f for f in self.findings if f["check"] == check and level in (None, f["level"])]

    def only(self, check: str, level: str) -> dict[str, Any]:
        """The only finding of that check, which has that level."""
        found = self.at(check)
        assert [finding["level"] for finding in found] == [level], found
        return found[0]

    def fine(self) -> None:
        """Asserts that nothing failed."""
        assert self.code == 0, [finding for finding in self.findings if finding["level"] == "failure"]

    def failures(self) -> set[str]:
        return {finding["check"] for finding in self.findings if finding["level"] == "failure"}


class Patient:
    """A machine with credentials for a simulator. ``variables``: of its environment."""

    def __init__(self, home: Path, simulator: Running, names: Sequence[str] = ()) -> None:
        self.home = home
        self.simulator = simulator
        self.keys = {n: key for n, key in simulator.service_keys().items() if not names or n in names}
        self.secrets = [key["clientsecret"] for key in self.keys.values() if "clientsecret" in key]
        self.variables = {"AICORE_PROXY_PORT": "0"}

    def environ(self, **variables: str) -> dict[str, str]:
        folder = self.home / "service-keys"
        folder.mkdir(exist_ok=True)
        for name, key in self.keys.items():
            (folder / f"{name}.json").write_text(json.dumps(key))
        given = {"AICORE_PROXY_SERVICE_KEYS": str(folder), **self.variables, **variables}
        clean = environment(self.home)
        for bundle in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "COLUMNS", "NO_COLOR"):
            clean.pop(bundle, None)
        return {**clean, **given}

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*COMMAND, *arguments],
            env=self.environ(**variables),
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
            encoding="utf-8",
        )
        self.told(done.stdout + done.stderr)
        return done

    def told(self, text: str) -> None:
        """What no output may hold."""
        assert "Traceback" not in text, text
        for secret in self.secrets:
            assert secret not in text

    def doctor(self, *arguments: str, **variables: str) -> Report:
        done = self.run("doctor", "--json", "--timeout", "15", *arguments, **variables)
        assert done.stderr == "", done.stderr
        report = Report(done.returncode, done.stdout)
        assert report.code == (1 if report.failures() else 0)
        assert report.value["healthy"] is not bool(report.failures())
        for finding in report.findings:
            assert finding["advice"] or finding["level"] in ("ok", "note") or finding["check"] == "settings", finding
            assert all("  " not in step and "{" not in step.replace('{"', "") for step in finding["advice"]), finding
        return report

    def in_terminal(self, columns: int, *arguments: str, **variables: str) -> tuple[int, str]:
        """Exit code and output in a terminal of that width."""
        code, text = in_terminal(columns, [*COMMAND, *arguments], self.environ(**variables), self.home)
        self.told(text)
        return code, text


def in_terminal(columns: int, command: Sequence[str], environ: Mapping[str, str], folder: Path) -> tuple[int, str]:
    """Runs a command in a pseudo-terminal; gives its exit code and all it wrote."""
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environ = {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8", **environ}
    child = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, env=environ, cwd=folder)
    os.close(terminal)
    written = bytearray()
    until = time.monotonic() + LIMIT
    try:
        while time.monotonic() < until:
            if select.select([controller], [], [], 1.0)[0]:
                try:
                    piece = os.read(controller, 65536)
                except OSError:  # how Linux says that the other side is closed
                    break
                if not piece:
                    break
                written += piece
        return child.wait(10), written.decode("utf-8", "replace")
    finally:
        child.kill()
        child.wait()
        os.close(controller)


def treated(landscape: Landscape, home: Path, **options: Any) -> Iterator[Patient]:
    with in_thread(landscape, **options) as simulator:
        yield Patient(home, simulator)


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


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
