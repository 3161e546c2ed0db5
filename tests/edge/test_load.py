"""What many clients, silent ones and slow ones cost."""

from __future__ import annotations

import resource
import socket
import time

import pytest
from tests.edge.raw import Raw, serving

MIB = 1024 * 1024


def room_for(connections: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < connections + 100:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65_536), hard))


@pytest.mark.timed
@pytest.mark.parametrize("size", [1000, 65536])
def test_s08_a_client_that_reads_nothing_costs_little(size: int) -> None:
    with serving() as server:
        with server.connect() as warm:
            warm.ask(f"/push/{size}")
            warm.exactly(MIB)
        server.wait(open=0)
        base = server.state()["pushed"]
        before = server.process.memory_info().rss
        with server.connect() as client:
            client.ask(f"/push/{size}")
            most = before
            for _ in range(30):
                time.sleep(0.1)
                most = max(most, server.process.memory_info().rss)
            pushed = server.state()["pushed"] - base
            time.sleep(0.5)
            assert server.state()["pushed"] - base == pushed  # held back, not only slow
        assert most - before < 8 * MIB
        assert pushed < 8 * MIB
        server.wait(open=0, within=5)


@pytest.mark.timed
def test_o07_a_burst_of_connections_is_accepted() -> None:
    room_for(1000)
    with serving() as server:
        began = time.monotonic()
        clients = []
        for _ in range(1000):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", server.port))
            clients.append(client)
        for client in clients:
            client.setblocking(True)
            client.settimeout(10)
            client.sendall(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
        for client in clients:
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")
            client.close()
        assert time.monotonic() - began < 10


@pytest.mark.timed
def test_i08_silent_connections_and_slow_heads_cost_little_and_hold_nobody_up() -> None:
    room_for(2000)
    with serving() as server:
        with server.connect() as client:
            idle = max(_asked(client) for _ in range(100))
        before = server.process.memory_info().rss
        silent = [server.connect() for _ in range(2000)]
        for number, each in enumerate(silent):
            if number % 2:
                each.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ")
        with server.connect() as client:
            times = sorted(_asked(client) for _ in range(200))
        cost = (server.process.memory_info().rss - before) / len(silent)
        for each in silent:
            each.socket.close()
    assert cost < 64 * 1024
    assert times[197] <= 3 * idle + 0.15


def _asked(client: Raw) -> float:
    began = time.monotonic()
    assert client.get("/x", b"hello").status == 200
    return time.monotonic() - began
