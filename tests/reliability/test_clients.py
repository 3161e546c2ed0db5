"""Clients that leave: during their upload, and a thousand at once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle, islice, product
from pathlib import Path
from socket import socket
from typing import Any

import psutil
import pytest
from tests.chaos.test_chaos import GAUGES
from tests.end_to_end.asking import CLAUDE, GEMINI, GPT, PROTOCOLS, body, simulate
from tests.end_to_end.conftest import Proxy
from tests.end_to_end.test_streams import connected, leave, request_bytes
from tests.reliability.conftest import House, running_house, until
from tests.telemetry.reading import changed, look

pytestmark = pytest.mark.timed
HOWS = ("FIN", "RST", "half")
HELD = (*(name.removeprefix("aicore_proxy_") for name in GAUGES), "queued_requests")


def short_of_a_byte(proxy: Proxy, protocol: str, chunked: bool) -> bytes:
    """A request whose body is whole JSON, and not at its end."""
    head, _, content = request_bytes(proxy, protocol, body(protocol, GPT, "Hello!", stream=True)).partition(b"\r\n\r\n")
    if chunked:
        head = head.replace(b"Content-Length: %d" % len(content), b"Transfer-Encoding: chunked")
        return head + b"\r\n\r\n%x\r\n" % len(content) + content + b"\r\n"
    return head.replace(b"Content-Length: %d" % len(content), b"Content-Length: %d" % (len(content) + 1)) + (
        b"\r\n\r\n" + content
    )


def test_c03_clients_that_leave_during_their_upload_ask_nobody(house: House) -> None:
    """100 in each way: with a head alone, half a body, and a body that is whole but for the end that was announced."""
    for how, chunked in product(HOWS, (False, True)):
        counted, before = look(house.proxy.http), house.received()
        clients = []
        for number in range(100):
            protocol = PROTOCOLS[number % 2]
            asked = short_of_a_byte(house.proxy, protocol, chunked)
            head = asked.index(b"\r\n\r\n") + 4
            clients.append(connected(house.proxy))
            clients[-1].sendall(asked[: (head, (head + len(asked)) // 2, len(asked))[number % 3]])
        until(lambda: look(house.proxy.http).total("in_flight_requests") == 100, 5)

        for client in clients:
            leave(client, how)
        left = time.monotonic()
        change = changed(house.proxy.http, counted, 100)

        assert time.monotonic() - left < 1.0
        assert change("requests_total", status="499") == change("client_disconnects_total", phase="upload") == 100
        assert change("upstream_attempts_total") == 0
        assert sum(house.since(before).values()) == 0
        for client in clients:
            client.close()


CROWD: list[tuple[str, str, dict[str, Any]]] = [
    ("chat", GPT, {"events": 2000, "rate": 5}),
    ("messages", GPT, {"events": 2000, "rate": 5}),
    ("chat", CLAUDE, {"events": 2000, "rate": 5}),
    ("messages", CLAUDE, {"events": 2000, "rate": 5}),
    ("messages", CLAUDE, {"delay": 60}),
    ("messages", GEMINI, {"delay": 60}),
    ("chat", GEMINI, {"think": "Let me see", "stall": 60}),
]
"""Streams, relayed and translated, whole answers that are waited for, streams that stopped."""


@contextmanager
def crowded(house: House, count: int) -> Iterator[None]:
    """So many clients within; at the end all leave at once, in turns of either way."""
    clients: list[socket] = []
    for protocol, model, script in islice(cycle(CROWD), count):
        asked = body(protocol, model, simulate(**script), stream="delay" not in script)
        clients.append(connected(house.proxy))
        clients[-1].sendall(request_bytes(house.proxy, protocol, asked))
    until(lambda: look(house.proxy.http).total("in_flight_requests") == count, 20)
    yield
    for client, how in zip(clients, cycle(HOWS[:2]), strict=False):
        leave(client, how)


@pytest.mark.parametrize("count", [250, pytest.param(1000, marks=pytest.mark.rows)])
def test_c06_a_crowd_that_leaves_at_once_leaves_nothing_behind(tmp_path: Path, count: int) -> None:
    """Of Claude there are more than may ask at once: the others stand in the queue. Memory is compared with what it was
    after a crowd of the same size: what that one needed the process keeps for the next."""
    settings = {"deployment_limit": str(count // 12), "queue_length": str(count), "queue_wait": "60"}
    with running_house(tmp_path, **settings) as house:
        process = psutil.Process(house.proxy.process.pid)
        for crowd in range(2):
            counted, before = look(house.proxy.http), process.memory_info().rss
            with crowded(house, count):
                until(lambda: house.simulator.state()["open"] > 0.8 * count, 10)
                there = look(house.proxy.http)
                assert all(there.total(name) > 0 for name in HELD)
            left = time.monotonic()
            until(lambda: not any(look(house.proxy.http).total(name) for name in HELD), 2)
            while crowd and process.memory_info().rss > 1.1 * before:
                assert time.monotonic() < left + 10
                time.sleep(0.1)
            change = changed(house.proxy.http, counted, count)
            assert change("requests_total", status="499") == count
            assert house.simulator.state()["open"] == 0
