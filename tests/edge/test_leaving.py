"""Clients that leave: the handler is cancelled, the reply closed exactly once, within a second; nothing is left."""

from __future__ import annotations

import socket
import time
from collections import Counter

import pytest
from tests.edge.raw import Server, serving

REPEAT = 25

MOMENTS = {
    "before the body": (b"POST /sleep-first/60 HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n", b""),
    "before the body, handler waiting for it": (b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n", b""),
    "within the body": (b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhell", b""),
    "within a chunked body": (b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe", b""),
    "while a whole answer is made": (b"POST /sleep/60 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", b""),
    "before the first chunk": (b"POST /stream/60/a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", b""),
    "in mid-stream": (b"GET /stream/a/60/b HTTP/1.1\r\nHost: a\r\n\r\n", b"data: a"),
    "in a stream that flows": (b"GET /push/1000 HTTP/1.1\r\nHost: a\r\n\r\n", b"data: "),
    "with a request waiting behind": (
        b"GET /stream/a/60/b HTTP/1.1\r\nHost: a\r\n\r\nGET /next HTTP/1.1\r\nHost: a\r\n\r\n",
        b"data: a",
    ),
}


@pytest.fixture(scope="module")
def counted() -> Server:  # type: ignore[misc]
    with serving() as server:
        yield server


@pytest.mark.timed
@pytest.mark.parametrize("how", ["FIN", "RST", "half"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_client_that_leaves_frees_everything(counted: Server, moment: str, how: str) -> None:
    data, mark = MOMENTS[moment]
    before = counted.state()
    clients = [counted.connect() for _ in range(REPEAT)]
    for client in clients:
        client.send(data)
    for client in clients:
        if mark:
            client.until(mark)
    counted.wait(begun=before["begun"] + REPEAT)
    time.sleep(0.05)
    for client in clients:
        if how == "FIN":
            client.socket.close()
        elif how == "RST":
            client.reset()
        else:
            client.socket.shutdown(socket.SHUT_WR)
    assert counted.wait(open=0) < 1.0
    after = counted.state()
    endings = Counter(after["closed"][len(before["closed"]) :]) if len(after["closed"]) < 1000 else None
    assert endings is None or endings == {"client_gone": REPEAT}
    assert after["tasks"] <= before["tasks"] + 2
    for client in clients:
        client.socket.close()


def test_a_client_that_stays_is_not_taken_for_gone(counted: Server) -> None:
    with counted.connect() as client:
        for _ in range(50):
            assert client.get("/x", b"hello").json["length"] == 5
            assert client.get("/stream/a/b").body == b"data: a\n\ndata: b\n\n"
        assert len(client.get("/large/3000000").body) == 3_000_000
    assert Counter(counted.state()["closed"][-101:]) == {"sent": 101}


def test_a_stop_closes_silent_connections_and_finishes_answers() -> None:
    with serving() as server:
        with server.connect() as silent, server.connect() as busy:
            busy.ask("/stream/a/1/b")
            assert busy.head().status == 200
            server.process.terminate()
            assert silent.rest(within=5) == b""
            assert busy.chunk() == b"data: a\n\n"
            assert busy.chunk() == b"data: b\n\n"
            assert busy.chunk() == b""
            assert busy.rest(within=5) == b""
        server.process.wait(timeout=10)
