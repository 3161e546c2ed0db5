"""A request leaves no cycle behind: with one, its body would live on until the garbage collector looks."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aicore_proxy.gateway.exchange import ClientRequest, Head, Reply, StreamReply
from aicore_proxy.protocol.fault import Fault, Kind
from aicore_proxy.server.asgi import Endpoint


async def whole(request: ClientRequest) -> Reply:
    return Reply(200, (), await request.body(1000))


async def refusing(request: ClientRequest) -> Reply:
    raise Fault(Kind.MALFORMED, f"No, {len(await request.body(1000))} bytes.")


async def streamed(request: ClientRequest) -> StreamReply:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield await request.body(1000)

    return StreamReply(
        chunks(), head=lambda: Head(200), keepalive=b"", refuse=lambda fault: Reply(fault.status), fail=lambda _: b""
    )


async def asked(endpoint: Endpoint, answered: asyncio.Event) -> None:
    """One request, whose client stays until it has its answer."""
    messages = [{"type": "http.request", "body": b"body", "more_body": False}]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await answered.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body"):
            answered.set()

    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": [], "client": ("::1", 1)}
    await endpoint(scope, receive, send)


@pytest.mark.parametrize("handler", [whole, refusing, streamed])
async def test_a_request_leaves_nothing_to_the_garbage_collector(handler: Any) -> None:
    endpoint = Endpoint(handler)

    async def some() -> None:
        for _ in range(10):
            answered = asyncio.Event()
            await asyncio.get_running_loop().create_task(asked(endpoint, answered))
            assert answered.is_set()
        await asyncio.sleep(0)

    await some()
    gc.collect()
    gc.disable()
    try:
        await some()
        assert gc.collect() < 10
    finally:
        gc.enable()
