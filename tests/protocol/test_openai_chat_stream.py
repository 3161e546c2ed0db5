"""Chat Completions answers and streams, both ways: Azure's frames, odd servers' frames, what clients are given."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from aicore_proxy.protocol.dialects import Answering
from aicore_proxy.protocol.dialects.openai_chat import DIALECT, NAME
from aicore_proxy.protocol.fault import Fault, Kind
from aicore_proxy.protocol.fold import fold, unfold
from aicore_proxy.protocol.neutral import (
    Annotated,
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
    Refusal,
    Request,
    Response,
    Seal,
    Sealed,
    Start,
    Tally,
    Text,
    Tool,
    ToolCall,
    Usage,
)
from aicore_proxy.protocol.seal import carried

Frame = dict[str, Any]
USAGE = Usage(input=10, cache_read=4, output=7, reasoning=2)
WIRE_USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 7,
    "total_tokens": 17,
    "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
    "completion_tokens_details": {
        "reasoning_tokens": 2,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    },
}


HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 5, "model": "up"}


def answering(*, usage: bool = False, **request: Any) -> Answering:
    asked = Request("openai_chat", "gpt-4.1", (), stream=True, stream_usage=usage, **request)
    return Answering(asked, carried("gpt"), fresh_id="fresh", now=1700000000, request_id="req-1")


def frame(*choices: Frame, **more: Any) -> Frame:
    return {**HEAD, "choices": list(choices), **more}


def choice(delta: Frame | None = None, finish: str | None = None, index: int = 0, **more: Any) -> Frame:
    return {"index": index, "delta": delta or {}, "finish_reason": finish, "logprobs": None, **more}


def call(index: int, arguments: str = "", name: str | None = None, call_id: str | None = None) -> Frame:
    function = {"arguments": arguments, **({"name": name} if name else {})}
    told = {"index": index, "function": function, **({"id": call_id, "type": "function"} if call_id else {})}
    return {"tool_calls": [told]}


def read(*frames: Any, done: bool = True) -> list[Event]:
    decoder = DIALECT.stream_decoder()
    events: list[Event] = []
    for told in (*frames, *(["[DONE]"] if done else [])):
        events += decoder.feed(told.encode() if isinstance(told, str) else json.dumps(told).encode())
    return events + decoder.end()


def written(events: Sequence[Event], to: Answering | None = None) -> list[Any]:
    encoder = DIALECT.stream_encoder(to or answering())
    frames = b"".join(encoder.feed(event) for event in events).decode().split("\n\n")
    assert frames.pop() == ""
    assert all(told.startswith("data: ") for told in frames)
    return [told[6:] if told == "data: [DONE]" else json.loads(told[6:]) for told in frames]


def deltas(events: Sequence[Event], to: Answering | None = None) -> list[Any]:
    return [told["choices"][0]["delta"] for told in written(events, to) if told != "[DONE]" and told["choices"]]


# Azure's frames

FILTERS = {"hate": {"filtered": False, "severity": "safe"}}
AZURE = [
    {"choices": [], "created": 0, "id": "", "model": "", "object": "", "prompt_filter_results": [{"prompt_index": 0}]},
    frame(choice({"content": "", "refusal": None, "role": "assistant"}, content_filter_results={}), usage=None),
    frame(choice({"content": "Hi"}, content_filter_results=FILTERS), usage=None),
    frame(choice({"content": " there"}, content_filter_results=FILTERS), usage=None),
    frame(choice(finish="stop", content_filter_results={})),
    frame(usage={"prompt_tokens": 10, "completion_tokens": 7, "total_tokens": 17,
                 "prompt_tokens_details": {"cached_tokens": 4}, "completion_tokens_details": {"reasoning_tokens": 2}}),
]  # fmt: skip


def test_azures_stream_is_read() -> None:
    filters = {"content_filter_results": FILTERS}
    assert read(*AZURE) == [
        Start("chatcmpl-1", "up", created=5, extras={"prompt_filter_results": [{"prompt_index": 0}]}),
        Open(0, Text("")),
        Delta(0, "Hi"),
        Delta(0, " there"),
        Close(0),
        Finish("stop", extras=filters),
        Tally(USAGE),
        Done(),
    ]
    assert read(*AZURE, done=False) == read(*AZURE)


def test_a_stream_and_a_whole_answer_say_the_same() -> None:
    body = {
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "content_filter_results": FILTERS,
                "logprobs": None,
                "message": {"role": "assistant", "content": "Hi there", "refusal": None},
            }
        ],
        "created": 5,
        "id": "chatcmpl-1",
        "model": "up",
        "object": "chat.completion",
        "prompt_filter_results": [{"prompt_index": 0}],
        "usage": WIRE_USAGE,
    }
    assert DIALECT.decode_response(body) == fold(read(*AZURE))


def test_calls_in_pieces_that_take_turns() -> None:
    events = read(
        frame(choice({"role": "assistant", "content": None})),
        frame(choice(call(0, name="add", call_id="call_x"))),
        frame(choice(call(1, name="sub", call_id="call_y"))),
        frame(choice(call(0, '{"a":'))),
        frame(choice(call(1, "{}"))),
        frame(choice(call(0, "1}"))),
        frame(choice(finish="tool_calls")),
    )
    (candidate,) = fold(events).candidates
    assert candidate.parts == (ToolCall("call_x", "add", '{"a":1}'), ToolCall("call_y", "sub", "{}"))
    assert candidate.finish == "tool_calls"


@pytest.mark.parametrize(
    ("frames", "parts", "finish"),
    [
        ([frame(choice({"reasoning_content": "hm"})), frame(choice({"content": "so"}, "stop"))],
         (Reasoning("hm"), Text("so")), "stop"),
        ([frame(choice({"reasoning": "hm", "content": "so"}, "length"))], (Reasoning("hm"), Text("so")), "length"),
        ([frame(choice({"refusal": "No"})), frame(choice({"refusal": "."}, "stop"))], (Refusal("No."),), "refusal"),
        ([frame(choice(call(0, "{}", "f", "c"), "stop"))], (ToolCall("c", "f", "{}"),), "tool_calls"),
        ([frame(choice(call(0, "{}", "f"))), frame(choice(finish="tool_calls"))],
         (ToolCall("call_1_0_0", "f", "{}"),), "tool_calls"),
        ([frame(choice(call(0, "{", call_id="c"))), frame(choice(call(0, "}", "f"), "tool_calls"))],
         (ToolCall("c", "f", "{}"),), "tool_calls"),
        ([frame(choice(call(0, "{}", "f", "c1"))), frame(choice(call(0, "{}", "g", "c2"), "tool_calls"))],
         (ToolCall("c1", "f", "{}"), ToolCall("c2", "g", "{}")), "tool_calls"),
        ([frame(choice({"function_call": {"name": "f", "arguments": "{"}})),
          frame(choice({"function_call": {"arguments": "}"}}, "function_call"))],
         (ToolCall("call_function_1", "f", "{}"),), "tool_calls"),
        ([frame(choice({"tool_calls": [{"index": 0, "id": "c", "type": "custom",
                                        "custom": {"name": "f", "input": "a"}}]})),
          frame(choice({"tool_calls": [{"index": 0, "custom": {"input": "b"}}]}, "tool_calls"))],
         (ToolCall("c", "f", "ab", "custom"),), "tool_calls"),
        ([frame(choice({"images": [{"image_url": {"url": "data:image/png;base64,aGk="}}]}, "stop"))],
         (Media("image", "image/png", data="aGk="),), "stop"),
        ([frame(choice({"content": [{"type": "text", "text": "a"}]}, "content_filter"))],
         (Text("a"),), "content_filter"),
        ([frame(choice({"content": "a"}))], (Text("a"),), "stop"),
        ([frame(choice({"role": "assistant"}, "stop"))], (), "stop"),
        ([frame(choice({"content": "a"}, "eos"), system_fingerprint=None)], (Text("a"),), "stop"),
    ],
)  # fmt: skip
def test_streams_of_all_kinds(frames: list[Frame], parts: tuple[Part, ...], finish: str) -> None:
    (candidate,) = fold(read(*frames)).candidates
    assert (candidate.parts, candidate.finish) == (parts, finish)


def test_candidates_in_turns() -> None:
    events = read(
        frame(choice({"content": "a"})),
        frame(choice({"content": "x"}, index=1)),
        frame(choice({"content": "b"}, "stop"), choice({"content": "y"}, "length", index=1)),
    )
    assert [(c.parts, c.finish) for c in fold(events).candidates] == [
        ((Text("ab"),), "stop"),
        ((Text("xy"),), "length"),
    ]


def test_probabilities_and_annotations_stay_with_their_text() -> None:
    token = {"token": "a", "logprob": -0.1, "bytes": [97], "top_logprobs": []}
    note = {"type": "url_citation", "url_citation": {"url": "u"}}
    frames = [
        frame({**choice({"content": "a"}), "logprobs": {"content": [token], "refusal": None}}),
        frame(choice({"annotations": [note]})),
        frame(choice(finish="stop")),
    ]
    whole = fold(read(*frames))
    assert whole.candidates[0].parts == (Text("a", extras={"logprobs": [token], "annotations": [note]}),)
    body = DIALECT.encode_response(whole, answering())
    assert body["choices"][0]["logprobs"] == {"content": [token], "refusal": None}
    assert body["choices"][0]["message"]["annotations"] == [note]
    assert DIALECT.decode_response(body).candidates == whole.candidates
    again = written(read(*frames))
    assert fold(read(*[told for told in again if told != "[DONE]"])).candidates == whole.candidates


def test_usage_is_found_wherever_it_stands() -> None:
    on_finish = read(frame(choice({"content": "a"}, "stop"), usage=WIRE_USAGE))
    alone = read(frame(choice({"content": "a"}, "stop")), frame(usage=WIRE_USAGE))
    before = read(frame(choice({"content": "a"}), usage=WIRE_USAGE), frame(choice(finish="stop")))
    assert [fold(events).usage for events in (on_finish, alone, before)] == [USAGE] * 3


# What goes wrong


@pytest.mark.parametrize(
    ("told", "kind", "status"),
    [
        ({"error": {"code": "429", "message": "exceeded token rate limit"}}, Kind.RATE_LIMITED, 429),
        ({"error": {"code": 503, "message": "x"}}, Kind.OVERLOADED, 503),
        ({"error": {"type": "server_error", "message": "x", "code": None}}, Kind.UPSTREAM_FAILED, 500),
        ({"error": {"type": "rate_limit_error", "message": "x"}, "choices": []}, Kind.RATE_LIMITED, 429),
        ({"error": {"type": "invalid_request_error", "message": "x"}}, Kind.MALFORMED, 400),
        ({"error": {"code": "content_filter", "message": "x"}}, Kind.CONTENT_FILTERED, 400),
        ({"error": {"code": "context_length_exceeded", "message": "x"}}, Kind.CONTEXT_TOO_LONG, 400),
        ({"error": "TooManyRequests", "message": "slow"}, Kind.RATE_LIMITED, 429),
        ({"error": "whatever", "detail": "slow"}, Kind.UPSTREAM_FAILED, 500),
        ({"message": "Internal server error"}, Kind.UPSTREAM_FAILED, 500),
        ({"type": "error", "error": {"type": "overloaded_error", "message": "x"}}, Kind.OVERLOADED, 503),
        ({"error": [{"code": 429, "message": "x"}]}, Kind.RATE_LIMITED, 429),
        ({"error": {}}, Kind.UPSTREAM_FAILED, 500),
    ],
)
@pytest.mark.parametrize("content_first", [False, True])
def test_errors_inside_a_200(told: Frame, kind: Kind, status: int, content_first: bool) -> None:
    first = [frame(choice({"content": "a"}))] if content_first else []
    decoder = DIALECT.stream_decoder()
    events = [event for sent in (*first, told) for event in decoder.feed(json.dumps(sent).encode())]
    match events[-1]:
        case Failure(fault=Fault() as fault):
            assert (fault.kind, fault.status) == (kind, status)
        case other:
            pytest.fail(f"no Failure but {other}")
    assert decoder.feed(json.dumps(frame(choice({"content": "b"}))).encode()) == []
    assert decoder.end() == []


@pytest.mark.parametrize("frames", [[], [{}], [frame()], [frame(choice({"content": "a"}))], [AZURE[0]]])
def test_a_stream_that_breaks_off_is_a_failure(frames: list[Frame]) -> None:
    assert isinstance(read(*frames, done=False)[-1], Failure)


@pytest.mark.parametrize("told", ["", "{", "[]", "5", '"x"', "null", "[" * 5000])
def test_what_nobody_can_read_is_a_failure_or_nothing(told: str) -> None:
    events = DIALECT.stream_decoder().feed(told.encode())
    assert all(isinstance(event, Failure) for event in events)
    assert bool(events) == bool(told)


NAMES = ["choices", "delta", "index", "content", "tool_calls", "function", "name", "arguments", "id", "finish_reason",
         "usage", "error", "message", "function_call", "custom", "input", "images", "image_url", "url", "logprobs",
         "refusal", "reasoning", "prompt_tokens", "type"]  # fmt: skip
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(NAMES),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
PIECES = st.sampled_from(
    [
        frame(choice({"content": "a"})),
        frame(choice({"reasoning_content": "t"})),
        frame(choice(call(0, "{}", "f", "c"))),
        frame(choice(call(1, "1", "g", "d"))),
        frame(choice(call(0, "2"))),
        frame(choice({"content": "b"}, index=1)),
        frame(choice(finish="stop")),
        frame(choice(finish="stop", index=1)),
        frame(usage=WIRE_USAGE),
        AZURE[0],
    ]
)


@given(st.lists(PIECES | JUNK | st.builds(lambda junk: frame(choice(junk)), JUNK), max_size=12), st.booleans())
def test_whatever_comes_the_events_are_well_formed(frames: list[Any], done: bool) -> None:
    events = read(*frames, done=done)
    assert_well_formed(events)
    told = written(events)
    if not any(isinstance(event, Failure) for event in events):
        assert_client_can_read(told)


def assert_well_formed(events: Sequence[Event]) -> None:
    """Opened once, closed once, one Finish per candidate, one terminal event."""
    opened: dict[tuple[int, int], bool] = {}
    finished: set[int] = set()
    for event in events:
        match event:
            case Open(index=index, candidate=candidate):
                assert (candidate, index) not in opened
                assert index == sum(1 for known, _ in opened if known == candidate)
                assert candidate not in finished
                opened[candidate, index] = True
            case Delta(index=index, candidate=candidate) | Annotated(index=index, candidate=candidate):
                assert opened[candidate, index]
            case Close(index=index, candidate=candidate):
                assert opened[candidate, index]
                opened[candidate, index] = False
            case Finish(candidate=candidate):
                assert candidate not in finished
                assert not any(still for (known, _), still in opened.items() if known == candidate)
                finished.add(candidate)
            case _:
                pass
    terminal = [event for event in events if isinstance(event, Done | Failure)]
    assert terminal
    if isinstance(events[-1], Done):
        assert not any(opened.values())


def assert_client_can_read(told: Sequence[Any]) -> None:
    """What the strictest clients need of a whole stream."""
    assert told[-1] == "[DONE]"
    finishes: dict[int, int] = {}
    roles: set[int] = set()
    for chunk in told[:-1]:
        assert chunk["object"] == "chat.completion.chunk"
        assert chunk["id"].startswith("chatcmpl-")
        assert chunk["created"] > 0
        assert chunk["model"] == "gpt-4.1"
        for part in chunk["choices"]:
            index = part["index"]
            if index not in roles:
                assert part["delta"]["role"] == "assistant"
                roles.add(index)
            assert index not in finishes
            if part["finish_reason"] is not None:
                finishes[index] = 1
            for piece in part["delta"].get("tool_calls", ()):
                assert isinstance(piece["index"], int)
    assert finishes.keys() == roles != set()


# Writing


@given(
    st.lists(
        st.sampled_from(
            [
                Start("msg_1", "claude", USAGE),
                Open(0, Text("")),
                Open(1, ToolCall("c", "f")),
                Open(2, Reasoning()),
                Open(0, Text("x"), 1),
                Open(3, Refusal("no")),
                Open(4, Media("image", "image/png", data="aGk=")),
                Delta(0, "a"),
                Delta(1, "{}"),
                Delta(2, "t"),
                Delta(0, "b", 1),
                Delta(9, "nowhere"),
                Sealed(2, Seal("claude", "s")),
                Annotated(0, NAME, {"annotations": []}),
                Close(0),
                Close(1),
                Close(7),
                Finish("stop", USAGE),
                Finish("tool_calls"),
                Finish("length", candidate=1),
                Tally(USAGE),
            ]
        ),
        max_size=15,
    ),
    st.booleans(),
)
def test_whatever_the_order_of_events_a_client_can_read_the_stream(events: list[Event], usage: bool) -> None:
    told = written([*events, Done()], answering(usage=usage))
    assert_client_can_read(told)
    assert sum(1 for chunk in told[:-1] if not chunk["choices"]) == usage


def test_usage_comes_only_where_it_was_asked_for() -> None:
    events = [Start("x", "y"), Open(0, Text("")), Delta(0, "a"), Close(0), Finish("stop", USAGE), Done()]
    assert all("usage" not in chunk for chunk in written(events)[:-1])
    *chunks, last, _ = written(events, answering(usage=True))
    assert all(chunk["usage"] is None for chunk in chunks)
    assert (last["choices"], last["usage"]) == ([], WIRE_USAGE)


def test_a_call_without_arguments_is_given_an_object() -> None:
    events = [Start("x", "y"), Open(0, ToolCall("c", "f")), Close(0), Finish("tool_calls"), Done()]
    assert deltas(events)[:3] == [
        {"role": "assistant", "content": None, "refusal": None},
        {"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]},
    ]


def test_thoughts_are_shown_unless_not_wanted() -> None:
    events = [Start("x", "y"), Open(0, Reasoning()), Delta(0, "hm"), Close(0), Finish("stop"), Done()]
    assert {"reasoning_content": "hm"} in deltas(events)
    unwanted = answering(reasoning=ReasoningAsk(visible=False))
    assert "hm" not in json.dumps(written(events, unwanted))
    whole = fold(events)
    assert DIALECT.encode_response(whole, answering())["choices"][0]["message"]["reasoning_content"] == "hm"
    assert "hm" not in json.dumps(DIALECT.encode_response(whole, unwanted))


def test_deprecated_functions_are_answered_in_their_form() -> None:
    to = answering(tools=(Tool("f", dialect=NAME),))
    events = [Start("x", "y"), Open(0, ToolCall("c", "f")), Delta(0, "{}"), Close(0), Finish("tool_calls"), Done()]
    assert deltas(events, to)[1:3] == [
        {"function_call": {"name": "f", "arguments": ""}},
        {"function_call": {"arguments": "{}"}},
    ]
    assert written(events, to)[-2]["choices"][0]["finish_reason"] == "function_call"
    message = DIALECT.encode_response(fold(events), to)["choices"][0]
    assert message["message"]["function_call"] == {"name": "f", "arguments": "{}"}
    assert message["finish_reason"] == "function_call"
    empty = Response("x", "y", (Candidate((ToolCall("c", "f", ""),), "tool_calls"),))
    message = DIALECT.encode_response(empty, to)["choices"][0]
    assert message["message"]["function_call"] == {"name": "f", "arguments": "{}"}


def test_an_error_ends_the_stream_without_done() -> None:
    encoder = DIALECT.stream_encoder(answering())
    encoder.feed(Start("x", "y"))
    encoder.feed(Open(0, Text("a")))
    told = encoder.fail(Fault(Kind.OVERLOADED, "busy", status=529), "req-1").decode()
    assert json.loads(told.removeprefix("data: ")) == {
        "error": {"message": "busy", "type": "server_error", "param": None, "code": "overloaded"},
        "request_id": "req-1",
    }
    assert encoder.feed(Done()) == b""
    assert encoder.fail(Fault(Kind.INTERNAL, "again"), "req-1") == b""


@pytest.mark.parametrize(
    ("finish", "parts", "expected"),
    [
        ("stop", (Text("a"),), "stop"),
        ("stop_sequence", (Text("a"),), "stop"),
        ("pause", (Text("a"),), "stop"),
        ("length", (Text("a"),), "length"),
        ("context", (Text("a"),), "length"),
        ("content_filter", (), "content_filter"),
        ("refusal", (Text("a"),), "content_filter"),
        ("refusal", (Refusal("no"),), "stop"),
        ("tool_calls", (ToolCall("c", "f"),), "tool_calls"),
        ("stop", (ToolCall("c", "f"),), "tool_calls"),
    ],
)
def test_reasons_to_end(finish: Any, parts: tuple[Part, ...], expected: str) -> None:
    response = Response("x", "y", (Candidate(parts, finish),))
    assert DIALECT.encode_response(response, answering())["choices"][0]["finish_reason"] == expected
    assert written(unfold(response))[-2]["choices"][0]["finish_reason"] == expected


def test_a_whole_answer_has_everything() -> None:
    response = Response("msg_1", "claude", (Candidate((Text("Hi"), Text(" there"))),), USAGE)
    assert DIALECT.encode_response(response, answering()) == {
        "id": "chatcmpl-msg_1",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "gpt-4.1",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hi there", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": WIRE_USAGE,
    }


PARTS = st.lists(
    st.sampled_from(
        [Text("a"), Text("b"), Reasoning("t"), ToolCall("c1", "f", '{"a":1}'), ToolCall("c2", "g", "x", "custom")]
    ),
    max_size=4,
    unique_by=type,
)


@given(st.lists(st.builds(Candidate, parts=PARTS.map(tuple)), min_size=1, max_size=3))
def test_an_answer_survives_stream_and_whole_alike(candidates: list[Candidate]) -> None:
    order = (Reasoning, Text, ToolCall)
    response = Response(
        "chatcmpl-1",
        "gpt-4.1",
        tuple(
            Candidate(
                tuple(sorted(c.parts, key=lambda part: order.index(type(part)))),  # type: ignore[arg-type]
                "tool_calls" if any(isinstance(part, ToolCall) for part in c.parts) else "stop",
            )
            for c in candidates
        ),
        USAGE,
        created=5,
    )
    assert DIALECT.decode_response(DIALECT.encode_response(response, answering())) == response
    streamed = written(unfold(response), answering(usage=True))
    assert fold(read(*streamed, done=False)) == response


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"choices": []}, Kind.UPSTREAM_FAILED),
        ({}, Kind.UPSTREAM_FAILED),
        ({"choices": [5]}, Kind.UPSTREAM_FAILED),
        ({"error": {"message": "x", "code": "429"}}, Kind.RATE_LIMITED),
    ],
)
def test_what_is_no_answer_is_a_fault(body: Frame, kind: Kind) -> None:
    with pytest.raises(Fault) as raised:
        DIALECT.decode_response(body)
    assert raised.value.kind is kind


@pytest.mark.parametrize(
    ("message", "parts"),
    [
        ({"content": [{"type": "text", "text": "a"}, {"type": "refusal", "refusal": "b"}]}, (Text("a"), Refusal("b"))),
        ({"content": [5, {"type": "text", "text": "a"}, None]}, (Text("a"),)),
        ({"content": [{"type": "audio", "data": "x"}]}, (Foreign(NAME, {"type": "audio", "data": "x"}),)),
        ({"content": None, "function_call": {"name": "f", "arguments": "{}"}},
         (ToolCall("call_function_1", "f", "{}"),)),
        ({"content": "a", "tool_calls": [{"id": "x", "function": 5}, 6]}, (Text("a"),)),
        ({"content": "", "tool_calls": [{"function": {"name": "f"}}]}, (ToolCall("call_1_0_0", "f"),)),
        ({"images": [{"image_url": {"url": "https://e.org/a"}}, {"x": 1}]},
         (Media("image", url="https://e.org/a"), Foreign(NAME, {"x": 1}))),
    ],
)  # fmt: skip
def test_whole_answers_of_all_kinds(message: Frame, parts: tuple[Part, ...]) -> None:
    response = DIALECT.decode_response({"id": "chatcmpl-1", "choices": [{"index": 0, "message": message}]})
    assert response.candidates[0].parts == parts


def test_candidates_are_in_the_order_of_their_numbers() -> None:
    choices = [{"index": 1, "message": {"content": "b"}}, {"index": 0, "message": {"content": "a"}},
               {"index": True, "message": {"content": "c"}}, {"index": -1, "message": {"content": "d"}}]  # fmt: skip
    response = DIALECT.decode_response({"id": "x", "choices": choices})
    assert [c.parts for c in response.candidates] == [(Text(text),) for text in "abcd"]


@pytest.mark.parametrize(
    ("first", "starts"),
    [
        ({"id": "", "choices": []}, False),
        ({"choices": []}, False),
        ({"id": "x", "choices": []}, True),
        ({"id": "", "choices": [{"index": 0, "delta": {}}]}, True),
    ],
)
def test_what_begins_an_answer(first: Frame, starts: bool) -> None:
    events = DIALECT.stream_decoder().feed(json.dumps({**first, "created": 5, "model": "m"}).encode())
    assert events == ([Start(first["id"], "m", created=5)] if starts else [])


def test_pictures_are_shown_and_only_one_deprecated_call() -> None:
    image = Media("image", "image/png", data="aGk=")
    response = Response("x", "y", (Candidate((image, ToolCall("a", "f"), ToolCall("b", "g")), "tool_calls"),))
    shown = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
    to = answering(tools=(Tool("f", dialect=NAME),))
    assert DIALECT.encode_response(response, to)["choices"][0]["message"]["images"] == [shown]
    told = deltas(unfold(response), to)
    assert {"images": [shown]} in told
    assert [delta["function_call"].get("name") for delta in told if "function_call" in delta] == ["f", None]


@given(JUNK, JUNK)
def test_a_whole_answer_with_anything_in_it_is_read_or_refused(junk: Any, more: Any) -> None:
    for body in ({"choices": junk, "usage": more}, {"choices": [{"message": junk, "finish_reason": more}]}):
        try:
            response = DIALECT.decode_response(body)
        except Fault:
            continue
        assert json.dumps(DIALECT.encode_response(response, answering()))


# The official SDK reads what we write


@contextmanager
def serving(body: bytes, content_type: str) -> Iterator[openai.OpenAI]:
    """The SDK's client of a server that answers everything with ``body``."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-type", content_type)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{server.server_address[1]}/v1"
        try:
            with openai.OpenAI(base_url=address, api_key="k", max_retries=0) as client:
                yield client
        finally:
            server.shutdown()
            thread.join()


