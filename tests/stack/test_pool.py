"""The pool under pressure: every answer is that of its own request, and what is given up leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter

import psutil
import pytest
from tests.stack.conftest import Authority
from tests.stack.peers import CHUNKED, Peer, Talk, chunk, listening, scripted, whole

from aicore_proxy.upstream import PooledUpstream, Proxies, Timeouts, UpstreamError, UpstreamRequest, dialing

pytestmark = pytest.mark.timed


def pieces_of(body: bytes, chance: random.Random) -> list[bytes]:
    cuts = sorted(chance.sample(range(len(body) + 1), min(len(body), chance.randrange(4))))
    return [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]


def echoing(chance: random.Random) -> object:
    """Sends back what it got, framed and split as chance has it; sometimes ends the connection after or before it."""

    async def echo(talk: Talk, peer: Peer) -> None:
        while True:
            _, body = await talk.request()
            peer.requests += 1
            if chance.random() < 0.05:
                return
            if chance.random() < 0.3:
                await asyncio.sleep(chance.random() * 0.01)
            if chance.random() < 0.5:
                answer = whole(body)
            else:
                answer = CHUNKED + b"".join(chunk(piece) for piece in pieces_of(body, chance) if piece) + b"0\r\n\r\n"
            if chance.random() < 0.02:
                await talk.send(answer[: len(answer) // 2])
                return
            for piece in pieces_of(answer, chance):
                await talk.send(piece)
                if chance.random() < 0.2:
                    await asyncio.sleep(0)
            if chance.random() < 0.05:
                return

    return echo


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_each_answer_is_that_of_its_request_whoever_leaves_when(authority: Authority, tls: bool) -> None:
    chance = random.Random(20261125)
    upstream = PooledUpstream(tls=authority.client())
    ends: Counter[str] = Counter()

    async def one(peer: Peer, number: int) -> None:
        body = b"%06d" % number + os.urandom(
            chance.choice((0, 10, 3000, 400_000) if number % 10 == 0 else (0, 10, 3000))
        )
        response = await upstream.send(UpstreamRequest("POST", peer.url(), (), body, Timeouts(5.0, 20.0, 20.0)))
        if chance.random() < 0.1:
            await response.close()
            ends["closed"] += 1
            return
        assert await response.read(1 << 20) == body
        ends["whole"] += 1

    async def client(peer: Peer, first: int) -> None:
        for number in range(first, first + 60):
            asking = asyncio.create_task(one(peer, number))
            if chance.random() < 0.1:
                await asyncio.sleep(chance.random() * 0.004)
                asking.cancel()
            try:
                await asking
            except asyncio.CancelledError:
                ends["cancelled"] += 1
            except UpstreamError:
                ends["ended by the peer"] += 1

    async with listening(echoing(chance), authority.server("127.0.0.1") if tls else None) as peer:  # type: ignore[arg-type]
        await asyncio.gather(*(client(peer, 1000 * number) for number in range(20)))
        assert len(ends) == 4, ends
        assert ends["whole"] > 600
        await upstream.close()
        async with asyncio.timeout(5.0):
            while [c for c in psutil.Process().net_connections("tcp") if c.raddr and c.raddr.port == peer.port]:
                await asyncio.sleep(0.02)


async def test_what_comes_unasked_on_an_idle_connection_is_no_answer(upstream: PooledUpstream) -> None:
    async def eager(talk: Talk, peer: Peer) -> None:
        await talk.request()
        peer.requests += 1
        await talk.send(whole(b"mine"))
        await asyncio.sleep(0.05)
        await talk.send(whole(b"nobody's"))
        await talk.until_gone()

    async with listening(eager) as peer:
        for _ in range(2):
            response = await upstream.send(UpstreamRequest("POST", peer.url(), (), b"{}"))
            assert await response.read(100) == b"mine"
            await asyncio.sleep(0.15)
        assert (len(peer.talks), upstream.stale_retries) == (2, 0)


async def test_many_connections_to_one_name_are_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def counted(host: str, port: int) -> list[dialing.AddressInfo]:
        asked.append(host)
        return await look_up(host, port)

    look_up = dialing.look_up
    monkeypatch.setattr(dialing, "look_up", counted)
    upstream = PooledUpstream()
    async with listening(scripted(0.1, whole(b"x"))) as peer:
        url = peer.url(host="localhost")
        answers = await asyncio.gather(*(upstream.send(UpstreamRequest("GET", url)) for _ in range(20)))
        assert [await answer.read(10) for answer in answers] == [b"x"] * 20
        assert len(peer.talks) == 20
    assert asked == ["localhost"]
    await upstream.close()


async def test_a_proxy_that_speaks_tls_itself(authority: Authority) -> None:
    async def tunnel(talk: Talk, peer: Peer) -> None:
        head = await talk.head()
        peer.requests += 1
        assert head.startswith(f"CONNECT upstream.test:{target.port} HTTP/1.1\r\n")
        reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
        await talk.send(b"HTTP/1.1 200 Connection established\r\n\r\n")

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                sink.write(data)
            sink.close()

        await asyncio.gather(pump(talk.reader, writer), pump(reader, talk.writer))

    body = os.urandom(300_000)
    async with (
        listening(scripted(whole(body), then="keep"), authority.server("upstream.test")) as target,
        listening(tunnel, authority.server("127.0.0.1")) as proxy,
    ):
        environ = {"https_proxy": f"https://127.0.0.1:{proxy.port}"}
        upstream = PooledUpstream(tls=authority.client(), proxies=Proxies.from_environ(environ))
        for _ in range(2):
            request = UpstreamRequest("POST", target.url("/a", "upstream.test"), (), body, Timeouts(2.0, 2.0, 2.0))
            assert await (await upstream.send(request)).read(1 << 20) == body
        assert proxy.requests == 1
        await upstream.close()
