"""The parts of the benchmark that need no socket: buckets, framing of answers, counted frames, the page."""

from __future__ import annotations

import itertools
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicore_proxy.bench.comparison import Clean, Results, Sample, Silent, sample_of, wrong
from aicore_proxy.bench.histogram import UNIT, Histogram
from aicore_proxy.bench.page import BEGIN, END, placed, rendered
from aicore_proxy.bench.reading import Answer, BrokenAnswerError, Frames
from aicore_proxy.bench.scenarios import (
    BREAKERS,
    LADDERS,
    PROXY,
    UNBROKEN,
    event_cells,
    first_cells,
    fresh_cells,
    request_cells,
    sick_cells,
)
from aicore_proxy.bench.stub import WORD, claude, gemini, gpt
from aicore_proxy.bench.tally import Progress, Tally
from aicore_proxy.bench.target import CONTENT, LAST, body_of, request_of, target_of

SECONDS = st.floats(min_value=0, max_value=1e5, allow_nan=False)
BODY = st.binary(max_size=300)


def recorded(values: list[float]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


@given(st.lists(SECONDS, min_size=1, max_size=200), st.floats(min_value=0.001, max_value=1))
def test_a_quantile_is_that_of_the_sorted_values_rounded_up_by_one_in_128(values: list[float], share: float) -> None:
    exact = sorted(values)[max(1, math.ceil(share * len(values))) - 1]
    found = recorded(values).quantile(share)
    assert exact - 1e-9 <= found <= exact * (1 + 1 / 128) + UNIT + 1e-9


@given(st.lists(SECONDS, max_size=100), st.lists(SECONDS, max_size=100))
def test_merged_packed_and_unpacked_is_as_if_recorded_by_one(ours: list[float], theirs: list[float]) -> None:
    merged, one = recorded(ours), recorded(ours + theirs)
    merged.merge(recorded(theirs))
    merged = Histogram.unpacked(merged.packed())
    assert merged.count == one.count
    assert merged.total == pytest.approx(one.total)
    assert [merged.quantile(share) for share in (0.1, 0.5, 0.99, 1)] == [one.quantile(s) for s in (0.1, 0.5, 0.99, 1)]
    assert merged.largest == max(ours + theirs, default=0.0)


@given(st.lists(SECONDS, min_size=1, max_size=100))
def test_the_bars_hold_every_value_once_in_order(values: list[float]) -> None:
    bars = recorded(values).bars()
    assert sum(count for _, _, count in bars) == len(values)
    assert len(bars) <= 13
    assert all(bar[1] == pytest.approx(following[0]) for bar, following in itertools.pairwise(bars))


def fed(wire: bytes, cuts: list[int]) -> tuple[Answer, bytes]:
    """An answer that came in pieces."""
    edges = sorted({cut % (len(wire) + 1) for cut in cuts} | {0, len(wire)})
    answer = Answer()
    return answer, b"".join(answer.feed(wire[a:b]) for a, b in itertools.pairwise(edges) if b > a)


@given(BODY, st.lists(st.integers(0, 10_000), max_size=20), st.booleans())
def test_any_split_of_a_whole_answer_gives_its_body(body: bytes, cuts: list[int], early: bool) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" if early else b""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    answer, found = fed(hints + head + body, cuts)
    assert (answer.status, answer.done, answer.closes, found) == (200, True, False, body)


@given(st.lists(BODY.filter(bool), max_size=8), st.lists(st.integers(0, 10_000), max_size=20), st.booleans())
def test_any_split_of_a_chunked_answer_gives_its_body(chunks: list[bytes], cuts: list[int], trailers: bool) -> None:
    wire = b"HTTP/1.1 429 Too Many\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    wire += b"".join(b"%x;ext=1\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    wire += b"0\r\nx-trailer: 1\r\n\r\n" if trailers else b"0\r\n\r\n"
    answer, found = fed(wire, cuts)
    assert (answer.status, answer.done, answer.closes, found) == (429, True, True, b"".join(chunks))
    with pytest.raises(BrokenAnswerError):
        answer.feed(b"x")


@given(st.binary(min_size=1, max_size=200))
def test_no_bytes_make_the_reader_fail_otherwise_than_by_its_own_error(wire: bytes) -> None:
    for start in (
        b"",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: ",
    ):
        try:
            Answer().feed(start + wire)
        except BrokenAnswerError:
            continue


@pytest.mark.parametrize(("protocol", "family"), [("chat", gpt()), ("messages", claude())])
@given(cuts=st.lists(st.integers(0, 100_000), max_size=30), crlf=st.booleans())
def test_frames_are_counted_alike_however_they_are_split(protocol, family, cuts: list[int], crlf: bool) -> None:
    stream = family.opening + b"".join(family.events[:7]) + b": keep-alive\n\n" + family.ending
    if crlf:
        stream = stream.replace(b"\n", b"\r\n")
    edges = sorted({cut % (len(stream) + 1) for cut in cuts} | {0, len(stream)})
    frames = Frames(re.compile(CONTENT[protocol]), LAST[protocol])
    # A carriage return and its line feed may be parted
    pieces = [stream[a:b] for a, b in itertools.pairwise(edges) if b > a]
    assert sum(frames.feed(piece) for piece in pieces) == 7
    assert frames.last
    assert not frames.failed


def test_every_event_of_the_stub_holds_once_what_is_counted_and_none_is_like_another() -> None:
    for family in (gpt(), claude(), gemini()):
        assert all(event.count(WORD.encode()) == 1 for event in family.events)
        assert len(set(family.events)) == len(family.events)
        assert WORD.encode() not in family.opening + family.ending + family.whole


def test_an_error_event_is_seen() -> None:
    for wire in (b'event: error\ndata: {"type":"error"}\n\n', b'data: {"error":{"message":"no"}}\n\n'):
        frames = Frames(re.compile(CONTENT["chat"]), LAST["chat"])
        frames.feed(wire)
        assert frames.failed


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("http://h:1", "/v1/chat/completions"),
        ("h:1/v1/", "/v1/chat/completions"),
        ("http://h:1/x/chat/completions?api-version=1", "/x/chat/completions?api-version=1"),
    ],
)
def test_a_base_url_and_the_whole_endpoint_are_the_same(url: str, path: str) -> None:
    target = target_of(url, "chat")
    assert (target.host, target.port, target.path, target.tls) == ("h", 1, path, False)
    assert request_of(target, "sk-1", b"{}").startswith(b"POST %s HTTP/1.1\r\nhost: h:1\r\n" % path.encode())


