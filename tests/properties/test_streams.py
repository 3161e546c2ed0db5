"""Streams between all pairs of dialects: whatever the network and the upstream do, the client gets a stream that is
well formed, tells what the upstream told, and never ends silently before its end."""

from __future__ import annotations

import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.properties.values import cuts, pieces, responses, tellings
from tests.properties.wellformed import check, frames
from tests.rosetta.folders import DIALECTS, events_of, read_back

from aicore_proxy.protocol.dialects import Answering, Dialect
from aicore_proxy.protocol.fault import Fault, Kind
from aicore_proxy.protocol.fold import fold, unfold
from aicore_proxy.protocol.framing import SseDecoder
from aicore_proxy.protocol.neutral import Close, Delta, Done, Event, Open, Request, Response, Start, Text, ToolCall
from aicore_proxy.protocol.pipe import Pipe, Relay, Translation, translate_response
from aicore_proxy.protocol.seal import carried

PAIRS = [(source, target) for source in DIALECTS.values() for target in DIALECTS.values()]
each_pair = pytest.mark.parametrize(("source", "target"), PAIRS, ids=[f"{s.name}-{t.name}" for s, t in PAIRS])
each_dialect = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=lambda dialect: dialect.name)


def answering(dialect: Dialect) -> Answering:
    request = Request(dialect.name, "a-model", (), stream=True, stream_usage=True)
    return Answering(request, carried(dialect.home), fresh_id="fresh0id", now=1764000000, request_id="req_1")


def pipe(source: Dialect, target: Dialect) -> Pipe:
    if source is target:
        return Relay(target, SseDecoder(), answering(target))
    return Translation(source, target, SseDecoder(), answering(target))


def run(stream: Pipe, *chunks: bytes) -> bytes:
    return b"".join(stream.feed(chunk) for chunk in chunks) + stream.end()


def written(dialect: Dialect, events: list[Event]) -> bytes:
    encoder = dialect.stream_encoder(answering(dialect))
    return b"".join(encoder.feed(event) for event in events)


def as_sap_sends(dialect: Dialect, wire: bytes) -> bytes:
    """Without what SAP leaves out: ``event:`` lines."""
    return b"".join(b"data: " + data + b"\n\n" for _, data in frames(wire)) if wire else wire


def wires(dialect: Dialect) -> st.SearchStrategy[bytes]:
    """Upstream streams of ``dialect``."""
    return responses(dialect.home).flatmap(tellings).map(lambda events: as_sap_sends(dialect, written(dialect, events)))


def gist(response: Response) -> list[tuple[str, list[str]]]:
    """Each candidate's text and calls: what no dialect may lose. Not their order among each other: a dialect that has
    no interleaved parts writes a call when it is whole."""
    told = []
    for candidate in response.candidates:
        texts = [part.text for part in candidate.parts if isinstance(part, Text)]
        calls = [part for part in candidate.parts if isinstance(part, ToolCall)]
        said = sorted(f"{call.name} {json.dumps(json.loads(call.arguments or '{}'), sort_keys=True)}" for call in calls)
        told.append(("".join(texts), said))
    return told


@each_dialect
@given(st.data())
def test_an_encoder_writes_well_formed_streams_from_any_order_of_events(dialect: Dialect, data: st.DataObject) -> None:
    response = data.draw(responses())
    wire = written(dialect, data.draw(tellings(response)))
    assert check(dialect.name, wire) == "whole"
    assert gist(read_back(dialect, wire)) == gist(response)


@each_dialect
@given(response=responses())
def test_stream_and_whole_answer_read_the_same(dialect: Dialect, response: Response) -> None:
    whole = dialect.decode_response(dialect.encode_response(response, answering(dialect)))
    streamed = read_back(dialect, written(dialect, unfold(response)))
    assert replace(streamed, extras={}) == replace(whole, extras={}, created=streamed.created)


@each_pair
@given(st.data())
def test_s06_any_split_of_the_bytes_gives_the_same_stream(
    source: Dialect, target: Dialect, data: st.DataObject
) -> None:
    wire = data.draw(wires(source))
    whole = run(pipe(source, target), wire)
    assert check(target.name, whole) == "whole"
    assert run(pipe(source, target), *pieces(wire, data.draw(cuts))) == whole
    assert run(pipe(source, target), *(wire[i : i + 1] for i in range(len(wire)))) == whole


@each_pair
@given(st.data())
def test_a_stream_tells_what_the_upstream_told(source: Dialect, target: Dialect, data: st.DataObject) -> None:
    wire = data.draw(wires(source))
    stream = pipe(source, target)
    told = read_back(target, run(stream, wire))
    assert gist(told) == gist(fold(events_of(source, wire)))
    assert stream.started
    assert stream.finished
    assert stream.fault is None
    assert stream.usage is not None
    assert len(stream.finishes) == 1