ANSWER = Response(
    "msg_1",
    "claude",
    (
        Candidate(
            (
                Reasoning("hm", Seal("claude", "s")),
                Text("Let me see."),
                ToolCall("toolu_1", "weather", '{"city":"Rome"}'),
                ToolCall("toolu_2", "clock"),
            ),
            "tool_calls",
        ),
    ),
    USAGE,
)
HELLO: Any = [{"role": "user", "content": "hello"}]
TOOLS: Any = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}
    for name in ("weather", "clock")
]


def stream_of(response: Response, to: Answering) -> bytes:
    encoder = DIALECT.stream_encoder(to)
    return b"".join(encoder.feed(event) for event in unfold(response))


def assert_is_the_answer(completion: Any) -> None:
    message = completion.choices[0].message
    assert message.content == "Let me see."
    assert [(c.id, c.function.name, c.function.arguments) for c in message.tool_calls] == [
        ("toolu_1", "weather", '{"city":"Rome"}'),
        ("toolu_2", "clock", "{}"),
    ]
    assert completion.choices[0].finish_reason == "tool_calls"
    assert completion.usage.total_tokens == 17
    assert completion.usage.prompt_tokens_details.cached_tokens == 4


def test_the_sdk_reads_a_whole_answer() -> None:
    with serving(json.dumps(DIALECT.encode_response(ANSWER, answering())).encode(), "application/json") as client:
        completion = client.chat.completions.create(model="m", messages=HELLO)
        assert_is_the_answer(completion)
        assert completion.choices[0].message.model_extra == {"reasoning_content": "hm"}


