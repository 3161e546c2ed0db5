"""``aicore-proxy config``: what it prints, its exit codes, and that it tells no secret."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.cli.terminal import COMMAND, terminal
from tests.end_to_end.conftest import environment

SECRET = "a-secret-of-ours"
KEY = {"clientid": "sb-1", "clientsecret": SECRET, "url": "https://a", "serviceurls": {"AI_API_URL": "https://b"}}
GOOD = f"""
port: 4321
subaccounts: [{{name: eu, service_key: {json.dumps(KEY)}}}]
keys:
  - {{name: team, key: {SECRET}}}
aliases: {{fast: gpt-5-mini, key: gpt-5}}
"""


def ran(home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """``config`` with these arguments, in the folder."""
    environ = environment(home, **variables)
    command = [*COMMAND, "config", *arguments]
    return subprocess.run(command, cwd=home, env=environ, check=False, capture_output=True, text=True, timeout=60)


def put(home: Path, text: str, name: str = "aicore-proxy.yaml") -> Path:
    (home / name).write_text(text)
    (home / name).chmod(0o600)
    return home / name


def test_check_tells_what_is_there(tmp_path: Path) -> None:
    file = put(tmp_path, GOOD)
    for arguments in ((), ("aicore-proxy.yaml",), ("--config", str(file))):
        result = ran(tmp_path, "check", *arguments)
        assert result.returncode == 0, result.stderr
        assert result.stdout.splitlines() == [
            f"Configuration: {file}",
            "Holds: 1 subaccount, 1 key, 2 aliases",
            f"Service keys: eu ({file})",
            "The configuration is good.",
        ]
        assert result.stderr == ""
    nothing = ran(tmp_path, "check", AICORE_PROXY_CONFIG=str(put(tmp_path, "", "empty.yaml")))
    assert (nothing.returncode, nothing.stdout.splitlines()[1]) == (0, "Service keys: none found")


def test_check_tells_every_problem_and_fails(tmp_path: Path) -> None:
    put(tmp_path, f"prot: 1\nkeys: [{{name: a, key: '{SECRET} x'}}]\n")
    result = ran(tmp_path, "check", AICORE_PROXY_WORKERS="many", AICORE_PROXY_URL="https://other")
    assert result.returncode == 1
    assert result.stdout == ""
    assert [line.removeprefix(f"{tmp_path}/") for line in result.stderr.splitlines()] == [
        "aicore-proxy.yaml:1: prot is not a setting: did you mean 'port'?",
        "aicore-proxy.yaml:2: keys[0].key must be a key of ASCII letters, digits and signs, without spaces.",
        "AICORE_PROXY_WORKERS must be a whole number.",
        "3 problems.",
    ]
    # A service key that is none, and nothing to be asked for that
    put(tmp_path, "subaccounts: [{name: eu, service_key: {clientid: a}}]")
    result = ran(tmp_path, "check")
    assert result.returncode == 1
    assert "subaccounts[0] (eu)" in result.stderr
    result = ran(tmp_path, "check", "none.yaml")
    assert (result.returncode, result.stderr) == (
        1,
        f"{tmp_path}/none.yaml: cannot be read: No such file or directory.\n1 problem.\n",
    )


def test_show_tells_each_value_and_where_it_is_from(tmp_path: Path) -> None:
    file = put(tmp_path, GOOD)
    result = ran(tmp_path, "show", "--json", AICORE_PROXY_HOLD="3", AICORE_PROXY_API_KEY=f"{SECRET}-2")
    shown = json.loads(result.stdout)
    assert shown["file"] == str(file)
    settings, origins = shown["settings"], shown["origins"]
    assert (settings["port"], origins["port"]) == (4321, f"{file}:2")
    assert (settings["hold"], origins["hold"]) == (3.0, "AICORE_PROXY_HOLD")
    assert (settings["deadline"], origins["deadline"]) == (600.0, "default")
    assert (settings["api_key"], origins["api_key"]) == ("****", "AICORE_PROXY_API_KEY")
    assert settings["keys"][0]["key"] == settings["subaccounts"][0]["service_key"] == "****"
    assert settings["aliases"] == {"fast": "gpt-5-mini", "key": "gpt-5"}
    assert set(settings) == set(origins)
    assert SECRET not in result.stdout + result.stderr

    changed = ran(tmp_path, "show", "--changed", AICORE_PROXY_HOLD="3")
    lines = changed.stdout.splitlines()
    assert f"{'port: 4321':<44} # {file}:2" in lines
    assert f"{'hold: 3.0':<44} # AICORE_PROXY_HOLD" in lines
    assert f"{'subaccounts:':<44} # {file}:3" in lines
    assert not any("default" in line for line in lines)
    assert SECRET not in changed.stdout


def test_show_in_a_terminal_dims_what_is_default(tmp_path: Path) -> None:
    put(tmp_path, GOOD)
    with terminal([*COMMAND, "config", "show"], environment(tmp_path), cwd=tmp_path) as screen:
        assert screen.ended() == 0
    assert f"# Configuration: {tmp_path}/aicore-proxy.yaml" in screen.text
    lines = screen.raw.replace("\r\n", "\n").splitlines()
    assert any(line.startswith("\x1b[2mhost: 127.0.0.1") for line in lines)
    assert any(line.startswith("port: 4321") for line in lines)


def test_schema_is_printed(tmp_path: Path) -> None:
    put(tmp_path, "this: is bad")
    result = ran(tmp_path, "schema")
    assert result.returncode == 0
    assert json.loads(result.stdout)["properties"]["port"]["default"] == 3001


def test_import_prints_or_writes(tmp_path: Path) -> None:
    put(tmp_path, "model_list: [{model_name: fast, litellm_params: {model: sap/gpt-5-mini}}]", "litellm.yaml")
    printed = ran(tmp_path, "import", "litellm.yaml")
    assert printed.returncode == 0
    assert printed.stdout.startswith(
        "# Made by `aicore-proxy config import` of litellm.yaml, the configuration of LiteL"
    )
    assert "aliases:\n  fast: gpt-5-mini\n" in printed.stdout

    written = ran(tmp_path, "import", "litellm.yaml", "-o", "new.yaml")
    assert (written.returncode, written.stderr) == (0, "")
    assert (tmp_path / "new.yaml").read_text() == printed.stdout
    assert (tmp_path / "new.yaml").stat().st_mode & 0o777 == 0o600
    again = ran(tmp_path, "import", "litellm.yaml", "-o", "new.yaml")
    assert (again.returncode, "--force" in again.stderr) == (1, True)
    assert ran(tmp_path, "import", "litellm.yaml", "-o", "new.yaml", "--force").returncode == 0
    assert ran(tmp_path, "check", "new.yaml").returncode == 0

    put(tmp_path, "model_list: [{model_name: a, litellm_params: {model: sap/b, api_key: os.environ/NONE}}]", "l.yaml")
    unset = ran(tmp_path, "import", "l.yaml", "-o", "unset.yaml")
    assert unset.returncode == 0
    assert "needs the variable NONE, which is not set" in unset.stderr
    for bad in ("none.yaml", "new.yaml"):
        assert ran(tmp_path, "import", bad).returncode == 1
