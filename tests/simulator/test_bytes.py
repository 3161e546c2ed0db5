"""Bytes on the wire: splitting, leaving, backpressure, many streams, TLS (docs/simulator.md)."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
import time
from pathlib import Path
from typing import Any

import pytest
import trustme
from tests.simulator.conftest import API, Tenant, user

from aicore_proxy.simulator import Running, in_thread, simple
from aicore_proxy.simulator.running import tls_context


def chunks(tenant: Tenant, line: str) -> list[bytes]:
    """The chunks of a streamed answer, as the server made them."""
    body = json.dumps({"messages": [user(line)], "stream": True}).encode()
    with connected(tenant) as sock:
        sock.sendall(head(tenant, len(body)) + body)
        data = b""
        while not data.endswith(b"0\r\n\r\n"):
            data += sock.recv(65_536)
    rest, found = data.partition(b"\r\n\r\n")[2], []
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        found.append(rest[: int(size, 16)])
        rest = rest[int(size, 16) + 2 :]
    return found[:-1]


def connected(tenant: Tenant) -> socket.socket:
    host, port = tenant.simulator.url.split("://")[1].split(":")
    sock = socket.create_connection((host, int(port)), timeout=10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def head(tenant: Tenant, length: int, model: str = "gpt-4o") -> bytes:
    path = f"/v2/inference/deployments/{tenant.id(model)}/chat/completions{API}"
    lines = [
        f"POST {path} HTTP/1.1",
        "host: simulator",
        f"authorization: Bearer {tenant.token}",
        "ai-resource-group: default",
    ]
    return "\r\n".join([*lines, f"content-length: {length}", "", ""]).encode()


def until(condition: Any, seconds: float) -> float:
    """Seconds until it holds."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "it never came to hold"
        time.sleep(0.005)
    return time.monotonic() - began


def test_frames_are_split_and_joined_at_random_places(tenant: Tenant) -> None:
    text = "Schöne Grüße aus Köln, 你好世界! " * 30
    found = chunks(tenant, f'simulate: {{"text": "{text}"}}')

    ends = [chunk.endswith(b"\n\n") for chunk in found[:-1]]
    assert not all(ends), "some chunks end inside a frame"
    assert any(chunk.count(b"data: ") > 1 for chunk in found), "some hold several frames"
    assert any(not _decodes(chunk) for chunk in found), "some end inside a character"
    whole = b"".join(found)
    frames = [json.loads(frame[6:]) for frame in whole.decode().removesuffix("\n\n").split("\n\n")[1:-1]]
    assert "".join(frame["choices"][0]["delta"].get("content", "") for frame in frames) == text


def _decodes(chunk: bytes) -> bool:
    try:
        chunk.decode()
    except UnicodeDecodeError:
        return False
    return True


def test_the_same_seed_splits_in_the_same_way() -> None:
    def sizes(seed: int) -> list[int]:
        with in_thread(simple(["gpt-4o"]), seed=seed) as simulator:
            return [len(chunk) for chunk in chunks(Tenant(simulator, "sub-1"), 'simulate: {"events": 30}')]

    assert sizes(1) == sizes(1) != sizes(2)


@pytest.mark.timed
@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("when", ["hang", "delay", "stream", "full", "whole"])
def test_a_client_that_leaves_is_noticed_at_once(tenant: Tenant, simulator: Running, how: str, when: str) -> None:
    script = {
        "hang": {"hang": True},
        "delay": {"delay": 30},
        "stream": {"events": 10_000, "rate": 20},
        "full": {"events": 100_000, "event_bytes": 65_536},
        "whole": {"stall": 30},
    }[when]
    body = json.dumps(
        {"messages": [user(f"simulate: {json.dumps(script)}")], "stream": when in ("stream", "full")}
    ).encode()
    sock = connected(tenant)
    sock.sendall(head(tenant, len(body)) + body)
    until(lambda: simulator.state()["open"] == 1, 5)
    time.sleep(0.2)

    if how == "rst":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()

    assert until(lambda: simulator.state()["open"] == 0, 5) < 1
    assert all(deployment["open"] == 0 for deployment in simulator.deployments())


def test_a_client_that_reads_nothing_holds_the_push_back(tenant: Tenant, simulator: Running) -> None:
    body = json.dumps(
        {"messages": [user('simulate: {"events": 100000, "event_bytes": 100000}')], "stream": True}
    ).encode()

    def pushed() -> int:
        return int(simulator.deployments("gpt-4o", "demo-eu")[0]["pushed"])

    before = pushed()
    with connected(tenant) as sock:
        sock.sendall(head(tenant, len(body)) + body)
        last = -1
        for _ in range(50):
            time.sleep(0.1)
            if pushed() == last:
                break
            last = pushed()
        assert 100_000 <= last - before < 16 * 1024 * 1024, "kernel buffers, no more"
    until(lambda: simulator.state()["open"] == 0, 5)


