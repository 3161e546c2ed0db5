"""The other side, made of asyncio streams: what it sends is every byte that it sends, and it knows when it was left."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def whole(body: bytes, status: str = "200 OK", fields: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{fields}\r\n".encode() + body


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Talk:
    """One connection at the peer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.gone = asyncio.Event()
        self.gone_at = 0.0
        self.pushed = 0

    async def head(self) -> str:
        """The next request's head. Raises IncompleteReadError where the connection ends instead."""
        return (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")

    async def request(self) -> tuple[str, bytes]:
        head = await self.head()
        length = next((int(line[15:]) for line in head.lower().splitlines() if line.startswith("content-length:")), 0)
        return head, await self.reader.readexactly(length)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()
        self.pushed += len(data)

    def watch(self) -> None:
        """From now on nothing more is expected but the end."""
        self._watcher = asyncio.create_task(self.until_gone())

    async def until_gone(self) -> None:
        with contextlib.suppress(OSError):
            while await self.reader.read(65536):
                pass
        self.gone_at = time.monotonic()
        self.gone.set()

    def reset(self) -> None:
        reset(self.writer)


def reset(writer: asyncio.StreamWriter) -> None:
    """Ends a connection with RST."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Peer:
    """A listening peer and the connections it has seen."""

    def __init__(self, scheme: str, port: int) -> None:
        self.scheme = scheme
        self.port = port
        self.talks: list[Talk] = []
        self.requests = 0

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        return f"{self.scheme}://{host}:{self.port}{path}"


Answer = Callable[[Talk, Peer], Awaitable[None]]


@contextlib.asynccontextmanager
async def listening(answer: Answer, tls: ssl.SSLContext | None = None, backlog: int = 4096) -> AsyncIterator[Peer]:
    """A peer on loopback; ``answer`` runs once for each connection, which ends when it returns."""
    running: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = Talk(reader, writer)
        peer.talks.append(talk)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            await answer(talk, peer)
        with contextlib.suppress(OSError):
            writer.close()

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(serve(reader, writer))
        running.add(task)
        task.add_done_callback(running.discard)

    server = await asyncio.start_server(accepted, "127.0.0.1", 0, ssl=tls, backlog=backlog)
    peer = Peer("https" if tls else "http", server.sockets[0].getsockname()[1])
    try:
        yield peer
    finally:
        server.close()
        for task in list(running):
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for talk in peer.talks:
            talk.writer.transport.abort()


def scripted(*steps: bytes | float, then: str = "close") -> Answer:
    """Answers every request with these bytes, with pauses of so many seconds between them; ``then``: ``close``,
    ``reset``, ``hang`` or ``keep`` (take the next request)."""

    async def answer(talk: Talk, peer: Peer) -> None:
        while True:
            await talk.request()
            peer.requests += 1
            for step in steps:
                if isinstance(step, float):
                    await asyncio.sleep(step)
                else:
                    await talk.send(step)
            if then == "hang":
                await talk.until_gone()
            if then == "reset":
                talk.reset()
            if then != "keep":
                return

    return answer
