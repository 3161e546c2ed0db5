"""What reaches the edge on the wire and is no honest HTTP/1.1, and what is honest but rare."""

from __future__ import annotations

import itertools
import time

import pytest
from tests.edge.raw import Server

TE = b"POST /evil HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
_number = itertools.count()


def head_of(size: int) -> bytes:
    """A head of so many bytes, the request line and the empty line counted."""
    begun = b"GET /evil HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX: "
    return begun + b"y" * (size - len(begun) - 4) + b"\r\n\r\n"


REFUSED = {
    "two hosts": (400, b"GET /evil HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
    "no host": (400, b"GET /evil HTTP/1.1\r\n\r\n"),
    "empty host": (400, b"GET /evil HTTP/1.1\r\nHost:\r\n\r\n"),
    "host with a path": (400, b"GET /evil HTTP/1.1\r\nHost: a/v1\r\n\r\n"),
    "host with a query": (400, b"GET /evil HTTP/1.1\r\nHost: a?b\r\n\r\n"),
    "host with a fragment": (400, b"GET /evil HTTP/1.1\r\nHost: a#b\r\n\r\n"),
    "host with user": (400, b"GET /evil HTTP/1.1\r\nHost: u@a\r\n\r\n"),
    "host with space": (400, b"GET /evil HTTP/1.1\r\nHost: a b\r\n\r\n"),
    "length and chunked": (
        400,
        b"POST /evil HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nX",
    ),
    "chunked and length": (
        400,
        b"POST /evil HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\nX",
    ),
    "two lengths": (400, b"POST /evil HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nXX"),
    "the same length twice": (
        400,
        b"POST /evil HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nX",
    ),
    "a list of lengths": (400, b"POST /evil HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\nX"),
    "signed length": (400, b"POST /evil HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\nX"),
    "negative length": (400, b"POST /evil HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\nX"),
    "hexadecimal length": (400, b"POST /evil HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\nX"),
    "overflowing length": (400, b"POST /evil HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551617\r\n\r\nX"),
    "gzip, chunked": (400, b"POST /evil HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    "identity": (400, b"POST /evil HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n"),
    "xchunked": (400, b"POST /evil HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    "chunked twice": (
        400,
        b"POST /evil HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    "chunked in 1.0": (400, b"POST /evil HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "chunk without a size": (400, TE + b"xyz\r\n\r\n"),
    "negative chunk": (400, TE + b"-1\r\nx\r\n0\r\n\r\n"),
    "overflowing chunk": (400, TE + b"fffffffffffffffff\r\nx\r\n0\r\n\r\n"),
    "chunk longer than its size": (400, TE + b"1\r\nxy\r\n0\r\n\r\n"),
    "chunk with bare LF": (400, TE + b"1\nx\n0\n\n"),
    "space after a chunk size": (400, TE + b"1 \r\nx\r\n0\r\n\r\n"),
    "LF in a chunk extension": (400, TE + b"1;\n\r\nx\r\n0\r\n\r\n"),
    "length in a trailer": (400, TE + b"1\r\nx\r\n0\r\nContent-Length: 5\r\n\r\n"),
    "NUL in a value": (400, b"GET /evil HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n"),
    "NUL in a name": (400, b"GET /evil HTTP/1.1\r\nHost: a\r\nX\0: a\r\n\r\n"),
    "NUL in the target": (400, b"GET /evil\0 HTTP/1.1\r\nHost: a\r\n\r\n"),
    "encoded NUL": (400, b"GET /evil%00 HTTP/1.1\r\nHost: a\r\n\r\n"),
    "encoded line break": (400, b"GET /evil%0d%0aX:y HTTP/1.1\r\nHost: a\r\n\r\n"),
    "folded line": (400, b"GET /evil HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n"),
    "space before the first field": (400, b"GET /evil HTTP/1.1\r\n Host: a\r\nHost: a\r\n\r\n"),
    "space before the colon": (400, b"POST /evil HTTP/1.1\r\nHost: a\r\nContent-Length : 5\r\n\r\nhello"),
    "no colon": (400, b"GET /evil HTTP/1.1\r\nHost: a\r\nfoo\r\n\r\n"),
    "no name": (400, b"GET /evil HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n"),
    "bare LF": (400, b"GET /evil HTTP/1.1\nHost: a\n\n"),
    "bare CR": (400, b"GET /evil HTTP/1.1\r\nHost: a\rContent-Length: 5\r\n\r\n"),
    "HTTP/0.9": (400, b"GET /evil\r\n\r\n"),
    "HTTP/1.2": (400, b"GET /evil HTTP/1.2\r\nHost: a\r\n\r\n"),
    "HTTP/2.0": (400, b"GET /evil HTTP/2.0\r\nHost: a\r\n\r\n"),
    "HTTP/2 preface": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "TLS": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    "bytes": (400, b"\x00\x01\x02garbage\r\n\r\n"),
    "odd method": (400, b"G@T /evil HTTP/1.1\r\nHost: a\r\n\r\n"),
    "CONNECT": (400, b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n"),
    "space in the target": (400, b"GET /evil x HTTP/1.1\r\nHost: a\r\n\r\n"),
    "fragment in the target": (400, b"GET /evil#x HTTP/1.1\r\nHost: a\r\n\r\n"),
    "backslash in the target": (400, b"GET /evil\\x HTTP/1.1\r\nHost: a\r\n\r\n"),
    "raw UTF-8 in the target": (400, b"GET /evil\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n"),
    "target with user": (400, b"GET http://u@b/evil HTTP/1.1\r\nHost: a\r\n\r\n"),
    "target of another scheme": (400, b"GET file:///evil HTTP/1.1\r\nHost: a\r\n\r\n"),
    "star": (400, b"GET * HTTP/1.1\r\nHost: a\r\n\r\n"),
    "other expectation": (417, b"POST /evil HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: tea\r\n\r\nX"),
    "long target": (414, b"GET /evil" + b"a" * 16384 + b" HTTP/1.1\r\nHost: a\r\n\r\n"),
    "many fields": (431, b"GET /evil HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 200 + b"\r\n"),
    "large head": (431, b"GET /evil HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 65536 + b"\r\n\r\n"),
    "one byte more than the largest head": (431, head_of(64 * 1024 + 1)),
    "endless head": (431, b"GET /evil HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 2_000_000),
    "endless target": (414, b"GET /evil" + b"y" * 2_000_000),
    "endless trailers": (431, TE + b"0\r\n" + b"X: y\r\n" * 300_000),
    "endless chunk extension": (400, TE + b"1;" + b"y" * 2_000_000),
    "one byte after another, framed": (400, TE + (b"1;" + b"y" * 200 + b"\r\nx\r\n") * 5_000),
}


@pytest.mark.parametrize("case", REFUSED)
def test_i07_i18_refused_once_and_closed(edge: Server, case: str) -> None:
    status, data = REFUSED[case]
    follower = f"/follower-{next(_number)}"
    with edge.connect() as client:
        try:
            client.send(data)
            client.send(b"GET " + follower.encode() + b" HTTP/1.1\r\nHost: a\r\n\r\n")
        except OSError:
            pass  # closed while we still sent: allowed, as long as the answer can be read
        out = client.rest(within=10)
    head, _, body = out.partition(b"\r\n\r\n")
    assert out.startswith(b"HTTP/1.1 %d " % status)
    assert out.count(b"HTTP/1.1 ") == 1
    fields = head.decode().lower().split("\r\n")
    assert "connection: close" in fields
    assert "cache-control: no-store" in fields
    assert "x-content-type-options: nosniff" in fields
    assert not any(field.startswith("server:") for field in fields)
    assert b'"message"' in body
    assert (b"http://" in body) == (case == "TLS")
    assert not any(follower in request for request in edge.state()["requests"])


def test_the_largest_head_is_taken(edge: Server) -> None:
    with edge.connect() as client:
        client.send(head_of(64 * 1024))
        assert client.answer().status == 200


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages?beta=true"])
def test_a_refusal_has_its_id_in_header_and_body_and_the_shape_of_the_api(edge: Server, path: str) -> None:
    with edge.connect() as client:
        client.ask(path, b"{}", fields="Expect: tea\r\n")
        refused = client.answer()
    ours = {"type": "invalid_request_error", "message": "Only 100-continue can be expected."}
    request_id = refused.field("x-request-id")
    assert request_id is not None
    if "messages" in path:
        assert refused.json == {"type": "error", "error": ours, "request_id": request_id}
        assert refused.field("request-id") == request_id
    else:
        assert refused.json == {"error": {**ours, "param": None, "code": None}, "request_id": request_id}


def test_a_refusal_waits_for_the_answers_before_it(edge: Server) -> None:
    with edge.connect() as client:
        client.send(b"GET /sleep/0.2 HTTP/1.1\r\nHost: a\r\n\r\nGET /second HTTP/1.1\r\nHost: a\r\n\r\nrubbish\r\n\r\n")
        assert client.answer().json == {"slept": "0.2"}
        assert client.answer().json["path"] == "/second"
        assert client.answer().status == 400
        assert client.rest(within=5) == b""


def test_a_break_in_the_body_of_a_pipelined_request(edge: Server) -> None:
    with edge.connect() as client:
        client.send(b"GET /sleep/0.2 HTTP/1.1\r\nHost: a\r\n\r\n" + TE.replace(b"/evil", b"/never-run") + b"zzz\r\n")
        assert client.answer().json == {"slept": "0.2"}
        assert client.answer().status == 400
        assert client.rest(within=5) == b""
    assert not any("never-run" in request for request in edge.state()["requests"])


def test_c08_pipelined_requests_are_answered_in_order(edge: Server) -> None:
    with edge.connect() as client:
        count = 40
        for number in range(count):
            client.ask("/stream/0.001/a" if number % 2 else f"/number-{number}", b"x" * number)
        for number in range(count):
            answer = client.answer()
            if number % 2:
                assert answer.body == b"data: a\n\n"
            else:
                assert (answer.json["path"], answer.json["length"]) == (f"/number-{number}", number)


def test_c08_a_second_request_during_a_stream_waits(edge: Server) -> None:
    with edge.connect() as client:
        client.ask("/stream/a/0.3/b")
        assert client.head().status == 200
        assert client.chunk() == b"data: a\n\n"
        client.ask("/second", b"z" * 600_000)
        assert client.chunk() == b"data: b\n\n"
        assert client.chunk() == b""
        assert client.answer().json["length"] == 600_000


def test_nothing_after_close_is_a_request(edge: Server) -> None:
    with edge.connect() as client:
        client.send(
            b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET /after-close HTTP/1.1\r\nHost: a\r\n\r\n"
        )
        assert client.answer().field("connection") == "close"
        assert client.rest(within=5) == b""
    assert not any("after-close" in request for request in edge.state()["requests"])


def test_what_comes_after_the_last_request_does_not_reset_its_answer(edge: Server) -> None:
    with edge.connect() as client:
        client.ask("/last", b"hello", fields="Connection: close\r\n")
        for _ in range(3):
            time.sleep(0.05)
            client.send(b"more than was said")
        assert client.answer().json["body"] == "hello"
        assert client.rest(within=5) == b""


@pytest.mark.parametrize("step", [1, 2, 7, 64])
def test_any_split_of_the_bytes_is_the_same_request(edge: Server, step: int) -> None:
    data = b"POST /split?a=b%20c HTTP/1.1\r\nHost: a:80\r\nTransfer-Encoding: chunked\r\n\r\n"
    data += b"5;x=y\r\nhello\r\n1\r\n!\r\n0\r\nX-Trailer: t\r\n\r\n"
    with edge.connect() as client:
        for start in range(0, len(data), step):
            client.send(data[start : start + step])
        seen = client.answer().json
        assert (seen["path"], seen["query"], seen["body"], seen["trailer"]) == ("/split", "a=b%20c", "hello!", None)
        assert client.get("/again").status == 200


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/a%2Fb%252e", "/a/b%2e", ""),
        ("/caf%C3%A9?x=%C3%A9&y", "/café", "x=%C3%A9&y"),
        ("/a?b?c", "/a", "b?c"),
        ("//a", "//a", ""),
        ("http://elsewhere:99/a?b", "/a", "b"),
        ("HTTPS://elsewhere", "/", ""),
        ("http://elsewhere?b", "/", "b"),
    ],
)
def test_the_path_comes_from_the_target_alone(edge: Server, target: str, path: str, query: str) -> None:
    with edge.connect() as client:
        seen = client.get(target).json
    assert (seen["path"], seen["query"]) == (path, query)


@pytest.mark.parametrize(
    "upgrade",
    [
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n",
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
    ],
)
@pytest.mark.parametrize("apart", [False, True])
def test_i09_an_upgrade_is_not_taken_up(edge: Server, upgrade: str, apart: bool) -> None:
    with edge.connect() as client:
        assert client.get("/no-body", method="GET", fields=upgrade).json["upgrade"] in ("websocket", "h2c")
        if apart:
            client.send(f"POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n{upgrade}\r\n".encode())
            client.send(b"abcdef")
        else:
            client.ask("/up", b"abcdef", fields=upgrade)
        assert client.answer().json["body"] == "abcdef"
        client.send(f"POST /up HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n{upgrade}\r\n".encode())
        client.send(b"3\r\nabc\r\n0\r\n\r\nGET /next HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.answer().json["body"] == "abc"
        assert client.answer().json["path"] == "/next"


def test_http_1_0(edge: Server) -> None:
    with edge.connect() as client:
        client.send(b"GET /old HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n")
        assert client.answer().field("connection") == "keep-alive"
        client.send(b"GET /stream/a/b HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n")
        head = client.head()
        assert (head.field("transfer-encoding"), head.field("connection")) == (None, "close")
        assert client.rest(within=5) == b"data: a\n\ndata: b\n\n"


def test_head_has_no_body(edge: Server) -> None:
    with edge.connect() as client:
        client.ask("/thing", method="HEAD")
        assert int(client.answer(bodiless=True).field("content-length") or 0) > 0
        assert client.get("/next").json["path"] == "/next"


def test_expectation_is_met_only_when_the_body_is_wanted(edge: Server) -> None:
    expecting = "Expect: 100-continue\r\n"
    with edge.connect() as client:
        client.send(f"POST /wanted HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n{expecting}\r\n".encode())
        assert client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"hello")
        assert client.answer().json["body"] == "hello"
    for path, length, status in (("/keyed", 5, 401), ("/wanted", 1024 * 1024 + 1, 413)):
        with edge.connect() as client:
            client.send(f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n{expecting}\r\n".encode())
            answer = client.answer()
            assert (answer.status, answer.field("connection")) == (status, "close")
            assert client.rest(within=5) == b""


def test_a_header_of_the_gateway_cannot_break_the_head(edge: Server) -> None:
    with edge.connect() as client:
        answer = client.get("/bad-header")
    assert (answer.status, answer.field("x-injected")) == (500, None)


@pytest.mark.parametrize("given", ["abc", "A.b_c-9", "x" * 128])
def test_a_fit_request_id_is_kept(edge: Server, given: str) -> None:
    with edge.connect() as client:
        assert client.get("/", fields=f"X-Request-Id: {given}\r\n").json["id"] == given


@pytest.mark.parametrize("given", ["", "a b", "é", "x" * 129, "x" * 7000, "<script>"])
def test_an_unfit_request_id_is_replaced(edge: Server, given: str) -> None:
    with edge.connect() as client:
        ids = {client.get("/", fields=f"X-Request-Id: {given}\r\n").json["id"] for _ in range(3)}
    assert len(ids) == 3
    assert all(each.startswith("req_") and len(each) == 28 for each in ids)


def test_a_bug_tells_nothing_of_itself(edge: Server) -> None:
    with edge.connect() as client:
        answer = client.get("/bug")
    assert answer.status == 500
    assert b"ZeroDivision" not in answer.body
    assert answer.json["request_id"] == answer.field("x-request-id")
