"""Single facts of the pipes; what holds for all streams stands in tests/properties/test_streams.py."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from typing import Any

import pytest
from tests.properties.wellformed import check
from tests.rosetta.folders import DIALECTS, ROOT

from aicore_proxy.protocol.dialects import Answering, Dialect
from aicore_proxy.protocol.fault import Fault, Kind
from aicore_proxy.protocol.framing import AwsEventStreamDecoder, SseDecoder
from aicore_proxy.protocol.neutral import Event, Request, Sampling, Undo
from aicore_proxy.protocol.pipe import HELD_LIMIT, Pipe, Relay, Translation, translate_response
from aicore_proxy.protocol.seal import carried

CHAT, MESSAGES, GEMINI = (DIALECTS[name] for name in ("openai_chat", "anthropic_messages", "gemini"))


def answering(dialect: Dialect, undo: Undo | None = None) -> Answering:
    request = Request(dialect.name, "a-model", (), stream=True, stream_usage=True)
    return Answering(request, carried(dialect.home), undo or Undo(), "fresh0id", 1764000000, "req_1")


def relay(dialect: Dialect) -> Relay:
    return Relay(dialect, SseDecoder(), answering(dialect))


def translation(source: Dialect, target: Dialect, undo: Undo | None = None) -> Translation:
    return Translation(source, target, SseDecoder(), answering(target, undo))


def sse(*payloads: dict[str, Any] | str) -> bytes:
    texts = (
        payload if isinstance(payload, str) else json.dumps(payload, separators=(",", ":")) for payload in payloads
    )
    return b"".join(b"data: " + text.encode() + b"\n\n" for text in texts)


def choice(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {
        "id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "gpt", "usage": None,
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }  # fmt: skip


FILTERS = {"choices": [], "created": 0, "id": "", "model": "", "object": "", "prompt_filter_results": []}
ROLE = choice({"role": "assistant", "content": "", "refusal": None})
HELLO = choice({"content": "Hello"})
STOP = choice({}, "stop")

START = {"type": "message_start", "message": {
    "id": "m1", "type": "message", "role": "assistant", "model": "claude", "content": [],
    "stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 9, "output_tokens": 1},
}}  # fmt: skip
TEXT = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
HI = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}}
END = {"type": "content_block_stop", "index": 0}
TURN = {
    "type": "message_delta",
    "delta": {"stop_reason": "end_turn", "stop_sequence": None},
    "usage": {"output_tokens": 4},
}
LAST = {"type": "message_stop"}


@pytest.mark.parametrize("stream", [relay(CHAT), translation(CHAT, MESSAGES), translation(CHAT, GEMINI)])
def test_nothing_leaves_before_content(stream: Pipe) -> None:
    assert stream.feed(sse(FILTERS)) == b""
    assert stream.feed(sse(ROLE)) == b""
    assert not stream.started
    assert stream.feed(sse(HELLO)) != b""
    assert stream.started


def test_a_relay_gives_what_was_held_and_the_payloads_as_they_were() -> None:
    stream = relay(CHAT)
    first = stream.feed(sse(ROLE)) + stream.feed(sse(HELLO))
    assert first == sse(ROLE, HELLO)
    assert stream.feed(sse(STOP, "[DONE]")) == sse(STOP, "[DONE]")
    assert stream.finished
    assert stream.finishes == {0: "stop"}


def test_what_azure_says_before_any_choice_is_told_with_the_first_one() -> None:
    """Programs read ``chunk.choices[0]`` of every chunk, and the Python SDK skips one without ``object``."""
    empty = {**FILTERS, "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {"hate": 1.50}}]}
    told = {**ROLE, "prompt_filter_results": empty["prompt_filter_results"]}
    for wire, expected in (
        (sse(empty, ROLE, HELLO), sse(told, HELLO)),
        (sse(empty, HELLO), sse({**HELLO, "prompt_filter_results": empty["prompt_filter_results"]})),
        (sse(ROLE, empty, HELLO), sse(ROLE, {**HELLO, "prompt_filter_results": empty["prompt_filter_results"]})),
        (sse({**FILTERS, "usage": {"total_tokens": 1}}, HELLO), sse({**FILTERS, "usage": {"total_tokens": 1}}, HELLO)),
    ):
        assert relay(CHAT).feed(wire) == expected
        one_by_one = relay(CHAT)
        assert b"".join(one_by_one.feed(wire[i : i + 1]) for i in range(len(wire))) == expected


def test_a_relay_puts_the_event_lines_back() -> None:
    out = relay(MESSAGES).feed(sse(START, TEXT, HI, END, TURN, LAST))
    assert [line.decode() for line in out.split(b"\n") if line.startswith(b"event: ")] == [
        f"event: {kind['type']}" for kind in (START, TEXT, HI, END, TURN, LAST)
    ]
    assert check("anthropic_messages", out) == "whole"


def test_a_payload_on_several_lines_is_put_on_one() -> None:
    wire = (
        sse(START, TEXT)
        + b'data: {"type":"content_block_delta","index":0,\ndata: "delta":{"type":"text_delta","text":"Hi"}}\n\n'
    )
    out = relay(MESSAGES).feed(wire)
    assert b'"index":0, "delta"' in out


@pytest.mark.parametrize("payloads", [(START, TEXT, HI, END, TURN), (START, TEXT, HI, TURN)])
def test_a_missing_message_stop_is_added(payloads: tuple[dict[str, Any], ...]) -> None:
    for stream in (relay(MESSAGES), translation(MESSAGES, CHAT)):
        out = stream.feed(sse(*payloads)) + stream.end()
        assert out.endswith(stream_end(stream))
        assert stream.fault is None
        assert stream.usage is not None
        assert (stream.usage.input, stream.usage.output) == (9, 4)


def stream_end(stream: Pipe) -> bytes:
    return MESSAGES.ending if isinstance(stream, Relay) else CHAT.ending


def test_a_missing_done_is_added() -> None:
    for stream in (relay(CHAT), translation(CHAT, MESSAGES)):
        out = stream.feed(sse(ROLE, HELLO, STOP)) + stream.end()
        assert stream.fault is None
        assert out.endswith(CHAT.ending if isinstance(stream, Relay) else MESSAGES.ending)


def test_s11_without_usage_the_answer_is_whole_and_has_an_estimate() -> None:
    stream = translation(CHAT, MESSAGES)
    out = stream.feed(sse(ROLE, HELLO, STOP, "[DONE]")) + stream.end()
    assert check("anthropic_messages", out) == "whole"
    assert b'"output_tokens":2,"estimated":true' in out
    assert stream.usage is None
    for target in (CHAT, MESSAGES):
        answer = {"id": "c1", "model": "gpt", "choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}]}
        usage: Any = translate_response(CHAT, target, answer, answering(target))["usage"]
        assert usage["estimated"]
        assert 2 in usage.values()


@pytest.mark.parametrize("start", [START, {**START, "message": {**START["message"], "usage": None}}])
def test_s11_a_relayed_message_without_usage_gets_an_estimate_and_nothing_else(start: dict[str, Any]) -> None:
    uncounted = {name: value for name, value in TURN.items() if name != "usage"}
    stream = relay(MESSAGES)
    out = stream.feed(sse(start, TEXT, HI, HI, HI, END, uncounted, LAST))
    told = [json.loads(frame.data) for frame in SseDecoder().feed(out)]
    assert check("anthropic_messages", out) == "whole"
    assert told[0]["message"].pop("usage")["input_tokens"] == (9 if start is START else 0)
    usage = told[-2].pop("usage")
    assert usage["estimated"]
    assert usage["input_tokens"] == (9 if start is START else 0)
    assert 2 <= usage["output_tokens"] <= 4
    kept = {name: value for name, value in start["message"].items() if name != "usage"}
    assert told == [{**start, "message": kept}, TEXT, HI, HI, HI, END, uncounted, LAST]


def test_s11_what_bedrock_counts_at_the_very_end_is_no_estimate() -> None:
    counts = {"inputTokenCount": 9, "outputTokenCount": 4, "cacheReadInputTokenCount": 1}
    uncounted = {name: value for name, value in TURN.items() if name != "usage"}
    wire = sse(START, TEXT, HI, END, uncounted, {**LAST, "amazon-bedrock-invocationMetrics": counts})
    for stream in (relay(MESSAGES), translation(MESSAGES, CHAT)):
        out = stream.feed(wire)
        assert stream.usage is not None
        assert (stream.usage.input, stream.usage.cache_read, stream.usage.output) == (10, 1, 4)
    assert b'"prompt_tokens":10,"completion_tokens":4' in out
    assert b"estimated" not in out


@pytest.mark.parametrize("source", DIALECTS.values(), ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("body", [b"", b"\n\n", b": keep-alive\n\n", b"data: [DONE]\n\n", b"upstream connect error"])
def test_an_empty_stream_is_another_deployments_chance(source: Dialect, body: bytes) -> None:
    for target in DIALECTS.values():
        stream = relay(target) if source is target else translation(source, target)
        assert stream.feed(body) + stream.end() == b""
        assert stream.fault is not None
        assert stream.fault.elsewhere


@pytest.mark.parametrize("source", DIALECTS.values(), ids=lambda dialect: dialect.name)
def test_an_error_body_in_place_of_a_stream_keeps_its_words(source: Dialect) -> None:
    for target in DIALECTS.values():
        stream = relay(target) if source is target else translation(source, target)
        out = stream.feed(b'{"error":"TooManyRequests",\n "message":"slow') + stream.feed(b' down"}\n') + stream.end()
        assert out == b""
        assert stream.fault is not None
        assert (stream.fault.kind, stream.fault.message) == (Kind.RATE_LIMITED, "slow down")


def test_what_is_held_before_content_is_bounded() -> None:
    padding = {"choices": [], "id": "", "padding": "x" * 1024 * 1024}
    for stream in (relay(CHAT), relay(MESSAGES)):
        for _ in range(HELD_LIMIT // 1024 // 1024 + 1):
            assert stream.feed(sse(padding)) == b""
        assert stream.fault is not None


def test_pings_before_content_are_not_held() -> None:
    stream = relay(MESSAGES)
    for _ in range(100_000):
        assert stream.feed(b'data: {"type": "ping"}\n\n') == b""
    assert b"ping" not in stream.feed(sse(START, TEXT, HI))


def test_a_fault_before_content_is_written_only_if_it_is_told_to() -> None:
    for stream in (relay(MESSAGES), translation(CHAT, MESSAGES)):
        stream.feed(sse(START if isinstance(stream, Relay) else ROLE))
        out = stream.fail(Fault(Kind.TIMEOUT, "late"))
        assert check("anthropic_messages", out) == "error"
        assert b"message_start" not in out


def test_a_cut_at_every_byte_never_ends_silently() -> None:
    """S01: over a recorded stream with thoughts, a text and a call, between all pairs."""
    for source in DIALECTS.values():
        wire = (ROOT / "thinking-tool-loop" / f"{source.name}.stream.txt").read_bytes()
        for target in DIALECTS.values():
            ends = {"nothing": 0, "error": 0, "whole": 0}
            for at in range(len(wire)):
                stream = relay(target) if source is target else translation(source, target)
                out = stream.feed(wire[:at]) + stream.end()
                end = check(target.name, out)
                ends[end] += 1
                assert (end == "whole") == (stream.fault is None)
            assert ends["nothing"] > 0
            assert ends["error"] > 0


def answered_by(number: int, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {**HELLO, "choices": [{"index": number, "delta": delta, "finish_reason": finish}]}


def test_a_candidate_that_began_and_never_finished_is_a_cut() -> None:
    """Without ``[DONE]``: nothing that is notable was said of the second candidate."""
    said = {"role": "assistant", "content": "Hello"}
    wire = sse(*(answered_by(number, said) for number in (0, 1, 0)), answered_by(0, {}, "stop"))
    request = Request("openai_chat", "a-model", (), sampling=Sampling(n=2), stream=True)
    stream = Relay(CHAT, SseDecoder(), Answering(request, carried(CHAT.home), request_id="req_1"))
    out = stream.feed(wire) + stream.end()
    assert check("openai_chat", out) == "error"
    assert stream.fault is not None
    assert "all candidates" in stream.fault.message or "before the answer was complete" in stream.fault.message


def test_an_error_in_mid_stream_keeps_googles_details() -> None:
    details = [
        {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"subject": "tokens"}]},
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7s"},
    ]
    error = {"code": 429, "message": "Resource has been exhausted", "status": "RESOURCE_EXHAUSTED", "details": details}
    spoken = {"candidates": [{"content": {"role": "model", "parts": [{"text": "Hi"}]}, "index": 0}]}
    out = relay(GEMINI).feed(sse(spoken, {"error": error}))
    told = json.loads(SseDecoder().feed(out)[-1].data)
    assert told == {"error": error, "request_id": "req_1"}
    for target in (CHAT, MESSAGES):
        assert b"QuotaFailure" not in translation(GEMINI, target).feed(sse(spoken, {"error": error}))


# Bedrock's binary stream


def message(payload: bytes, **headers: str) -> bytes:
    block = b""
    for name, value in headers.items():
        key = b":" + name.replace("_", "-").encode()
        block += bytes([len(key)]) + key + b"\x07" + struct.pack(">H", len(value)) + value.encode()
    prelude = struct.pack(">II", 16 + len(block) + len(payload), len(block))
    body = prelude + struct.pack(">I", zlib.crc32(prelude)) + block + payload
    return body + struct.pack(">I", zlib.crc32(body))


def binary(*events: dict[str, Any]) -> bytes:
    return b"".join(
        message(
            json.dumps(
                {"bytes": base64.b64encode(json.dumps(event, separators=(",", ":")).encode()).decode()}
            ).encode(),
            event_type="chunk",
            message_type="event",
        )
        for event in events
    )


@pytest.mark.parametrize("target", DIALECTS.values(), ids=lambda dialect: dialect.name)
def test_the_binary_stream_says_the_same_as_sse(target: Dialect) -> None:
    events = (START, TEXT, HI, END, TURN, LAST)
    told = relay(MESSAGES) if target is MESSAGES else translation(MESSAGES, target)
    expected = told.feed(sse(*events)) + told.end()
    framer = AwsEventStreamDecoder()
    stream: Pipe = (
        Relay(target, framer, answering(target))
        if target is MESSAGES
        else Translation(MESSAGES, target, framer, answering(target))
    )
    wire = binary(*events)
    assert b"".join(stream.feed(wire[i : i + 7]) for i in range(0, len(wire), 7)) + stream.end() == expected


@pytest.mark.parametrize("begun", [False, True])
def test_an_exception_in_the_binary_stream(begun: bool) -> None:
    stream = Relay(MESSAGES, AwsEventStreamDecoder(), answering(MESSAGES))
    thrown = message(b'{"message":"slow down"}', message_type="exception", exception_type="throttlingException")
    out = stream.feed((binary(START, TEXT, HI) if begun else binary(START)) + thrown) + stream.end()
    assert stream.fault is not None
    assert (stream.fault.kind, stream.fault.message) == (Kind.RATE_LIMITED, "slow down")
    assert check("anthropic_messages", out) == ("error" if begun else "nothing")


@pytest.mark.parametrize("target", DIALECTS.values(), ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("where", ["with the frames", "at the end", "alone"])
def test_a_damaged_binary_stream_is_a_fault_once_its_good_frames_are_given(target: Dialect, where: str) -> None:
    framer = AwsEventStreamDecoder()
    kind = Relay if target is MESSAGES else Translation
    sources = (target,) if target is MESSAGES else (MESSAGES, target)
    stream: Pipe = kind(*sources, framer, answering(target))
    good, damaged = binary(START, TEXT, HI), b"\x00" * 12
    match where:
        case "alone":
            out = stream.feed(damaged)
            assert out == b""
        case "with the frames":
            out = stream.feed(good + damaged)
            assert stream.fault is None
            out += stream.end()
            assert check(target.name, out) == "error"
        case _:
            out = stream.feed(good)
            assert stream.fault is None
            out += stream.feed(damaged)
            assert check(target.name, out) == "error"
    assert stream.fault is not None
    assert (stream.fault.kind, stream.finished) == (Kind.UPSTREAM_FAILED, where != "alone")


STREAMS = {CHAT: sse(ROLE, HELLO, STOP, "[DONE]"), MESSAGES: sse(START, TEXT, HI, END, TURN, LAST),
           GEMINI: sse({"candidates": [{"content": {"parts": [{"text": "Hi"}]}, "finishReason": "STOP"}]})}  # fmt: skip


@pytest.mark.parametrize("ended", ["whole", "cut", "failed", "refused"])
def test_a_pipe_that_is_over_says_nothing_more(ended: str) -> None:
    """``refused``: its error came before any content, so nothing at all was written."""
    for source, wire in STREAMS.items():
        for target in STREAMS:
            stream = relay(target) if source is target else translation(source, target)
            match ended:
                case "whole":
                    out = stream.feed(wire) + stream.end()
                case "cut":
                    stream.feed(wire[: len(wire) // 2])
                    out = stream.end()
                case "failed":
                    out = stream.feed(wire[: wire.index(b"\n\n") + 2]) + stream.fail(Fault(Kind.TIMEOUT, "late"))
                case _:
                    out = stream.feed(sse({"error": {"message": "no", "code": 400, "type": "x"}}))
            assert (stream.fault is None) is (ended == "whole")
            fault = stream.fault
            assert stream.feed(wire) + stream.end() + stream.fail(Fault(Kind.INTERNAL, "later")) == b""
            assert stream.fault is fault
            if ended != "cut":
                assert bool(out) is (ended != "refused")


# What a request needed, turned back


CALL = {
    "type": "content_block_start",
    "index": 0,
    "content_block": {"type": "tool_use", "id": "t1", "name": "json_output", "input": {}},
}
ARGUMENTS = [
    {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": piece}}
    for piece in ('{"name":', '"Ada"}')
]
CALLED = {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 4}}


def test_an_output_tool_is_an_answer_streamed_and_whole() -> None:
    undo = Undo(output_tool="json_output")
    out = translation(MESSAGES, CHAT, undo).feed(sse(START, CALL, *ARGUMENTS, END, CALLED, LAST))
    chunks = [json.loads(frame.data) for frame in SseDecoder().feed(out) if frame.data != b"[DONE]"]
    deltas = [c["choices"][0] for c in chunks if c["choices"]]
    assert "".join(d["delta"].get("content") or "" for d in deltas) == '{"name":"Ada"}'
    assert [d["finish_reason"] for d in deltas if d["finish_reason"]] == ["stop"]
    body = {
        "id": "m1", "type": "message", "role": "assistant", "model": "claude", "stop_reason": "tool_use",
        "content": [{"type": "tool_use", "id": "t1", "name": "json_output", "input": {"name": "Ada"}}],
        "usage": {"input_tokens": 9, "output_tokens": 4},
    }  # fmt: skip
    whole = translate_response(MESSAGES, CHAT, json.dumps(body).encode(), answering(CHAT, undo))
    assert json.loads(whole["choices"][0]["message"]["content"]) == {"name": "Ada"}
    assert whole["choices"][0]["finish_reason"] == "stop"
    assert "tool_calls" not in whole["choices"][0]["message"]


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b"null", b'"x"', b"\xff", b"[" * 100_000, b"{}", b'{"object":"list"}']
)
def test_what_is_no_answer_is_the_upstreams_fault(body: bytes) -> None:
    for source in DIALECTS.values():
        for target in DIALECTS.values():
            with pytest.raises(Fault) as caught:
                translate_response(source, target, body, answering(target))
            assert caught.value.kind is Kind.UPSTREAM_FAILED


def test_calls_without_id_have_the_same_one_for_client_and_observer() -> None:
    seen: list[Event] = []
    wire = sse(
        {"candidates": [{"content": {"parts": [{"functionCall": {"name": "f", "args": {}}}]}, "finishReason": "STOP"}]}
    )
    stream = Translation(GEMINI, CHAT, SseDecoder(), answering(CHAT), seen.append)
    out = stream.feed(wire) + stream.end()
    told = [json.loads(f.data)["choices"] for f in SseDecoder().feed(out) if f.data != b"[DONE]"]
    sent = [call["id"] for c in told if c for call in c[0]["delta"].get("tool_calls", []) if "id" in call]
    observed = [event.part.id for event in seen if hasattr(event, "part") and hasattr(event.part, "arguments")]
    assert sent == observed
    assert sent[0]


@pytest.mark.parametrize("dialect", [CHAT, MESSAGES, GEMINI], ids=lambda dialect: dialect.name)
def test_what_nobody_can_read_before_content_is_a_failed_attempt(dialect: Dialect) -> None:
    pipe = relay(dialect)
    assert pipe.feed(b'data: {"error\n\n') == b""
    assert pipe.fault is not None


def test_what_nobody_can_read_after_content_goes_on_as_it_is() -> None:
    pipe = relay(CHAT)
    pipe.feed(sse(ROLE, HELLO))
    broken = b'data: {"usage\n\n'
    assert pipe.feed(broken) == broken
    assert pipe.fault is None
