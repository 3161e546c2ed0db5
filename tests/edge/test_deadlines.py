"""What ends by the clock, with shortened times: heads, bodies, silence, stuck readers; and what a stream is held by."""

from __future__ import annotations

import socket
import time

import pytest
from tests.edge.raw import Raw, Server

pytestmark = pytest.mark.timed
ROOM = 3.0
"""Seconds that a busy machine may be late."""


def closed_after(client: Raw, *, at_least: float, at_most: float) -> bytes:
    began = time.monotonic()
    out = client.rest(within=at_most + ROOM)
    assert at_least - 0.1 <= time.monotonic() - began <= at_most + ROOM
    return out


def test_i08_a_silent_connection_ends(hasty: Server) -> None:
    with hasty.connect() as client:
        assert closed_after(client, at_least=1.5, at_most=1.5) == b""


def test_a_kept_alive_connection_ends(hasty: Server) -> None:
    with hasty.connect() as client:
        for _ in range(3):
            assert client.get("/").status == 200
            time.sleep(0.7)  # each request sets the clock anew
        assert closed_after(client, at_least=0.5, at_most=1.5) == b""


def test_i08_a_slow_head_ends_with_a_408(hasty: Server) -> None:
    with hasty.connect() as client:
        began = time.monotonic()
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n")
        for _ in range(6):  # a drip does not help
            time.sleep(0.1)
            client.send(b"X: y\r\n")
        assert client.answer().status == 408
        assert 0.9 <= time.monotonic() - began <= 1.0 + ROOM
        assert client.rest(within=2 + ROOM) == b""


def test_a_slow_head_on_a_kept_alive_connection_ends(hasty: Server) -> None:
    with hasty.connect() as client:
        assert client.get("/").status == 200
        client.send(b"GET / HT")
        began = time.monotonic()
        assert client.answer().status == 408
        assert 0.9 <= time.monotonic() - began <= 1.0 + ROOM


def test_a_head_that_begins_during_an_answer_has_its_time_afterwards(hasty: Server) -> None:
    with hasty.connect() as client:
        client.send(b"GET /sleep/2 HTTP/1.1\r\nHost: a\r\n\r\nGET /late HTTP/1.1\r\n")
        assert client.answer().json == {"slept": "2"}
        client.send(b"Host: a\r\n\r\n")
        assert client.answer().json["path"] == "/late"


def test_a_handler_may_take_longer_than_any_time_of_the_edge(hasty: Server) -> None:
    with hasty.connect() as client:
        assert client.get("/sleep/2.5").status == 200


def test_a_body_that_stops_ends_with_a_408(hasty: Server) -> None:
    with hasty.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe")
        began = time.monotonic()
        answer = client.answer()
        assert 0.9 <= time.monotonic() - began <= 1.0 + ROOM
        assert (answer.status, answer.field("connection")) == (408, "close")
        assert client.rest(within=1 + ROOM) == b""


def test_i08_a_body_that_drips_ends_with_a_408(hasty: Server) -> None:
    with hasty.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n")
        began = time.monotonic()
        client.socket.settimeout(0.3)
        while time.monotonic() - began < 2.5 + ROOM:
            client.send(b"x")
            try:
                if client.more():
                    break
            except TimeoutError:
                pass
        assert 2.4 <= time.monotonic() - began <= 2.5 + ROOM
        assert client.answer().status == 408


def test_s09_a_stuck_reader_is_cut_and_a_slow_one_is_not(hasty: Server) -> None:
    with hasty.connect() as stuck, hasty.connect() as slow:
        for client in (stuck, slow):
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            client.ask("/large/30000000")
        before = hasty.state()["closed"].count("client_gone")
        began = time.monotonic()
        while slow.more() and len(slow.buffer) < 29_000_000:
            assert time.monotonic() - began < 60
            time.sleep(0.005)
        assert time.monotonic() - began > 1.0
        assert slow.answer().status == 200
        while hasty.state()["closed"].count("client_gone") == before:
            assert time.monotonic() - began < 30
            time.sleep(0.05)
        assert len(stuck.rest()) < 30_000_000


def test_s09_a_stuck_reader_of_a_stream_is_cut(hasty: Server) -> None:
    with hasty.connect() as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        before = hasty.state()["closed"].count("client_gone")
        client.ask("/push/65536")
        began = time.monotonic()
        while hasty.state()["closed"].count("client_gone") == before:
            assert time.monotonic() - began < 1.5 + 5 + ROOM
            time.sleep(0.02)
        assert time.monotonic() - began > 1.3


def test_the_status_is_held_back_then_keepalives_come(hasty: Server) -> None:
    with hasty.connect() as client:
        began = time.monotonic()
        client.ask("/stream/2.5/a/1.2/b")
        assert client.head().status == 200
        assert 0.55 <= time.monotonic() - began <= 0.6 + ROOM
        came = []
        while piece := client.chunk():
            came.append((piece, time.monotonic() - began))
    words = [piece for piece, _ in came]
    keepalive = b": keep-alive\n\n"
    # one with the status at 0.6, one each 0.8 s later (1.4, 2.2), content at 2.5, silence until 3.3, content at 3.7
    assert words == [keepalive] * 3 + [b"data: a\n\n", keepalive, b"data: b\n\n"]
    for (_, at), due in zip(came, (0.6, 1.4, 2.2, 2.5, 3.3, 3.7), strict=True):
        assert due - 0.1 <= at <= due + ROOM


def test_the_first_chunk_brings_the_status_at_once(hasty: Server) -> None:
    with hasty.connect() as client:
        began = time.monotonic()
        client.ask("/stream/0.1/a/forever")
        assert client.head().status == 200
        assert client.chunk() == b"data: a\n\n"
        assert time.monotonic() - began < 0.55
        assert client.chunk() == b": keep-alive\n\n"
        assert 0.85 <= time.monotonic() - began <= 0.9 + ROOM


@pytest.mark.parametrize(("step", "kind", "status"), [("fault", "overloaded", 503), ("bug", "internal", 500)])
def test_a_fault_is_a_status_before_the_hold_and_an_event_after(
    hasty: Server, step: str, kind: str, status: int
) -> None:
    with hasty.connect() as client:
        early = client.get(f"/stream/0.2/{step}")
        assert (early.status, early.json["fault"]) == (status, kind)
        late = client.get(f"/stream/1.0/{step}")
        assert (late.status, late.body) == (200, b": keep-alive\n\n" + f"event: error\ndata: {kind}\n\n".encode())
        after_content = client.get(f"/stream/a/{step}")
        assert after_content.body == f"data: a\n\nevent: error\ndata: {kind}\n\n".encode()
        assert client.get("/").status == 200


def test_an_early_answer_can_be_read_by_a_client_that_still_sends(hasty: Server) -> None:
    with hasty.connect() as client:
        client.send(b"POST /keyed HTTP/1.1\r\nHost: a\r\nContent-Length: 1500000\r\n\r\n")
        for _ in range(15):
            client.send(b"x" * 100_000)
        assert client.answer().status == 401
        assert client.rest(within=1 + ROOM) == b""
