"""uvicorn and the upstream client together: what a relay on them owes to clients and to the upstream."""

from __future__ import annotations

import asyncio
import resource
import socket
import time

import psutil
import pytest
from tests.stack.conftest import Authority, RelayProcess
from tests.stack.peers import CHUNKED, OK, Answer, Peer, Talk, chunk, listening, reset, whole

pytestmark = [pytest.mark.timed, pytest.mark.asyncio(loop_factories=["asyncio"])]


def question(path: str, target: str, body: bytes = b"{}") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: test\r\nx-target: {target}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def never(talk: Talk, peer: Peer) -> None:
    await talk.request()
    peer.requests += 1
    await talk.until_gone()


async def thinking(talk: Talk, peer: Peer) -> None:
    await talk.request()
    await talk.send(CHUNKED + chunk(b": thinking\n\n"))
    peer.requests += 1
    await talk.until_gone()


async def talking(talk: Talk, peer: Peer) -> None:
    await talk.request()
    talk.watch()
    await talk.send(CHUNKED)
    peer.requests += 1
    while not talk.gone.is_set():
        await talk.send(chunk(b"data: more\n\n"))
        await asyncio.sleep(0.01)


async def half(talk: Talk, peer: Peer) -> None:
    await talk.request()
    await talk.send(OK + b"content-length: 100\r\n\r\n" + b"x" * 50)
    peer.requests += 1
    await talk.until_gone()


MOMENTS: dict[str, tuple[str, Answer, bool]] = {
    "before the head": ("/stream", never, False),
    "before the head of a whole answer": ("/whole", never, False),
    "while the start is held back": ("/held", thinking, False),
    "in mid-stream": ("/stream", talking, True),
    "in the middle of a whole answer": ("/whole", half, False),
}


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("leaving", ["fin", "rst"])
@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_client_that_leaves_frees_the_upstream_within_a_second(
    relay: RelayProcess, authority: Authority, moment: str, leaving: str, tls: bool
) -> None:
    path, answer, sees_bytes = MOMENTS[moment]
    async with listening(answer, authority.server("127.0.0.1") if tls else None) as peer:
        clients = 5

        async def leave() -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
            writer.write(question(path, peer.url()))
            if sees_bytes:
                await reader.readuntil(b"data: more")
            while peer.requests < clients:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            if leaving == "rst":
                reset(writer)
            else:
                writer.close()

        await asyncio.gather(*(leave() for _ in range(clients)))
        left = time.monotonic()
        assert len(peer.talks) == clients
        await asyncio.wait_for(asyncio.gather(*(talk.gone.wait() for talk in peer.talks)), 1.0)
        assert all(talk.gone_at >= left - 0.5 for talk in peer.talks)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_a_client_that_reads_nothing_holds_the_upstream_back(
    relay: RelayProcess, authority: Authority, tls: bool
) -> None:
    piece = chunk(b"x" * 65536)
    total = 40 * 1024 * 1024

    async def push(talk: Talk, peer: Peer) -> None:
        await talk.request()
        await talk.send(CHUNKED)
        while talk.pushed < total:
            await talk.send(piece)
        await talk.send(b"0\r\n\r\n")
        await talk.until_gone()

    async with listening(push, authority.server("127.0.0.1") if tls else None) as peer:
        memory = psutil.Process(relay.process.pid)
        before = memory.memory_info().rss
        client = socket.create_connection(("127.0.0.1", relay.port))
        client.sendall(question("/stream", peer.url()))
        await asyncio.sleep(1.5)
        pushed = peer.talks[0].pushed
        await asyncio.sleep(1.0)
        assert peer.talks[0].pushed == pushed, "the upstream is still being read"
        assert 0 < pushed < 16 * 1024 * 1024
        assert memory.memory_info().rss - before < 8 * 1024 * 1024
        client.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=client)
        got = 0
        while got < total:
            part = await asyncio.wait_for(reader.read(1 << 20), 20)
            assert part
            got += len(part)
        writer.close()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_each_event_of_a_slow_upstream_goes_out_before_the_next_one_is_sent(
    relay: RelayProcess, authority: Authority, tls: bool
) -> None:
    sent: list[float] = []

    async def slowly(talk: Talk, peer: Peer) -> None:
        await talk.request()
        await talk.send(CHUNKED)
        for number in range(10):
            sent.append(time.monotonic())
            await talk.send(chunk(b"data: %d\n\n" % number))
            await asyncio.sleep(0.2)
        await talk.send(b"0\r\n\r\n")

    async with listening(slowly, authority.server("127.0.0.1") if tls else None) as peer:
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        writer.write(question("/stream", peer.url()))
        came: list[float] = []
        for number in range(10):
            await asyncio.wait_for(reader.readuntil(b"data: %d" % number), 5)
            came.append(time.monotonic())
        writer.close()
    delays = [arrival - departure for arrival, departure in zip(came, sent, strict=True)]
    assert all(0 < delay < 0.2 for delay in delays), delays
    assert sorted(delays)[5] < 0.05, delays


@pytest.mark.parametrize("path", ["/stream", "/whole"])
@pytest.mark.parametrize("end", ["fin", "rst", "short"])
async def test_a_body_cut_in_the_middle_is_no_end_for_the_client(relay: RelayProcess, path: str, end: str) -> None:
    """Whoever gets a body that was cut must see that it was: no last chunk, no whole answer."""

    async def cut(talk: Talk, peer: Peer) -> None:
        await talk.request()
        if end == "short":
            await talk.send(OK + b"content-length: 100\r\n\r\ndata: half")
        else:
            await talk.send(CHUNKED + chunk(b"data: half"))
        await asyncio.sleep(0.1)
        if end == "rst":
            talk.reset()

    async with listening(cut) as peer:
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        writer.write(question(path, peer.url()))
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        if path == "/stream":
            assert head.startswith(b"HTTP/1.1 200")
            body = await asyncio.wait_for(reader.read(), 5)
            assert b"data: half" in body
            assert not body.endswith(b"0\r\n\r\n")
        else:
            assert not head.startswith(b"HTTP/1.1 200")
        writer.close()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_a_thousand_posts_on_connections_just_closed_all_succeed(
    relay: RelayProcess, authority: Authority, tls: bool
) -> None:
    async def once(talk: Talk, peer: Peer) -> None:
        """Answers, and closes without having said so."""
        await talk.request()
        peer.requests += 1
        await talk.send(whole(b"{}"))

    async with listening(once, authority.server("127.0.0.1") if tls else None) as peer:
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        for _ in range(1000):
            writer.write(question("/whole", peer.url()))
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head + await reader.read(1000)
            await reader.readexactly(2)
        writer.close()
        assert peer.requests == 1000


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_a_thousand_streams_at_the_same_time(relay: RelayProcess, authority: Authority, tls: bool) -> None:
    clients = 1000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    together = asyncio.Event()

    async def barrier(talk: Talk, peer: Peer) -> None:
        _, body = await talk.request()
        peer.requests += 1
        if peer.requests == clients:
            together.set()
        await talk.send(CHUNKED)
        await together.wait()
        await talk.send(chunk(b"data: " + body) + b"0\r\n\r\n")
        await talk.until_gone()

    async with listening(barrier, authority.server("127.0.0.1") if tls else None) as peer:

        async def ask(number: int) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
            writer.write(question("/stream", peer.url(), b"<%d>" % number))
            await reader.readuntil(b"data: <%d>" % number)
            writer.close()

        await asyncio.wait_for(asyncio.gather(*(ask(number) for number in range(clients))), 60)
        assert len(peer.talks) == clients
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
