"""A minimal relay on the chosen pair, uvicorn (uvloop, httptools) and PooledUpstream, as a process of its own.

The target comes in the header ``x-target``. Paths: ``/stream`` relays as it comes; ``/held`` sends nothing before the
upstream's first ``data:``; ``/whole`` reads the answer and sends it at once.
"""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import uvicorn

from aicore_proxy.upstream import (
    PooledUpstream,
    Proxies,
    UpstreamError,
    UpstreamRequest,
    UpstreamResponse,
    tls_context,
)

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Relay:
    def __init__(self) -> None:
        self.upstream = PooledUpstream(tls=tls_context(os.environ), proxies=Proxies.from_environ(os.environ))

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        if scope["path"] == "/retries":
            await reply(send, 200, str(self.upstream.stale_retries).encode())
            return
        work = asyncio.current_task()
        assert work is not None
        watcher = asyncio.create_task(self.watch(receive, work))
        try:
            await self.relay(scope, body, send)
        except asyncio.CancelledError:
            if not watcher.done():
                raise
        finally:
            watcher.cancel()

    async def watch(self, receive: Receive, work: asyncio.Task[Any]) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        work.cancel()

    async def relay(self, scope: MutableMapping[str, Any], body: bytes, send: Send) -> None:
        target = dict(scope["headers"])[b"x-target"].decode()
        request = UpstreamRequest("POST", target, (("Content-Type", "application/json"),), body)
        try:
            answer = await self.upstream.send(request)
        except UpstreamError as error:
            await reply(send, 502, error.message.encode())
            return
        try:
            if scope["path"] == "/whole":
                await reply(send, answer.status, await answer.read(1 << 26))
            else:
                await self.stream(answer, send, held=scope["path"] == "/held")
        finally:
            await answer.close()

    async def stream(self, answer: UpstreamResponse, send: Send, held: bool) -> None:
        first = b""
        chunks = answer.chunks()
        async for first in chunks:
            if not held or b"data:" in first:
                break
        await send({"type": "http.response.start", "status": answer.status, "headers": []})
        await send({"type": "http.response.body", "body": first, "more_body": True})
        async for piece in chunks:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def reply(send: Send, status: int, body: bytes) -> None:
    fields = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


def main() -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    config = uvicorn.Config(
        Relay(), loop="uvloop", http="httptools", lifespan="off", access_log=False, log_level="error", backlog=4096
    )
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
