"""``aicore-proxy chat``: once, from a pipe, and as a conversation in a terminal."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import trustme
from tests.cli.terminal import COMMAND, Terminal, terminal
from tests.end_to_end.conftest import KEY, Proxy, Simulator, environment, started, stopped

LONG = {"events": 400, "rate": 40}
"""A stream of ten seconds."""


@pytest.fixture
def environ(proxy: Proxy, tmp_path: Path) -> dict[str, str]:
    """Somebody on the proxy's machine, with its settings."""
    return environment(tmp_path, AICORE_PROXY_PORT=str(proxy.port), AICORE_PROXY_API_KEY=KEY)


def chat(environ: Mapping[str, str], *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, "chat", *arguments]
    return subprocess.run(
        command, env=dict(environ), input=stdin, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("protocol", ["chat", "messages"])
@pytest.mark.parametrize("model", ["gpt-5", "claude-sonnet-4-5", "gemini-2.5-pro"])
def test_one_prompt_is_one_answer(environ: dict[str, str], model: str, protocol: str, simulator: Simulator) -> None:
    done = chat(environ, model, "Say hello.", "--protocol", protocol)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(rf"This is (anthropic--)?{model[:5]}\S*, simulated\. You said: Say hello\.\n", done.stdout)
    (line,) = done.stderr.splitlines()
    assert re.fullmatch(
        r"\S+ · \d+ tokens in, \d+ out( \(\d+ thinking\))? · first word after \d+\.\d\d of \d+\.\d\d s"
        r" · \w+ in demo-\w\w",
        line,
    )


def test_the_prompt_may_come_from_a_pipe(environ: dict[str, str], simulator: Simulator) -> None:
    done = chat(environ, "gpt-5", "--system", "Be brief.", "--max-tokens", "500", stdin="What is this?\nLines.\n")
    assert done.stdout == "This is gpt-5, simulated. You said: What is this? Lines.\n", done.stderr
    body = simulator.requests()[-1]["body"]
    assert body["messages"][0]["content"] == "Be brief."
    assert body["max_completion_tokens"] == 500


def test_without_a_model_a_large_one_is_chosen(environ: dict[str, str]) -> None:
    done = chat(environ, stdin="Hello")
    assert done.stdout == "This is anthropic--claude-5.5-sonnet, simulated. You said: Hello\n", done.stderr


def test_an_empty_pipe_is_an_error(environ: dict[str, str]) -> None:
    done = chat(environ, "gpt-5")
    assert (done.returncode, done.stdout) == (2, "")
    assert "There is no prompt" in done.stderr


def test_errors_are_sentences(environ: dict[str, str], tmp_path: Path) -> None:
    unknown = chat(environ, "claude-sonnet-9", "Hello")
    assert unknown.returncode == 1
    assert "Error: The proxy answered 404: The model 'claude-sonnet-9' does not exist" in unknown.stderr
    assert "Did you mean claude-sonnet-5" in unknown.stderr
    wrong = chat(environ, "gpt-5", "Hello", "--key", "sk-wrong")
    assert wrong.stderr.startswith("Error: The proxy answered 401: The API key is not valid.")
    assert "sk-wrong" not in wrong.stderr
    nobody = chat(environ, "gpt-5", "Hello", "--url", "http://127.0.0.1:1")
    assert nobody.stderr == (
        "Error: No answer from http://127.0.0.1:1: Connection refused. Is the proxy running? "
        "Start it with: aicore-proxy serve\n"
    )
    nonsense = chat(environ, "gpt-5", "Hello", "--url", "ftp://x")
    assert "'ftp://x' is not a proxy's URL" in nonsense.stderr
    keyless = chat(environment(tmp_path), "gpt-5", "Hello")
    assert "There is no key yet: start the proxy first" in keyless.stderr
    for done in (unknown, wrong, nobody, nonsense, keyless):
        assert done.returncode == 1
        assert "Traceback" not in done.stderr


def test_a_client_s_own_variable_where_the_configuration_has_hashes_only(
    environ: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "hashes.yaml"
    file.write_text(f"keys: [{{name: a, hash: 'sha256:{hashlib.sha256(KEY.encode()).hexdigest()}'}}]")
    without = {name: value for name, value in environ.items() if name != "AICORE_PROXY_API_KEY"}
    none = chat(without, "gpt-5", "Hello", "--config", str(file))
    assert "give one with --key, or in AICORE_PROXY_KEY" in none.stderr
    for name in ("AICORE_PROXY_KEY", "AICORE_PROXY_API_KEY"):
        done = chat({**without, name: KEY}, "gpt-5", "Hello", "--config", str(file))
        assert done.returncode == 0, done.stderr


def test_tls_and_its_mistakes(environ: dict[str, str], simulator: Simulator, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both.pem"))
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    tls = {"tls_certificate": str(tmp_path / "both.pem"), "tls_key": str(tmp_path / "both.pem")}
    (tmp_path / "keys").mkdir()
    for name, key in simulator.service_keys().items():
        (tmp_path / "keys" / f"{name}.json").write_text(json.dumps(key))
    settings = {f"AICORE_PROXY_{name.upper()}": value for name, value in tls.items()}
    serving = environment(
        tmp_path, AICORE_PROXY_SERVICE_KEYS=str(tmp_path / "keys"), AICORE_PROXY_API_KEY=KEY, AICORE_PROXY_PORT="0",
        **settings,
    )  # fmt: skip
    process, _, line = started([*COMMAND, "serve"], serving, "Try: ")
    try:
        port = re.findall(r"https?://[^:]+:(\d+)", line)[0]
        asked = ("gpt-5", "Hello", "--url")
        trusted = chat({**environ, "SSL_CERT_FILE": str(tmp_path / "ca.pem")}, *asked, f"https://localhost:{port}/v1")
        assert trusted.stdout == "This is gpt-5, simulated. You said: Hello\n", trusted.stderr
        foreign = chat(environ, *asked, f"https://localhost:{port}")
        assert foreign.stderr.startswith(f"Error: The certificate of https://localhost:{port} is not trusted: ")
        assert "set SSL_CERT_FILE" in foreign.stderr
        plain = chat(environ, *asked, f"localhost:{port}")
        assert plain.stderr == f"Error: http://localhost:{port} does not answer in HTTP: is it https://?\n"
    finally:
        stopped(process)
    other = environ["AICORE_PROXY_PORT"]
    secure = chat(environ, *asked, f"https://127.0.0.1:{other}")
    assert re.fullmatch(r"Error: https://\S+ does not speak TLS as it should \(\S+\): is it http://\?\n", secure.stderr)
    nowhere = chat(environ, *asked, "http://proxy.invalid")
    assert nowhere.stderr.startswith("Error: No answer from http://proxy.invalid: there is no such host.")


@pytest.mark.parametrize("protocol", ["chat", "messages"])
@pytest.mark.parametrize("fault", [{"error_after": 3}, {"cut_after": 3}])
def test_a_fault_in_the_middle_shows_what_came_and_why_it_ended(
    environ: dict[str, str], protocol: str, fault: dict[str, int]
) -> None:
    done = chat(environ, "gpt-5", f"Hello\nsimulate: {json.dumps({'events': 9, **fault})}", "--protocol", protocol)
    assert done.returncode == 1
    assert done.stdout.strip(), "what came is shown"
    assert re.match(r"Error: The answer (ended with an error|broke off): .+", done.stderr.splitlines()[-1]), done.stderr


def test_a_bound_that_is_met_is_told(environ: dict[str, str]) -> None:
    done = chat(environ, "gpt-4o", 'Hello\nsimulate: {"finish": "length"}')
    assert done.stderr.rstrip().endswith("cut: --max-tokens was reached"), done.stderr


def start(talk: Terminal) -> None:
    talk.until("/help for commands, Ctrl-D ends")
    talk.until("> ")


def test_a_conversation(environ: dict[str, str]) -> None:
    with terminal([*COMMAND, "chat", "gpt-5"], environ) as talk:
        start(talk)
        talk.type("My name is Ada.\r")
        talk.until("You said: My name is Ada.\n")
        talk.until("tokens in")
        talk.until("> ")
        talk.type("A line\\\r")
        talk.until("… ")
        talk.type("and another\r")
        talk.until("You said: A line and another\n")
        talk.until("> ")
        talk.type("/model claude-haiku-4-5\r")
        talk.until("claude-haiku-4-5 from now on")
        talk.type("Who are you?\r")
        talk.until("This is anthropic--claude-4.5-haiku, simulated. You said: Who are you?")
        talk.until("> ")
        talk.type("/model nothing\rHello?\r")
        talk.until("Error: The proxy answered 404")
        talk.type("/clear\r")
        talk.until("forgotten")
        talk.type("/what\r")
        talk.until("Ctrl-C stops an answer.")
        talk.until("> ")  # before it Ctrl-D would be lost: the terminal is not the line's yet
        talk.type("\x04")
        assert talk.ended() == 0


def test_the_conversation_is_sent_along_and_a_failed_turn_is_not(environ: dict[str, str], simulator: Simulator) -> None:
    with terminal([*COMMAND, "chat", "gpt-4o"], environ) as talk:
        start(talk)
        talk.type("One\r")
        talk.until("You said: One\n")
        talk.until("> ")
        talk.type('simulate: {"status": 400, "message": "no"}\r')
        talk.until("Error: The proxy answered 400")
        talk.until("> ")
        talk.type("Three\r")
        talk.until("You said: Three\n")
        talk.type("/exit\r")
        assert talk.ended() == 0
    body = simulator.requests()[-1]["body"]
    messages = body["messages"]
    assert [m["content"] for m in messages] == ["One", "This is gpt-4o, simulated. You said: One", "Three"]


def test_ctrl_c_stops_an_answer_and_what_came_stays(environ: dict[str, str], simulator: Simulator) -> None:
    with terminal([*COMMAND, "chat", "gpt-4o"], environ) as talk:
        start(talk)
        talk.type(f"Tell\\\rsimulate: {json.dumps(LONG)}\r")
        talk.until("}\n")
        talk.until(" ")
        talk.until(" ")
        talk.type("\x03")
        talk.until("stopped")
        simulator.wait_until_free()
        talk.until("> ")
        time.sleep(0.3)  # readline misses an interrupt in the moment between its prompt and its first wait
        talk.type("\x03half a line\x03")
        talk.until("> ")
        talk.type("Go on\r")
        talk.until("You said: Go on\n")
        talk.until("> ")
        talk.type("\x04")
        assert talk.ended() == 0
    body = simulator.requests()[-1]["body"]
    messages = body["messages"]
    assert [m["role"] for m in messages] == ["user", "assistant", "user"]
    assert messages[1]["content"]


def test_ctrl_c_ends_a_single_answer(environ: dict[str, str], simulator: Simulator) -> None:
    prompt = f"Tell\nsimulate: {json.dumps(LONG)}"
    with terminal([*COMMAND, "chat", "gpt-4o", prompt], environ) as talk:
        talk.until(" ")
        talk.type("\x03")
        assert talk.ended(5) == 130
        assert "Traceback" not in talk.text
    simulator.wait_until_free()


def test_an_answer_does_not_command_the_terminal(environ: dict[str, str]) -> None:
    script = json.dumps({"text": "a\x1b]52;c;aGk=\x07b\x1b[2Jc"})
    with terminal([*COMMAND, "chat", "gpt-4o", f"Hello\nsimulate: {script}"], environ) as talk:
        assert talk.ended() == 0
    assert "a\ufffd]52;c;aGk=\ufffdb\ufffd[2Jc" in talk.text
    assert "\x1b]52" not in talk.raw


def test_thinking_is_shown_apart(environ: dict[str, str]) -> None:
    script = json.dumps({"think": "Let me see.", "text": "Four."})
    with terminal([*COMMAND, "chat", "claude-sonnet-4-5", f"2+2?\nsimulate: {script}"], environ) as talk:
        assert talk.ended() == 0
    assert "Four." in talk.text


def test_a_key_is_asked_for_unseen(environ: dict[str, str]) -> None:
    with terminal([*COMMAND, "chat", "gpt-5", "Hello", "--key", "-"], environ) as talk:
        talk.until("Key: ")
        talk.type(KEY + "\r")
        talk.until("You said: Hello")
        assert talk.ended() == 0
    assert KEY not in talk.text
