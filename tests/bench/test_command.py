"""``aicore-proxy bench`` as a person runs it, on a real proxy: it counts what was served, and shows failures."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.cli.terminal import COMMAND, terminal
from tests.end_to_end.conftest import KEY, Proxy, Simulator, environment


def benched(home: Path, url: str, *options: str, key: str = KEY) -> tuple[int, str, str]:
    """Exit code and what was printed, the key given by its variable."""
    done = subprocess.run(
        [*COMMAND, "bench", url, *options],
        env=environment(home, AICORE_PROXY_API_KEY=key),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert key not in done.stdout + done.stderr
    return done.returncode, done.stdout, done.stderr


def told(home: Path, url: str, *options: str, key: str = KEY) -> tuple[int, dict[str, Any]]:
    code, out, _ = benched(home, url, *options, "--json", key=key)
    return code, json.loads(out)


def served(simulator: Simulator) -> int:
    return sum(simulator.received().values())


@pytest.mark.parametrize(
    ("options", "streamed"),
    [
        (("--model", "gpt-5"), False),
        (("--model", "gpt-5", "--stream"), True),
        (("--model", "claude-sonnet-4-5", "--protocol", "messages", "--stream", "--size", "50000"), True),
        (("--model", "gemini-2.5-pro", "--new-connections"), False),
        (("--model", "gpt-5", "--rate", "100"), False),
    ],
)
def test_what_is_counted_is_what_was_served(
    options: tuple[str, ...], streamed: bool, simulator: Simulator, proxy: Proxy, tmp_path: Path
) -> None:
    before = served(simulator)
    code, found = told(tmp_path, proxy.url, *options, "-n", "24", "-c", "4")
    assert code == 0, found
    assert found["requests"] == {"begun": 24, "succeeded": 24, "failed": 0, "unfinished": 0}
    assert found["statuses"] == {"200": 24}
    assert served(simulator) - before == 24
    assert sum(bar["count"] for bar in found["histogram"]) == 24
    expected = {"latency"} | ({"first", "gaps"} if streamed else set()) | ({"waited"} if "--rate" in options else set())
    assert set(found["times"]) == expected
    for times in found["times"].values():
        assert 0 <= times["p50"] <= times["p90"] <= times["p99"] <= times["max"]
    assert found["times"]["latency"]["p50"] > 0
    assert (found["events"] >= 24) == streamed
    if streamed:
        assert found["times"]["first"]["count"] == 24
        assert found["times"]["gaps"]["count"] == found["events"] - 24
    opened = found["connections_opened"]  # the four that open anew do so before they know that enough was asked
    assert 24 <= opened <= 28 if "--new-connections" in options else opened == 4


def test_a_duration_ends_it(proxy: Proxy, tmp_path: Path) -> None:
    code, found = told(tmp_path, proxy.url, "--model", "gpt-5", "-d", "1", "-c", "2")
    assert code == 0
    assert 1.0 <= found["seconds"] < 15
    assert found["requests"]["succeeded"] == found["requests"]["begun"] > 0
    assert found["requests_per_second"] == pytest.approx(found["requests"]["succeeded"] / found["seconds"])


def test_errors_are_shown_and_make_it_fail(proxy: Proxy, tmp_path: Path) -> None:
    code, out, _ = benched(tmp_path, proxy.url, "--model", "no-such-model", "-n", "5")
    assert code == 1
    assert "0 of 5 requests succeeded" in out
    assert "status 404" in out
    code, found = told(tmp_path, proxy.url, "--model", "gpt-5", "-n", "5", key="sk-wrong")
    assert (code, found["statuses"], found["requests"]["failed"]) == (1, {"401": 5}, 5)
    assert found["times"] == {}


@contextmanager
def answering(*answers: bytes) -> Iterator[str]:
    """A server that gives each connection the next of these answers and closes it."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for answer in answers:
                connection, _ = server.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        thread.join(10)


def test_an_endpoint_that_fails_is_reported_by_cause(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    code, found = told(tmp_path, f"127.0.0.1:{port}", "--model", "m", "-n", "3")
    assert (code, found["failures"]) == (1, {"connection refused": 3})
    stream = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
    content = b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\n'
    with answering(
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        stream + content,
        stream + content + b'data: {"error":{"message":"overloaded"}}\n\n',
        stream + content + b"data: [DONE]\n\n",
        b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
    ) as url:
        code, found = told(tmp_path, url, "--model", "m", "--stream", "-n", "6")
    assert code == 1
    assert found["failures"] == {
        "connection lost": 1,
        "error event in the stream": 1,
        "malformed answer": 1,
        "stream without its last event": 1,
    }
    assert found["statuses"] == {"200": 1, "503": 1}
    assert found["requests"] == {"begun": 6, "succeeded": 1, "failed": 5, "unfinished": 0}


def test_silence_ends_after_the_timeout(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        code, found = told(tmp_path, url, "--model", "m", "-n", "2", "-c", "2", "--timeout", "1")
    assert (code, found["failures"]) == (1, {"timeout": 2})


def test_words_for_what_cannot_be_asked(tmp_path: Path) -> None:
    code, out, err = benched(tmp_path, "ftp://x", "--model", "m")
    assert (code, out) == (1, "")
    assert "not an HTTP URL" in err


def test_a_terminal_shows_progress_and_control_c_ends_it_with_a_report(proxy: Proxy, tmp_path: Path) -> None:
    command = [*COMMAND, "bench", proxy.url, "--model", "gpt-5", "-d", "60", "-c", "2"]
    with terminal(command, environment(tmp_path, AICORE_PROXY_API_KEY=KEY)) as shown:
        shown.until("2%", 60)
        assert "open" in shown.text
        assert "[#" in shown.text
        shown.type("\x03")
        shown.until("requests succeeded", 30)
        assert shown.ended() == 0
    report = shown.text.rpartition("requests succeeded")[2]
    assert "█" in report
    assert "p99" in report
    assert "status 200" in report
    assert KEY not in shown.text
