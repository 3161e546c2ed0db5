"""A proxy that has met every kind of request, and what its /metrics then says."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator

import pytest
from tests.end_to_end.asking import PATHS, body, simulate
from tests.end_to_end.conftest import Proxy, Simulator, running_proxy, running_simulator
from tests.telemetry.reading import Numbers, look

GPT, CLAUDE, OLD = "gpt-5", "anthropic--claude-4.5-sonnet", "gpt-4o-mini"
SUBACCOUNTS = ("sub-0", "sub-1")


@pytest.fixture(scope="package")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Simulator, Proxy]]:
    """Two subaccounts; what goes wrong went wrong."""
    home = tmp_path_factory.mktemp("lived")
    landscape = {"subaccounts": [{"name": name, "models": [GPT, CLAUDE, OLD]} for name in SUBACCOUNTS]}
    settings = {
        "strategy": "auto",
        "breakers": "true",
        "survey_interval": "0.3",
        "workers": "2",
        "recovery_wait": "0",
        "log_level": "debug",
    }
    routing = f"{{fallbacks: {{team: [{OLD}]}}, adaptive_limits: {{{OLD}: true}}}}"
    (home / "proxy.yaml").write_text(f"aliases: {{team: {GPT}}}\nrouting: {routing}\n")
    settings["config"] = str(home / "proxy.yaml")
    with (
        running_simulator(home, landscape=landscape) as simulator,
        running_proxy(home, simulator, **settings) as proxy,
    ):
        live(simulator, proxy)
        yield simulator, proxy


def live(simulator: Simulator, proxy: Proxy) -> None:
    for protocol in PATHS:
        for model in (GPT, CLAUDE):
            for stream in (False, True):
                told = {"stream_options": {"include_usage": True}} if stream and protocol == "chat" else {}
                long = "Tell me more. " * 400
                for _ in range(2):
                    asked = body(protocol, model, long + simulate(think="hm", events=4), stream=stream, **told)
                    proxy.http.post(PATHS[protocol], json=asked).raise_for_status()
    kept = [{"type": "text", "text": "You are kind. " * 800, "cache_control": {"type": "ephemeral"}}]
    for number in range(4):
        asked = body("messages", CLAUDE, f"Hello {number}!", system=kept)
        proxy.http.post(PATHS["messages"], json=asked, headers={"x-session-id": "one"}).raise_for_status()
    proxy.http.post(PATHS["chat"], json=body("chat", "nothing", "Hello!"))
    proxy.http.post(PATHS["chat"], json=body("chat", GPT, "Hello!"), headers={"authorization": "Bearer wrong"})
    proxy.http.post(PATHS["chat"], json=body("chat", GPT, simulate(usage=False)))
    proxy.http.post(PATHS["messages"], json=body("messages", CLAUDE, simulate(events=9, cut_after=3), stream=True))
    leave(proxy)
    simulator.script({"unknown": ["top_k"]}, CLAUDE)
    proxy.http.post(PATHS["messages"], json=body("messages", CLAUDE, "Hello!", top_k=3)).raise_for_status()
    simulator.clear()
    simulator.script({"status": 429, "retry_after": 60}, "sub-0")
    for number in range(4):
        proxy.http.post(PATHS["chat"], json=body("chat", GPT, f"Hello {number}!")).raise_for_status()
    simulator.clear()
    simulator.script({"status": 503}, GPT)
    answer = proxy.http.post(PATHS["chat"], json=body("chat", "team", "Hello!"))
    assert answer.headers["x-aicore-proxy-fallback"] == OLD
    simulator.clear()
    simulator.script({"status": 429, "retry_after": 1}, OLD)
    assert proxy.http.post(PATHS["chat"], json=body("chat", OLD, "Hello!")).status_code == 429
    simulator.clear()
    simulator.script({"status": 500}, CLAUDE)
    for number in range(4):
        proxy.http.post(PATHS["messages"], json=body("messages", CLAUDE, f"Hello {number}!"))
    simulator.clear()


def leave(proxy: Proxy) -> None:
    """A client that leaves in the middle of a stream."""
    content = json.dumps(body("messages", CLAUDE, simulate(events=500, rate=50), stream=True)).encode()
    head = (
        f"POST {PATHS['messages']} HTTP/1.1\r\nHost: x\r\nx-api-key: {proxy.key}\r\nContent-Length: {len(content)}\r\n"
    )
    with socket.create_connection(("127.0.0.1", proxy.port)) as connection:
        connection.settimeout(10)
        connection.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + content)
        got = b""
        while b"content_block_delta" not in got:
            got += connection.recv(65536)


@pytest.fixture(scope="package")
def numbers(lived: tuple[Simulator, Proxy]) -> Numbers:
    """Once SAP's deployments were looked at, and everybody has left."""
    deadline = time.monotonic() + 10
    while True:
        seen = look(lived[1].http)
        if seen.total("deployments") and not seen.total("in_flight_requests"):
            return seen
        assert time.monotonic() < deadline
        time.sleep(0.05)
