"""The upstream client against peers that do everything that a network does. On both event loops."""

from __future__ import annotations

import asyncio
import gzip
import socket
import time
import zlib
from collections.abc import AsyncIterator, Callable

import psutil
import pytest
from tests.stack.conftest import Authority
from tests.stack.peers import CHUNKED, OK, Peer, Talk, chunk, listening, scripted, whole

from aicore_proxy.upstream import Phase, PooledUpstream, Timeouts, UpstreamError, UpstreamRequest

pytestmark = pytest.mark.timed

SHORT = Timeouts(connect=1.0, first_byte=1.0, between_bytes=1.0)


def post(peer: Peer, body: bytes = b"{}", timeouts: Timeouts = SHORT) -> UpstreamRequest:
    return UpstreamRequest("POST", peer.url(), (("Content-Type", "application/json"),), body, timeouts)


async def answered(upstream: PooledUpstream, request: UpstreamRequest) -> tuple[int, bytes]:
    response = await upstream.send(request)
    return response.status, await response.read(1 << 20)


async def eventually(condition: Callable[[], object], seconds: float = 1.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not within a second"
        await asyncio.sleep(0.01)


# Heads


async def test_what_is_sent_is_what_was_given(upstream: PooledUpstream) -> None:
    heads: list[str] = []

    async def note(talk: Talk, peer: Peer) -> None:
        for _ in range(2):
            heads.append(await talk.head())
            await talk.send(whole(b"", fields="set-cookie: a=b\r\n"))

    async with listening(note) as peer:
        for _ in range(2):
            await answered(upstream, UpstreamRequest("GET", peer.url("/a%2Fb?x=%20y&$top=1"), (("X-A", "1"),)))
        assert len(peer.talks) == 1
    fields = sorted(line.lower() for line in heads[1].split("\r\n")[1:] if line)
    assert heads[1].startswith("GET /a%2Fb?x=%20y&$top=1 HTTP/1.1\r\n")
    expected = ["accept-encoding: identity", "accept: */*", f"host: 127.0.0.1:{peer.port}", "user-agent: aicore-proxy"]
    assert fields == [*expected, "x-a: 1"]


@pytest.mark.parametrize(("path", "field"), [("/", "a\r\nX-Evil: 1"), ("/\r\nX-Evil: 1\r\n", "a"), ("/", "a\0b")])
async def test_i10_a_line_break_is_never_a_header_of_its_own(upstream: PooledUpstream, path: str, field: str) -> None:
    async with listening(scripted(whole(b"x"))) as peer:
        with pytest.raises(UpstreamError):
            await upstream.send(UpstreamRequest("GET", peer.url() + path[1:], (("X-A", field),), timeouts=SHORT))
        assert peer.requests == 0


async def test_d24_redirects_are_not_followed(upstream: PooledUpstream) -> None:
    async with listening(scripted(whole(b"", "307 Temporary Redirect", "location: http://127.0.0.1:1/\r\n"))) as peer:
        response = await upstream.send(post(peer))
        assert (response.status, response.headers["Location"]) == (307, "http://127.0.0.1:1/")
        await response.close()


async def test_repeated_fields_are_all_there_and_names_have_no_case(upstream: PooledUpstream) -> None:
    fields = "retry-after: 3\r\nRetry-After: 7\r\n"
    async with listening(scripted(whole(b"", "429 Too Many Requests", fields))) as peer:
        response = await upstream.send(post(peer))
        assert response.headers["RETRY-AFTER"] == "3"
        assert response.values("retry-after") == ["3", "7"]
        await response.close()


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"HTTP/1.1 100 Continue\r\n\r\n" + whole(b"x"), 200),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204),
        (b"HTTP/1.1 205 Reset Content\r\ncontent-length: 0\r\n\r\n", 205),
        (b"HTTP/1.0 200 OK\r\n\r\nx", 200),
        (b"HTTP/1.1 200 OK\ncontent-length: 1\n\nx", 200),
        (b"HTTP/1.1 200\r\ntransfer-encoding: chunked\r\n\r\n1  \r\nx\r\n0\r\n\r\n", 200),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;a=b\r\nx\r\n0\r\ntrailer: y\r\n\r\n", 200),
    ],
)
async def test_d25_answers_of_every_kind(upstream: PooledUpstream, raw: bytes, status: int) -> None:
    async with listening(scripted(raw)) as peer:
        assert (await answered(upstream, post(peer)))[0] == status


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"HTTP/1.",
        OK + b"content-length: 5\r\n",
        b"<html>",
        OK + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        OK + b"a: b\rc: d\r\ncontent-length: 5\r\n\r\nhello",
        OK + b"a: b\r\n" * 1000 + b"content-length: 5\r\n\r\nhello",
        OK + b"a: " + b"x" * (1 << 20) + b"\r\ncontent-length: 5\r\n\r\nhello",
    ],
    ids=["none", "part of a status", "part of a head", "html", "two lengths", "a CR", "1,000 fields", "1 MiB"],
)
async def test_n07_a_head_that_is_none_is_an_error(upstream: PooledUpstream, raw: bytes) -> None:
    async with listening(scripted(raw)) as peer:
        with pytest.raises(UpstreamError) as caught:
            await upstream.send(post(peer))
    assert caught.value.phase is Phase.HEAD
    assert len(caught.value.message) < 300
    assert "xxxx" not in caught.value.message


