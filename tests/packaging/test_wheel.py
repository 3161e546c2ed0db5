"""The built wheel in an environment of its own, installed as the Dockerfile does it: it serves."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.end_to_end.conftest import environment, running_simulator, started, stopped
from tests.packaging.dockerfile import ROOT, dockerfile

pytestmark = [pytest.mark.sdk, pytest.mark.timeout(600)]

LARGEST = 110_000_000
"""Bytes that an installation may take, byte code included: 98 million were measured."""


def run(*command: object, **more: Any) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, **more)
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the Dockerfile copies, and nothing else."""
    folder = tmp_path_factory.mktemp("context")
    for source in {source for one in dockerfile() if one.name == "COPY" for source in one.sources}:
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, folder / source, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, folder / source)
    return folder


@pytest.fixture(scope="module")
def wheel(context: Path) -> Path:
    """Built by the backend that the lock pins; nothing is fetched."""
    run(
        sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir",
        context / "dist", context, cwd=context,
    )  # fmt: skip
    (built,) = (context / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def open_folder() -> Iterator[Path]:
    """A folder that others may read: pytest keeps its own to itself."""
    with tempfile.TemporaryDirectory(prefix="aicore-proxy-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def installed(wheel: Path, context: Path, open_folder: Path) -> Path:
    """The environment's folder of programs."""
    venv = open_folder / "venv"
    run(sys.executable, "-m", "venv", venv)
    lock = (context / "requirements.lock").read_text().split("# --- tests and checks")[0]
    (context / "serve.lock").write_text(lock)
    pip = (venv / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "--quiet")
    run(*pip, "install", "--require-hashes", "--only-binary", ":all:", "-r", context / "serve.lock")
    run(*pip, "install", "--no-deps", "--no-index", wheel)
    gone = next(re.split("uninstall --yes", one.text)[1] for one in dockerfile() if "uninstall --yes" in one.text)
    run(*pip, "uninstall", "--yes", *[name for name in gone.split() if name != "pip"])
    run(*pip, "check")
    run(*pip, "uninstall", "--yes", "pip", "setuptools")
    return venv / "bin"


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(name for name in names if name.endswith("METADATA"))).decode()
        entry = archive.read(next(name for name in names if name.endswith("entry_points.txt"))).decode()
    assert {name.split("/")[0] for name in names} == {"aicore_proxy", names[-1].split("/")[0]}
    assert "aicore_proxy/py.typed" in names
    assert [name for name in names if name.endswith("licenses/LICENSE")]
    assert not [name for name in names if not re.search(r"\.(py|typed|json|html|css|js|svg)$|dist-info/", name)]
    assert "aicore-proxy = aicore_proxy.cli:main" in entry
    assert "Requires-Python: >=3.11" in metadata
    assert "License-Expression: Apache-2.0" in metadata


def test_the_installation_is_small(installed: Path, record_property: Any) -> None:
    sizes: dict[str, int] = {}
    for path in (installed.parent / "lib").rglob("*"):
        if path.is_file():
            package = path.relative_to(installed.parent / "lib").parts[2]
            sizes[package] = sizes.get(package, 0) + path.stat().st_size
    total = sum(sizes.values())
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:6]
    told = ", ".join(f"{name} {size / 1e6:.1f}" for name, size in largest)
    print(f"installed: {total / 1e6:.1f} MB ({told})")
    record_property("installed_bytes", total)
    assert total < LARGEST, told
    assert not {"pip", "hatchling", "pytest", "mypy", "openai", "anthropic"} & set(sizes)


def test_version_help_and_completion(installed: Path, tmp_path: Path) -> None:
    program = installed / "aicore-proxy"
    environ = environment(tmp_path)
    version = run(sys.executable, "-c", "import aicore_proxy; print(aicore_proxy.__version__)").strip()
    assert run(program, "--version", env=environ) == f"aicore-proxy, version {version}\n"
    listed = run(program, "--help", env=environ)
    for command in ("serve", "run", "health", "connect", "chat", "doctor", "models", "completion"):
        assert re.search(rf"(?m)^  {command} +\S", listed), command
        run(program, command, "--help", env=environ)
    script = tmp_path / "completion.bash"
    script.write_text(run(program, "completion", "bash", env=environ))
    asked = (
        f"source {script}; complete -p aicore-proxy >/dev/null; "
        "COMP_WORDS=(aicore-proxy connect claude); COMP_CWORD=2; "
        f'_aicore_proxy_completion "{program}"; echo "${{COMPREPLY[@]}}"'
    )
    assert run("bash", "-c", asked, env={**environ, "PATH": f"{installed}:{environ['PATH']}"}) == "claude-code\n"


