"""Gemini answers, streams and errors, read and written."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from aicore_proxy.protocol.dialects import Answering, Decoding
from aicore_proxy.protocol.dialects.gemini import DIALECT
from aicore_proxy.protocol.fault import Fault, Kind
from aicore_proxy.protocol.fold import fold, unfold
from aicore_proxy.protocol.neutral import (
    Candidate,
    Close,
    Delta,
    Done,
    Event,
    Failure,
    Finish,
    Foreign,
    Media,
    Open,
    Part,
    Reasoning,
    ReasoningAsk,
    Request,
    Response,
    Seal,
    Sealed,
    Start,
    Tally,
    Text,
    ToolCall,
    Usage,
)
from aicore_proxy.protocol.seal import carried, wrap

PNG = base64.b64encode(b"\x89PNG").decode()


def decoded(body: Any) -> Request:
    return DIALECT.decode_request(body, Decoding("gemini-2.5-pro"))


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(item, (*path, key))


odd = st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.sampled_from([[], {}, [3], {"text": 3}])


# Answers

ANSWER: dict[str, Any] = {
    "candidates": [{
        "content": {"role": "model", "parts": [
            {"text": "Let me think. ", "thought": True},
            {"text": "Hello"},
            {"text": " there"},
            {"functionCall": {"name": "default_api:f", "args": {"x": 1}, "id": "g-1"}, "thoughtSignature": "c2ln"},
            {"functionCall": {"name": "now"}},
        ]},
        "finishReason": "STOP", "index": 0, "avgLogprobs": -0.1,
    }],
    "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 4, "totalTokenCount": 21, "thoughtsTokenCount": 6,
                      "cachedContentTokenCount": 5, "toolUsePromptTokenCount": 2, "trafficType": "ON_DEMAND"},
    "modelVersion": "gemini-2.5-flash", "responseId": "R1",
}  # fmt: skip


def answering(source: str = "gemini", **others: Any) -> Answering:
    return Answering(Request(source, "the-model", ()), carried("gemini"), fresh_id="fresh", **others)


def test_an_answer_in_neutral_terms() -> None:
    response = DIALECT.decode_response(ANSWER)
    assert (response.id, response.model) == ("R1", "gemini-2.5-flash")
    assert response.usage == Usage(input=11, cache_read=5, output=10, reasoning=6)
    (candidate,) = response.candidates
    assert candidate.finish == "tool_calls"
    assert candidate.parts == (
        Reasoning("Let me think. "),
        Text("Hello there"),
        ToolCall("g-1", "f", '{"x":1}', seal=Seal("gemini", "c2ln")),
        ToolCall("", "now", ""),
    )
    assert candidate.extras == {"avgLogprobs": -0.1}


def test_an_answer_as_written() -> None:
    assert DIALECT.encode_response(DIALECT.decode_response(ANSWER), answering()) == {
        "candidates": [{
            "content": {"role": "model", "parts": [
                {"text": "Let me think. ", "thought": True},
                {"text": "Hello there"},
                {"functionCall": {"id": "g-1", "name": "f", "args": {"x": 1}}, "thoughtSignature": "c2ln"},
                {"functionCall": {"name": "now", "args": {}}},
            ]},
            "finishReason": "STOP", "index": 0, "avgLogprobs": -0.1,
        }],
        "usageMetadata": {"promptTokenCount": 11, "candidatesTokenCount": 4, "totalTokenCount": 21,
                          "thoughtsTokenCount": 6, "cachedContentTokenCount": 5},
        "modelVersion": "the-model", "responseId": "R1",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("STOP", "stop"), ("MAX_TOKENS", "length"), ("SAFETY", "content_filter"), ("RECITATION", "content_filter"),
        ("PROHIBITED_CONTENT", "content_filter"), ("BLOCKLIST", "content_filter"), ("SPII", "content_filter"),
        ("LANGUAGE", "content_filter"), ("OTHER", "stop"), ("MALFORMED_FUNCTION_CALL", "stop"),
        ("SOMETHING_NEW", "stop"),
    ],
)  # fmt: skip
def test_finish_reasons_come_and_go(reason: str, finish: str) -> None:
    body = {"candidates": [{"content": {"role": "model", "parts": [{"text": "a"}]}, "finishReason": reason}]}
    response = DIALECT.decode_response(body)
    assert response.candidates[0].finish == finish
    assert DIALECT.encode_response(response, answering())["candidates"][0]["finishReason"] == reason
    streamed = fold(stream_events([body]))
    assert streamed.candidates[0].finish == finish
    assert b'"finishReason":"' + reason.encode() + b'"' in written(unfold(streamed))


@pytest.mark.parametrize("reason", ["MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL"])
def test_an_answer_that_the_model_could_not_write_is_a_failed_attempt(reason: str) -> None:
    body = {"candidates": [{"content": {}, "finishReason": reason, "finishMessage": "Malformed function call: f("}]}
    with pytest.raises(Fault) as caught:
        DIALECT.decode_response(body)
    assert caught.value.elsewhere
    assert "Malformed function call: f(" in caught.value.message
    assert isinstance(stream_events([body])[-1], Failure)


def test_a_blocked_prompt_is_a_filtered_answer() -> None:
    body = {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": {"promptTokenCount": 3},
            "modelVersion": "g", "responseId": "R"}  # fmt: skip
    response = DIALECT.decode_response(body)
    assert response.candidates == (Candidate((), "content_filter"),)
    back = DIALECT.encode_response(response, answering())
    assert back["promptFeedback"] == {"blockReason": "PROHIBITED_CONTENT"}
    assert "candidates" not in back
    streamed = stream_events([body])
    assert fold(streamed) == response
    assert frames(written(streamed)) == [back | {"usageMetadata": back["usageMetadata"]}]


def test_a_filter_of_another_vendor_has_its_finish_reason() -> None:
    body = DIALECT.encode_response(Response("r", "m", (Candidate((), "content_filter"),)), answering())
    assert body["candidates"][0]["finishReason"] == "SAFETY"
    assert "promptFeedback" not in body


@pytest.mark.parametrize("body", [{}, {"foo": 1}, {"candidates": "x"}, {"error": {"code": 429, "message": "m"}}])
def test_what_is_no_answer_is_a_fault(body: Any) -> None:
    with pytest.raises(Fault) as caught:
        DIALECT.decode_response(body)
    assert caught.value.kind in (Kind.UPSTREAM_FAILED, Kind.RATE_LIMITED)


# Streams


def stream_events(chunks: list[Any]) -> list[Event]:
    decoder = DIALECT.stream_decoder()
    events: list[Event] = []
    for chunk in chunks:
        events += decoder.feed(chunk if isinstance(chunk, bytes) else json.dumps(chunk).encode())
    if not any(isinstance(event, Failure) for event in events):
        events += decoder.end()
    return events


def written(events: list[Event], to: Answering | None = None) -> bytes:
    encoder = DIALECT.stream_encoder(to or answering())
    return b"".join(encoder.feed(event) for event in events)


def frames(stream: bytes) -> list[Any]:
    assert stream == b"" or stream.endswith(b"\n\n")
    pieces = stream.decode().split("\n\n")[:-1]
    assert all(piece.startswith("data: {") and "\n" not in piece for piece in pieces)
    return [json.loads(piece.removeprefix("data: ")) for piece in pieces]


def chunk(*parts: Any, **others: Any) -> dict[str, Any]:
    candidate = {"content": {"role": "model", "parts": list(parts)}, "index": 0}
    candidate |= {name: others.pop(name) for name in ("finishReason",) if name in others}
    return {"candidates": [candidate], "modelVersion": "gemini-3", "responseId": "R1", **others}


CHUNKS = [
    chunk({"text": "I ", "thought": True}, usageMetadata={"promptTokenCount": 5}),
    chunk({"text": "think.", "thought": True}),
    chunk({"text": "Hel"}),
    {},
    chunk({"text": "lo"}, {"functionCall": {"name": "a", "args": {"x": 1}}, "thoughtSignature": "c2ln"},
          {"functionCall": {"name": "b", "args": {}}}),
    chunk({"text": "", "thoughtSignature": "ZW5k"}, finishReason="STOP",
          usageMetadata={"promptTokenCount": 5, "candidatesTokenCount": 7, "thoughtsTokenCount": 2}),
]  # fmt: skip


def test_the_events_of_a_stream() -> None:
    assert stream_events(CHUNKS) == [
        Start("R1", "gemini-3"),
        Open(0, Reasoning()),
        Delta(0, "I "),
        Tally(Usage(input=5)),
        Delta(0, "think."),
        Close(0),
        Open(1, Text("")),
        Delta(1, "Hel"),
        Delta(1, "lo"),
        Close(1),
        Open(2, ToolCall("", "a", seal=Seal("gemini", "c2ln"))),
        Delta(2, '{"x":1}'),
        Close(2),
        Open(3, ToolCall("", "b")),
        Delta(3, "{}"),
        Close(3),
        Open(4, Reasoning("", Seal("gemini", "ZW5k"), redacted=True)),
        Close(4),
        Finish("tool_calls", Usage(input=5, output=9, reasoning=2)),
        Done(),
    ]


def partial(call: dict[str, Any], **beside: Any) -> dict[str, Any]:
    return chunk({"functionCall": call, **beside})


def piece(path: str, more: bool = False, **value: Any) -> dict[str, Any]:
    return {"jsonPath": path, **value, **({"willContinue": True} if more else {})}


def test_arguments_in_pieces_are_put_together() -> None:
    """Vertex AI's ``streamFunctionCallArguments``."""
    signature = base64.b64encode(b"signed").decode()
    events = stream_events([
        partial({"name": "book", "willContinue": True}, thoughtSignature=signature),
        partial({"partialArgs": [piece("$.city", True, stringValue="New ")], "willContinue": True}),
        partial({"partialArgs": [piece("$.city", stringValue="York"), piece("$.days", numberValue=2)],
                 "willContinue": True}),
        partial({"partialArgs": [piece("$.guests[0].name", stringValue="Ada"), piece("$['a b'].c", boolValue=False),
                                 piece("$.guests[1].name", nullValue="NULL_VALUE"), piece("no path", stringValue="x"),
                                 piece("$.guests[9999999]", stringValue="x"), piece("$.city.deep", stringValue="y")],
                 "willContinue": True}),
        partial({}),
        partial({"name": "wait", "args": {}}),
        partial({"name": "cut", "partialArgs": [piece("$.a", stringValue="b")], "willContinue": True}),
        {"candidates": [{"finishReason": "STOP", "index": 0}]},
    ])  # fmt: skip
    calls = [part for part in fold(events).candidates[0].parts if isinstance(part, ToolCall)]
    assert [call.name for call in calls] == ["book", "wait", "cut"]
    assert calls[0].seal == Seal("gemini", signature)
    guests = [{"name": "Ada"}, {"name": None}]
    assert json.loads(calls[0].arguments) == {
        "city": "New York", "days": 2, "guests": guests, "a b": {"c": False}
    }  # fmt: skip
    assert [json.loads(call.arguments or "{}") for call in calls[1:]] == [{}, {"a": "b"}]
    assert fold(events).candidates[0].finish == "tool_calls"


