from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicore_proxy.protocol.fault import Fault, Kind
from aicore_proxy.protocol.framing import AwsEventStreamDecoder, SseDecoder, framer_for
from aicore_proxy.protocol.framing.frame import LIMIT


def read(*chunks: bytes) -> list[tuple[bytes, str | None]]:
    decoder = SseDecoder()
    frames = [frame for chunk in chunks for frame in decoder.feed(chunk)]
    return [(frame.data, frame.event) for frame in [*frames, *decoder.end()]]


@pytest.mark.parametrize(
    ("wire", "frames"),
    [
        (b"data: 1\n\n", [(b"1", None)]),
        (b"data:1\n\n", [(b"1", None)]),
        (b"data:  1\n\n", [(b" 1", None)]),
        (b"event: ping\ndata: {}\n\n", [(b"{}", "ping")]),
        (b"data: {}\nevent:ping\nid: 7\nretry: 1\n\n", [(b"{}", "ping")]),
        (b"data: 1\r\n\r\ndata: 2\r\n\r\n", [(b"1", None), (b"2", None)]),
        (b"data: 1\r\rdata: 2\r\r", [(b"1", None), (b"2", None)]),
        (b"data: 1\n\r\ndata: 2\r\n\n", [(b"1", None), (b"2", None)]),
        (b'data: {"a":\ndata: 1}\n\n', [(b'{"a":\n1}', None)]),
        (b": hello\n\ndata: 1\n\n:\n\n", [(b"1", None)]),
        (b": hello\ndata: 1\n: again\n\n", [(b"1", None)]),
        (b"\n\n\n\ndata: 1\n\n\n\ndata: 2\n\n", [(b"1", None), (b"2", None)]),
        (b"\xef\xbb\xbfdata: 1\n\n", [(b"1", None)]),
        (b"event: only\n\ndata: 1\n\n", [(b"1", None)]),
        (b"data\n\n", [(b"", None)]),
        (b"data: a\x0bb\xe2\x80\xa8c\n\n", [(b"a\x0bb\xe2\x80\xa8c", None)]),
        (b"data: [DONE]", [(b"[DONE]", None)]),
        (b'data: {"a":1}\n', [(b'{"a":1}', None)]),
        (b'data: {"a":1', []),
        (b'data: {"a":{"b":1}', []),
        (b'{"error":{"code":"429",\n "message":"slow"}}\n', [(b'{"error":{"code":"429",\n "message":"slow"}}', None)]),
        (b"upstream connect error", []),
        (b"", []),
    ],
)  # fmt: skip
def test_reads_what_the_standard_says(wire: bytes, frames: list[tuple[bytes, str | None]]) -> None:
    assert read(wire) == frames
    assert read(*(wire[i : i + 1] for i in range(len(wire)))) == frames
    for cut in range(len(wire)):
        assert read(wire[:cut], wire[cut:]) == frames


line_ends = st.sampled_from([b"\n", b"\r\n", b"\r"])
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), max_size=12).map(str.encode)
lines = st.one_of(
    st.builds(lambda text: b"data: " + text, texts),
    st.builds(lambda text: b"data:" + text, texts),
    st.builds(lambda text: b":" + text, texts),
    st.builds(lambda text: b"event: " + text, texts),
    st.just(b""),
)


@given(st.lists(st.tuples(lines, line_ends)), st.lists(st.integers(0, 200)), st.booleans())
def test_any_split_gives_the_same_frames(parts: list[tuple[bytes, bytes]], cuts: list[int], bom: bool) -> None:
    wire = (b"\xef\xbb\xbf" if bom else b"") + b"".join(line + end for line, end in parts)
    places = sorted({cut for cut in cuts if cut < len(wire)})
    pieces = [wire[start:end] for start, end in zip([0, *places], [*places, len(wire)], strict=True)]
    assert read(*pieces) == read(wire)
    assert read(*(wire[i : i + 1] for i in range(len(wire)))) == read(wire)


@given(st.lists(st.tuples(lines, line_ends)))
def test_raw_is_what_came_and_reads_the_same_again(parts: list[tuple[bytes, bytes]]) -> None:
    wire = b"".join(line + end for line, end in parts) + b"\n\n"
    at = 0
    for frame in SseDecoder().feed(wire):
        at = wire.index(frame.raw, at) + len(frame.raw)
        assert read(frame.raw) == [(frame.data, frame.event)]


def test_frames_before_an_endless_one_are_given_and_then_it_is_refused() -> None:
    decoder = SseDecoder()
    assert [frame.data for frame in decoder.feed(b"data: 1\n\ndata: " + b"x" * LIMIT)] == [b"1"]
    with pytest.raises(Fault) as caught:
        decoder.feed(b"x")
    assert caught.value.kind is Kind.UPSTREAM_FAILED


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_a_frame_may_be_as_long_as_this_and_no_longer(parts: int) -> None:
    """In one piece or several; after the frames before it, which count for nothing."""
    for size, refused in ((LIMIT, False), (LIMIT + 1, True)):
        wire = b"data: " + b"x" * (size - 6)
        step = -(-len(wire) // parts)
        decoder = SseDecoder()
        decoder.feed(b"data: 1\n\ndata: 2\n\n")
        *pieces, last = [wire[at : at + step] for at in range(0, len(wire), step)]
        assert [frame for piece in pieces for frame in decoder.feed(piece)] == []
        if refused:
            with pytest.raises(Fault, match="8 MiB"):
                decoder.feed(last)
        else:
            assert decoder.feed(last) == []
            assert [len(frame.data) for frame in decoder.feed(b"\n\n")] == [LIMIT - 6]


def test_a_frame_without_end_is_refused_in_time_and_memory_linear_in_its_bytes() -> None:
    decoder = SseDecoder()
    started = time.perf_counter()
    with pytest.raises(Fault):
        for _ in range(10 * 1024 * 1024 // 512):
            decoder.feed(b"x" * 512)
    assert time.perf_counter() - started < 5


def test_a_dripping_megabyte_is_not_quadratic() -> None:
    decoder = SseDecoder()
    started = time.perf_counter()
    frames = [frame for _ in range(300_000) for frame in decoder.feed(b"data:"[:1])]
    frames += decoder.feed(b"\ndata: 1\n\n")
    assert [frame.data for frame in frames] == [b"1"]
    assert time.perf_counter() - started < 10


def test_a_large_frame_arrives_whole() -> None:
    body = b'{"text":"' + b"y" * (5 * 1024 * 1024) + b'"}'
    wire = b"data: " + body + b"\r\n\r\n"
    assert read(*(wire[i : i + 65536] for i in range(0, len(wire), 65536))) == [(body, None)]


@pytest.mark.parametrize(
    ("content_type", "framer"),
    [
        ("text/event-stream; charset=utf-8", SseDecoder),
        ("", SseDecoder),
        ("application/json", SseDecoder),
        ("application/vnd.amazon.eventstream", AwsEventStreamDecoder),
    ],
)
def test_the_framing_follows_the_content_type(content_type: str, framer: type) -> None:
    assert isinstance(framer_for(content_type), framer)