@each_pair
@given(st.data())
def test_s06_line_ends_comments_and_missing_spaces_change_nothing(
    source: Dialect, target: Dialect, data: st.DataObject
) -> None:
    wire = data.draw(wires(source))
    plain = run(pipe(source, target), wire)
    noise = data.draw(st.sampled_from([b"", b": keep-alive\n\n", b":\n", b"\n", b"event: ping\n\n"]))
    noisy = b"".join(
        noise + data.draw(st.sampled_from([b"data: ", b"data:"])) + payload + b"\n\n" for _, payload in frames(wire)
    )
    for end in (b"\n", b"\r\n", b"\r"):
        assert run(pipe(source, target), noisy.replace(b"\n", end)) == plain


@each_pair
@given(st.data())
def test_keep_alives_of_the_upstream_are_swallowed(source: Dialect, target: Dialect, data: st.DataObject) -> None:
    wire = data.draw(wires(source))
    sent = frames(wire)
    at = data.draw(st.integers(0, len(sent) - 1))
    noisy = b"".join(
        (source.keepalive if number == at else b"") + b"data: " + payload + b"\n\n"
        for number, (_, payload) in enumerate(sent)
    )
    assert run(pipe(source, target), noisy) == run(pipe(source, target), wire)


@each_pair
@given(st.data())
def test_s01_a_stream_cut_anywhere_never_ends_silently(source: Dialect, target: Dialect, data: st.DataObject) -> None:
    """Closed in an orderly way after any byte: nothing before content, else an error event or, once the finish was
    seen, the proper end."""
    wire = data.draw(wires(source))
    whole = run(pipe(source, target), wire)
    at = data.draw(st.integers(0, len(wire) - 1))
    stream = pipe(source, target)
    out = run(stream, wire[:at])
    match check(target.name, out):
        case "nothing":
            assert not stream.started
            assert stream.fault is not None
            assert stream.fault.elsewhere
        case "error":
            assert stream.started
            assert stream.finished
            assert stream.fault is not None
        case "whole":
            assert stream.fault is None
            assert stream.finishes
            assert gist(read_back(target, out)) == gist(read_back(target, whole))
    assert stream.feed(wire) == b""
    assert stream.end() == b""


@each_pair
@given(st.data())
def test_a_fault_from_outside_ends_the_stream_with_an_error_event(
    source: Dialect, target: Dialect, data: st.DataObject
) -> None:
    wire = data.draw(wires(source))
    at = data.draw(st.integers(0, len(wire) - 1))
    stream = pipe(source, target)
    out = stream.feed(wire[:at])
    assume(not stream.finished)
    fault = Fault(Kind.TIMEOUT, "The upstream stalled.")
    failed = stream.fail(fault)
    assert b"The upstream stalled." in failed
    assert check(target.name, out + failed) == "error"
    assert stream.finished
    assert stream.fault is fault
    assert stream.feed(wire[at:]) + stream.end() + stream.fail(fault) == b""


SAID = "Too many tokens, please wait"
ERRORS = [
    ("openai_chat", '{"error":{"code":"429","message":"%s"}}'),
    ("gemini", '{"error":{"code":429,"message":"%s","status":"RESOURCE_EXHAUSTED"}}'),
    ("anthropic_messages", '{"type":"error","error":{"type":"rate_limit_error","message":"%s"}}'),
    *((name, '{"error":"TooManyRequests","message":"%s"}') for name in DIALECTS),
]


@pytest.mark.parametrize("target", DIALECTS.values(), ids=lambda dialect: dialect.name)
@pytest.mark.parametrize(("upstream", "shape"), [e for e in ERRORS if e[0] in DIALECTS])
@given(st.data())
def test_an_error_inside_the_stream(upstream: str, shape: str, target: Dialect, data: st.DataObject) -> None:
    """Before content it is the attempt's fault and nothing leaves; after content it is an event of the client's."""
    source = DIALECTS[upstream]
    wire = data.draw(wires(source))
    sent = frames(wire)
    at = data.draw(st.integers(0, len(sent) - 1))
    stream = pipe(source, target)
    out = b"".join(stream.feed(b"data: " + payload + b"\n\n") for _, payload in sent[:at])
    assume(not stream.finished)
    was_started = stream.started
    out += stream.feed(b"data: " + (shape % SAID).encode() + b"\n\n") + stream.end()
    assert stream.fault is not None
    assert stream.fault.message == SAID
    assert stream.fault.kind is Kind.RATE_LIMITED
    if was_started:
        assert check(target.name, out) == "error"
        assert SAID.encode() in out
    else:
        assert out == b""


