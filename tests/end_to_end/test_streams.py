"""Streams: clients that leave, keep-alives, upstreams that die, frames of any split."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from tests.end_to_end.asking import CLAUDE, GEMINI, GPT, PATHS, PROTOCOLS, body, events, said, simulate
from tests.end_to_end.conftest import Proxy, Simulator, running_proxy


def request_bytes(proxy: Proxy, protocol: str, asked: dict[str, Any]) -> bytes:
    content = json.dumps(asked).encode()
    head = (
        f"POST {PATHS[protocol]} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {proxy.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def connected(proxy: Proxy) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", proxy.port))
    connection.settimeout(10)
    return connection


def leave(connection: socket.socket, how: str) -> None:
    """``how``: FIN, RST, or half: nothing more is sent, but still read."""
    if how == "half":
        connection.shutdown(socket.SHUT_WR)
        return
    if how == "RST":
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def until(condition: Any, seconds: float) -> float:
    """Seconds until ``condition()`` holds; fails after ``seconds``."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds
        time.sleep(0.005)
    return time.monotonic() - started


CASES = [
    ("before the head", True, {"delay": 60}),
    ("while the start is held back", True, {"think": "x", "stall": 60, "events": 50, "rate": 0.01}),
    ("in mid-stream", True, {"events": 2000, "rate": 20}),
    ("during a call without stream", False, {"delay": 60}),
]


@pytest.mark.timed
@pytest.mark.parametrize("how", ["FIN", "RST", "half"])
@pytest.mark.parametrize(("when", "stream", "script"), CASES, ids=[case[0] for case in CASES])
@pytest.mark.parametrize(
    ("protocol", "model"), [("chat", GPT), ("messages", CLAUDE), ("chat", CLAUDE), ("messages", GEMINI)]
)
def test_c01_c02_a_client_that_leaves_frees_its_upstream_within_a_second(
    proxy: Proxy,
    simulator: Simulator,
    protocol: str,
    model: str,
    when: str,
    stream: bool,
    script: dict[str, Any],
    how: str,
) -> None:
    """7 at a time in each of 48 cases: over 300 repetitions. Half a close looks like a whole one, and is taken for one:
    the connection ends."""
    asked = request_bytes(proxy, protocol, body(protocol, model, simulate(**script), stream=stream))
    connections = [connected(proxy) for _ in range(7)]
    for connection in connections:
        connection.sendall(asked)
    until(lambda: simulator.state()["open"] == 7, 10)
    if when == "in mid-stream":
        for connection in connections:
            assert connection.recv(65536)

    for connection in connections:
        leave(connection, how)

    assert simulator.wait_until_free(5) < 1.0
    until(lambda: "aicore_proxy_in_flight_requests 0.0" in proxy.http.get("/metrics").text, 1.0)
    for connection in connections if how == "half" else ():
        ended(connection)


def ended(connection: socket.socket) -> None:
    """Reads what is left, until the server closes."""
    connection.settimeout(1)
    try:
        while connection.recv(65536):
            pass
    except ConnectionResetError:
        pass
    connection.close()