@pytest.mark.parametrize("bad", ["ftp://x", "http://", "http://h/a b", "http://h/\r\nx: y", "http://h x", "http://h:x"])
def test_a_bad_url_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        target_of(bad, "chat")


@given(st.integers(200, 300_000), st.booleans(), st.sampled_from(["chat", "messages"]))
def test_a_body_has_the_size_that_was_asked_for(size: int, stream: bool, protocol: str) -> None:
    assert len(body_of(protocol, "a-model", size, stream=stream)) == size


def test_a_key_that_would_break_out_of_its_header_is_refused() -> None:
    with pytest.raises(ValueError, match="key"):
        request_of(target_of("http://h", "chat"), "sk\r\nx: y", b"")


def test_a_tally_travels_whole() -> None:
    tally = Tally(begun=3, succeeded=1, elapsed=2.0)
    tally.statuses[429] = 1
    tally.failures["timeout"] = 1
    tally.latency.record(0.5)
    back = Tally.unpacked(tally.packed())
    assert back.packed() == tally.packed()
    assert back.failed == 2


def test_the_measured_part_of_the_page_is_replaced_and_the_rest_kept() -> None:
    once = placed("# Title\n\nWords.\n", "one")
    assert placed(once, "two") == once.replace("one", "two")
    assert placed(once + "\nMore.\n", "two").endswith(f"two\n\n{END}\n\nMore.\n")
    assert once.startswith(f"# Title\n\nWords.\n\n{BEGIN}")


def test_the_page_is_written_of_whatever_was_measured() -> None:
    results = Results(described="a machine", pinned=True, absent={"LiteLLM": "no network"})
    assert "**Not measured:** LiteLLM: no network." in rendered(results)
    cells = [*request_cells(), *fresh_cells(), *event_cells(), *first_cells(), *sick_cells()]
    assert len({cell.name for cell in cells}) == len(cells)
    for cell in cells:
        values = [Sample(1.0, cpu, cpu, 0.002, 0.003, 0.001, 0) for cpu in (0.0001, 0.00025, 0.9)]
        results.samples[cell.name] = dict.fromkeys(cell.subjects, values)
    slower = Sample(1.0, None, None, 0.0025, 0.008, 0.001, 0, 0.009)
    results.samples["sick, alone"] = results.samples["sick, steady"] = {key: [slower] for key in (BREAKERS, UNBROKEN)}
    results.clean = {ladder.name: Clean(500, 600, "3 stalls", 0.01, 0.5) for ladder in LADDERS}
    results.silent = {"plain": Silent(9000, 0, 120.0, 17000.0, 0.01)}
    results.started, results.idle = {PROXY: 0.7}, {PROXY: 70_000_000}
    page = rendered(results)
    assert "| 1 KB request, plain, ms | 0.25 | 0.25 | 1.0 × |" in page
    assert "| clean streams of 50 events/s | 500 | 500 | nginx 500 |" in page
    assert "| plain | 9,000 | 120 s | 0 | 16.6 KB | 1.0% |" in page
    assert "| this proxy: p99, ms | 3 | 8 | +5 |" in page
    assert "beyond the failed attempt, one request at a time: 7 ms (aim: 5)." in page
    lines = [line for line in page.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in lines)


def test_a_window_is_what_lies_between_its_first_and_last_report() -> None:
    marks = [
        (Progress(0.1, 5, 10, 0, 100, 4), 1.0),
        (Progress(1.1, 5, 30, 0, 300, 4), 1.5),
        (Progress(2.1, 5, 50, 0, 500, 4), 2.0),
    ]
    sample = sample_of(Tally(), marks, measured=True)
    assert (sample.requests_per_second, sample.cpu_per_request, sample.cpu_per_event) == (20.0, 0.025, 0.0025)
    assert sample_of(Tally(), marks, measured=False).cpu_per_request is None
    assert sample_of(Tally(), marks[:1], measured=True).requests_per_second == 0.0


def test_streams_are_clean_only_if_all_of_it_came_in_time() -> None:
    tally = Tally(succeeded=2, events=20)
    assert wrong(tally, 2, 10) == ""
    assert "1 streams" in wrong(tally, 3, 10)
    assert "2 events are missing" in wrong(tally, 2, 11)
    tally.stalls = 1
    tally.gaps.record(0.25)
    assert "1 stalls, the longest 250 ms" in wrong(tally, 2, 10)
