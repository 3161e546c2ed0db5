"""Framings: bytes of a stream in, whole frames out, however the bytes were split."""

from __future__ import annotations

from typing import Protocol

from aicore_proxy.protocol.framing.aws_event_stream import AwsEventStreamDecoder
from aicore_proxy.protocol.framing.frame import Frame
from aicore_proxy.protocol.framing.sse import SseDecoder

__all__ = ["AwsEventStreamDecoder", "Frame", "Framer", "SseDecoder", "framer_for"]


class Framer(Protocol):
    """Reads one stream. ``feed`` and ``end`` raise Fault(UPSTREAM_FAILED) on bytes that can be no frame; whole frames
    before them have been given by then."""

    def feed(self, chunk: bytes) -> list[Frame]:
        """The frames that ``chunk`` completes."""
        ...

    def end(self) -> list[Frame]:
        """What stands whole at the end of the bytes without having been ended."""
        ...


def framer_for(content_type: str) -> Framer:
    """The framing of an upstream's stream by its ``Content-Type``: AWS's binary one if it says so, else SSE (also for
    answers that say nothing, or JSON: an error body comes out whole at the end)."""
    if "vnd.amazon.eventstream" in content_type.lower():
        return AwsEventStreamDecoder()
    return SseDecoder()
