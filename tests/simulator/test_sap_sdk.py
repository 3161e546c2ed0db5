"""SAP's official SDK works against the simulator unchanged: its native OpenAI, Amazon and Google clients."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

HERE = Path(__file__).parent
LOCK = HERE / "sap-sdk.lock"
VENV = HERE.parents[1] / ".venv-sap-sdk"


@pytest.fixture(scope="module")
def sdk_python() -> Path:
    """The interpreter of the SDK's own environment, made on first use (about 30 s)."""
    python = VENV / "bin" / "python"
    marker = VENV / "installed.lock"
    if not marker.exists() or marker.read_text() != LOCK.read_text():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(LOCK)]
        subprocess.run(install, check=True, env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"})
        marker.write_text(LOCK.read_text())
    return python


@pytest.mark.sdk
@pytest.mark.timeout(400)
def test_wire_sap_s_own_sdk_works_unchanged(sdk_python: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "aicore_proxy.simulator", "--port", "0", "--announce"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as simulator:
        assert simulator.stdin
        assert simulator.stdout
        url = json.loads(simulator.stdout.readline())["url"]
        with urllib.request.urlopen(f"{url}/_simulator/service-keys") as answer:
            key = json.load(answer)["demo-eu"]
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "AICORE_SERVICE_KEY": json.dumps(key),
            "AICORE_RESOURCE_GROUP": "default",
            "NO_PROXY": "127.0.0.1",
        }
        done = subprocess.run(
            [str(sdk_python), str(HERE / "sap_sdk_calls.py")],
            env=environ,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        with urllib.request.urlopen(f"{url}/_simulator/requests") as answer:
            received = json.load(answer)
        simulator.stdin.close()

    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    texts = [text for client in told.values() for name, text in client.items() if name not in ("tool", "embeddings")]
    assert len(texts) == 8
    assert all("You said: Say hello" in text for text in texts)
    assert told["openai"]["tool"] == "f"
    assert told["openai"]["embeddings"] == 2
    binary = [r for r in received if "eventstream" in json.dumps(r["headers"])]
    assert len(binary) >= 4, "Amazon's client asks for binary frames, also where it wants none"