def wait_for(program: Path, environ: dict[str, str], code: int) -> subprocess.CompletedProcess[str]:
    deadline = time.monotonic() + 30
    while True:
        done = subprocess.run([program, "health"], env=environ, capture_output=True, text=True, check=False)
        if done.returncode == code:
            return done
        assert time.monotonic() < deadline, done.stderr
        time.sleep(0.1)


def answered(url: str, key: str) -> dict[str, Any]:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
    body = json.dumps({"model": "gpt-5", "messages": [{"role": "user", "content": "Hello"}]})
    connection.request("POST", "/v1/chat/completions", body, {"Authorization": f"Bearer {key}"})
    answer = connection.getresponse()
    value = json.load(answer)
    assert answer.status == 200, value
    connection.close()
    return dict(value)


def test_the_demo_serves_and_health_tells(installed: Path, tmp_path: Path) -> None:
    program = installed / "aicore-proxy"
    process, lines, line = started([str(program), "run", "--port", "0"], environment(tmp_path), "Try: ")
    try:
        text = "".join(lines) + line
        url = re.search(r"Base URL: (http://\S+)", text)
        key = re.search(r"API key: (\S+)", text)
        assert url
        assert key
        environ = environment(tmp_path, AICORE_PROXY_PORT=url[1].rsplit(":", 1)[1])
        assert wait_for(program, environ, 0).stdout == "ready\n"
        answer = answered(url[1], key[1])
        assert answer["choices"][0]["message"]["content"] == "This is gpt-5, simulated. You said: Hello"
        said = run(program, "chat", "claude-haiku-4-5", "Hello", env=environ)
        assert said == "This is anthropic--claude-4.5-haiku, simulated. You said: Hello\n"
        run(program, "connect", "openai", env=environ, cwd=tmp_path)
    finally:
        stopped(process)
    gone = wait_for(program, environ, 1)
    assert "No answer from http://127.0.0.1" in gone.stderr


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root, to be somebody else")
def test_it_serves_as_nobody_on_a_disk_that_it_may_not_write(
    installed: Path, open_folder: Path, tmp_path: Path
) -> None:
    """As in the image with --read-only: user 10001, no home, nothing writable."""
    program = installed / "aicore-proxy"
    with running_simulator(tmp_path) as simulator:
        folder = open_folder / "keys"
        folder.mkdir()
        for name, key in simulator.service_keys().items():
            (folder / f"{name}.json").write_text(json.dumps(key))
        environ = {
            "PATH": f"{installed}:/usr/bin:/bin", "XDG_STATE_HOME": "/var/lib", "AICORE_PROXY_API_KEY": "sk-container",
            "AICORE_PROXY_HOST": "0.0.0.0", "AICORE_PROXY_PORT": "0", "AICORE_PROXY_SERVICE_KEYS": str(folder),
            "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", "AICORE_PROXY_DRAIN_DELAY": "0.01",
        }  # fmt: skip
        nobody = ["setpriv", "--reuid", "10001", "--regid", "10001", "--clear-groups", "--no-new-privs"]
        command = ["unshare", "--mount", "sh", "-c", 'mount -o remount,ro,bind / 2>/dev/null; cd /; exec "$@"', "sh"]
        process, lines, line = started([*command, *nobody, str(program), "serve"], environ, "Try: ")
        try:
            text = "".join(lines) + line
            port = re.search(r"Base URL: http://\S+:(\d+)", text)
            assert port, text
            environ["AICORE_PROXY_PORT"] = port[1]
            done = subprocess.run(
                [*nobody, program, "health"], env=environ, capture_output=True, text=True, check=False
            )
            assert (done.returncode, done.stdout) == (0, "ready\n"), done.stderr
            assert answered(f"http://127.0.0.1:{port[1]}", "sk-container")["model"]
            assert "Traceback" not in "".join(lines)
            process.terminate()
            assert process.wait(20) == 0, "SIGTERM is its stop signal"
        finally:
            stopped(process)
