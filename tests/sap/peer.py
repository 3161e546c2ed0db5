"""A tiny AI Core of canned answers, for what a faithful one would never do: each path a list of answers in turn."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.stack.peers import Peer, Talk, listening, whole

from aicore_proxy.sap.credentials import Secret, ServiceKey


class Request:
    def __init__(self, head: str, body: bytes) -> None:
        line, *fields = head.split("\r\n")
        self.method, target, _ = line.split(" ")
        parts = urlsplit(target)
        self.path = parts.path
        self.query = dict(parse_qsl(parts.query))
        self.headers = {name.lower(): value for name, _, value in (f.partition(": ") for f in fields) if name}
        self.body = body.decode()


Handler = Callable[[Request], "bytes | Awaitable[bytes | None] | AsyncIterator[bytes] | None"]


def answer(content: Any, status: str = "200 OK", fields: str = "") -> bytes:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return whole(body, status, fields)


class Core:
    """What it answers, by path, and what it was asked. Where a handler gives None it hangs."""

    def __init__(self) -> None:
        self.peer: Peer | None = None
        self.tokens = 0
        self.requests: list[Request] = []
        self.routes: dict[str, Handler] = {"/oauth/token": self.new_token}

    def new_token(self, request: Request) -> bytes:
        self.tokens += 1
        return answer({"access_token": f"token-{self.tokens}", "expires_in": 43199})

    def asked(self, path: str) -> list[Request]:
        return [request for request in self.requests if request.path == path]

    def key(self, name: str = "one", resource_group: str | None = None) -> ServiceKey:
        assert self.peer is not None
        base = f"http://127.0.0.1:{self.peer.port}"
        return ServiceKey(name, "sb-1", Secret("s3cr3t$="), f"{base}/oauth/token", base, resource_group=resource_group)


@contextlib.asynccontextmanager
async def core() -> AsyncIterator[Core]:
    served = Core()

    async def serve(talk: Talk, peer: Peer) -> None:
        while True:
            request = Request(*await talk.request())
            served.requests.append(request)
            handler = served.routes.get(request.path)
            made = handler(request) if handler else answer(b"RBAC: access denied", "403 Forbidden")
            if isinstance(made, AsyncIterator):
                async for piece in made:
                    await talk.send(piece)
                continue
            reply = made if isinstance(made, bytes | None) else await made
            if reply is None:
                await talk.until_gone()
                return
            await talk.send(reply)

    async with listening(serve) as served.peer:
        yield served


def in_turn(*replies: bytes | None) -> Handler:
    """Each reply once, the last one for ever."""
    left = list(replies)

    def handler(_: Request) -> bytes | None:
        return left.pop(0) if len(left) > 1 else left[0]

    return handler


def late(seconds: float, handler: Handler) -> Handler:
    async def wait(request: Request) -> bytes | None:
        await asyncio.sleep(seconds)
        made = handler(request)
        assert not isinstance(made, AsyncIterator)
        return made if isinstance(made, bytes | None) else await made

    return wait