@pytest.mark.timed
def test_big_events_are_pushed_at_a_hundred_megabytes_a_second(tenant: Tenant) -> None:
    body = json.dumps(
        {"messages": [user('simulate: {"events": 200, "event_bytes": 1000000}')], "stream": True}
    ).encode()
    with connected(tenant) as sock:
        began, got = time.monotonic(), 0
        sock.sendall(head(tenant, len(body)) + body)
        buffer = bytearray(1 << 20)
        while True:
            size = sock.recv_into(buffer)
            got += size
            if buffer[:size].endswith(b"0\r\n\r\n"):
                break
        spent = time.monotonic() - began

    assert got > 200_000_000
    assert spent < 4, "100 MB/s, with room for a busy machine"


@pytest.mark.timed
async def test_a_thousand_streams_at_once() -> None:
    with in_thread(simple(["gpt-4o"])) as simulator:
        tenant = await asyncio.to_thread(Tenant, simulator, "sub-1")
        body = json.dumps({"messages": [user('simulate: {"events": 4, "rate": 2}')], "stream": True}).encode()
        sent = await asyncio.to_thread(head, tenant, len(body)) + body
        host, port = simulator.url.split("://")[1].split(":")
        most = 0

        async def one() -> bytes:
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(sent)
            data = await reader.readuntil(b"0\r\n\r\n")
            writer.close()
            return data

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, int((await asyncio.to_thread(simulator.state))["open"]))
                await asyncio.sleep(0.05)

        watcher = asyncio.create_task(watch())
        answers = await asyncio.wait_for(asyncio.gather(*(one() for _ in range(1_000))), 30)
        watcher.cancel()

        assert all(answer.count(b'"content":"e') == 4 for answer in (_unchunked(answer) for answer in answers))
        assert most > 500
        state = await asyncio.to_thread(simulator.state)
        assert (state["open"], state["subaccounts"]["sub-1"]["deployments"][0]["received"]) == (0, 1_000)


def _unchunked(data: bytes) -> bytes:
    rest, whole = data.partition(b"\r\n\r\n")[2], b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        whole += rest[: int(size, 16)]
        rest = rest[int(size, 16) + 2 :]
    return whole


def test_fast_mode_answers_plainly_and_scripts_still_work() -> None:
    with in_thread(simple(["gpt-4o", "anthropic--claude-4.5-sonnet"]), fast=True) as simulator:
        tenant = Tenant(simulator, "sub-1")

        assert [tenant.chat("gpt-4o").json()["object"] for _ in range(2)] == ["chat.completion"] * 2
        assert all(tenant.chat("gpt-4o", stream=True).text.endswith("data: [DONE]\n\n") for _ in range(2))
        assert tenant.claude("4.5-sonnet", streamed=True).text.startswith("data: {")
        assert tenant.chat("gpt-4o", said='simulate: {"status": 500}').status_code == 500
        assert tenant.post("gpt-4o", f"chat/completions{API}", {}, authorization="Bearer x").status_code == 401
        assert tenant.chat("gpt-4o", said='simulate: {"events": 3}', stream=True).text.count('"content":"e') == 3
        assert simulator.deployments("gpt-4o")[0]["received"] == 7
        assert simulator.requests() == [], "nothing is recorded"


@pytest.fixture
def authority() -> tuple[trustme.CA, ssl.SSLContext]:
    ca = trustme.CA()
    context = ssl.create_default_context()
    ca.configure_trust(context)
    return ca, context


def test_tls(authority: tuple[trustme.CA, ssl.SSLContext], tmp_path: Path) -> None:
    ca, client = authority
    certificate = ca.issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")

    with in_thread(simple(["gpt-4o"]), tls=tls_context(tmp_path / "both.pem", None)) as simulator:
        key = simulator.service_keys()["sub-1"]
        assert key["url"] == key["serviceurls"]["AI_API_URL"] == simulator.url
        assert simulator.url.startswith("https://127.0.0.1:")
        port = int(simulator.url.rsplit(":", 1)[1])
        with (
            socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
            client.wrap_socket(plain, server_hostname="127.0.0.1") as sock,
        ):
            sock.sendall(b"GET /_simulator/state HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            assert sock.recv(100).startswith(b"HTTP/1.1 200 OK")


def test_pipelined_requests_are_answered_in_order(tenant: Tenant) -> None:
    one, two = (
        json.dumps({"messages": [user(f'simulate: {{"text": "{name}"}}')]}).encode() for name in ("first", "second")
    )
    with connected(tenant) as sock:
        sock.sendall(head(tenant, len(one)) + one + head(tenant, len(two)) + two)
        data = b""
        while b"second" not in data:
            data += sock.recv(65_536)
    assert data.index(b"first") < data.index(b"second")


def test_what_is_not_http_is_refused(tenant: Tenant) -> None:
    with connected(tenant) as sock:
        sock.sendall(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n")
        assert sock.recv(1000).startswith(b"HTTP/1.1 400 ")
        assert sock.recv(1000) == b""
