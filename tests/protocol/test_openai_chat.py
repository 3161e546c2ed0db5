"""The Chat Completions codec: requests of real clients, what upstreams of it get, and its errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicore_proxy.protocol.dialects import Decoding, Target
from aicore_proxy.protocol.dialects.openai_chat import DIALECT, NAME
from aicore_proxy.protocol.fault import Fault, Kind
from aicore_proxy.protocol.neutral import (
    CacheMark,
    Encoded,
    Foreign,
    Media,
    Output,
    Part,
    Reasoning,
    ReasoningAsk,
    Refusal,
    Request,
    Sampling,
    Seal,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)
from aicore_proxy.protocol.profiles import EFFORTS, Profile, profile_of
from aicore_proxy.protocol.seal import native

CAPTURES = Path(__file__).parents[1] / "captures"
ANY = Profile(family="any", thinking="effort", efforts=EFFORTS, mid_system=True)
"""A model that takes everything."""

Body = dict[str, Any]


def captured() -> list[Any]:
    named = {f"{path.parent.name}/{path.stem}": json.loads(path.read_bytes()) for path in CAPTURES.glob("*/*.json")}
    chats = {name: capture["body"] for name, capture in named.items() if capture["path"].endswith("/chat/completions")}
    return [pytest.param(body, id=name) for name, body in sorted(chats.items())]


def decoded(body: Body) -> Request:
    return DIALECT.decode_request(body, Decoding())


def encoded(request: Request, model: str | Profile = "gpt-4.1") -> Encoded:
    profile = profile_of(model) if isinstance(model, str) else model
    return DIALECT.encode_request(request, Target("m", profile, native(profile.family)))


def ask(*turns: Turn, **more: Any) -> Request:
    """A request of another dialect."""
    return Request(source="elsewhere", model="m", turns=turns or (said("hello"),), **more)


def said(*parts: Part | str, role: Any = "user") -> Turn:
    return Turn(role, tuple(Text(part) if isinstance(part, str) else part for part in parts))


def messages(*turns: Turn, model: str | Profile = "gpt-4.1") -> list[Body]:
    written: list[Body] = encoded(ask(*turns), model).body["messages"]
    return written


def lost(request: Request, model: str | Profile = "gpt-4.1") -> dict[str, bool]:
    """Fields lost, and whether that is harmless."""
    return {loss.field: loss.harmless for loss in encoded(request, model).losses}


def chat(**members: Any) -> Body:
    return {"model": "m", "messages": [{"role": "user", "content": "hello"}], **members}


# Real clients


def without_nulls(value: Any) -> Any:
    match value:
        case dict():
            return {name: without_nulls(member) for name, member in value.items() if member is not None}
        case list():
            return [without_nulls(item) for item in value]
        case _:
            return value


def normal(body: Body) -> Body:
    """The normalisations that the codec documents."""
    body = without_nulls(body)
    for message in body["messages"]:
        match message.get("content"):
            case [{"type": "text", "text": text, **rest}] if not rest:
                message["content"] = text
            case "" if message["role"] == "assistant":
                del message["content"]
    if "reasoning" in body:
        body["reasoning_effort"] = body.pop("reasoning")["effort"]
    if "max_completion_tokens" in body:
        body["max_tokens"] = body.pop("max_completion_tokens")
    if body.get("stream") is False:
        del body["stream"]
    return body


@pytest.mark.parametrize("body", captured())
def test_every_captured_request_comes_back_as_it_was(body: Body) -> None:
    written = encoded(decoded(body), ANY)
    assert normal(written.body) == normal({**body, "model": "m"})
    assert written.losses == ()


@pytest.mark.parametrize("model", ["gpt-4.1", "gpt-5", "gpt-5.2", "o3"])
@pytest.mark.parametrize("body", captured())
def test_every_captured_request_loses_nothing_that_matters_to_gpt(body: Body, model: str) -> None:
    assert all(loss.harmless for loss in encoded(decoded(body), model).losses)


RICH: Body = {
    "model": "gpt-4.1",
    "messages": [
        {"role": "system", "content": "Be brief.", "name": "sys"},
        {"role": "developer", "content": [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}]},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Look:", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk=", "detail": "low"}},
                {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
                {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "mp3"}},
                {"type": "file", "file": {"file_data": "data:application/pdf;base64,aGk=", "filename": "a.pdf"}},
                {"type": "file", "file": {"file_data": "data:text/plain;base64,aGk=", "filename": "a.txt"}},
                {"type": "file", "file": {"file_id": "file-1"}},
                {"type": "video_url", "video_url": {"url": "https://example.org/a.mp4"}},
            ],
        },
        {
            "role": "assistant",
            "content": "Hm.",
            "reasoning_content": "I think.",
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at":1}'}},
                {"id": "call_2", "type": "custom", "custom": {"name": "run", "input": "ls"}},
            ],
            "audio": {"id": "audio_1"},
        },
        {"role": "tool", "tool_call_id": "call_2",
         "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "nothing", "name": "look"},
        {"role": "system", "content": "Now in French."},
        {"role": "assistant", "content": None, "refusal": "No."},
        {"role": "assistant", "content": "And"},
        {"role": "user", "content": "Go on."},
    ],
    "tools": [
        {"type": "function",
         "function": {"name": "look", "description": "d", "parameters": {"type": "object"}, "strict": True},
         "cache_control": {"type": "ephemeral"}},
        {"type": "custom", "custom": {"name": "run", "description": "d", "format": {"type": "text"}}},
        {"type": "web_search_preview", "search_context_size": "low"},
    ],
    "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [
        {"type": "function", "function": {"name": "look"}}, {"type": "custom", "custom": {"name": "run"}}]}},
    "parallel_tool_calls": False,
    "max_tokens": 100, "temperature": 0.5, "top_p": 0.9, "stop": ["a", "b"], "seed": 7, "n": 2,
    "presence_penalty": 0.1, "frequency_penalty": -0.1, "logprobs": True, "top_logprobs": 3,
    "logit_bias": {"50256": -100},
    "reasoning_effort": "high", "verbosity": "low",
    "response_format": {"type": "json_schema", "json_schema": {
        "name": "a", "description": "d", "strict": True, "schema": {"type": "object"}, "other": 1}},
    "stream": True, "stream_options": {"include_usage": True, "include_obfuscation": False},
    "user": "u", "safety_identifier": "s", "prompt_cache_key": "k", "metadata": {"a": "b"}, "store": False,
    "web_search_options": {}, "prediction": {"type": "content", "content": "x"}, "modalities": ["text"],
}  # fmt: skip


def test_a_request_with_everything_comes_back_as_it_was() -> None:
    written = encoded(decoded(RICH), ANY)
    assert without_nulls(written.body) == without_nulls({**RICH, "model": "m"})
    assert written.losses == ()


MARK: Body = {"cache_control": {"type": "ephemeral"}}
ODD: Body = {
    "model": "m",
    "messages": [
        {"role": "system", "content": "s", "weight": 1},
        {"role": "user", "content": [
            {"type": "text", "text": "t", "more": 1, "cache_control": {"type": "ephemeral", "scope": "x"}},
            {"type": "image_url", "image_url": {"url": "https://e.org/a", "format": "image/png"}, "more": 1, **MARK},
            {"type": "image_url", "image_url": {"url": "data:nonsense"}},
            {"type": "file", "file": {"file_data": "https://e.org/a.pdf", "more": 1}},
            {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav", "rate": 8000}, **MARK},
        ]},
        {"role": "assistant", "content": "a", "name": "bot", "reasoning": {"effort": 1}, "annotations": [],
         "tool_calls": [
             {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}", "more": 1},
              "more": 1, **MARK},
             {"id": "d", "type": "custom", "custom": {"name": "g", "input": "", "more": 1}}]},
        {"role": "tool", "tool_call_id": "c", "content": [
            {"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": "https://e.org/a"}}],
         "more": 1, **MARK},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "u", "cache_control": "odd"},
    ],
    "tools": [
        {"type": "function", "function": {"name": "f", "more": 1}, "more": 1},
        {"type": "custom", "custom": {"name": "g"}, "more": 1, **MARK},
    ],
    "tool_choice": {"type": "function", "function": {"name": "f"}, "more": 1},
    "response_format": {"type": "grammar", "grammar": "x"}, "verbosity": "low", "top_logprobs": 2,
    "reasoning": {"max_tokens": 8192, "exclude": True, "more": 1}, "stream_options": {"more": 1},
}  # fmt: skip


def test_a_request_with_odd_members_everywhere_comes_back_as_it_was() -> None:
    written = encoded(decoded(ODD), ANY).body
    effort = {"reasoning": {"more": 1}, "reasoning_effort": "medium"}
    assert written == {**ODD, **effort}


def test_more_of_a_format_comes_back_with_it() -> None:
    for form in ({"type": "text", "more": 1}, {"type": "json_object", "more": 1}, {"type": "json_schema", "more": 1,
                 "json_schema": {"name": "a", "more": 1}}):  # fmt: skip
        body = chat(response_format=form)
        assert encoded(decoded(body), ANY).body == body


def test_its_parts_are_what_they_say() -> None:
    request = decoded(RICH)
    user = request.turns[2].parts
    assert user == (
        Text("Look:", CacheMark("1h")),
        Media("image", "image/png", data="aGk=", detail="low"),
        Media("image", url="https://example.org/a.png"),
        Media("audio", "audio/mp3", data="aGk="),
        Media("document", "application/pdf", data="aGk=", name="a.pdf"),
        Media("document", "text/plain", text="hi", name="a.txt"),
        Media("document", file_id="file-1"),
        Foreign(
            NAME, {"type": "video_url", "video_url": {"url": "https://example.org/a.mp4"}}, "messages[2].content[7]"
        ),
    )
    assert request.turns[3].parts == (
        Reasoning("I think."),
        Text("Hm."),
        ToolCall("call_1", "look", '{"at":1}'),
        ToolCall("call_2", "run", "ls", "custom"),
    )
    assert request.turns[4] == Turn(
        "user",
        (ToolResult("call_2", (Text("a"), Text("b"))), ToolResult("call_1", (Text("nothing"),), name="look")),
    )
    assert request.turns[6].parts == (Refusal("No."),)
    assert request.tool_choice == ToolChoice("required", allowed=("look", "run"), parallel=False)
    assert request.sampling.logprobs == 3
    assert request.reasoning == ReasoningAsk(effort="high")
    assert (request.stream, request.stream_usage, request.user) == (True, True, "u")


@pytest.mark.parametrize(
    ("given_", "same_as"),
    [
        ({"max_completion_tokens": 5, "max_tokens": 9}, {"max_tokens": 5}),
        ({"max_tokens": 5.0}, {"max_tokens": 5}),
        ({"stop": "x"}, {"stop": ["x"]}),
        ({"logprobs": False, "temperature": None, "tools": None}, {}),
        ({"reasoning": {"effort": "low"}}, {"reasoning_effort": "low"}),
        ({"thinking": {"type": "enabled", "budget_tokens": 8192}}, {"reasoning_effort": "medium"}),
        ({"thinking": {"type": "disabled"}}, {"reasoning_effort": "none"}),
        ({"reasoning": {"enabled": False}}, {"reasoning_effort": "none"}),
        ({"tool_choice": "any", "tools": []}, {"tool_choice": "required"}),
        ({"tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}],
          "tool_choice": {"type": "function", "name": "f"}},
         {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
          "tool_choice": {"type": "function", "function": {"name": "f"}}}),
        ({"tools": [{"name": "f", "input_schema": {"type": "object"}}]},
         {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]}),
        ({"thinking": {"type": "adaptive", "display": "omitted"}}, {}),
        ({"tools": [], "tool_choice": {"type": "any"}}, {"tool_choice": "required"}),
        ({"tools": [{"type": "web_search"}], "tool_choice": {"type": "web_search"}},
         {"tools": [{"type": "web_search"}], "tool_choice": {"type": "web_search"}}),
        ({"messages": [{"role": "user", "content": [{"type": "file", "file": {
             "file_data": "aGk=", "filename": "a.PDF"}}]}]},
         {"messages": [{"role": "user", "content": [{"type": "file", "file": {
             "file_data": "data:application/pdf;base64,aGk=", "filename": "a.PDF"}}]}]}),
        ({"messages": [{"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}]},
         {"messages": [{"role": "assistant", "refusal": "no"}]}),
        ({"messages": [{"role": "user", "content": ["a"]}]}, {"messages": [{"role": "user", "content": "a"}]}),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "data:,hi"}]}]},
         {"messages": [{"role": "user", "content": [
             {"type": "image_url", "image_url": {"url": "data:text/plain;base64,aGk="}}]}]}),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": [
            {"id": "a", "function": {"name": "f", "arguments": {"x": 1}}}]}]},
         {"messages": [{"role": "assistant", "tool_calls": [
             {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}}]}]}),
        ({"messages": [{"role": "user", "content": "a", "cache_control": {"type": "ephemeral"}}]},
         {"messages": [{"role": "user", "content": [
             {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]}]}),
        ({"messages": [{"role": "assistant", "content": "a", "reasoning": "t"}]},
         {"messages": [{"role": "assistant", "content": "a", "reasoning_content": "t"}]}),
        ({"messages": [{"role": "assistant", "content": "a", "thinking_blocks": [
            {"type": "thinking", "thinking": "t", "signature": "s"}, {"type": "redacted_thinking", "data": "r"}]}]},
         {"messages": [{"role": "assistant", "content": "a", "reasoning_content": "t"}]}),
    ],
)  # fmt: skip
def test_what_means_the_same_is_written_the_same(given_: Body, same_as: Body) -> None:
    assert without_nulls(encoded(decoded(chat(**given_)), ANY).body) == chat(**same_as)


def test_deprecated_functions_keep_their_form_in_the_same_dialect_and_are_tools_in_another() -> None:
    body = chat(
        messages=[
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": "{}"}},
            {"role": "function", "name": "weather", "content": "18 C"},
        ],
        functions=[{"name": "weather", "parameters": {"type": "object"}}],
        function_call={"name": "weather"},
    )
    request = decoded(body)
    assert without_nulls(encoded(request, ANY).body) == without_nulls(body)
    (call,) = request.turns[1].parts
    (result,) = request.turns[2].parts
    assert isinstance(call, ToolCall)
    assert isinstance(result, ToolResult)
    assert call.id == result.call_id != ""
    assert request.tool_choice == ToolChoice("tool", name="weather")


def test_thinking_blocks_keep_their_signatures() -> None:
    blocks = [{"type": "thinking", "thinking": "t", "signature": "s"}, {"type": "redacted_thinking", "data": "r"}]
    turns = [{"role": "user", "content": "q"},
             {"role": "assistant", "content": "a", "reasoning_content": "t", "thinking_blocks": blocks}]  # fmt: skip
    assert decoded(chat(messages=turns)).turns[1].parts == (
        Reasoning("t", Seal("claude", "s")), Reasoning("", Seal("claude", "r"), redacted=True), Text("a"),
    )  # fmt: skip


# Malformed


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": ["hello"]}, "messages[0]"),
        ({"messages": [{"content": "hello"}]}, "messages[0].role"),
        ({"messages": [{"role": "robot", "content": "hello"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [5]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": [{}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].image_url"),
        ({"messages": [{"role": "user", "content": [{"type": "file", "file": {}}]}]}, "messages[0].content[0].file"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "a"}]}]}, "messages[0].tool_calls[0].function"),
        ({"messages": [{"role": "assistant", "tool_calls": {}}]}, "messages[0].tool_calls"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": 5}}]}]},
         "messages[0].tool_calls[0].function.arguments"),
        ({"messages": [{"role": "assistant", "thinking_blocks": "x"}]}, "messages[0].thinking_blocks"),
        ({"messages": [{"role": "assistant", "thinking_blocks": [5]}]}, "messages[0].thinking_blocks[0]"),
        ({"messages": [{"role": "assistant", "thinking_blocks": [{"thinking": "", "signature": 5}]}]},
         "messages[0].thinking_blocks[0].signature"),
        ({"tools": [{"type": 5}]}, "tools[0].type"),
        ({"tool_choice": {"type": 5}}, "tool_choice.type"),
        ({"model": ""}, "model"),
        ({"model": 5}, "model"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"n": 1000}, "n"),
        ({"stop": [1]}, "stop[0]"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": []}, "stream_options"),
        ({"tools": [5]}, "tools[0]"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": 1}}]},
         "tools[0].function.parameters"),
        ({"tool_choice": "maybe"}, "tool_choice"),
        ({"tool_choice": 5}, "tool_choice"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.name"),
        ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "x", "tools": []}}},
         "tool_choice.allowed_tools.mode"),
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"reasoning_effort": 5}, "reasoning_effort"),
        ({"logit_bias": {"1": "x"}}, "logit_bias.1"),
    ],
)  # fmt: skip
def test_a_malformed_request_is_a_fault_that_names_the_place(members: Body, param: str) -> None:
    with pytest.raises(Fault) as raised:
        decoded(chat(**members))
    assert raised.value.kind is Kind.MALFORMED
    assert raised.value.param == param
    assert param in raised.value.message


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in inner:
        yield from places(member, (*path, key))


PLACES = [place for place in places(RICH) if place]
SCALARS: st.SearchStrategy[Any] = st.none() | st.booleans() | st.integers(-5, 5) | st.floats(0, 2) | st.text(max_size=3)
JUNK = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["type", "text", "function"]), inner),
    max_leaves=3,
)


@given(st.lists(st.tuples(st.sampled_from(PLACES), JUNK), min_size=1, max_size=3))
def test_a_request_with_anything_anywhere_is_read_or_refused_and_then_written(changes: list[tuple[Any, Any]]) -> None:
    body = json.loads(json.dumps(RICH))
    for (*way, last), junk in changes:
        node = body
        try:
            for key in way:
                node = node[key]
            node[last] = junk
        except (KeyError, TypeError, IndexError):
            continue
    match read(body):
        case Fault() as fault:
            assert fault.kind is Kind.MALFORMED
            assert fault.param
        case request:
            for model in ("gpt-4.1", "gpt-5.2", ANY):
                assert json.dumps(encoded(request, model).body)


def read(body: Body) -> Request | Fault:
    try:
        return decoded(body)
    except Fault as fault:
        return fault


# What GPT gets of other dialects


def test_results_follow_their_calls_whatever_came_between() -> None:
    call = said("On it.", ToolCall("a", "f"), ToolCall("b", "g", '{"x":1}'), role="assistant")
    written = messages(
        said("go"),
        call,
        said(ToolResult("b", (Text("B"),)), "and now"),
        said("remember", role="system"),
        said(ToolResult("a", (Text("A"),))),
    )
    assert [message["role"] for message in written] == ["user", "assistant", "tool", "tool", "user", "system"]
    assert [message["function"] for message in written[1]["tool_calls"]] == [
        {"name": "f", "arguments": "{}"},
        {"name": "g", "arguments": '{"x":1}'},
    ]
    assert written[2:5] == [
        {"role": "tool", "tool_call_id": "b", "content": "B"},
        {"role": "tool", "tool_call_id": "a", "content": "A"},
        {"role": "user", "content": "and now"},
    ]


def test_a_call_nobody_answered_is_answered_and_a_result_nobody_asked_for_is_told() -> None:
    written = messages(said(ToolCall("a", "f"), role="assistant"), said(ToolResult("z", (Text("Z"),)), "next"))
    assert [message["role"] for message in written] == ["assistant", "tool", "user"]
    assert written[1]["tool_call_id"] == "a"
    assert [part["text"] for part in written[2]["content"]] == ["Result of the tool call z:", "Z", "next"]


def test_calls_in_several_assistant_turns_stand_in_one_message() -> None:
    written = messages(
        said("thinking aloud", ToolCall("a", "f"), role="assistant"),
        said(ToolCall("b", "f"), role="assistant"),
        said(ToolResult("a"), ToolResult("b")),
    )
    assert [message["role"] for message in written] == ["assistant", "tool", "tool"]
    assert [call["id"] for call in written[0]["tool_calls"]] == ["a", "b"]


def test_images_of_a_tool_follow_in_a_user_message() -> None:
    image = Media("image", "image/png", data="aGk=")
    written = messages(
        said(ToolCall("a", "f"), ToolCall("b", "g"), role="assistant"),
        said(ToolResult("a", (Text("see"), image)), ToolResult("b", (Text("ok"),))),
    )
    assert [message["role"] for message in written] == ["assistant", "tool", "tool", "user"]
    assert written[1]["content"] == "see"
    assert written[3]["content"][1] == {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ((Text("it broke"),), "Error: it broke"),
        ((Text("error 5"),), "error 5"),
        ((), "Error"),
    ],
)
def test_an_error_of_a_tool_is_told(content: tuple[Text, ...], expected: str) -> None:
    written = messages(said(ToolCall("a", "f"), role="assistant"), said(ToolResult("a", content, is_error=True)))
    assert written[1]["content"] == expected


def test_an_error_in_several_parts_is_told_and_a_text_file_of_a_tool_is_text() -> None:
    result = ToolResult("a", (Text("b"), Media("document", "text/plain", text="c")), is_error=True)
    written = messages(said(ToolCall("a", "f"), role="assistant"), said(result))
    assert [part["text"] for part in written[1]["content"]] == ["Error:", "b", "<document>\nc\n</document>"]


def test_a_model_without_schemas_and_one_without_parallel_calls() -> None:
    assert lost(ask(output=Output("schema", schema={})), Profile("gpt", output_schema=False)) == {
        "response_format": False
    }
    assert lost(ask(tools=(Tool("f"),), tool_choice=ToolChoice("auto", parallel=False)), "o3") == {
        "parallel_tool_calls": True
    }
    assert lost(ask(output=Output("text", verbosity="low")), "gpt-4.1") == {"verbosity": True}


def test_documents_are_files_or_text() -> None:
    plain = Media("document", "text/plain", text="body", name="notes")
    pdf = Media("document", "application/pdf", data="aGk=")
    assert messages(said(plain, pdf)) == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": '<document name="notes">\nbody\n</document>'},
                {"type": "file", "file": {"file_data": "data:application/pdf;base64,aGk=", "filename": "file.pdf"}},
            ],
        }
    ]


@pytest.mark.parametrize(
    ("media", "name"),
    [
        (Media("document", "application/pdf", data="aGk=", name="Annual report"), "Annual report.pdf"),
        (Media("document", data="aGk=", name="a.PDF"), "a.PDF"),
        (Media("document", "text/csv", data="aGk=", name="table.csv"), "table.csv"),
    ],
)
def test_a_file_s_name_says_what_it_is(media: Media, name: str) -> None:
    (part,) = messages(said(media))[0]["content"]
    assert part["file"]["filename"] == name


@pytest.mark.parametrize(
    "media",
    [
        Media("video", "video/mp4", data="aGk="),
        Media("image", file_id="file_1"),
        Media("document", file_id="file_1"),
        Media("document", url="https://example.org/a.pdf"),
    ],
)
def test_what_cannot_be_shown_is_no_harmless_loss(media: Media) -> None:
    assert lost(ask(said("look", media))) == {f"messages.content.{media.kind}": False}


def test_thoughts_never_go_to_gpt_nor_into_its_text() -> None:
    turn = said(Reasoning("secret", Seal("claude", "sig")), "Hello.", role="assistant")
    written = encoded(ask(said("hi"), turn))
    assert written.body["messages"][1] == {"role": "assistant", "content": "Hello."}
    assert [loss.field for loss in written.losses] == ["messages.reasoning_content"]
    only = said(Reasoning("secret", Seal("claude", "sig")), role="assistant")
    assert [message["role"] for message in messages(said("hi"), only, said("and?"))] == ["user", "user"]


def test_names_and_ids_that_openai_does_not_take_are_changed_alike_everywhere() -> None:
    odd, long_id = "mcp:files/read file", "x" * 65
    written = encoded(
        ask(
            said(ToolCall(long_id, odd), role="assistant"),
            said(ToolResult(long_id)),
            tools=(Tool(odd, schema={"type": "object"}), Tool("n" * 80)),
            tool_choice=ToolChoice("tool", name=odd),
        )
    )
    name = written.body["tools"][0]["function"]["name"]
    call, result = written.body["messages"]
    assert name.replace("_", "").replace("-", "").isalnum()
    assert len(written.body["tools"][1]["function"]["name"]) == 64
    assert written.body["tool_choice"] == {"type": "function", "function": {"name": name}}
    assert call["tool_calls"][0]["function"]["name"] == name
    assert call["tool_calls"][0]["id"] == result["tool_call_id"]
    assert len(result["tool_call_id"]) <= 40
    assert written.undo.tool_names[name] == odd


def test_server_tools_are_lost_harmlessly_unless_forced() -> None:
    search = Tool("web_search", kind="foreign", dialect="anthropic_messages", block={"type": "web_search_20250305"})
    assert lost(ask(tools=(search, Tool("f")))) == {"tools.web_search": True}
    forced = ask(tools=(search, Tool("f")), tool_choice=ToolChoice("tool", name="web_search"))
    assert lost(forced)["tools.web_search"] is False
    nothing_left = ask(tools=(search,), tool_choice=ToolChoice("required"))
    assert lost(nothing_left)["tool_choice"] is False
    optional = encoded(ask(tools=(search,), tool_choice=ToolChoice("auto", parallel=False)))
    assert not {"tools", "tool_choice", "parallel_tool_calls"} & optional.body.keys()


def test_a_choice_among_some_tools_offers_only_those() -> None:
    tools = (Tool("a"), Tool("b"), Tool("c"))
    written = encoded(ask(tools=tools, tool_choice=ToolChoice("required", allowed=("a", "c")))).body
    assert [tool["function"]["name"] for tool in written["tools"]] == ["a", "c"]
    assert written["tool_choice"] == "required"


def test_free_text_tools_are_functions_for_models_that_do_not_know_them() -> None:
    request = ask(
        said(ToolCall("a", "patch", "*** Begin", "custom"), role="assistant"),
        said(ToolResult("a")),
        tools=(Tool("patch", "d", kind="custom"),),
        tool_choice=ToolChoice("tool", name="patch"),
    )
    old = encoded(request, "gpt-4.1")
    assert old.body["tools"][0]["function"]["parameters"]["required"] == ["input"]
    assert old.body["messages"][0]["tool_calls"][0]["function"] == {
        "name": "patch",
        "arguments": '{"input":"*** Begin"}',
    }
    assert old.body["tool_choice"] == {"type": "function", "function": {"name": "patch"}}
    assert old.undo.custom_tools == {"patch"}
    new = encoded(request, "gpt-5")
    assert new.body["tools"] == [{"type": "custom", "custom": {"name": "patch", "description": "d"}}]
    assert new.body["messages"][0]["tool_calls"][0]["custom"] == {"name": "patch", "input": "*** Begin"}
    assert new.undo.custom_tools == frozenset()


SAMPLING = Sampling(
    max_tokens=50, temperature=0.3, top_p=0.9, top_k=4, stop=("1", "2", "3", "4", "5"), seed=1, presence_penalty=1.0
)


def test_sampling_goes_by_what_the_model_takes() -> None:
    classic = encoded(ask(sampling=SAMPLING), "gpt-4.1")
    assert {name: classic.body[name] for name in ("max_tokens", "temperature", "stop")} == {
        "max_tokens": 50,
        "temperature": 0.3,
        "stop": ["1", "2", "3", "4"],
    }
    assert {loss.field for loss in classic.losses} == {"top_k", "stop"}
    reasoning = encoded(ask(sampling=SAMPLING), "gpt-5")
    assert reasoning.body["max_completion_tokens"] == 50
    assert not {"max_tokens", "temperature", "top_p", "top_k", "presence_penalty"} & reasoning.body.keys()
    assert {loss.field for loss in reasoning.losses} == {"temperature", "top_p", "top_k", "stop", "presence_penalty"}
    assert all(loss.harmless for loss in (*classic.losses, *reasoning.losses))
    assert encoded(ask(sampling=Sampling(temperature=1.0)), "gpt-5").body["temperature"] == 1


@pytest.mark.parametrize(
    ("model", "reasoning", "tools", "effort", "fields"),
    [
        ("gpt-5", ReasoningAsk(effort="high"), False, "high", set()),
        ("gpt-5", ReasoningAsk(effort="high"), True, "high", set()),
        ("gpt-5", ReasoningAsk(effort="max"), False, "high", {"reasoning_effort"}),
        ("gpt-5", ReasoningAsk(mode="off"), False, "minimal", {"reasoning_effort"}),
        ("gpt-5.2", ReasoningAsk(mode="off"), False, "none", set()),
        ("gpt-5.2", ReasoningAsk(mode="on", budget=20000), False, "high", set()),
        ("gpt-5.2", ReasoningAsk(mode="adaptive"), False, None, set()),
        ("gpt-5.2", ReasoningAsk(mode="adaptive", effort="max"), False, "xhigh", {"reasoning_effort"}),
        ("gpt-5.2", ReasoningAsk(effort="low"), True, None, {"reasoning_effort"}),
        ("gpt-4.1", ReasoningAsk(effort="low"), False, None, {"reasoning_effort"}),
        ("gpt-4.1", ReasoningAsk(mode="off"), False, None, set()),
        ("gpt-5", None, False, None, set()),
    ],
)
def test_effort_is_what_the_model_knows(
    model: str, reasoning: ReasoningAsk | None, tools: bool, effort: str | None, fields: set[str]
) -> None:
    written = encoded(ask(reasoning=reasoning, tools=(Tool("f"),) if tools else ()), model)
    assert written.body.get("reasoning_effort") == effort
    assert {loss.field for loss in written.losses} == fields
    assert all(loss.harmless for loss in written.losses)


def test_a_schema_is_strict_only_where_it_keeps_the_rules() -> None:
    loose = {"type": "object", "properties": {"a": {"type": "string"}}}
    tight = {**loose, "required": ["a"], "additionalProperties": False}

    def form(schema: Body) -> Body:
        body = encoded(ask(output=Output("schema", schema=schema, strict=True))).body
        held: Body = body["response_format"]["json_schema"]
        return held

    assert form(loose) == {"name": "answer", "schema": loose, "strict": False}
    assert form(tight) == {"name": "answer", "schema": tight, "strict": True}


def test_a_tool_is_strict_only_where_its_schema_keeps_the_rules() -> None:
    loose = {"type": "object", "properties": {"a": {"type": "string"}, "b": {}}, "required": ["a"]}
    tight = {
        "type": "object",
        "properties": {"a": {"type": "string"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    written = encoded(ask(tools=(Tool("f", schema=loose, strict=True), Tool("g", schema=tight, strict=True))))
    assert written.body["tools"] == [
        {"type": "function", "function": {"name": "f", "parameters": loose}},
        {"type": "function", "function": {"name": "g", "parameters": tight, "strict": True}},
    ]
    assert [loss.field for loss in written.losses] == ["tools.strict"]


@pytest.mark.parametrize(
    ("model", "name", "bound"),
    [("gpt-4.1", "max_tokens", 32768), ("gpt-4o", "max_tokens", 16384), ("gpt-35-turbo", "max_tokens", 4096),
     ("gpt-5.2", "max_completion_tokens", 128000), ("o3", "max_completion_tokens", 100000)],
)  # fmt: skip
def test_more_tokens_than_the_model_writes_are_its_most(model: str, name: str, bound: int) -> None:
    written = encoded(ask(sampling=Sampling(max_tokens=bound + 1)), model)
    assert written.body[name] == bound
    assert [(loss.field, loss.harmless) for loss in written.losses] == [("max_tokens", True)]
    fits = encoded(ask(sampling=Sampling(max_tokens=bound)), model)
    assert (fits.body[name], fits.losses) == (bound, ())


def test_json_is_mentioned_where_it_must_be() -> None:
    written = encoded(ask(said("list three"), output=Output("json"))).body
    assert "JSON" in written["messages"][0]["content"]
    assert len(encoded(ask(said("as json"), output=Output("json"))).body["messages"]) == 1


def test_streams_of_other_dialects_ask_for_usage() -> None:
    assert encoded(ask(stream=True)).body["stream_options"] == {"include_usage": True}
    assert "stream_options" not in encoded(decoded(chat(stream=True))).body


def test_marks_are_lost_harmlessly() -> None:
    request = ask(said(Text("a", CacheMark())), tools=(Tool("f", cache=CacheMark()),), cache=CacheMark())
    assert lost(request) == {"cache_control": True}
    assert "cache_control" not in json.dumps(encoded(request).body)


def test_a_late_system_turn_stays_or_becomes_a_reminder_at_its_place() -> None:
    turns = (said("hi"), said("be kind", role="system"))
    assert messages(*turns)[1] == {"role": "system", "content": "be kind"}
    other = messages(*turns, model=Profile(family="llama"))
    assert other[1] == {"role": "user", "content": "<system-reminder>\nbe kind\n</system-reminder>"}


def test_an_answer_with_a_picture_is_shown_by_the_user() -> None:
    image = Media("image", "image/png", data="aGk=")
    written = messages(said("draw"), said("here", image, role="assistant"), said("thanks"))
    assert [message["role"] for message in written] == ["user", "assistant", "user", "user"]
    assert written[2]["content"][1]["type"] == "image_url"


# Errors


@pytest.mark.parametrize(
    ("fault", "status", "error"),
    [
        (Fault(Kind.MALFORMED, "m", param="p"), 400, ("invalid_request_error", None, "p")),
        (Fault(Kind.UNSUPPORTED, "m"), 400, ("invalid_request_error", "unsupported_parameter", None)),
        (Fault(Kind.CONTEXT_TOO_LONG, "m", code="other"), 400,
         ("invalid_request_error", "context_length_exceeded", None)),
        (Fault(Kind.UNAUTHENTICATED, "m"), 401, ("invalid_request_error", "invalid_api_key", None)),
        (Fault(Kind.MODEL_NOT_FOUND, "m"), 404, ("invalid_request_error", "model_not_found", None)),
        (Fault(Kind.RATE_LIMITED, "m"), 429, ("rate_limit_error", "rate_limit_exceeded", None)),
        (Fault(Kind.BUDGET_EXHAUSTED, "m"), 429, ("insufficient_quota", "insufficient_quota", None)),
        (Fault(Kind.OVERLOADED, "m", status=529), 503, ("server_error", "overloaded", None)),
        (Fault(Kind.UPSTREAM_FAILED, "m", code="upstream_c"), 502, ("server_error", "upstream_c", None)),
        (Fault(Kind.TIMEOUT, "m"), 504, ("server_error", "timeout", None)),
        (Fault(Kind.INTERNAL, "m"), 500, ("server_error", None, None)),
    ],
)  # fmt: skip
def test_faults_are_written_as_openai_writes_them(fault: Fault, status: int, error: tuple[Any, ...]) -> None:
    kind, code, param = error
    body = {"error": {"message": "m", "type": kind, "param": param, "code": code}, "request_id": "r"}
    assert DIALECT.encode_fault(fault, "r") == (status, body)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, {"error": {"message": "bad", "type": "invalid_request_error", "param": "temperature"}}, Kind.MALFORMED),
        (400, {"error": {"message": "The response was filtered", "code": "content_filter"}}, Kind.CONTENT_FILTERED),
        (400, {"error": {"message": "x", "innererror": {"code": "ResponsibleAIPolicyViolation"}}},
         Kind.CONTENT_FILTERED),
        (400, {"error": {"message": "x", "code": "context_length_exceeded"}}, Kind.CONTEXT_TOO_LONG),
        (429, {"error": {"message": "slow down", "code": "429"}}, Kind.RATE_LIMITED),
        (503, {"error": {"message": "busy"}}, Kind.OVERLOADED),
        (500, {"error": {"message": "oops", "code": 500}}, Kind.UPSTREAM_FAILED),
        (400, {"error": "BadRequest", "message": "Subpath"}, None),
        (400, {"message": "x"}, None),
        (400, {"error": {"code": 5}}, None),
    ],
)  # fmt: skip
def test_azures_errors_are_read_and_no_others(status: int, body: Body, kind: Kind | None) -> None:
    fault = DIALECT.decode_fault(status, body)
    assert (fault and fault.kind) == kind
    if fault:
        assert fault.status == status
        assert fault.message == body["error"]["message"]


@pytest.mark.parametrize(
    ("asked", "visible"),
    [
        ({"thinking": {"display": "omitted"}}, False),
        ({"thinking": {"display": "summarized"}}, True),
        ({"reasoning": {"exclude": True}}, False),
        ({"reasoning": {"exclude": False}}, True),
        ({"reasoning": {"exclude": True}, "thinking": {"display": "summarized"}}, True),
        ({"reasoning_effort": "low"}, None),
    ],
)
def test_whether_thoughts_are_to_be_shown(asked: Body, visible: bool | None) -> None:
    reasoning = decoded({"model": "m", "messages": [{"role": "user", "content": "x"}], **asked}).reasoning
    assert reasoning is not None
    assert reasoning.visible is visible


def test_a_refusal_says_nothing_twice() -> None:
    part = {"type": "refusal", "refusal": "no"}
    turn = decoded({"model": "m", "messages": [{"role": "assistant", "content": [part, {**part, "odd": 1}]}]}).turns[0]
    assert turn.parts == (Refusal("no"), Refusal("no", {"odd": 1}))


def test_each_loss_is_told_once() -> None:
    block = Foreign("anthropic_messages", {"type": "server_tool_use"})
    request = Request(
        "anthropic_messages", "m", (Turn("user", (Text("x"),)), Turn("assistant", (block, block))), stream=False
    )
    told = encoded(request)
    assert [loss.field for loss in told.losses] == ["content.server_tool_use"]