def test_text_goes_on_with_or_without_new_counts() -> None:
    counts = {"usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 1}}
    more = {"usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 2}}
    odd: list[Any] = [chunk({"text": "e"}), chunk({"text": "f"}), chunk({"text": "g"})]
    odd[0]["candidates"][0]["index"] = [0]
    del odd[1]["candidates"][0]["index"]
    odd[2]["candidates"][0]["index"] = "0"
    pieces = [chunk({"text": text}, **also) for text, also in zip("abcd", ({}, counts, counts, more), strict=True)]
    assert stream_events([*pieces, *odd])[1:-1] == [
        Open(0, Text("")),
        Delta(0, "a"),
        Delta(0, "b"),
        Tally(Usage(input=5, output=1)),
        Delta(0, "c"),
        Delta(0, "d"),
        Tally(Usage(input=5, output=2)),
        *(Delta(0, text) for text in "efg"),
    ]


def test_a_stream_as_written() -> None:
    out = frames(written(stream_events(CHUNKS)))
    assert [c["candidates"][0]["content"]["parts"] for c in out] == [
        [{"text": "I", "thought": True}],
        [{"text": " think", "thought": True}],
        [{"text": ".", "thought": True}],
        [{"text": "Hel"}],
        [{"text": "lo"}],
        [
            {"functionCall": {"name": "a", "args": {"x": 1}}, "thoughtSignature": "c2ln"},
            {"functionCall": {"name": "b", "args": {}}},
        ],
        [{"text": "", "thoughtSignature": "ZW5k"}],
        [{"text": ""}],
    ]
    assert [c["candidates"][0].get("finishReason") for c in out] == [None] * 7 + ["STOP"]
    assert all((c["responseId"], c["modelVersion"]) == ("R1", "the-model") for c in out)
    assert out[-1]["usageMetadata"] == {
        "promptTokenCount": 5, "candidatesTokenCount": 7, "totalTokenCount": 14, "thoughtsTokenCount": 2,
    }  # fmt: skip


def test_calls_of_other_dialects_come_whole_however_they_interleave() -> None:
    out = frames(written([
        Start("", "x", Usage(input=3)),
        Open(0, ToolCall("c1", "a")), Open(1, ToolCall("c2", "b")), Open(2, Text("")),
        Delta(0, '{"x"'), Delta(1, ""), Delta(2, "hi"), Delta(0, ":1}"),
        Sealed(0, Seal("claude", "S")), Close(0),
        Finish("tool_calls"), Tally(Usage(input=3, output=4)), Done(),
    ]))  # fmt: skip
    parts = [part for c in out for part in c["candidates"][0]["content"]["parts"]]
    assert parts == [
        {"text": "hi"},
        {"functionCall": {"id": "c1", "name": "a", "args": {"x": 1}}, "thoughtSignature": wrap(Seal("claude", "S"))},
        {"functionCall": {"id": "c2", "name": "b", "args": {}}},
    ]
    assert len(out) == 2, "calls in a row share a chunk"
    assert out[-1]["candidates"][0]["finishReason"] == "STOP"
    assert out[-1]["usageMetadata"]["totalTokenCount"] == 7
    assert out[0]["responseId"] == "fresh"


def test_thoughts_that_nobody_wants_are_not_shown() -> None:
    parts = (Reasoning("secret", Seal("claude", "S")), Text("hi"), Reasoning("", Seal("gemini", "c2ln")))
    response = Response("R", "m", (Candidate(parts),))
    hidden = Answering(Request("gemini", "m", (), reasoning=ReasoningAsk(visible=False)), carried("gemini"))
    whole = DIALECT.encode_response(response, hidden)
    assert whole["candidates"][0]["content"]["parts"] == [{"text": "hi", "thoughtSignature": "c2ln"}]
    streamed = [p for c in frames(written(unfold(response), hidden)) for p in c["candidates"][0]["content"]["parts"]]
    assert streamed == [{"text": "hi"}, {"text": "", "thought": True, "thoughtSignature": "c2ln"}, {"text": ""}]


def test_the_seal_of_a_thought_stands_on_its_last_character() -> None:
    out = frames(written([
        Start("r", "m"), Open(0, Reasoning()), Delta(0, "Hm"), Delta(0, "m"), Sealed(0, Seal("claude", "S")), Close(0),
        Open(1, Reasoning("left open")), Open(2, Text("hi")), Finish("stop"), Done(),
    ]))  # fmt: skip
    parts = [part for c in out for part in c["candidates"][0]["content"]["parts"]]
    assert parts == [
        {"text": "H", "thought": True},
        {"text": "m", "thought": True},
        {"text": "m", "thought": True, "thoughtSignature": wrap(Seal("claude", "S"))},
        {"text": "left ope", "thought": True},
        {"text": "n", "thought": True},
        {"text": "hi"},
        {"text": ""},
    ]
    replayed = decoded({"contents": [{"role": "model", "parts": [part]} for part in parts]}).turns[0].parts
    assert replayed[0] == Reasoning("Hmm", Seal("claude", "S"))


def test_several_candidates_end_on_one_chunk() -> None:
    out = frames(written([
        Start("r", "x"), Open(0, Text(""), 1), Delta(0, "b", 1), Open(0, Text("a")), Finish("length", candidate=1),
        Finish("stop", Usage(output=2)), Done(), Open(5, Text("late")), Done(),
    ]))  # fmt: skip
    assert [c["index"] for c in out[0]["candidates"] + out[1]["candidates"]] == [1, 0]
    assert [(c["index"], c["finishReason"]) for c in out[2]["candidates"]] == [(0, "STOP"), (1, "MAX_TOKENS")]
    assert len(out) == 3


def test_an_error_in_mid_stream() -> None:
    encoder = DIALECT.stream_encoder(answering())
    encoder.feed(Start("r", "m"))
    encoder.feed(Open(0, ToolCall("1", "a", '{"x":')))
    (body,) = frames(encoder.fail(Fault(Kind.OVERLOADED, "busy", status=529, retry_after=6), "req-1"))
    assert body["error"]["code"] == 503
    assert (body["error"]["status"], body["error"]["message"], body["request_id"]) == ("UNAVAILABLE", "busy", "req-1")
    assert body["error"]["details"] == [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "6s"}]
    assert encoder.feed(Close(0)) == b""
    assert encoder.feed(Done()) == b""


@pytest.mark.parametrize(
    ("frame", "kind", "status", "words"),
    [
        ({"error": {"code": 429, "message": "slow", "status": "RESOURCE_EXHAUSTED"}}, Kind.RATE_LIMITED, 429, "slow"),
        ({"error": {"code": "429", "message": "slow"}}, Kind.RATE_LIMITED, 429, "slow"),
        ({"error": "TooManyRequests", "message": "slow"}, Kind.RATE_LIMITED, 429, "slow"),
        ({"error": {"message": "m", "status": "UNAVAILABLE"}}, Kind.OVERLOADED, 503, "m"),
        ({"type": "error", "error": {"type": "overloaded_error", "message": "m"}}, Kind.OVERLOADED, 529, "m"),
        ({"error": {"code": 400, "message": "The input token count (9) exceeds", "status": "INVALID_ARGUMENT"}},
         Kind.CONTEXT_TOO_LONG, 400, "The input token count (9) exceeds"),
        ({"message": "gone"}, Kind.UPSTREAM_FAILED, 502, "gone"),
        ({"error": [{"code": 503, "message": "a"}, {"code": 504, "message": "b"}]}, Kind.TIMEOUT, 504, "b"),
        ({"error": {}}, Kind.UPSTREAM_FAILED, 502, "The upstream reported an error."),
        ([{"error": {"code": 500, "message": "m", "status": "INTERNAL"}}], Kind.UPSTREAM_FAILED, 500, "m"),
        (b"<html>", Kind.UPSTREAM_FAILED, 502, "Gemini sent a piece of the stream that is no JSON."),
        (b"7", Kind.UPSTREAM_FAILED, 502, "Gemini sent a piece of the stream that is no object."),
    ],
)  # fmt: skip
@pytest.mark.parametrize("before", [[], [chunk({"text": "a"})]])
def test_errors_inside_a_stream(before: list[Any], frame: Any, kind: Kind, status: int, words: str) -> None:
    last = stream_events([*before, frame])[-1]
    assert isinstance(last, Failure)
    assert (last.fault.kind, last.fault.status, last.fault.message) == (kind, status, words)


@pytest.mark.parametrize("chunks", [[], [{}], [b"[DONE]"], [chunk({"text": "a"})], [{"candidates": []}]])
def test_a_stream_without_its_end_failed(chunks: list[Any]) -> None:
    assert isinstance(stream_events(chunks)[-1], Failure)


def test_usage_may_come_after_the_finish_and_the_end_be_marked() -> None:
    events = stream_events([chunk({"text": "a"}, finishReason="STOP"), {"usageMetadata": {"promptTokenCount": "4"}},
                            b"[DONE]", b" "])  # fmt: skip
    assert events[-2:] == [Tally(Usage(input=4)), Done()]
    assert frames(written(events))[-1]["usageMetadata"]["promptTokenCount"] == 4


@pytest.mark.parametrize("number", [2, 4])
@given(paths=st.lists(st.sampled_from(list(places(CHUNKS[4]))), min_size=1, max_size=3), value=odd)
def test_no_chunk_is_too_odd(number: int, paths: list[tuple[Any, ...]], value: Any) -> None:
    body = copy.deepcopy(CHUNKS[number])
    for path in paths:
        node = body
        try:
            for key in path[:-1]:
                node = node[key]
            if path:
                node[path[-1]] = copy.deepcopy(value)
        except (KeyError, IndexError, TypeError):
            pass
    events = stream_events([CHUNKS[0], CHUNKS[2], body, CHUNKS[5]])
    frames(written([event for event in events if not isinstance(event, Failure)]))


PIECES = chunk(
    {"functionCall": {"name": "f", "willContinue": True, "partialArgs": [piece("$.a[0].b", True, stringValue="x")]}}
)


@given(paths=st.lists(st.sampled_from(list(places(PIECES))), min_size=1, max_size=3), value=odd)
def test_no_piece_of_a_call_is_too_odd(paths: list[tuple[Any, ...]], value: Any) -> None:
    body = copy.deepcopy(PIECES)
    for path in paths:
        node = body
        try:
            for key in path[:-1]:
                node = node[key]
            if path:
                node[path[-1]] = copy.deepcopy(value)
        except (KeyError, IndexError, TypeError):
            pass
    events = stream_events([CHUNKS[0], PIECES, body, partial({}), body, CHUNKS[5]])
    frames(written([event for event in events if not isinstance(event, Failure)]))


# Answers and streams tell the same

texts = st.text(alphabet='ab {}"\\\n', min_size=1, max_size=8)
seals = st.sampled_from(
    [Seal("gemini", "c2ln"), Seal("gemini", "b3RoZXI="), Seal("claude", "EqQB+/"), Seal("gpt", "g")]
)
maybe_seal = st.none() | seals
objects = st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3) | st.none(), max_size=3)
calls = st.builds(
    ToolCall,
    st.sampled_from(["", "c1", "c2"]),
    st.sampled_from(["f", "g_h"]),
    objects.map(lambda value: json.dumps(value, separators=(",", ":"), ensure_ascii=False)),
    seal=st.none() | st.just(Seal("gemini", "c2ln")),
)
answer_parts = st.lists(
    st.builds(Text, texts)
    | st.builds(Reasoning, texts, maybe_seal)
    | st.builds(Reasoning, st.just(""), seals, st.booleans())
    | calls
    | st.just(Media("image", "image/png", data=PNG))
    | st.just(Foreign("gemini", {"executableCode": {"code": "1"}})),
    max_size=6,
)