@pytest.fixture(scope="module")
def impatient(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy with its times shortened."""
    home = tmp_path_factory.mktemp("impatient")
    times = {"hold": "0.5", "keepalive": "0.5", "stream_head_timeout": "2", "first_byte_timeout": "4"}
    with running_proxy(home, simulator, between_bytes_timeout="3", **times) as proxy:
        yield proxy


KEEPALIVES = {"chat": b": ", "messages": b"event: ping\n"}


@pytest.mark.timed
@pytest.mark.parametrize("model", [GPT, CLAUDE, GEMINI])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_keep_alives_come_while_the_model_thinks(
    impatient: Proxy, simulator: Simulator, protocol: str, model: str
) -> None:
    simulator.clear()
    asked = request_bytes(impatient, protocol, body(protocol, model, simulate(text="done", delay=1.8), stream=True))
    with connected(impatient) as connection:
        connection.sendall(asked)
        started = time.monotonic()
        received = connection.recv(65536)
        first = time.monotonic() - started
        while b"0\r\n\r\n" not in received:
            received += connection.recv(65536)

    assert 0.45 < first < 1.2, "the status comes when it was held back long enough, not before"
    assert received.startswith(b"HTTP/1.1 200")
    _, _, content = received.partition(b"\r\n\r\n")
    assert content.count(KEEPALIVES[protocol]) >= 2
    assert b"done" in content
    assert content.index(KEEPALIVES[protocol]) < content.index(b"done")


@pytest.mark.timed
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_failover_is_still_possible_after_keep_alives(impatient: Proxy, simulator: Simulator, protocol: str) -> None:
    """One subaccount never answers: its attempt ends after 2 s, and the other's answer follows the keep-alives."""
    simulator.clear()
    for _ in range(2):  # whichever of the two has the first turn
        prompt = simulate(text="saved", delay=60, at=["demo-eu"])
        started = time.monotonic()
        answer = impatient.http.post(PATHS[protocol], json=body(protocol, CLAUDE, prompt, stream=True))
        assert said(protocol, answer) == "saved"
        assert time.monotonic() - started < 4
    assert simulator.wait_until_free(5) < 1.5


@pytest.mark.timed
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_final_fault_after_keep_alives_is_an_event_of_the_protocol(
    impatient: Proxy, simulator: Simulator, protocol: str
) -> None:
    simulator.clear()
    answer = impatient.http.post(PATHS[protocol], json=body(protocol, GEMINI, simulate(delay=60), stream=True))

    told = list(events(answer.text))
    assert answer.status_code == 200
    assert_ends_with_an_error(protocol, told)


def assert_ends_with_an_error(protocol: str, told: list[tuple[str, Any]]) -> None:
    assert "[DONE]" not in [data for _, data in told]
    name, data = told[-1]
    if protocol == "messages":
        assert (name, data["type"]) == ("error", "error")
        assert "message_stop" not in [name for name, _ in told]
    assert data["error"]["message"]


MIDSTREAM: list[dict[str, Any]] = [{"cut_after": 3}, {"error_after": 3}]


@pytest.mark.parametrize("script", MIDSTREAM, ids=str)
@pytest.mark.parametrize("model", [GPT, CLAUDE, GEMINI])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_s01_an_upstream_that_dies_in_mid_stream_ends_with_an_error_event(
    proxy: Proxy, protocol: str, model: str, script: dict[str, Any]
) -> None:
    prompt = simulate(events=8, rate=50, **script)
    answer = proxy.http.post(PATHS[protocol], json=body(protocol, model, prompt, stream=True))

    told = list(events(answer.text))
    assert answer.status_code == 200
    assert_ends_with_an_error(protocol, told)
    assert len(told) > 2, "what came before the fault was told"


@pytest.mark.timed
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_s04_a_stall_in_mid_stream_brings_keep_alives_and_then_an_error_event(
    impatient: Proxy, simulator: Simulator, protocol: str
) -> None:
    simulator.clear()
    started = time.monotonic()
    answer = impatient.http.post(PATHS[protocol], json=body(protocol, GPT, simulate(events=5, stall=60), stream=True))

    assert 2.5 < time.monotonic() - started < 6
    assert answer.content.count(KEEPALIVES[protocol]) >= 3
    assert_ends_with_an_error(protocol, list(events(answer.text)))
    assert simulator.wait_until_free(5) < 1.5


@pytest.mark.timed
@pytest.mark.parametrize(
    ("protocol", "model"), [("chat", GPT), ("messages", CLAUDE), ("messages", GPT), ("chat", GEMINI)]
)
def test_each_event_is_forwarded_before_the_next_is_sent(proxy: Proxy, protocol: str, model: str) -> None:
    asked = request_bytes(proxy, protocol, body(protocol, model, simulate(events=6, rate=4), stream=True))
    arrivals: list[float] = []
    with connected(proxy) as connection:
        connection.sendall(asked)
        received = b""
        while b"0\r\n\r\n" not in received:
            received += connection.recv(65536)
            arrivals.append(time.monotonic())

    gaps = [later - earlier for earlier, later in pairwise(arrivals)]
    assert len([gap for gap in gaps if gap > 0.12]) >= 4, f"events came in lumps: {gaps}"
    assert max(gaps) < 0.9