def test_the_sdk_accumulates_a_stream() -> None:
    with (
        serving(stream_of(ANSWER, answering(usage=True)), "text/event-stream") as client,
        client.chat.completions.stream(
            model="m", messages=HELLO, tools=TOOLS, stream_options={"include_usage": True}
        ) as stream,
    ):
        kinds = [event.type for event in stream]
        assert kinds.count("tool_calls.function.arguments.done") == 2
        assert_is_the_answer(stream.get_final_completion())


def test_the_sdk_iterates_over_a_stream() -> None:
    with serving(stream_of(ANSWER, answering()), "text/event-stream") as client:
        chunks = list(client.chat.completions.create(model="m", messages=HELLO, stream=True))
        assert all(chunk.choices for chunk in chunks)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Let me see."


class City(BaseModel):
    name: str


def test_the_sdk_parses_structured_output() -> None:
    response = Response("x", "y", (Candidate((Text('{"name": "Rome"}'),)),), USAGE)
    with serving(json.dumps(DIALECT.encode_response(response, answering())).encode(), "application/json") as client:
        completion = client.chat.completions.parse(model="m", messages=HELLO, response_format=City)
        assert completion.choices[0].message.parsed == City(name="Rome")


def test_the_sdk_raises_on_an_error_in_mid_stream() -> None:
    encoder = DIALECT.stream_encoder(answering())
    body = b"".join(encoder.feed(event) for event in (Start("x", "y"), Open(0, Text("a"))))
    body += encoder.fail(Fault(Kind.RATE_LIMITED, "slow down"), "req-1")
    with serving(body, "text/event-stream") as client:
        stream = client.chat.completions.create(model="m", messages=HELLO, stream=True)
        with pytest.raises(openai.APIError, match="slow down"):
            list(stream)