def tidy(parts: list[Part]) -> list[Part]:
    """Without neighbours that the wire cannot tell apart."""
    kept: list[Part] = []
    for part in parts:
        before = kept[-1] if kept else None
        same = type(before) is type(part)
        if same and isinstance(part, Text | Reasoning):
            continue
        if isinstance(before, Reasoning) and isinstance(part, ToolCall) and not before.text:
            # The seal would move onto the call, if it is unsigned
            kept.append(replace(part, seal=Seal("gemini", "c2ln")))
            continue
        kept.append(part)
    return kept


@given(answer_parts, st.sampled_from(["stop", "length", "content_filter"]))
def test_a_client_gets_every_part_back_streamed_or_not(parts: list[Part], finish: Any) -> None:
    parts = tidy(parts)
    reason = "tool_calls" if finish == "stop" and any(isinstance(p, ToolCall) for p in parts) else finish
    response = Response("R", "m", (Candidate(tuple(parts), reason),), Usage(5, output=3, reasoning=1))
    whole = DIALECT.decode_response(DIALECT.encode_response(response, answering()))
    out = frames(written(unfold(response)))
    streamed = fold(stream_events(out))
    expected = Response("R", "the-model", response.candidates, response.usage)
    assert normal(whole) == normal(expected)
    assert normal(streamed) == normal(expected)
    finals = [c for frame in out for c in frame["candidates"] if "finishReason" in c]
    assert len(finals) == 1
    assert "finishReason" in out[-1]["candidates"][0]


