"""``aicore-proxy config``: what it prints, its exit codes, and that it tells no secret."""

from __future__ import annotations

import json
import socket
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
    assert f"{tmp_path}/aicore-proxy.yaml:1: subaccounts[0].service_key: url is missing" in result.stderr
    result = ran(tmp_path, "check", "none.yaml")
    assert (result.returncode, result.stderr) == (
        1,
        f"{tmp_path}/none.yaml: cannot be read: No such file or directory.\n1 problem.\n",
    )


def test_what_stands_in_service_keys_and_certificates_is_told_with_the_rest(tmp_path: Path) -> None:
    (tmp_path / "half.json").write_text(json.dumps({**KEY, "url": "ftp://a"}))
    (tmp_path / "bad.pem").write_text("hello")
    put(
        tmp_path,
        f"""hots: 1
tls_certificate: bad.pem
subaccounts:
  - {{name: eu, service_key: {{clientid: a}}}}
  - {{name: us, service_key_file: half.json}}
  - {{name: jp, service_key_file: missing.json}}
  - {{name: au, service_key: {json.dumps(KEY)}}}
  - {{name: ca, service_key: {json.dumps(KEY)}, exclude: [gpt-4o]}}
api_key: a-key-of-ours
keys: [{{name: default, key: another-key}}]
""",
    )
    wanted = [
        "1: hots is not a setting: did you mean 'host'?",
        "6: subaccounts[2].service_key_file is no use: missing.json: cannot be read: No such file or directory.",
        "2: tls_certificate: bad.pem is no certificate with its key in PEM",
        "10: keys[0].name: 'default' is what api_key is called.",
        "4: subaccounts[0].service_key: url is missing",
        "4: subaccounts[0].service_key: serviceurls.AI_API_URL is missing",
        "4: subaccounts[0].service_key: clientsecret is missing (or, of an X.509 key, certificate and key)",
        "5: subaccounts[1].service_key_file: url is not an http(s) URL",
        "8: subaccounts[4].service_key: it is the service key of au too, which serves other models: make them one",
    ]
    for arguments in (("config", "check"), ("serve",)):
        done = subprocess.run(
            [*COMMAND, *arguments], cwd=tmp_path, env=environment(tmp_path), check=False, capture_output=True, text=True
        )
        assert done.returncode == 1
        said = done.stderr.replace(f"{tmp_path}/", "").splitlines()
        lines = [line.removeprefix("aicore-proxy.yaml:") for line in said if line.startswith("aicore-proxy.yaml:")]
        assert [line.partition(" (")[0] if ".pem" in line else line for line in lines] == wanted
        assert SECRET not in done.stderr


def test_a_certificate_that_is_none_is_told_before_the_port_opens(tmp_path: Path) -> None:
    (tmp_path / "bad.pem").write_text("hello")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        put(
            tmp_path,
            f"port: {port}\ntls_certificate: bad.pem\nsubaccounts: [{{name: a, service_key: {json.dumps(KEY)}}}]",
        )
        done = subprocess.run(
            [*COMMAND, "serve"], cwd=tmp_path, env=environment(tmp_path), check=False, capture_output=True, text=True
        )
    assert done.returncode == 1
    assert "tls_certificate: " in done.stderr
    assert "cannot be opened" not in done.stderr, "it did not come to the port"


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

    assert ran(tmp_path, "show", "--json", str(file)).stdout == ran(tmp_path, "show", "--json").stdout
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
