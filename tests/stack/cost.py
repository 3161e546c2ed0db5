"""What the upstream client costs over bare aiohttp, in CPU of this process. Run: ``python tests/stack/cost.py``.

The peer is a process of its own; both clients take turns, so that a busy machine troubles both alike.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import cast

import aiohttp
import uvloop

from aicore_proxy.upstream import PooledUpstream, UpstreamRequest

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1024\r\n\r\n" + b"x" * 1024
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENT = b"96\r\ndata: " + b"x" * 142 + b"\n\n\r\n"
EVENTS = 100
AT_ONCE = 32
HEADERS = (("Content-Type", "application/json"), ("Authorization", "Bearer " + "t" * 800), ("AI-Resource-Group", "a"))
BODY = b"x" * 1024


class Stub(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"POST /stream"):
            self.transport.write(HEAD)
            self.left = EVENTS
            asyncio.get_running_loop().call_later(0.01, self.tick)
        elif data.startswith(b"POST"):
            self.transport.write(ANSWER)

    def tick(self) -> None:
        self.left -= 1
        self.transport.write(EVENT if self.left else b"0\r\n\r\n")
        if self.left:
            asyncio.get_running_loop().call_later(0.01, self.tick)


async def stub() -> None:
    server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


async def spent(work: Callable[[], Awaitable[None]], times: int) -> float:
    """Microseconds of CPU for one of ``times`` runs, ``AT_ONCE`` at a time."""

    async def several() -> None:
        for _ in range(times // AT_ONCE):
            await work()

    before = time.process_time()
    await asyncio.gather(*(several() for _ in range(AT_ONCE)))
    return (time.process_time() - before) / times * 1e6


async def measure(port: int) -> None:
    url = f"http://127.0.0.1:{port}"
    upstream = PooledUpstream()
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar(), read_bufsize=65536
    )
    headers = dict(HEADERS)

    async def ours() -> None:
        response = await upstream.send(UpstreamRequest("POST", f"{url}/whole", HEADERS, BODY))
        await response.read(1 << 20)
        await response.close()

    async def bare() -> None:
        async with session.post(f"{url}/whole", data=BODY, headers=headers, allow_redirects=False) as response:
            await response.read()

    async def ours_streamed() -> None:
        response = await upstream.send(UpstreamRequest("POST", f"{url}/stream", HEADERS, BODY))
        async for _ in response.chunks():
            pass
        await response.close()

    async def bare_streamed() -> None:
        async with session.post(f"{url}/stream", data=BODY, headers=headers, allow_redirects=False) as response:
            async for _ in response.content.iter_any():
                pass

    figures: dict[str, list[float]] = {}
    for _ in range(7):
        for name, work in (("bare", bare), ("ours", ours)):
            figures.setdefault(f"request, {name}", []).append(await spent(work, 4000))
        for name, work in (("bare", bare_streamed), ("ours", ours_streamed)):
            figures.setdefault(f"event, {name}", []).append(await spent(work, 64) / EVENTS)
    for name, values in sorted(figures.items()):
        sys.stdout.write(f"{name:15} low {min(values):6.1f}  median {statistics.median(values):6.1f} us of CPU\n")
    await upstream.close()
    await session.close()


if __name__ == "__main__":
    if sys.argv[1:] == ["stub"]:
        uvloop.run(stub())
    peer = subprocess.Popen([sys.executable, __file__, "stub"], stdout=subprocess.PIPE)
    assert peer.stdout is not None
    try:
        uvloop.run(measure(int(peer.stdout.readline())))
    finally:
        peer.kill()
        peer.wait()