# Bodies


CUTS = {
    "chunked": (CHUNKED + chunk(b"hello"), "close"),
    "chunked, reset": (CHUNKED + chunk(b"hello"), "reset"),
    "short of its length": (OK + b"content-length: 10\r\n\r\nhello", "close"),
    "until the end, reset": (OK + b"\r\nhello", "reset"),
    "garbage for a chunk": (CHUNKED + chunk(b"hello"), "garbage"),
}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("pause", [0.0, 0.1])
async def test_n08_a_body_cut_in_the_middle_is_an_error_after_what_had_come(
    upstream: PooledUpstream, cut: str, pause: float
) -> None:
    raw, then = CUTS[cut]
    tail: tuple[bytes | float, ...] = (raw, 0.1, b"ZZ\r\n") if then == "garbage" else (raw, 0.1)
    async with listening(scripted(*tail, then="hang" if then == "garbage" else then)) as peer:
        response = await upstream.send(post(peer, timeouts=Timeouts(1.0, 5.0, 5.0)))
        got = b""
        await asyncio.sleep(pause * 3)  # a reader that is late, or one that waits already
        with pytest.raises(UpstreamError) as caught:
            async for piece in response.chunks():
                got += piece
        assert caught.value.phase is Phase.BODY
        assert got == b"hello"


async def test_a_turn_that_brings_only_framing_is_no_end(upstream: PooledUpstream) -> None:
    steps = (CHUNKED, 0.03, b"5", 0.03, b"\r\n", 0.03, b"hello\r\n", 0.03, b"0\r", 0.03, b"\n\r\n")
    async with listening(scripted(*steps)) as peer:
        assert await answered(upstream, post(peer)) == (200, b"hello")


@pytest.mark.parametrize(
    ("encoding", "body", "error"),
    [
        ("gzip", gzip.compress(b"hello" * 100_000), None),
        ("gzip", gzip.compress(b"hello" * 100_000)[:-9], "middle"),
        ("gzip", b"hello", "broken"),
        ("br", b"hello", "not asked for"),
    ],
)
async def test_n08_an_encoding_that_nobody_asked_for(
    upstream: PooledUpstream, encoding: str, body: bytes, error: str | None
) -> None:
    async with listening(scripted(whole(body, fields=f"content-encoding: {encoding}\r\n"))) as peer:
        response = await upstream.send(post(peer))
        if error is None:
            assert await response.read(1 << 20) == b"hello" * 100_000
            return
        with pytest.raises(UpstreamError, match=error) as caught:
            await response.read(1 << 20)
        assert caught.value.phase is Phase.BODY


async def test_a_compressed_stream_is_given_piece_by_piece(upstream: PooledUpstream) -> None:
    events = [b"data: %d\n\n" % number for number in range(4)]
    deflater = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    pieces = [deflater.compress(event) + deflater.flush(zlib.Z_SYNC_FLUSH) for event in events]
    taken = asyncio.Event()

    async def slowly(talk: Talk, peer: Peer) -> None:
        await talk.request()
        await talk.send(CHUNKED.replace(b"\r\n\r\n", b"\r\ncontent-encoding: gzip\r\n\r\n"))
        for piece in pieces:
            taken.clear()
            await talk.send(chunk(piece))
            await asyncio.wait_for(taken.wait(), 2.0)
        await talk.send(chunk(deflater.flush()) + b"0\r\n\r\n")

    async with listening(slowly) as peer:
        response = await upstream.send(post(peer))
        got = []
        async for piece in response.chunks():
            got.append(piece)
            taken.set()
        assert got == events


