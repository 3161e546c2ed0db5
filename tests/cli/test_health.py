"""``aicore-proxy health`` as a health check asks it, and ``aicore-proxy completion`` as shells do."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import trustme
from tests.cli.terminal import COMMAND
from tests.end_to_end.conftest import KEY, Proxy, Simulator, environment, running_simulator, started, stopped


def command(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    home = Path(environ.pop("home", "/nonexistent"))
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environment(home, **environ),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_ready_is_exit_code_0(proxy: Proxy) -> None:
    for done in (
        command("health", AICORE_PROXY_PORT=str(proxy.port)),
        command("health", PORT=str(proxy.port)),
        command("health", "--port", str(proxy.port), AICORE_PROXY_HOST="0.0.0.0", AICORE_PROXY_API_KEY=KEY),
        command("health", "--port", str(proxy.port), HTTP_PROXY="http://127.0.0.1:1", http_proxy="http://127.0.0.1:1"),
    ):
        assert (done.returncode, done.stdout, done.stderr) == (0, "ready\n", "")


def test_nobody_there_is_exit_code_1() -> None:
    done = command("health", "--port", "1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: No answer from http://127.0.0.1:1/health/ready: Connection refused.\n"


def test_a_proxy_that_knows_no_deployment_is_not_ready(tmp_path: Path) -> None:
    with running_simulator(tmp_path, landscape={"subaccounts": [{"name": "empty", "models": []}]}) as simulator:
        process, port = serving(tmp_path, simulator)
        try:
            done = command("health", "--port", port)
            assert done.returncode == 1
            assert done.stderr == f"Error: Not ready: http://127.0.0.1:{port}/health/ready answers 503.\n"
        finally:
            stopped(process)


def serving(home: Path, simulator: Simulator, **settings: str) -> tuple[subprocess.Popen[str], str]:
    folder = home / "keys"
    folder.mkdir()
    for name, key in simulator.service_keys().items():
        (folder / f"{name}.json").write_text(json.dumps(key))
    environ = environment(
        home, AICORE_PROXY_SERVICE_KEYS=str(folder), AICORE_PROXY_API_KEY=KEY, AICORE_PROXY_PORT="0", **settings
    )
    process, _, line = started([*COMMAND, "serve"], environ, "Base URL")
    return process, line.rsplit(":", 1)[1].strip()


def test_a_proxy_that_speaks_tls(simulator: Simulator, tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("proxy.example.com")
    issued.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both.pem"))
    tls = {name: str(tmp_path / "both.pem") for name in ("AICORE_PROXY_TLS_CERTIFICATE", "AICORE_PROXY_TLS_KEY")}
    process, port = serving(tmp_path, simulator, **tls)
    try:
        deadline = time.monotonic() + 20
        while (done := command("health", "--port", port, "--tls")).returncode:
            assert time.monotonic() < deadline, done.stderr
        assert done.stdout == "ready\n"
        assert command("health", "--port", port, **tls).stdout == "ready\n", "its settings say that it speaks TLS"
        plain = command("health", "--port", port)
        assert plain.returncode == 1
        assert plain.stderr.startswith("Error: ")
        assert "Traceback" not in plain.stderr
    finally:
        stopped(process)


@pytest.mark.timed
def test_silence_and_nonsense_are_told_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        before = time.monotonic()
        done = command("health", "--port", str(silent.getsockname()[1]), "--timeout", "0.5")
        took = time.monotonic() - before
        assert done.returncode == 1
        assert "timed out" in done.stderr
        assert 0.5 <= took < 10
    with socket.create_server(("127.0.0.1", 0)) as nonsense:

        def answer() -> None:
            connection, _ = nonsense.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        done = command("health", "--port", str(nonsense.getsockname()[1]))
        thread.join()
        assert done.returncode == 1
        assert "it is not HTTP (BadStatusLine)" in done.stderr


def test_settings_that_are_not_usable_are_told() -> None:
    done = command("health", AICORE_PROXY_PORT="many")
    assert done.returncode == 1
    assert "Error: The settings are not usable:" in done.stderr
    zero = command("health", AICORE_PROXY_PORT="0")
    assert "Error: Port 0 means any free one: say with --port which one it became." in zero.stderr


# --- completion


def test_bash_completes_commands_options_and_choices(tmp_path: Path) -> None:
    script = tmp_path / "completion"
    script.write_text(command("completion", "bash").stdout)
    program = f"#!{sys.executable}\nfrom aicore_proxy.cli import main\nmain()\n"
    (tmp_path / "aicore-proxy").write_text(program)
    (tmp_path / "aicore-proxy").chmod(0o755)

    def completed(*words: str) -> list[str]:
        line = " ".join(words)
        asked = (
            f"source {script}; COMP_WORDS=({line} ''); COMP_CWORD={len(words) - 1}; "
            f'_aicore_proxy_completion aicore-proxy; printf "%s\\n" "${{COMPREPLY[@]}}"'
        )
        environ = environment(tmp_path)
        environ["PATH"] = f"{tmp_path}:{environ['PATH']}"
        done = subprocess.run(["bash", "-c", asked], env=environ, capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert completed("aicore-proxy", "he") == ["health"]
    assert completed("aicore-proxy", "connect", "c") == ["claude-code", "cline", "cursor"]
    assert completed("aicore-proxy", "connect", "aider", "--und") == ["--undo"]
    assert completed("aicore-proxy", "chat", "--protocol", "m") == ["messages"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_are_valid_for_their_shells(shell: str, tmp_path: Path) -> None:
    done = command("completion", shell)
    assert done.returncode == 0, done.stderr
    assert f"_AICORE_PROXY_COMPLETE={shell}_complete" in done.stdout
    if program := shutil.which(shell):
        (tmp_path / "script").write_text(done.stdout)
        checked = subprocess.run([program, "-n", tmp_path / "script"], capture_output=True, text=True, check=False)
        assert (checked.returncode, checked.stderr) == (0, "")


def test_another_shell_is_refused() -> None:
    done = command("completion", "tcsh")
    assert done.returncode == 2
    assert "'tcsh' is not one of 'bash', 'zsh', 'fish'" in done.stderr
