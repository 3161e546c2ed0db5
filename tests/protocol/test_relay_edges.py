"""What upstreams and the boxes before them do to a stream's bytes: a relay of each dialect gives the same all the same.

What they do below that (encodings, cuts, resets) stands in tests/stack.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
from tests.properties.wellformed import check
from tests.protocol.test_pipe import relay
from tests.rosetta.folders import DIALECTS, ROOT

from aicore_proxy.protocol.dialects import Dialect
from aicore_proxy.protocol.fault import Kind
from aicore_proxy.protocol.framing import SseDecoder, framer_for
from aicore_proxy.protocol.framing.frame import LIMIT
from aicore_proxy.protocol.pipe import Pipe

BOM = b"\xef\xbb\xbf"
every_dialect = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=lambda dialect: dialect.name)


def recorded(dialect: Dialect) -> bytes:
    return (ROOT / "thinking-tool-loop" / f"{dialect.name}.stream.txt").read_bytes()


def whole(stream: Pipe, pieces: Iterator[bytes]) -> bytes:
    return b"".join(stream.feed(piece) for piece in pieces) + stream.end()


def cut(wire: bytes, size: int) -> Iterator[bytes]:
    return (wire[at : at + size] for at in range(0, len(wire), size))


def half(dialect: Dialect) -> bytes:
    """A stream's frames well before its end."""
    wire = recorded(dialect)
    return wire[: wire.rindex(b"data:", 0, len(wire) - len(wire) // 3)]


def payloads(out: bytes) -> list[bytes]:
    return [frame.data for frame in SseDecoder().feed(out)]


@every_dialect
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000, 1 << 20])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("before", [b"", BOM, b": warming up\n\n", b"\n\n\n"], ids=["", "BOM", "comment", "blank"])
def test_line_ends_and_splits_change_nothing(dialect: Dialect, size: int, end: bytes, before: bytes) -> None:
    wire = before + recorded(dialect)
    stream = relay(dialect)
    out = whole(stream, cut(wire.replace(b"\n", end), size))
    assert out == whole(relay(dialect), iter([recorded(dialect)]))
    assert check(dialect.name, out) == "whole"
    assert stream.fault is None


@every_dialect
@pytest.mark.parametrize(
    "after",
    [b"data: [DONE]\n\n", b"data: x", b": bye\n\n", b"\x00\xff" * 100, b'data: {"error":{"message":"late"}}\n\n', None],
)
def test_what_comes_after_the_end_is_nobodys(dialect: Dialect, after: bytes | None) -> None:
    """Gemini's stream has no terminal event: there it is what follows the finish that must not make it worse."""
    wire = recorded(dialect)
    expected = whole(relay(dialect), iter([wire]))
    for pieces in ([wire + (after or wire)], [wire, after or wire]):
        stream = relay(dialect)
        out = whole(stream, iter(pieces))
        if dialect.ending:
            assert out == expected
            assert stream.fault is None
        else:
            assert out.startswith(expected)


def long_text(dialect: Dialect, text: str) -> bytes:
    """The dialect's stream of one text, in one frame."""
    match dialect.name:
        case "openai_chat":
            deltas = [({"role": "assistant", "content": text}, None), ({}, "stop")]
            frames = [
                {"object": "chat.completion.chunk", "id": "c1", "created": 1, "model": "m",
                 "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
                for delta, finish in deltas
            ]  # fmt: skip
        case "gemini":
            content = {"role": "model", "parts": [{"text": text}]}
            frames = [{"candidates": [{"content": content, "finishReason": "STOP", "index": 0}]}]
        case _:
            message = {"id": "m1", "type": "message", "role": "assistant", "model": "m", "content": [],
                       "stop_reason": None, "stop_sequence": None,
                       "usage": {"input_tokens": 1, "output_tokens": 1}}  # fmt: skip
            frames = [
                {"type": "message_start", "message": message},
                {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
                {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}},
                {"type": "content_block_stop", "index": 0},
                {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}},
                {"type": "message_stop"},
            ]
    return b"".join(b"data: " + json.dumps(frame, separators=(",", ":")).encode() + b"\n\n" for frame in frames)


@pytest.mark.timed
@every_dialect
@pytest.mark.parametrize("size", [1400, 65536])
def test_a_frame_of_several_mib_arrives_whole_and_soon(dialect: Dialect, size: int) -> None:
    text = "lorem ipsum " * 500_000
    wire = long_text(dialect, text)
    started = time.perf_counter()
    stream = relay(dialect)
    out = whole(stream, cut(wire, size))
    assert time.perf_counter() - started < 2.0
    assert stream.fault is None
    assert payloads(wire) == payloads(out)[: len(payloads(wire))]


@every_dialect
def test_a_frame_over_the_limit_is_an_error_and_no_memory(dialect: Dialect) -> None:
    wire = long_text(dialect, "x" * (LIMIT + 100_000))
    stream = relay(dialect)
    assert whole(stream, cut(wire, 65536)) == b""
    assert stream.fault is not None
    assert stream.fault.elsewhere
    endless = b'data: {"' + b"x" * (LIMIT + 100_000)
    begun = relay(dialect)
    assert check(dialect.name, begun.feed(half(dialect)) + whole(begun, cut(endless, 65536))) == "error"


HTML = [
    b"<!DOCTYPE html>\n<html><head><title>502 Bad Gateway</title></head>\n\n<body>Bad Gateway</body></html>\n",
    b"<html>data: {}\n\n</html>",
    b"upstream connect error or disconnect/reset before headers. reset reason: connection failure",
    b"<html>" + b"x" * 200_000,
]


@every_dialect
@pytest.mark.parametrize("page", HTML)
@pytest.mark.parametrize("content_type", ["text/html", "text/event-stream", "application/vnd.amazon.eventstream", ""])
def test_a_page_in_place_of_a_stream_is_another_deployments_chance(
    dialect: Dialect, page: bytes, content_type: str
) -> None:
    stream = relay(dialect)
    stream._framer = framer_for(content_type)
    assert whole(stream, cut(page, 1000)) == b""
    assert stream.fault is not None
    assert stream.fault.kind is Kind.UPSTREAM_FAILED
    assert stream.fault.elsewhere
    assert "\n" not in stream.fault.message
    assert len(stream.fault.message) < 500


@every_dialect
def test_a_page_in_mid_stream_is_a_cut(dialect: Dialect) -> None:
    stream = relay(dialect)
    out = whole(stream, iter([half(dialect), HTML[0]]))
    assert check(dialect.name, out) == "error"
    assert stream.fault is not None
    assert "<html" not in out.decode().lower()