def normal(response: Response) -> Any:
    """``response`` with calls' arguments as JSON says them."""

    def part_of(part: Part) -> Any:
        if isinstance(part, ToolCall):
            return (part.id, part.name, json.loads(part.arguments or "{}"), part.seal)
        return part

    (candidate,) = response.candidates
    return (response.id, response.model, [part_of(p) for p in candidate.parts], candidate.finish, response.usage)


@given(answer_parts)
def test_what_a_client_replays_of_a_stream_is_what_the_model_said(parts: list[Part]) -> None:
    parts = tidy(parts)
    response = Response("R", "m", (Candidate(tuple(parts)),))
    pieces = [c["content"] for frame in frames(written(unfold(response))) for c in frame["candidates"]]
    # google-genai keeps each chunk as a Content of its own
    request = decoded({"contents": [{"role": "user", "parts": [{"text": "go"}]}, *pieces]})
    replayed = [part for turn in request.turns[1:] for part in turn.parts if part != Text("")]
    foreign = [p.seal for p in parts if isinstance(p, Reasoning) and p.seal and p.seal.family != "gemini"]
    assert [p.seal for p in replayed if isinstance(p, Reasoning) and p.seal and p.seal.family != "gemini"] == foreign
    if foreign:
        sealed = [p for p in parts if isinstance(p, Reasoning) and p.seal and p.seal.family != "gemini"]
        assert [p for p in replayed if isinstance(p, Reasoning) and p.seal in foreign] == sealed