async def test_a_long_body_is_read_to_the_limit_and_its_connection_ended(upstream: PooledUpstream) -> None:
    async def endless(talk: Talk, peer: Peer) -> None:
        await talk.request()
        talk.watch()
        await talk.send(CHUNKED)
        while not talk.gone.is_set():
            await talk.send(chunk(b"x" * 1000))

    async with listening(endless) as peer:
        response = await upstream.send(post(peer))
        assert await response.read(10_000) == b"x" * 10_000
        await asyncio.wait_for(peer.talks[0].gone.wait(), 1.0)


async def test_s10_bytes_after_the_end_never_reach_the_next_answer(upstream: PooledUpstream) -> None:
    async with listening(
        scripted(whole(b"one") + b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nbad", then="keep")
    ) as peer:
        for _ in range(3):
            assert await answered(upstream, post(peer)) == (200, b"one")
        assert len(peer.talks) == 3


# The pool


async def test_a_connection_read_to_its_end_is_used_again_and_another_is_closed(upstream: PooledUpstream) -> None:
    async with listening(scripted(CHUNKED + chunk(b"a"), 0.02, chunk(b"b") + b"0\r\n\r\n", then="keep")) as peer:
        for _ in range(3):
            assert await answered(upstream, post(peer)) == (200, b"ab")
        assert len(peer.talks) == 1
        response = await upstream.send(post(peer))
        await response.close()
        await response.close()
        assert await answered(upstream, post(peer)) == (200, b"ab")
        assert len(peer.talks) == 2


async def test_idle_connections_are_dropped() -> None:
    upstream = PooledUpstream(keepalive=0.3)
    async with listening(scripted(whole(b"x"), then="keep")) as peer:
        await answered(upstream, post(peer))
        closed = asyncio.create_task(eventually(peer.talks[0].reader.at_eof, 3.0))
        await asyncio.sleep(0.4)
        await answered(upstream, post(peer))
        assert len(peer.talks) == 2
        await closed
    await upstream.close()


# Repeats


async def test_a_thousand_posts_on_connections_just_closed(upstream: PooledUpstream) -> None:
    async def second_never(talk: Talk, peer: Peer) -> None:
        """Answers one request, and closes when the next one comes, instead of answering."""
        await talk.request()
        peer.requests += 1
        await talk.send(whole(b"{}"))
        await talk.request()

    async with listening(second_never) as peer:
        for _ in range(1000):
            assert await answered(upstream, post(peer)) == (200, b"{}")
        assert peer.requests == 1000
    assert upstream.stale_retries == 999, "the connection of a repeat is pooled like any other"


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_n01_a_reset_of_a_reused_connection_is_repeated_once(upstream: PooledUpstream, method: str) -> None:
    async def answer(talk: Talk, peer: Peer) -> None:
        first = len(peer.talks) == 1
        await talk.request()
        peer.requests += 1
        await talk.send(whole(b"x"))
        await talk.request()
        if first:
            talk.reset()

    async with listening(answer) as peer:
        request = UpstreamRequest(method, peer.url(), timeouts=SHORT)
        assert await answered(upstream, request) == (200, b"x")
        assert await answered(upstream, request) == (200, b"x")
        assert (len(peer.talks), upstream.stale_retries) == (2, 1)


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("then", ["close", "reset"])
async def test_n02_a_fresh_connection_that_ends_is_not_repeated(
    upstream: PooledUpstream, then: str, method: str
) -> None:
    async with listening(scripted(then=then)) as peer:
        with pytest.raises(UpstreamError) as caught:
            await upstream.send(UpstreamRequest(method, peer.url(), timeouts=SHORT))
        assert caught.value.phase is Phase.HEAD
        assert len(peer.talks) == 1
    assert upstream.stale_retries == 0


@pytest.mark.parametrize("then", ["close", "reset"])
@pytest.mark.parametrize("after", ["bytes of an answer", "more than a second"])
async def test_a_reused_connection_is_not_repeated_when_the_model_may_have_run(
    upstream: PooledUpstream, after: str, then: str
) -> None:
    async def answer(talk: Talk, peer: Peer) -> None:
        await talk.request()
        await talk.send(whole(b"x"))
        await talk.request()
        peer.requests += 1
        if after == "bytes of an answer":
            await talk.send(b"HTTP/1.1 2")
            await asyncio.sleep(0.1)
        else:
            await asyncio.sleep(1.2)
        if then == "reset":
            talk.reset()

    async with listening(answer) as peer:
        patient = Timeouts(1.0, 5.0, 5.0)
        await answered(upstream, post(peer, timeouts=patient))
        with pytest.raises(UpstreamError) as caught:
            await upstream.send(post(peer, timeouts=patient))
        assert caught.value.phase is Phase.HEAD
        assert (len(peer.talks), peer.requests, upstream.stale_retries) == (1, 1, 0)


# Timeouts


@pytest.fixture
async def black_hole() -> AsyncIterator[str]:
    """A port whose backlog is full: connecting to it hangs."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=0)
    port = listener.getsockname()[1]
    fillers = []
    for _ in range(8):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(("127.0.0.1", port))
        fillers.append(filler)
    yield f"http://127.0.0.1:{port}/"
    for filler in (*fillers, listener):
        filler.close()


async def test_d02_a_connection_that_never_comes(upstream: PooledUpstream, black_hole: str) -> None:
    started = time.monotonic()
    with pytest.raises(UpstreamError) as caught:
        await upstream.send(UpstreamRequest("GET", black_hole, timeouts=Timeouts(0.5, 10.0, 10.0)))
    assert caught.value.phase is Phase.CONNECT_TIMEOUT
    assert 0.45 < time.monotonic() - started < 1.5


@pytest.mark.parametrize("steps", [(), (OK, *(0.3, b"a: b\r\n") * 6)], ids=["nothing", "a head that drips"])
async def test_a_head_that_never_comes(upstream: PooledUpstream, steps: tuple[bytes | float, ...]) -> None:
    async with listening(scripted(*steps, then="hang")) as peer:
        started = time.monotonic()
        with pytest.raises(UpstreamError) as caught:
            await upstream.send(post(peer))
        assert caught.value.phase is Phase.FIRST_BYTE_TIMEOUT
        assert 0.9 < time.monotonic() - started < 2.0


async def test_a_body_that_stalls(upstream: PooledUpstream) -> None:
    async with listening(scripted(CHUNKED, *(0.4, chunk(b"x")) * 4, then="hang")) as peer:
        response = await upstream.send(post(peer))
        got = b""
        with pytest.raises(UpstreamError) as caught:
            async for piece in response.chunks():
                got += piece
                last = time.monotonic()
        assert got == b"xxxx"
        assert caught.value.phase is Phase.BETWEEN_BYTES_TIMEOUT
        assert 0.9 < time.monotonic() - last < 2.0
        await asyncio.wait_for(peer.talks[0].gone.wait(), 1.0)


async def test_a_slow_reader_is_no_stall_and_stops_the_reading(upstream: PooledUpstream) -> None:
    async def push(talk: Talk, peer: Peer) -> None:
        await talk.request()
        await talk.send(CHUNKED)
        for _ in range(512):
            await talk.send(chunk(b"x" * 65536))
        await talk.send(b"0\r\n\r\n")

    async with listening(push) as peer:
        response = await upstream.send(post(peer, timeouts=Timeouts(1.0, 1.0, 0.5)))
        await asyncio.sleep(1.2)
        assert peer.talks[0].pushed < 16 * 1024 * 1024
        assert len(await response.read(1 << 30)) == 512 * 65536


# Leaving


async def test_cancelled_while_it_connects(upstream: PooledUpstream, black_hole: str) -> None:
    sending = asyncio.create_task(upstream.send(UpstreamRequest("GET", black_hole)))
    await asyncio.sleep(0.1)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(sending, 1.0)


async def hung_handshake(talk: Talk, peer: Peer) -> None:
    await talk.until_gone()


async def test_n04_a_handshake_that_stalls(upstream: PooledUpstream) -> None:
    async with listening(hung_handshake) as peer:
        url = f"https://127.0.0.1:{peer.port}/"
        with pytest.raises(UpstreamError) as caught:
            await upstream.send(UpstreamRequest("GET", url, timeouts=Timeouts(0.5, 10.0, 10.0)))
        assert caught.value.phase is Phase.CONNECT_TIMEOUT
        sending = asyncio.create_task(upstream.send(UpstreamRequest("GET", url)))
        await eventually(lambda: len(peer.talks) == 2)
        sending.cancel()
        await asyncio.wait_for(asyncio.gather(*(talk.gone.wait() for talk in peer.talks)), 1.0)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("reused", [False, True], ids=["fresh", "reused"])
async def test_cancelled_while_it_waits_for_the_head(
    upstream: PooledUpstream, authority: Authority, reused: bool, tls: bool
) -> None:
    async def answer(talk: Talk, peer: Peer) -> None:
        if reused:
            await talk.request()
            await talk.send(whole(b"x"))
        await talk.request()
        peer.requests += 1
        await talk.until_gone()

    async with listening(answer, authority.server("127.0.0.1") if tls else None) as peer:
        if reused:
            await answered(upstream, post(peer))
        sending = asyncio.create_task(upstream.send(post(peer, timeouts=Timeouts())))
        await eventually(lambda: peer.requests == 1)
        sending.cancel()
        await asyncio.wait_for(peer.talks[0].gone.wait(), 1.0)
        with pytest.raises(asyncio.CancelledError):
            await sending


async def test_cancelled_while_it_uploads_to_a_peer_that_does_not_read(upstream: PooledUpstream) -> None:
    read_on = asyncio.Event()
    taken = 0

    async def deaf(talk: Talk, peer: Peer) -> None:
        nonlocal taken
        await talk.head()
        await read_on.wait()
        while part := await talk.reader.read(1 << 20):
            taken += len(part)

    async with listening(deaf) as peer:
        size = 64 * 1024 * 1024
        sending = asyncio.create_task(upstream.send(post(peer, bytes(size), Timeouts())))
        await asyncio.sleep(0.4)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(sending, 1.0)
        read_on.set()
        await eventually(lambda: peer.talks[0].reader.at_eof() or peer.talks[0].reader.exception(), 1.0)
        assert taken < size // 2


async def test_n06_an_early_answer_is_delivered_and_the_upload_stopped(upstream: PooledUpstream) -> None:
    taken = 0

    async def early(talk: Talk, peer: Peer) -> None:
        nonlocal taken
        await talk.head()
        await talk.send(whole(b"too large", "413 Content Too Large"))
        while part := await talk.reader.read(1 << 20):
            taken += len(part)
            await asyncio.sleep(0.05)

    async with listening(early) as peer:
        started = time.monotonic()
        assert await answered(upstream, post(peer, bytes(20 * 1024 * 1024))) == (413, b"too large")
        assert time.monotonic() - started < 0.5
        await eventually(lambda: peer.talks[0].reader.at_eof() or peer.talks[0].reader.exception(), 3.0)
        assert taken < 20 * 1024 * 1024
        await answered(upstream, post(peer))
        assert len(peer.talks) == 2


async def test_an_early_answer_of_a_peer_that_never_reads_on_leaves_no_connection(upstream: PooledUpstream) -> None:
    async def early(talk: Talk, peer: Peer) -> None:
        await talk.head()
        await asyncio.sleep(0.2)  # until the upload is stuck
        await talk.send(whole(b"busy", "429 Too Many Requests"))
        await asyncio.Event().wait()

    async with listening(early) as peer:
        assert await answered(upstream, post(peer, bytes(20 * 1024 * 1024))) == (429, b"busy")
        await eventually(lambda: not established(peer.port), 1.0)


def established(port: int) -> list[object]:
    """Our own ends of connections to ``port`` that are still open."""
    own = psutil.Process().net_connections("tcp")
    return [c for c in own if c.raddr and c.raddr.port == port and c.status == psutil.CONN_ESTABLISHED]


async def test_a_large_body_arrives_whole_and_the_loop_goes_on(upstream: PooledUpstream, authority: Authority) -> None:
    body = bytes(range(256)) * (20 * 4096)
    received: list[bytes] = []

    async def take(talk: Talk, peer: Peer) -> None:
        received.append((await talk.request())[1])
        await talk.send(whole(b"x"))

    gaps: list[float] = []

    async def ticking() -> None:
        last = time.thread_time()  # the loop's own work, the peer's included, whatever else the machine does
        while True:
            await asyncio.sleep(0.001)
            now = time.thread_time()
            gaps.append(now - last)
            last = now

    async with listening(take, authority.server("127.0.0.1")) as peer:
        ticks = asyncio.create_task(ticking())
        assert (await answered(upstream, post(peer, body, Timeouts())))[0] == 200
        ticks.cancel()
    assert received == [body]
    assert 0 < max(gaps) < 0.25, max(gaps)


# Names


async def test_d01_nobody_listens_and_nobody_is_called_so(upstream: PooledUpstream) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    for url in (
        f"http://127.0.0.1:{port}/secret?key=secret",
        "http://no-such-host.invalid/secret",
        "gopher://x/secret",
    ):
        with pytest.raises(UpstreamError) as caught:
            await upstream.send(UpstreamRequest("GET", url, timeouts=SHORT))
        assert caught.value.phase is Phase.CONNECT
        assert "secret" not in caught.value.message