@each_pair
@given(st.data())
def test_s10_bytes_after_the_end_are_ignored(source: Dialect, target: Dialect, data: st.DataObject) -> None:
    wire = data.draw(wires(source))
    stream = pipe(source, target)
    out = run(stream, wire)
    assert stream.feed(wire) + stream.feed(b'data: {"error":{"message":"late"}}\n\n') + stream.end() == b""
    if source.ending:
        assert run(pipe(source, target), wire + wire) == out


@each_pair
@given(st.data())
def test_s05_a_frame_nobody_can_read(source: Dialect, target: Dialect, data: st.DataObject) -> None:
    """A relay passes it on after content, a translation ends with an error event: S05."""
    wire = data.draw(wires(source))
    sent = frames(wire)
    at = data.draw(st.integers(0, len(sent) - 1))
    stream = pipe(source, target)
    out = b"".join(stream.feed(b"data: " + payload + b"\n\n") for _, payload in sent[:at])
    assume(stream.started and not stream.finished)
    garbage = b'{"choices":[{"delta":{"cont\x00'
    passed = stream.feed(b"data: " + garbage + b"\n\n")
    if source is target:
        assert garbage in passed
        assert stream.fault is None
    else:
        assert check(target.name, out + passed) == "error"


@each_dialect
def test_s05_a_frame_without_end_is_an_error_event(dialect: Dialect) -> None:
    others = [other for other in DIALECTS.values() if other is not dialect]
    for source in (dialect, *others):
        begun = written(source, list(_begun()))
        stream = pipe(source, dialect)
        out = stream.feed(begun)
        for _ in range(9):
            out += stream.feed(b"x" * 1024 * 1024)
        assert check(dialect.name, out) == "error"


def _begun() -> list[Event]:
    return [Start("1", "m"), Open(0, Text("")), Delta(0, "Hello"), Close(0)]


@each_pair
@given(response=responses())
def test_a_whole_answer_tells_the_same_as_the_stream(source: Dialect, target: Dialect, response: Response) -> None:
    body = source.encode_response(response, answering(source))
    seen: list[Event] = []
    translated = translate_response(source, target, body, answering(target), seen.append)
    whole = target.decode_response(translated)
    streamed = read_back(
        target, run(Translation(source, target, SseDecoder(), answering(target)), written(source, unfold(response)))
    )
    assert replace(streamed, extras={}, created=0) == replace(whole, extras={}, created=0)
    assert seen


@each_dialect
@given(data=st.data())
def test_a_relay_reads_json_with_spaces_too(dialect: Dialect, data: st.DataObject) -> None:
    """What a relay looks for may be spelled in other ways: usage and finish are noticed all the same."""
    wire = data.draw(wires(dialect))
    loose = b"".join(
        b"data: " + (payload if payload == b"[DONE]" else json.dumps(json.loads(payload)).encode()) + b"\n\n"
        for _, payload in frames(wire)
    )
    tight, spaced = pipe(dialect, dialect), pipe(dialect, dialect)
    run(tight, wire)
    # Without what tells the end a second time
    run(spaced, loose.replace(b"data: [DONE]\n\n", b""))
    assert spaced.fault is None
    assert (spaced.usage, spaced.finishes) == (tight.usage, tight.finishes)


MANY = [dialect for dialect in DIALECTS.values() if dialect.name != "anthropic_messages"]


@pytest.mark.parametrize("source", MANY, ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("target", MANY, ids=lambda dialect: dialect.name)
@given(data=st.data())
def test_several_candidates(source: Dialect, target: Dialect, data: st.DataObject) -> None:
    """Two candidates whose events take turns; cut, it ends whole only if those that have begun are finished."""
    both = [data.draw(responses(source.home)) for _ in range(2)]
    answer = replace(both[0], candidates=(both[0].candidates[0], both[1].candidates[0]))
    head, *events = unfold(answer)
    lanes = [[e for e in events if getattr(e, "candidate", None) == number] for number in (0, 1)]
    mixed = [head]
    while any(lanes):
        mixed.append(data.draw(st.sampled_from([lane for lane in lanes if lane])).pop(0))
    wire = as_sap_sends(source, written(source, [*mixed, Done()]))
    out = run(pipe(source, target), wire)
    assert check(target.name, out) == "whole"
    assert gist(read_back(target, out)) == gist(answer)
    if source is not target:
        # "whole" asks for a finish reason of every candidate that has begun; a relay does not see each of them begin
        check(target.name, run(pipe(source, target), wire[: data.draw(st.integers(0, len(wire) - 1))]))
