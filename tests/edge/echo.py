"""A tiny gateway behind the real edge, as a process of its own: ``python -m tests.edge.echo PORT_FILE [JSON]``.

What a request wants is in its path. Everything that happens is written down in ``state``, served at ``/state``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import uvloop

from aicore_proxy.gateway.exchange import ClientRequest, Ending, Head, Reply, StreamReply, Timings
from aicore_proxy.gateway.keys import Keys, client_key
from aicore_proxy.protocol.fault import Fault, Kind
from aicore_proxy.server import listen
from aicore_proxy.server.asgi import Endpoint
from aicore_proxy.server.edge import Limits
from aicore_proxy.server.forwarded import trusted_proxies
from aicore_proxy.server.tls import Certificate
from aicore_proxy.tasks import Supervisor

KEY = "sk-right"
EVENT_STREAM = (("content-type", "text/event-stream"),)
KEEPALIVE = b": keep-alive\n\n"


class Echo:
    """Owns what it saw."""

    def __init__(self, body_limit: int) -> None:
        self.body_limit = body_limit
        self.keys = Keys([client_key("test", KEY)])
        self.closed: list[Ending] = []
        self.begun = 0
        self.open = 0
        self.pushed = 0
        self.requests: list[str] = []

    async def handle(self, request: ClientRequest) -> Reply | StreamReply:
        if request.path == "/state":
            return self._json(self.state())
        self.begun += 1
        self.open += 1
        self.requests.append(f"{request.method} {request.path}?{request.query.decode()}")
        try:
            return await self._handle(request)
        except Fault as fault:
            return self._refuse(fault, counted=True)
        except asyncio.CancelledError:
            self.open -= 1
            self.closed.append("client_gone")
            raise

    async def _handle(self, request: ClientRequest) -> Reply | StreamReply:
        words = request.path.strip("/").split("/")
        match words:
            case ["keyed"]:
                caller = self.keys.authenticate(request)
                await request.body(self.body_limit)
                return self._json({"caller": caller.name}, counted=True)
            case ["sleep", seconds]:
                await request.body(self.body_limit)
                await asyncio.sleep(float(seconds))
                return self._json({"slept": seconds}, counted=True)
            case ["sleep-first", seconds]:
                await asyncio.sleep(float(seconds))
                body = await request.body(self.body_limit)
                return self._json({"length": len(body)}, counted=True)
            case ["large", size]:
                await request.body(self.body_limit)
                return Reply(200, (("content-type", "text/plain"),), b"x" * int(size), close=self._close)
            case ["bug"]:
                raise ZeroDivisionError("meant")
            case ["bad-header"]:
                return Reply(200, (("x-bad", "a\r\nx-injected: b"),), b"", close=self._close)
            case ["stream", *steps]:
                await request.body(self.body_limit)
                return self._stream(self._steps(steps))
            case ["push", size]:
                await request.body(self.body_limit)
                return self._stream(self._push(int(size)))
            case _:
                body = await request.body(self.body_limit)
                seen = {
                    "method": request.method,
                    "path": request.path,
                    "query": request.query.decode(),
                    "length": len(body),
                    "body": body[:200].decode("latin-1"),
                    "id": request.request_id,
                    "address": request.address,
                    "upgrade": request.header("Upgrade"),
                    "trailer": request.header("x-trailer"),
                }
                return self._json(seen, counted=True)

    async def _steps(self, steps: list[str]) -> AsyncIterator[bytes]:
        """``stream/0.5/a/0.1/b``: waits are numbers, chunks are words; ``fault`` and ``bug`` are what they say."""
        for step in steps:
            if step[0].isdigit():
                await asyncio.sleep(float(step))
            elif step == "fault":
                raise Fault(Kind.OVERLOADED, "meant", retry_after=3)
            elif step == "bug":
                raise ZeroDivisionError("meant")
            elif step == "forever":
                await asyncio.Event().wait()
            else:
                yield f"data: {step}\n\n".encode()

    async def _push(self, size: int) -> AsyncIterator[bytes]:
        """Chunks as fast as they are taken, up to 100 MB/s."""
        chunk = b"data: " + b"x" * (size - 8) + b"\n\n"
        began = time.monotonic()
        while True:
            yield chunk
            self.pushed += size
            ahead = self.pushed / 100e6 - (time.monotonic() - began)
            await asyncio.sleep(max(0.0, ahead))

    def _stream(self, chunks: AsyncIterator[bytes]) -> StreamReply:
        return StreamReply(
            chunks,
            head=lambda: Head(200, EVENT_STREAM),
            keepalive=KEEPALIVE,
            refuse=self._refuse,
            fail=lambda fault: f"event: error\ndata: {fault.kind.value}\n\n".encode(),
            close=self._close,
        )

    def _refuse(self, fault: Fault, *, counted: bool = False) -> Reply:
        body = json.dumps({"fault": fault.kind.value, "message": fault.message}).encode()
        waits = (("retry-after", f"{fault.retry_after:.3f}"),) if fault.retry_after is not None else ()
        fields = (("content-type", "application/json"), *waits)
        return Reply(fault.status, fields, body, close=self._close if counted else None)

    def _json(self, value: object, *, counted: bool = False) -> Reply:
        fields = (("content-type", "application/json"),)
        return Reply(200, fields, json.dumps(value).encode(), close=self._close if counted else None)

    async def _close(self, ending: Ending) -> None:
        self.open -= 1
        self.closed.append(ending)

    def state(self) -> dict[str, object]:
        return {
            "begun": self.begun,
            "open": self.open,
            "closed": self.closed[-1000:],
            "pushed": self.pushed,
            "requests": self.requests[-1000:],
            "tasks": len(asyncio.all_tasks()),
        }


def main() -> None:
    port_file = Path(sys.argv[1])
    settings = json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}
    limits = msgspec.convert(settings.get("limits", {}), Limits)
    timings = msgspec.convert(settings.get("timings", {}), Timings)
    listen.raise_descriptor_limit()
    listeners = listen.bind("127.0.0.1", 0)
    echo = Echo(settings.get("body_limit", 64 * 1024 * 1024))
    endpoint = Endpoint(echo.handle, timings, proxies=trusted_proxies(settings.get("proxies", [])))
    certificate = Certificate(*map(Path, settings["tls"])) if "tls" in settings else None
    server = listen.server(
        endpoint, limits=limits, graceful_timeout=5, tls=certificate.context if certificate is not None else None
    )
    beside = port_file.with_suffix(".new")
    beside.write_text(f"{listeners[0].getsockname()[1]} {os.getpid()}", encoding="ascii")
    beside.rename(port_file)

    async def serve() -> None:
        supervisor = Supervisor()
        if certificate is not None:
            supervisor.start("certificate", certificate.watch(interval=0.1))
        await server.serve(listen.spread(listeners))
        await supervisor.aclose()

    logging.basicConfig(level=logging.INFO)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())


if __name__ == "__main__":
    main()