# Errors


@pytest.mark.parametrize("kind", list(Kind))
def test_errors_as_written_are_googles(kind: Kind) -> None:
    status, body = DIALECT.encode_fault(Fault(kind, "words", code="why", param="contents", retry_after=1.5), "req-1")
    assert status == kind.traits.status
    assert body["request_id"] == "req-1"
    error = body["error"]
    assert (error["code"], error["message"]) == (status, "words")
    expected = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND",
                413: "INVALID_ARGUMENT", 429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 502: "INTERNAL",
                503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED"}  # fmt: skip
    assert error["status"] == expected[status]
    assert error["details"][0]["metadata"] == {"field": "contents"}
    assert error["details"][1]["retryDelay"] == "1.5s"


@pytest.mark.parametrize(
    ("status", "body", "kind", "retry_after"),
    [
        (400, {"error": {"code": 400, "message": "bad", "status": "INVALID_ARGUMENT"}}, Kind.MALFORMED, None),
        (429, {"error": {"code": 429, "message": "m", "status": "RESOURCE_EXHAUSTED", "details": [
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "37.5s"}]}}, Kind.RATE_LIMITED, 37.5),
        (503, {"error": {"code": 503, "message": "m", "status": "UNAVAILABLE"}}, Kind.OVERLOADED, None),
        (504, {"error": {"code": 504, "message": "m", "status": "DEADLINE_EXCEEDED"}}, Kind.TIMEOUT, None),
        (500, {"error": {"code": 500, "message": "m", "status": "INTERNAL"}}, Kind.UPSTREAM_FAILED, None),
        (400, {"error": {"code": 400, "message": "m", "status": "FAILED_PRECONDITION"}}, Kind.MALFORMED, None),
        (400, {"error": {"code": "BadRequest", "message": "azure"}}, None, None),
        (400, {"error": "BadRequest", "message": "SAP"}, None, None),
        (400, {"message": "AWS"}, None, None),
    ],
)  # fmt: skip
def test_errors_as_read(status: int, body: Any, kind: Kind | None, retry_after: float | None) -> None:
    fault = DIALECT.decode_fault(status, body)
    assert (fault and fault.kind) is kind
    if fault is not None:
        assert (fault.status, fault.message, fault.retry_after) == (status, body["error"]["message"], retry_after)
        assert fault.code == (None if body["error"]["status"] != "FAILED_PRECONDITION" else "FAILED_PRECONDITION")


def test_frames() -> None:
    assert DIALECT.framed(b"{}") == b"data: {}\n\n"
    assert DIALECT.keepalive.strip() == b"", "google-genai's chats forget a turn with a chunk that has no part"
    assert stream_events([{}, chunk({"text": "a"}, finishReason="STOP")])[-1] == Done()
    for frame in (CHUNKS[5], {"error": {}}, {"promptFeedback": {}}):
        assert any(needle in json.dumps(frame).encode() for needle in DIALECT.notable)


@pytest.mark.parametrize(
    "reason",
    ["SAFETY", "RECITATION", "PROHIBITED_CONTENT", "BLOCKLIST", "SPII", "LANGUAGE", "MODEL_ARMOR", "IMAGE_SAFETY",
     "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION"],
)  # fmt: skip
def test_every_reason_of_a_filter_is_one(reason: str) -> None:
    content = {"role": "model", "parts": [{"text": "x"}]}
    response = DIALECT.decode_response({"candidates": [{"content": content, "finishReason": reason}]})
    assert response.candidates[0].finish == "content_filter"
