"""Codec work per streamed event, in microseconds: framing alone, relay, translation between all pairs of dialects.

    python scripts/bench_codecs.py [events]

Each line is the best of several runs over one stream, an event per chunk, and many events per chunk. Budget: 2 µs for
a relayed event, 5 µs for a translated one.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from aicore_proxy.protocol.dialects import Answering, Dialect
from aicore_proxy.protocol.dialects.anthropic_messages import DIALECT as MESSAGES
from aicore_proxy.protocol.dialects.gemini import DIALECT as GEMINI
from aicore_proxy.protocol.dialects.openai_chat import DIALECT as CHAT
from aicore_proxy.protocol.framing import SseDecoder
from aicore_proxy.protocol.neutral import Close, Delta, Done, Event, Finish, Open, Request, Start, Text, Usage
from aicore_proxy.protocol.pipe import Pipe, Relay, Translation
from aicore_proxy.protocol.seal import carried

RUNS = 7
TOGETHER = 20


def answering(dialect: Dialect) -> Answering:
    request = Request(dialect.name, "a-model", (), stream=True, stream_usage=True)
    return Answering(request, carried(dialect.home), fresh_id="fresh", now=1764000000, request_id="req_1")


def chunks(dialect: Dialect, count: int, together: int) -> list[bytes]:
    """An upstream's stream of ``count`` text events, as SAP frames it, so many events in a chunk."""
    events: list[Event] = [Start("answer1", "a-model", Usage(20), 1764000000), Open(0, Text(""))]
    events += [Delta(0, " word") for _ in range(count)]
    events += [Close(0), Finish("stop", Usage(20, output=count)), Done()]
    encoder = dialect.stream_encoder(answering(dialect))
    written = b"".join(encoder.feed(event) for event in events)
    frames = [b"data: " + frame.data + b"\n\n" for frame in SseDecoder().feed(written)]
    return [b"".join(frames[start : start + together]) for start in range(0, len(frames), together)]


def best(make: Callable[[], Callable[[bytes], object]], stream: list[bytes], count: int) -> float:
    """Microseconds per event."""
    shortest = float("inf")
    for _ in range(RUNS):
        feed = make()
        started = time.process_time()
        for chunk in stream:
            feed(chunk)
        shortest = min(shortest, time.process_time() - started)
    return shortest / count * 1e6


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    print(f"{'':48}{'1 a chunk':>12}{f'{TOGETHER} a chunk':>14}")

    def line(name: str, source: Dialect, make: Callable[[], Callable[[bytes], object]]) -> None:
        alone = best(make, chunks(source, count, 1), count)
        many = best(make, chunks(source, count, TOGETHER), count)
        print(f"{name:48}{alone:>12.2f}{many:>14.2f}")

    line("SSE framing", CHAT, lambda: SseDecoder().feed)
    for dialect in (CHAT, MESSAGES, GEMINI):
        line(f"relay {dialect.name}", dialect, lambda d=dialect: pipe(d, d).feed)  # type: ignore[misc]
    for source in (CHAT, MESSAGES, GEMINI):
        for target in (CHAT, MESSAGES, GEMINI):
            if source is not target:
                name = f"translate {source.name} -> {target.name}"
                line(name, source, lambda s=source, t=target: pipe(s, t).feed)  # type: ignore[misc]


def pipe(source: Dialect, target: Dialect) -> Pipe:
    if source is target:
        return Relay(target, SseDecoder(), answering(target))
    return Translation(source, target, SseDecoder(), answering(target))


if __name__ == "__main__":
    main()
