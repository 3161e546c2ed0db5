"""How an answer goes over the wire: split and joined at random places, paced, stalled, cut, broken."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from random import Random

from aicore_proxy.simulator.operation import SSE, Frame
from aicore_proxy.simulator.scripts import Script
from aicore_proxy.simulator.server import Reply

JOINED = 16 * 1024
UNSPLIT = 256 * 1024
GARBAGE_FRAMES = {
    "json": b'data: {"broken": [1, 2\n\n',
    "unknown": b'data: {"type": "simulated_unknown", "simulated": true}\n\n',
    "nul": b"data: \0\0\0\n\n",
}
TERMINAL = (b"data: [DONE]", b'"type":"message_stop"')
"""What marks the end of an answer that has told why it ended."""


class Wire:
    """Writes pieces of a body. ``random`` None: every piece as it is, joined where it may be (fast mode)."""

    def __init__(
        self, reply: Reply, random: Random | None, cut_bytes: int | None, pushed: Callable[[int], None]
    ) -> None:
        self._reply = reply
        self._random = random
        self._left = cut_bytes
        self._pushed = pushed
        self._held = bytearray()

    async def put(self, data: bytes) -> None:
        """Takes a frame; may hold some of it back to join it with the next."""
        if not self._held and len(data) >= JOINED:
            await self._cut_up(data)
            return
        self._held += data
        if self._random is None:
            if len(self._held) >= JOINED:
                await self.flush()
            return
        if self._random.random() < 0.5 or len(self._held) >= JOINED:
            keep = self._random.randrange(len(data)) if self._random.random() < 0.5 else 0
            ready = bytes(self._held[: len(self._held) - keep])
            del self._held[: len(ready)]
            await self._cut_up(ready)

    async def flush(self) -> None:
        """Sends what is held back: before every pause, and at the end."""
        if self._held:
            ready = bytes(self._held)
            self._held.clear()
            await self._cut_up(ready)

    async def _cut_up(self, data: bytes) -> None:
        if self._random is None or len(data) > UNSPLIT or len(data) < 2:
            await self._send(data)
            return
        cuts = sorted(self._random.randrange(1, len(data)) for _ in range(self._random.randrange(3)))
        start = 0
        for end in [*cuts, len(data)]:
            if start:
                # A turn of the loop in between: the pieces leave as packets of their own.
                await asyncio.sleep(0)
            await self._send(data[start:end])
            start = end

    async def _send(self, data: bytes) -> None:
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
        if data:
            await self._reply.write(data)
            self._pushed(len(data))
        if self._left == 0:
            raise CutShort


class CutShort(Exception):
    """The body has reached the length at which it is to be cut."""


async def stream(
    frames: Iterator[Frame], script: Script, wire: Wire, reply: Reply, *, failing: bytes, kind: str
) -> bool:
    """Writes the frames as the script wants them. Whether the stream came to its orderly end; else it has been cut."""
    shape = framed(script.framing if kind == SSE else None)
    loop = asyncio.get_running_loop()
    started, sent = loop.time(), 0
    garbage = "json" if script.garbage is True else script.garbage
    for content, frame in frames:
        if garbage == "unmarked" and not content and any(mark in frame for mark in TERMINAL):
            continue
        if script.error_after is not None and sent >= script.error_after:
            await wire.put(shape(failing))
            await wire.flush()
            return True
        if content:
            if script.cut_after is not None and sent >= script.cut_after:
                await wire.flush()
                return False
            if script.rate is not None and sent and (wait := started + sent / script.rate - loop.time()) > 0:
                await wire.flush()
                await asyncio.sleep(wait)
        await _put(wire, shape(frame), script)
        if content:
            sent += 1
            if sent == 1:
                await _after_first(script, wire, garbage)
                started = loop.time() if script.stall else started
        if garbage == "unended" and sent:
            # Text has come, but no terminal event will: end here, in order.
            await wire.flush()
            return True
    if script.error_after is not None:
        await wire.put(shape(failing))
    if garbage == "after":
        await wire.put(b'data: {"type": "simulated_afterwards"}\n\n')
    await wire.flush()
    return script.cut_after is None


async def _put(wire: Wire, data: bytes, script: Script) -> None:
    if script.framing != "bytes":
        await wire.put(data)
        return
    for position in range(len(data)):
        await wire.put(data[position : position + 1])
        await wire.flush()
        await asyncio.sleep(0)


async def _after_first(script: Script, wire: Wire, garbage: str | bool | None) -> None:
    if isinstance(garbage, str) and garbage in GARBAGE_FRAMES:
        await wire.put(GARBAGE_FRAMES[garbage])
    elif garbage == "long":
        for _ in range(160):
            await wire.put(b"x" * 65_536)
    if script.stall:
        await wire.flush()
        await asyncio.sleep(script.stall)


def framed(framing: str | None) -> Callable[[bytes], bytes]:
    """Server-sent events in other spellings that the format allows."""
    match framing:
        case "crlf":
            return lambda data: data.replace(b"\n", b"\r\n")
        case "cr":
            return lambda data: data.replace(b"\n", b"\r")
        case "no_space":
            return lambda data: data.replace(b"data: ", b"data:", 1)
        case "comments":
            return lambda data: b": simulated comment\n\n" + data
        case "events":
            return lambda data: b"event: message\nid: 1\nretry: 1000\n" + data
        case "blank":
            return lambda data: b"\n\n" + data + b"\n"
        case _:
            return lambda data: data
