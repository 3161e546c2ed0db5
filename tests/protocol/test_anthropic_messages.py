"""The Messages codec: requests of real clients, histories of foreign ones, answers and streams both ways."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import anthropic
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicore_proxy.protocol.dialects import Answering, Decoding, Target
from aicore_proxy.protocol.dialects.anthropic_messages import DIALECT, framed, refuse_thread
from aicore_proxy.protocol.fault import Fault, Kind
from aicore_proxy.protocol.fold import fold, unfold
from aicore_proxy.protocol.framing import SseDecoder
from aicore_proxy.protocol.neutral import (
    Annotated,
    Candidate,
    Close,
    Delta,
    Done,
    Encoded,
    Event,
    Failure,
    Finish,
    Foreign,
    Media,
    Open,
    Output,
    Part,
    Reasoning,
    ReasoningAsk,
    Refusal,
    Request,
    Response,
    Sampling,
    Seal,
    Sealed,
    Start,
    Tally,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
    Usage,
)
from aicore_proxy.protocol.profiles import Profile, budget_of, effort_of, nearest_effort, profile_of
from aicore_proxy.protocol.seal import WRAPPED, carried, native, wrap

CAPTURES = Path(__file__).parents[1] / "captures"
EFFORTS = ("low", "medium", "high", "xhigh", "max")
PERMISSIVE = Profile(family="claude", version=(9,), thinking="either", mid_system=True, efforts=EFFORTS)
CHAT = "openai_chat"
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAI"


def captures() -> Iterator[Any]:
    for path in sorted(CAPTURES.glob("*/*.json")):
        capture = json.loads(path.read_text())
        asked = str(capture["path"])
        if ("messages" in asked or "invoke" in asked) and "count_tokens" not in asked:
            yield pytest.param(capture["body"], id=f"{path.parent.name}/{path.name}")


def normalised(value: Any) -> Any:
    """What decode and encode may change without changing the meaning."""
    if isinstance(value, list):
        return [normalised(item) for item in value]
    if not isinstance(value, dict):
        return value
    value = {name: normalised(item) for name, item in value.items() if item is not None}
    for name, item in (("type", "custom"), ("is_error", False), ("stream", False), ("tools", [])):
        if value.get(name) == item:
            del value[name]
    for name in ("content", "system"):
        match value.get(name):
            case [{"type": "text", "text": text, **more}] if not more:
                value[name] = text
    return value


def decode(body: dict[str, Any], model: str | None = None) -> Request:
    return DIALECT.decode_request(body, Decoding(model=model))


def encode(request: Request, model: str | Profile = "anthropic--claude-4.5-sonnet") -> Encoded:
    profile = model if isinstance(model, Profile) else profile_of(model)
    return DIALECT.encode_request(request, Target("target", profile, native("claude")))


def asked(*turns: Turn, source: str = CHAT, **more: Any) -> Request:
    return Request(source, "m", turns, **more)


def user(*parts: Part | str) -> Turn:
    return Turn("user", tuple(Text(part) if isinstance(part, str) else part for part in parts))


def assistant(*parts: Part | str) -> Turn:
    return Turn("assistant", tuple(Text(part) if isinstance(part, str) else part for part in parts))


def fields(encoded: Encoded, *, harmless: bool = True) -> set[str]:
    return {loss.field for loss in encoded.losses if loss.harmless is harmless}


# Requests of Messages clients


@pytest.mark.parametrize("body", list(captures()))
def test_requests_of_real_clients_come_back_as_they_were(body: dict[str, Any]) -> None:
    request = decode(body, "a-model")
    encoded = encode(request, PERMISSIVE)
    written = encoded.body | {"model": body.get("model")}
    if "thread" not in body:
        assert normalised(written) == normalised(body)
        assert encoded.losses == ()
    assert decode(written, "a-model").turns == request.turns or "thread" in body


def test_every_kind_of_block_and_member_survives_its_own_dialect() -> None:
    mark = {"type": "ephemeral", "ttl": "1h", "scope": "global"}
    body = {
        "model": "m",
        "max_tokens": 50000,
        "system": [{"type": "text", "text": "s", "cache_control": mark}],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
                    {"type": "image", "source": {"type": "file", "file_id": "f"}, "cache_control": mark},
                    {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}},
                    {
                        "type": "document",
                        "title": "t",
                        "context": "c",
                        "citations": {"enabled": True},
                        "source": {"type": "content", "content": [{"type": "text", "text": "inner"}]},
                    },
                    {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "words"}},
                    {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBE"}},
                    {"type": "search_result", "source": "u", "title": "t", "content": [{"type": "text", "text": "x"}]},
                    {"type": "container_upload", "file_id": "f"},
                    {"type": "brand_new", "x": [1]},
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
                    {"type": "redacted_thinking", "data": "ZGF0YQ=="},
                    {"type": "text", "text": "said", "citations": [{"type": "char_location", "cited_text": "s"}]},
                    {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"q": 1}},
                    {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []},
                    {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": [1, {"b": None}]}, "caller": {"x": 1}},
                    {"type": "tool_use", "id": "t2", "name": "f", "input": {}, "cache_control": mark},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t2", "content": [
                        {"type": "text", "text": "a"},
                        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
                        {"type": "tool_reference", "tool_name": "g"},
                        {"type": "search_result", "source": "u", "title": "t", "content": []},
                        {"type": "browser_state", "z": 1},
                    ]},
                    {
                        "type": "tool_result", "tool_use_id": "t1", "content": "no",
                        "is_error": True, "cache_control": mark,
                    },
                    {"type": "text", "text": "and"},
                ],
            },
            {"role": "system", "content": "now", "output_config": {"effort": "low"}},
        ],
        "tools": [
            {"name": "f", "input_schema": {"type": "object"}, "strict": True, "defer_loading": True},
            {"type": "web_search_20250305", "name": "web_search", "max_uses": 2},
            {"type": "mcp_toolset", "mcp_server_name": "s"},
        ],
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
        "temperature": 1, "top_p": 0.99, "stop_sequences": ["x"],
        "metadata": {"user_id": "u", "more": 1},
        "thinking": {"type": "enabled", "budget_tokens": 2048, "display": "updates"},
        "output_config": {
            "effort": "high", "task_budget": 5,
            "format": {"type": "json_schema", "schema": {"type": "object"}, "z": 1},
        },
        "cache_control": {"type": "ephemeral"},
        "context_management": {"edits": []}, "container": "c", "mcp_servers": [{}], "service_tier": "auto",
        "stream": True,
    }  # fmt: skip
    encoded = encode(decode(body), PERMISSIVE)
    assert encoded.body | {"model": "m"} == body
    assert encoded.losses == ()


def test_what_the_neutral_form_says_of_a_request() -> None:
    request = decode({
        "model": "m", "max_tokens": 9,
        "system": "s",
        "messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": [
                {"type": "redacted_thinking", "data": wrap(Seal("gemini", "ts"))},
                {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}},
                {"type": "thinking", "thinking": "t", "signature": wrap(Seal("gpt", "enc"))},
                {"type": "thinking", "thinking": "u", "signature": ""},
            ]},
        ],
        "output_format": {"type": "json_schema", "schema": {"type": "object"}},
        "thinking": {"type": "adaptive", "display": "omitted"},
        "tool_choice": {"type": "any"}, "metadata": {"user_id": "u"},
    })  # fmt: skip
    assert request.turns == (
        Turn("system", (Text("s"),)),
        Turn("user", (Text("q"),)),
        Turn("assistant", (
            ToolCall("a", "f", '{"x":1}', seal=Seal("gemini", "ts")),
            Reasoning("t", Seal("gpt", "enc")),
            Reasoning("u"),
        )),
    )  # fmt: skip
    assert request.output == Output("schema", {"type": "object"}, strict=True)
    assert request.reasoning == ReasoningAsk("adaptive", visible=False)
    assert request.tool_choice == ToolChoice("required")
    assert (request.user, request.sampling.max_tokens, request.extras) == ("u", 9, {})


def test_a_document_of_blocks_that_holds_an_image_stays_whole() -> None:
    inner = [{"type": "text", "text": "inner"}, {"type": "image", "source": {"type": "base64", "data": "iVBORw0KGgo="}}]
    document = {"type": "document", "source": {"type": "content", "content": inner}}
    body = {"model": "m", "messages": [{"role": "user", "content": [document]}], "max_tokens": 9}
    request = decode(body)
    assert request.turns == (Turn("user", (Foreign("anthropic_messages", document, "messages.0.content.0"),)),)
    assert encode(request).body | {"model": "m"} == body


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [3]}, "messages.0"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages.0.content.0.type"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]}, "messages.0.content.0.text"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages.0.content.0.source"),
        (
            {
                "messages": [
                    {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": 1}]}
                ]
            },
            "messages.0.content.0.input",
        ),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"stop_sequences": [1]}, "stop_sequences.0"),
        ({"tools": [{"description": "x"}]}, "tools.0.name"),
        ({"tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"thinking": {"type": "enabled", "budget_tokens": "x"}}, "thinking.budget_tokens"),
        ({"system": 5}, "system"),
        ({"model": None}, "model"),
    ],
)
def test_a_wrong_type_is_named_by_its_path(change: dict[str, Any], param: str) -> None:
    body = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "x"}], **change}
    with pytest.raises(Fault) as caught:
        decode(body)
    assert (caught.value.kind, caught.value.param) == (Kind.MALFORMED, param)


BODIES = [param.values[0] for param in captures()]
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["type", "text", "x"]), inner, max_size=2)
    ),
    max_leaves=4,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    for key, child in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(child, (*path, key))


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = changed(value[path[0]], path[1:], new)
    return copy


def decoded_or_fault(body: dict[str, Any]) -> Request | Fault:
    try:
        return decode(body, "m")
    except Fault as fault:
        return fault


@given(st.data())
def test_any_damage_to_a_request_is_a_malformed_fault_or_still_a_request(data: st.DataObject) -> None:
    body = data.draw(st.sampled_from(BODIES))
    place = data.draw(st.sampled_from(list(places(body))[1:]))
    damaged = changed(body, place, data.draw(json_values))
    request = decoded_or_fault(damaged)
    if isinstance(request, Fault):
        assert request.kind is Kind.MALFORMED
        assert request.param is not None
        return
    for source in (request.source, CHAT):
        for model in ("anthropic--claude-3.5-sonnet", "anthropic--claude-4.5-sonnet", "anthropic--claude-4.8-opus"):
            assert msgspec.json.encode(encode(msgspec.structs.replace(request, source=source), model).body)


def test_a_thread_is_refused_in_the_words_that_the_sdks_know() -> None:
    fault = refuse_thread({"thread": {"type": "create"}})
    status, body = DIALECT.encode_fault(fault, "req_1")
    assert status == 400
    assert body["error"]["details"] == {"error_code": "thread_unsupported_request", "unsupported": []}
    assert body["request_id"] == "req_1"


# Histories of clients of other APIs


def call(identity: str, name: str = "f", arguments: str = "{}") -> ToolCall:
    return ToolCall(identity, name, arguments)


def result(identity: str, text: str = "r") -> ToolResult:
    return ToolResult(identity, (Text(text),))


def messages(*turns: Turn, model: str = "anthropic--claude-4.5-sonnet", **more: Any) -> Any:
    return encode(asked(*turns, **more), model).body["messages"]


def test_results_follow_their_calls_once_each_before_any_text() -> None:
    written = messages(
        user("q"),
        assistant("I look.", call("a"), call("b"), call("c")),
        user("meanwhile", result("b", "2")),
        Turn("user", (result("a", "1"),)),
        user(result("a", "twice"), result("z", "orphan"), "go on"),
    )
    assert [message["role"] for message in written] == ["user", "assistant", "user"]
    kinds = [block["type"] for block in written[2]["content"]]
    assert kinds == ["tool_result"] * 3 + ["text"] * 6
    assert [block["tool_use_id"] for block in written[2]["content"][:3]] == ["b", "a", "c"]
    assert written[2]["content"][2]["is_error"] is True
    said = [block["text"] for block in written[2]["content"][3:]]
    assert said == [
        "meanwhile",
        "(The tool call a answered:)",
        "twice",
        "(The tool call z answered:)",
        "orphan",
        "go on",
    ]


def test_ids_and_names_of_any_alphabet_fit_and_come_back() -> None:
    long = "ns.tool/" + "x" * 90
    request = asked(
        user("q"),
        assistant(ToolCall("call 1|ß", long)),
        user(result("call 1|ß")),
        assistant(ToolCall("call 1|ß", long)),
        user(result("call 1|ß")),
        tools=(Tool(long, schema={"type": "object", "properties": {}}), Tool("ok")),
        tool_choice=ToolChoice("tool", long),
    )
    encoded = encode(request)
    body = encoded.body
    name = body["tools"][0]["name"]
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name)
    assert encoded.undo.tool_names == {name: long}
    assert body["tool_choice"] == {"type": "tool", "name": name}
    calls = [message["content"][0] for message in body["messages"] if message["role"] == "assistant"]
    answers = [message["content"][0]["tool_use_id"] for message in body["messages"][2::2]]
    assert [block["name"] for block in calls] == [name, name]
    assert [block["id"] for block in calls] == answers
    assert len(set(answers)) == 2
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]+", identity) for identity in answers)


def test_turns_alternate_begin_with_the_user_and_have_no_empty_texts() -> None:
    written = messages(assistant("hello"), assistant("again"), user("a", "  "), user("b"), user("\n"), assistant(""))
    assert [message["role"] for message in written] == ["user", "assistant", "user"]
    assert [block["text"] for block in written[2]["content"]] == ["a", "b"]
    assert encode(asked(Turn("system", (Text("only this"),)))).body["messages"] == [
        {"role": "user", "content": "only this"}
    ]


def test_system_turns_keep_their_place() -> None:
    turns = (
        Turn("system", (Text("one"),)), Turn("developer", (Text("two"),)), user("q"),
        Turn("system", (Text("now"),)), assistant("a"), Turn("developer", (Text("later"),)), user("r"),
    )  # fmt: skip
    old, new = encode(asked(*turns)).body, encode(asked(*turns), "anthropic--claude-4.8-opus").body
    assert old["system"] == new["system"] == [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    reminder = "<system-reminder>\n{}\n</system-reminder>"
    assert [block["text"] for block in old["messages"][0]["content"]] == ["q", reminder.format("now")]
    # Where Claude takes a system message: after the user's, before the assistant's
    assert [message["role"] for message in new["messages"]] == ["user", "system", "assistant", "user"]
    assert [block["text"] for block in new["messages"][3]["content"]] == [reminder.format("later"), "r"]


def test_history_alone_defines_the_tools_it_used() -> None:
    encoded = encode(asked(user("q"), assistant(call("a", "gone")), user(result("a"))))
    assert [tool["name"] for tool in encoded.body["tools"]] == ["gone"]
    assert encoded.body["tool_choice"] == {"type": "none"}


def test_thoughts_go_up_only_with_their_own_seal() -> None:
    encoded = encode(
        asked(
            user("q"),
            assistant(Reasoning("mine", Seal("claude", "s")), Reasoning("", Seal("claude", "d"), redacted=True), "x"),
            user("r"),
            assistant(Reasoning("theirs", Seal("gpt", "s")), Reasoning("bare"), "y"),
            user("s"),
        )
    )
    assert encoded.body["messages"][1]["content"] == [
        {"type": "thinking", "thinking": "mine", "signature": "s"},
        {"type": "redacted_thinking", "data": "d"},
        {"type": "text", "text": "x"},
    ]
    assert encoded.body["messages"][3]["content"] == "y"
    assert fields(encoded) == {"content.thinking"}


ids = st.sampled_from(["a", "b", "c|d", ""])
anything = st.one_of(
    st.builds(Text, st.sampled_from(["", " ", "x", "y\n"])),
    st.builds(Reasoning, st.sampled_from(["", "t"]), st.sampled_from([None, Seal("claude", "s"), Seal("gpt", "e")])),
    st.builds(ToolCall, ids, st.sampled_from(["f", "g h"]), st.sampled_from(["", "{}", "[", '{"a":1}'])),
    st.builds(
        ToolResult, ids, st.sampled_from([(), (Text(""),), (Text("r"), Media("image", data=PNG))]), st.booleans()
    ),
    st.just(Refusal("no")),
    st.just(Media("image", data=PNG)),
    st.just(Foreign(CHAT, {"type": "x"})),
)
roles: Any = st.sampled_from(["user", "assistant", "user", "assistant", "system", "developer"])
histories = st.lists(st.builds(Turn, roles, st.lists(anything, max_size=4).map(tuple)), min_size=1, max_size=8)
asks = st.builds(
    ReasoningAsk, st.sampled_from([None, "off", "on", "adaptive"]), st.sampled_from([None, "none", "low", "max"]),
    st.sampled_from([None, 0, 2000, 90000]),
)  # fmt: skip
choices = st.sampled_from(
    [None, ToolChoice("auto"), ToolChoice("required"), ToolChoice("tool", "f"), ToolChoice("none")]
)


def conversation_refusals(body: dict[str, Any], *, mid_system: bool) -> Iterator[str]:
    """Why the Messages API would answer 400 to the conversation."""
    roles = [message["role"] for message in body["messages"]]
    if roles[:1] != ["user"]:
        yield "first message must use the user role"
    for before, role, after in zip(roles, roles[1:], [*roles[2:], "assistant"], strict=False):
        if role == before or (role == "system" and (before != "user" or after != "assistant" or not mid_system)):
            yield f"{role} after {before}"
    seen: set[str] = set()
    for message, following in zip(
        body["messages"], [*body["messages"][1:], {"role": "user", "content": []}], strict=True
    ):
        blocks = (
            message["content"]
            if isinstance(message["content"], list)
            else [{"type": "text", "text": message["content"]}]
        )
        if not blocks or not all(block["text"].strip() for block in blocks if block["type"] == "text"):
            yield "empty content"
        uses = [block["id"] for block in blocks if block["type"] == "tool_use"]
        if (
            seen & set(uses)
            or len(set(uses)) < len(uses)
            or not all(re.fullmatch("[a-zA-Z0-9_-]+", one) for one in uses)
        ):
            yield "tool_use ids"
        seen |= set(uses)
        kinds = [(block["type"], block.get("tool_use_id")) for block in following["content"] if isinstance(block, dict)]
        if message["role"] == "assistant" and sorted(uses) != sorted(i for _, i in kinds[: len(uses)] if i):
            yield "tool_use without tool_result"
        if message["role"] == "assistant" and any(kind == "tool_result" for kind, _ in kinds[len(uses) :]):
            yield "tool_result without tool_use"
    if roles[-1] == "assistant" and str(blocks[-1].get("text", "x"))[-1].isspace():
        yield "trailing whitespace"


@given(histories, asks, choices, st.sampled_from(["3.5-sonnet", "4.5-sonnet", "4.6-opus", "4.8-opus"]), st.booleans())
def test_any_history_becomes_a_conversation_that_claude_takes(
    turns: list[Turn], ask: ReasoningAsk, choice: ToolChoice | None, model: str, shaped: bool
) -> None:
    output = Output("schema", {"type": "object", "properties": {}}) if shaped else None
    request = asked(*turns, reasoning=ask, tools=(Tool("f"),), tool_choice=choice, output=output)
    profile = profile_of(f"anthropic--claude-{model}")
    body = encode(request, profile).body
    assert list(conversation_refusals(body, mid_system=profile.mid_system)) == []
    thinking = body.get("thinking", {"type": "disabled"})
    if thinking["type"] == "enabled":
        assert 1024 <= thinking["budget_tokens"] < body["max_tokens"]
    if thinking["type"] != "disabled":
        assert body.get("tool_choice", {}).get("type") not in ("any", "tool")
        assert body["messages"][-1]["role"] != "assistant"
    assert encode(request, profile).body == body


# How much to think


def thinking(model: str, ask: ReasoningAsk, **more: Any) -> tuple[Any, Any]:
    body = encode(asked(user("q"), reasoning=ask, **more), model).body
    return body.get("thinking"), body.get("output_config", {}).get("effort")


OFF, ADAPTIVE = {"type": "disabled"}, {"type": "adaptive"}


@pytest.mark.parametrize(
    ("model", "ask", "wanted"),
    [
        ("3.5-sonnet", ReasoningAsk(effort="high"), (None, None)),
        ("4.5-sonnet", ReasoningAsk(effort="high"), ({"type": "enabled", "budget_tokens": 24000}, None)),
        ("4.5-sonnet", ReasoningAsk(effort="none"), (OFF, None)),
        ("4.5-sonnet", ReasoningAsk("on", budget=5000), ({"type": "enabled", "budget_tokens": 5000}, None)),
        ("4.5-sonnet", ReasoningAsk("adaptive"), ({"type": "enabled", "budget_tokens": 8192}, None)),
        ("4.6-sonnet", ReasoningAsk("on", budget=5000), ({"type": "enabled", "budget_tokens": 5000}, None)),
        ("4.6-sonnet", ReasoningAsk(effort="minimal"), (ADAPTIVE, "low")),
        ("4.8-opus", ReasoningAsk("on", budget=5000), (ADAPTIVE, "medium")),
        ("4.8-opus", ReasoningAsk(effort="xhigh", visible=True), (ADAPTIVE | {"display": "summarized"}, "xhigh")),
        ("4.8-opus", ReasoningAsk("off"), (OFF, None)),
    ],
)
def test_thinking_is_asked_for_as_the_model_takes_it(model: str, ask: ReasoningAsk, wanted: Any) -> None:
    assert thinking(f"anthropic--claude-{model}", ask) == wanted


@pytest.mark.parametrize(
    ("more", "turns", "lost"),
    [
        ({"tools": (Tool("f"),), "tool_choice": ToolChoice("required")}, (user("q"),), "thinking"),
        ({}, (user("q"), assistant("The answer is")), "thinking"),
        ({"tools": (Tool("f"),)}, (user("q"), assistant(call("a")), user(result("a"))), "thinking"),
    ],
)
def test_what_rules_thinking_out_turns_it_off(more: Any, turns: Any, lost: str) -> None:
    encoded = encode(asked(*turns, reasoning=ReasoningAsk(effort="low"), **more))
    assert encoded.body["thinking"] == OFF
    assert lost in fields(encoded)


def test_a_loop_that_began_without_thoughts_goes_on_adaptively_where_it_can() -> None:
    turns = (user("q"), assistant(call("a")), user(result("a")))
    encoded = encode(asked(*turns, reasoning=ReasoningAsk("on", budget=5000)), "anthropic--claude-4.6-opus")
    assert (encoded.body["thinking"], encoded.body["output_config"]) == (ADAPTIVE, {"effort": "medium"})
    sealed = assistant(Reasoning("t", Seal("claude", "s")), call("a"))
    kept = encode(asked(user("q"), sealed, user(result("a")), reasoning=ReasoningAsk("on", budget=5000)))
    assert kept.body["thinking"] == {"type": "enabled", "budget_tokens": 5000}


@pytest.mark.parametrize(("max_tokens", "wanted"), [(100, (1024, 1124)), (4096, (3072, 4096)), (None, (8192, 32000))])
def test_the_budget_stays_between_1024_and_max_tokens(max_tokens: int | None, wanted: tuple[int, int]) -> None:
    ask = ReasoningAsk(effort="medium")
    body = encode(asked(user("q"), reasoning=ask, sampling=Sampling(max_tokens=max_tokens))).body
    assert (body["thinking"]["budget_tokens"], body["max_tokens"]) == wanted


def test_effort_and_budget_are_one_monotonic_table() -> None:
    efforts = ["none", "minimal", "low", "medium", "high", "xhigh", "max"]
    assert [effort_of(budget_of(effort)) for effort in efforts] == efforts
    ranks = [efforts.index(effort_of(budget)) for budget in range(0, 80_000, 97)]
    assert ranks == sorted(ranks)
    assert all(budget_of(effort, 2000) in (0, 1024, 1500) for effort in efforts)
    assert nearest_effort("xhigh", ("low", "medium", "high", "max")) == "high"
    assert nearest_effort("minimal", ("none", "low")) == "low"
    assert nearest_effort("low", ()) is None


# Sampling, output, tools


@pytest.mark.parametrize(
    ("model", "sampling", "wanted", "lost"),
    [
        ("3.5-sonnet", Sampling(temperature=1.7, top_p=0.5), {"temperature": 1, "top_p": 0.5}, {"temperature"}),
        ("4.5-sonnet", Sampling(temperature=0.5, top_p=0.5, top_k=3), {"temperature": 0.5, "top_k": 3}, {"top_p"}),
        (
            "4.8-opus",
            Sampling(temperature=1.0, top_p=1, stop=("a", " ")),
            {"stop_sequences": ["a"]},
            {"stop_sequences"},
        ),
        ("4.5-sonnet", Sampling(temperature=1, top_p=0.5), {"top_p": 0.5}, set()),
        ("4.8-opus", Sampling(temperature=0, top_k=1), {}, {"temperature", "top_k"}),
        ("4.5-sonnet", Sampling(seed=0, presence_penalty=0, logit_bias={}, n=1), {}, {"seed"}),
    ],
)
def test_sampling_fits_the_model(model: str, sampling: Sampling, wanted: Any, lost: set[str]) -> None:
    encoded = encode(asked(user("q"), sampling=sampling), f"anthropic--claude-{model}")
    names = ("temperature", "top_p", "top_k", "stop_sequences")
    assert {name: encoded.body[name] for name in names if name in encoded.body} == wanted
    assert fields(encoded) == lost


@pytest.mark.parametrize(
    ("model", "most"),
    [("3-haiku", 4096), ("3.5-sonnet", 8192), ("4-opus", 32000), ("4-sonnet", 64000), ("4.5-opus", 64000),
     ("4.8-opus", 128000)],
)  # fmt: skip
def test_more_tokens_than_the_model_writes_are_its_most(model: str, most: int) -> None:
    name = f"anthropic--claude-{model}"
    encoded = encode(asked(user("q"), sampling=Sampling(max_tokens=most + 1)), name)
    assert (encoded.body["max_tokens"], fields(encoded)) == (most, {"max_tokens"})
    fits = encode(asked(user("q"), sampling=Sampling(max_tokens=most)), name)
    assert (fits.body["max_tokens"], fields(fits)) == (most, set())
    own = encode(asked(user("q"), source="anthropic_messages", sampling=Sampling(max_tokens=most + 1)), name)
    assert own.body["max_tokens"] == most + 1


def test_the_name_of_a_speaker_is_lost_by_name() -> None:
    assert fields(encode(asked(Turn("user", (Text("q"),), name="Ann")))) == {"messages.name"}


def test_several_candidates_cannot_be_had() -> None:
    assert fields(encode(asked(user("q"), sampling=Sampling(n=2))), harmless=False) == {"n"}


SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 1}, "of": {"type": "array", "items": {"$ref": "#/$defs/p"}}},
    "required": ["n", "of"],
    "$defs": {"p": {"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]}},
}


def test_a_schema_is_kept_by_the_models_own_means_or_by_a_tool() -> None:
    output = Output("schema", SCHEMA, name="answer")
    native_form = encode(asked(user("q"), output=output)).body["output_config"]["format"]
    assert native_form["type"] == "json_schema"
    assert native_form["schema"]["additionalProperties"] is False
    assert native_form["schema"]["$defs"]["p"]["additionalProperties"] is False
    assert native_form["schema"]["properties"]["n"] == {"type": "integer", "description": "minimum: 1"}

    old = encode(asked(user("q"), output=output, reasoning=ReasoningAsk(effort="low")), "anthropic--claude-4-sonnet")
    assert old.undo.output_tool == "json_output"
    assert old.body["tool_choice"] == {"type": "tool", "name": "json_output"}
    assert old.body["tools"][0]["input_schema"]["properties"] == SCHEMA["properties"]
    assert old.body["thinking"] == OFF

    both = encode(asked(user("q"), output=output, tools=(Tool("f"),)), "anthropic--claude-4-sonnet")
    assert both.body["tool_choice"] == {"type": "any"}
    assert [tool["name"] for tool in both.body["tools"]] == ["f", "json_output"]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "additionalProperties": {"type": "string"}},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {
            "$ref": "#/$defs/n",
            "$defs": {
                "n": {"type": "object", "properties": {"m": {"$ref": "#/$defs/m"}}},
                "m": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/n"}]},
            },
        },
        {"type": "object", "properties": {"open": {"type": "object"}}, "required": ["open"]},
        {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(11)}},
    ],
)
def test_a_schema_that_structured_output_refuses_becomes_a_tool(schema: dict[str, Any]) -> None:
    encoded = encode(asked(user("q"), output=Output("schema", schema)))
    assert encoded.undo.output_tool == "json_output"
    assert "output_config" not in encoded.body


def test_what_structured_output_has_no_word_for_is_told_in_words() -> None:
    schema = {
        "type": "object",
        "description": "d",
        "properties": {
            "a": {"oneOf": [{"type": "string", "format": "date"}, {"type": "string", "format": "phone"}]},
            "b": {"type": "array", "items": {"type": "string", "pattern": "x"}, "minItems": 3, "maxItems": 4},
        },
        "required": ["a", "b"],
    }
    output = Output("schema", schema, name="n", description="unused")
    closed = encode(asked(user("q"), output=output)).body["output_config"]["format"]["schema"]
    assert closed["title"] == "n"
    assert closed["description"] == "d"
    assert closed["properties"] == {
        "a": {"anyOf": [{"type": "string", "format": "date"}, {"type": "string", "description": "format: phone"}]},
        "b": {
            "type": "array", "items": {"type": "string", "description": "pattern: x"},
            "description": "minItems: 3 maxItems: 4",
        },
    }  # fmt: skip


def test_a_forced_call_or_a_taken_name_does_not_hinder_the_output_tool() -> None:
    output, old = Output("schema", SCHEMA, description="told"), "anthropic--claude-4-sonnet"
    forced = encode(asked(user("q"), output=output, tools=(Tool("f"),), tool_choice=ToolChoice("tool", "f")), old)
    assert (forced.undo.output_tool, fields(forced)) == (None, {"output.schema"})
    taken = encode(asked(user("q"), output=output, tools=(Tool("json_output"),), tool_choice=ToolChoice("none")), old)
    assert taken.undo.output_tool == "json_output_"
    assert taken.body["tool_choice"] == {"type": "tool", "name": "json_output_"}
    assert taken.body["tools"][1]["description"].startswith("told\n")


def test_an_answer_that_cannot_be_kept_to_its_schema_is_refused() -> None:
    encoded = encode(asked(user("q"), output=Output("schema", {"type": "array"})), "anthropic--claude-4-sonnet")
    assert fields(encoded, harmless=False) == {"output.schema"}


def test_json_without_a_schema_is_asked_for_in_words() -> None:
    body = encode(asked(Turn("system", (Text("s"),)), user("q"), output=Output("json"))).body
    assert [block["text"].split()[0] for block in body["system"]] == ["s", "Answer"]


def test_tools_of_other_apis() -> None:
    tools = (
        Tool("f", schema={"anyOf": [{"type": "object", "properties": {"a": {}}}, {"properties": {"b": {}}}]}),
        Tool("free", "runs", kind="custom"),
        Tool("search", kind="foreign", dialect=CHAT, block={"type": "web_search"}),
        Tool("none"),
    )
    encoded = encode(asked(user("q"), assistant(ToolCall("i", "free", "x = 1", "custom")), tools=tools))
    schemas = {tool["name"]: tool["input_schema"] for tool in encoded.body["tools"]}
    assert set(schemas) == {"f", "free", "none"}
    assert all(schema["type"] == "object" for schema in schemas.values())
    assert set(schemas["f"]["properties"]) == {"a", "b"}
    assert encoded.undo.custom_tools == {"free"}
    assert encoded.body["messages"][1]["content"][0]["input"] == {"input": "x = 1"}
    assert "tools.search" in fields(encoded)


def test_a_tool_named_twice_is_offered_once() -> None:
    encoded = encode(asked(user("q"), tools=(Tool("f", "first", strict=True), Tool("f", "second"))))
    assert [tool.get("description") for tool in encoded.body["tools"]] == ["first"]
    assert fields(encoded) == {"tools.f", "tools.strict"}


@pytest.mark.parametrize("arguments", ["", "null", "[1]", "{broken", '"text"'])
def test_calls_go_up_with_an_object_whatever_their_arguments_are(arguments: str) -> None:
    block = messages(user("q"), assistant(ToolCall("i", "f", arguments)))[1]["content"][0]
    kept = {"[1]": [1], "{broken": "{broken", '"text"': "text"}.get(arguments)
    assert block["input"] == ({} if kept is None else {"arguments": kept})
    response = Response("i", "m", (Candidate((ToolCall("i", "f", arguments),)),))
    assert DIALECT.encode_response(response, answering())["content"][0]["input"] == block["input"]


@pytest.mark.parametrize("choice", [ToolChoice("tool", "search"), ToolChoice("required")])
def test_a_forced_tool_that_is_gone_refuses(choice: ToolChoice) -> None:
    tools = (Tool("search", kind="foreign", dialect=CHAT, block={"type": "web_search"}),)
    assert fields(encode(asked(user("q"), tools=tools, tool_choice=choice)), harmless=False) == {"tools.search"}


@pytest.mark.parametrize(
    ("choice", "wanted", "names"),
    [
        (ToolChoice("auto"), {"type": "auto"}, {"f", "g"}),
        (ToolChoice(parallel=False), {"type": "auto", "disable_parallel_tool_use": True}, {"f", "g"}),
        (ToolChoice(parallel=True), None, {"f", "g"}),
        (ToolChoice("required", parallel=True), {"type": "any"}, {"f", "g"}),
        (ToolChoice("required", allowed=("g",)), {"type": "tool", "name": "g"}, {"g"}),
        (ToolChoice("none", parallel=False), {"type": "none"}, {"f", "g"}),
    ],
)
def test_the_choice_of_tools(choice: ToolChoice, wanted: Any, names: set[str]) -> None:
    body = encode(asked(user("q"), tools=(Tool("f"), Tool("g")), tool_choice=choice)).body
    assert body.get("tool_choice") == wanted
    assert {tool["name"] for tool in body["tools"]} == names
    assert "tool_choice" not in encode(asked(user("q"), tool_choice=choice)).body


def test_a_prefill_becomes_a_wish_to_go_on_where_it_is_refused() -> None:
    turns = (user("q"), assistant("The answer is "))
    assert encode(asked(*turns)).body["messages"][-1] == {"role": "assistant", "content": "The answer is"}
    newer = encode(asked(*turns), "anthropic--claude-4.6-opus")
    assert [message["role"] for message in newer.body["messages"]] == ["user", "assistant", "user"]
    assert fields(newer) == {"messages"}


@pytest.mark.parametrize(
    ("media", "source"),
    [
        (Media("image", "image/jpeg", data=PNG), {"type": "base64", "media_type": "image/png", "data": PNG}),
        (Media("image", url="https://x"), {"type": "url", "url": "https://x"}),
        (Media("document", data="JVBERi0x"), {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0x"}),
        (Media("document", "text/csv", data="YSxi"), {"type": "text", "media_type": "text/plain", "data": "a,b"}),
        (Media("document", text="t", name="n"), {"type": "text", "media_type": "text/plain", "data": "t"}),
        (Media("audio", "audio/wav", data="UklG"), None),
        (Media("image", "image/tiff", data="SUkq"), None),
        (Media("image", file_id="file-1"), None),
        (Media("document", "application/zip", data="UEsD"), None),
    ],
)
def test_media_is_shown_or_refused(media: Media, source: dict[str, Any] | None) -> None:
    encoded = encode(asked(user("see", media)))
    if source is None:
        assert fields(encoded, harmless=False) == {f"content.{media.kind}"}
    else:
        assert encoded.body["messages"][0]["content"][1]["source"] == source
        assert encoded.losses == ()


def test_results_carry_images_and_errors() -> None:
    outcome = ToolResult("a", (Media("image", "image/png", data=PNG), Text(" ")), is_error=True)
    empty = ToolResult("b", (), is_error=True)
    block, bare = messages(user("q"), assistant(call("a"), call("b")), user(outcome, empty))[2]["content"]
    assert [piece["type"] for piece in block["content"]] == ["image"]
    assert (block["is_error"], bare["content"], bare["is_error"]) == (True, "Error", True)


# Answers


ANSWER = {
    "id": "msg_bdrk_01", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5-20250929",
    "content": [
        {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
        {"type": "text", "text": "Hi", "citations": [{"type": "char_location", "cited_text": "s"}]},
        {"type": "tool_use", "id": "toolu_bdrk_1", "name": "f", "input": {"a": 1}},
    ],
    "stop_reason": "tool_use", "stop_sequence": None,
    "usage": {
        "input_tokens": 9, "cache_creation_input_tokens": 20, "cache_read_input_tokens": 100,
        "cache_creation": {"ephemeral_5m_input_tokens": 5, "ephemeral_1h_input_tokens": 15}, "output_tokens": 4,
        "output_tokens_details": {"thinking_tokens": 2},
    },
}  # fmt: skip
USAGE = Usage(input=129, cache_read=100, cache_write=20, output=4, reasoning=2, cache_write_1h=15)


def answering(sealed_for: str = "claude", **ask: Any) -> Answering:
    request = Request("anthropic_messages", "asked-for", (), **ask)
    return Answering(request, carried(sealed_for), fresh_id="fresh", request_id="req_1")


def test_an_answer_is_read_and_written() -> None:
    response = DIALECT.decode_response(ANSWER)
    assert response.usage == USAGE
    assert response.candidates[0].finish == "tool_calls"
    assert DIALECT.encode_response(response, answering()) == {**ANSWER, "model": "asked-for"}


@pytest.mark.parametrize("body", [{}, {"content": "x"}, {"content": [1]}, {"content": [{"type": "text"}]}])
def test_what_is_no_answer_fails(body: dict[str, Any]) -> None:
    with pytest.raises(Fault) as caught:
        DIALECT.decode_response(body)
    assert caught.value.kind is Kind.UPSTREAM_FAILED


@pytest.mark.parametrize(
    ("finish", "parts", "stop"),
    [
        ("stop", (Text("x"),), "end_turn"),
        ("tool_calls", (Text("x"),), "end_turn"),
        ("stop", (ToolCall("i", "f"),), "tool_use"),
        ("length", (Text("x"),), "max_tokens"),
        ("stop_sequence", (Text("x"),), "stop_sequence"),
        ("content_filter", (), "refusal"),
        ("stop", (Refusal("no"),), "refusal"),
        ("pause", (Text("x"),), "pause_turn"),
        ("context", (Text("x"),), "model_context_window_exceeded"),
    ],
)
def test_stop_reasons(finish: Any, parts: tuple[Part, ...], stop: str) -> None:
    response = Response("", "m", (Candidate(parts, finish),))
    assert DIALECT.encode_response(response, answering())["stop_reason"] == stop
    assert read(written(unfold(response)))[-2]["delta"]["stop_reason"] == stop


def test_an_answer_of_another_model_has_all_that_clients_need() -> None:
    parts = (
        Reasoning("thought", Seal("gpt", "enc")),
        Reasoning("no seal"),
        Reasoning("", Seal("gpt", "only")),
        Text(""),
        ToolCall("", "f", "", seal=Seal("gemini", "ts")),
        ToolCall("call_1", "g", '{"a":1}'),
    )
    response = Response("", "", (Candidate(parts, "stop"),))
    for body in (DIALECT.encode_response(response, answering()), accumulated(written(unfold(response)))):
        assert body["id"] == "msg_fresh"
        assert body["usage"]["output_tokens"] == body["usage"]["input_tokens"] == 0
        content = body["content"]
        assert [block["type"] for block in content] == [*["thinking"] * 3, "redacted_thinking", "tool_use", "tool_use"]
        assert content[0]["signature"] == wrap(Seal("gpt", "enc"))
        assert content[0]["signature"].startswith(WRAPPED)
        assert content[1]["signature"] == ""
        assert content[4]["id"].startswith("toolu_fresh")
        assert content[5] == {"type": "tool_use", "id": "call_1", "name": "g", "input": {"a": 1}}
        back = decode({"model": "m", "messages": [{"role": "assistant", "content": content}]}).turns[0].parts
        assert back == (
            parts[0],
            parts[1],
            parts[2],
            ToolCall(content[4]["id"], "f", "{}", seal=Seal("gemini", "ts")),
            ToolCall("call_1", "g", '{"a":1}'),
        )


def test_thoughts_are_hidden_but_not_their_seals_where_so_asked() -> None:
    response = Response("i", "m", (Candidate((Reasoning("secret", Seal("gpt", "enc")), Reasoning("bare"), Text("x"))),))
    to = answering(reasoning=ReasoningAsk("on", visible=False))
    assert accumulated(written(unfold(response), to))["content"] == DIALECT.encode_response(response, to)["content"]
    content = DIALECT.encode_response(response, to)["content"]
    assert content[0] == {"type": "thinking", "thinking": "", "signature": wrap(Seal("gpt", "enc"))}
    assert [block["type"] for block in content] == ["thinking", "text"]
    assert b"secret" not in written(unfold(response), to)


# Streams, read


def sse(*events: dict[str, Any]) -> list[Event]:
    decoder = DIALECT.stream_decoder()
    told = [event for payload in events for event in decoder.feed(json.dumps(payload).encode())]
    return [*told, *decoder.end()]


def start(**usage: int) -> dict[str, Any]:
    message = {"model": "claude", "id": "msg_1", "role": "assistant", "content": [], "usage": usage}
    return {"type": "message_start", "message": message}


def opened(index: int, **block: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def delta(index: int, kind: str, **more: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **more}}


def stopped(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def ended(reason: str | None, **usage: int) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None}, "usage": usage}


STOP: dict[str, Any] = {
    "type": "message_stop",
    "amazon-bedrock-invocationMetrics": {"inputTokenCount": 9, "outputTokenCount": 4, "cacheReadInputTokenCount": 1},
}


def test_a_stream_tells_the_same_as_the_whole_answer() -> None:
    events = sse(
        start(input_tokens=9, cache_creation_input_tokens=20, cache_read_input_tokens=100, output_tokens=1),
        {"type": "ping"},
        opened(0, type="thinking", thinking="", signature=""),
        delta(0, "thinking_delta", thinking="h"), delta(0, "thinking_delta", thinking="m"),
        delta(0, "signature_delta", signature="c2"), delta(0, "signature_delta", signature="ln"), stopped(0),
        opened(1, type="text", text=""), delta(1, "text_delta", text="Hi"),
        delta(1, "citations_delta", citation={"type": "char_location", "cited_text": "s"}), stopped(1),
        opened(2, type="tool_use", id="toolu_bdrk_1", name="f", input={}),
        delta(2, "input_json_delta", partial_json=""), delta(2, "input_json_delta", partial_json='{"a":'),
        delta(2, "input_json_delta", partial_json="1}"), stopped(2),
        ended("tool_use", output_tokens=4), STOP,
    )  # fmt: skip
    whole = DIALECT.decode_response(ANSWER)
    folded = fold(events)
    assert folded.candidates == whole.candidates
    assert folded.usage == Usage(129, 100, 20, 4)
    assert isinstance(events[-1], Done)


TEXT = [opened(0, type="text", text=""), delta(0, "text_delta", text="Hi"), stopped(0)]


@pytest.mark.parametrize(
    "events",
    [
        [*TEXT, ended("end_turn"), STOP],
        [start(), *TEXT[:2], ended("end_turn"), STOP],
        [start(), TEXT[1], ended("end_turn"), STOP],
        [start(), *TEXT, ended("end_turn")],
        [start(), *TEXT, STOP],
        [start(), {"type": "new_event", "x": 1}, *TEXT, delta(7, "new_delta"), ended("new_reason"), STOP, STOP],
        [start(), opened(0, type="text", text="Hi"), stopped(0), stopped(0), ended(None), ended("end_turn")],
        [start(), start(), {"type": "content_block_start", "index": 1}, *TEXT, {"type": "content_block_delta"}, STOP],
    ],
)
def test_a_sloppy_stream_is_read_all_the_same(events: list[dict[str, Any]]) -> None:
    told = sse(*events)
    assert [part.text for part in fold(told).candidates[0].parts if isinstance(part, Text)] == ["Hi"]
    kinds = [type(event) for event in told]
    assert kinds.count(Open) == kinds.count(Close) == kinds.count(Finish) == kinds.count(Done) == 1


def test_usage_comes_from_wherever_it_stands() -> None:
    assert fold(sse(*TEXT, STOP)).usage == Usage(10, 1, 0, 4)
    assert fold(sse(*TEXT, ended("end_turn", input_tokens=3, output_tokens=2), STOP)).usage == Usage(3, output=2)
    assert fold(sse(start(input_tokens=5, output_tokens=1), *TEXT, ended("end_turn", output_tokens=7))).usage == Usage(
        5, output=7
    )


def test_blocks_of_server_tools_come_whole() -> None:
    events = sse(
        start(),
        opened(0, type="server_tool_use", id="s", name="web_search", input={}),
        delta(0, "input_json_delta", partial_json='{"q": 1}'),
        stopped(0),
        opened(1, type="web_search_tool_result", tool_use_id="s", content=[]),
        stopped(1),
        opened(2, type="redacted_thinking", data="ZA=="),
        stopped(2),
        ended("pause_turn"),
    )
    parts = fold(events).candidates[0].parts
    assert parts[0] == Foreign(
        DIALECT.name, {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"q": 1}}
    )
    assert parts[2] == Reasoning("", Seal("claude", "ZA=="), redacted=True)


@pytest.mark.parametrize(
    ("payload", "kind", "words"),
    [
        ('{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}', Kind.OVERLOADED, "Overloaded"),
        ('{"type":"error","error":{"type":"rate_limit_error","message":"slow"}}', Kind.RATE_LIMITED, "slow"),
        ('{"type":"error","error":{"type":"invalid_request_error","message":"no"}}', Kind.MALFORMED, "no"),
        ('{"type":"error"}', Kind.UPSTREAM_FAILED, "broke off"),
        ('{"error":{"code":"429","message":"Too many"}}', Kind.RATE_LIMITED, "Too many"),
        ('{"error":"TooManyRequests","message":"wait"}', Kind.RATE_LIMITED, "wait"),
        ('{"error":{"message":"Service unavailable"}}', Kind.OVERLOADED, "unavailable"),
        ('{"error":{"message":"Read timed out"}}', Kind.TIMEOUT, "timed out"),
        ('{"error":{"type":"invalid_request_error","message":"bad"}}', Kind.MALFORMED, "bad"),
        ('{"message":"Too many tokens, please wait"}', Kind.RATE_LIMITED, "Too many tokens"),
        (
            '{"message":"Input is too long for requested model.","code":"ValidationException"}',
            Kind.CONTEXT_TOO_LONG,
            "too",
        ),
        ("not json", Kind.UPSTREAM_FAILED, "cannot be read"),
        ("[1]", Kind.UPSTREAM_FAILED, "cannot be read"),
    ],
)
def test_errors_of_every_shape_fail_the_stream(payload: str, kind: Kind, words: str) -> None:
    for before in ([], [start(), *TEXT]):
        decoder = DIALECT.stream_decoder()
        for event in before:
            decoder.feed(json.dumps(event).encode())
        (failure,) = decoder.feed(payload.encode())
        assert isinstance(failure, Failure)
        assert failure.fault.kind is kind
        assert words in failure.fault.message
        assert decoder.end() == decoder.feed(b'{"type":"ping"}') == []


def test_a_call_whose_input_stands_in_its_start_and_a_block_that_begins_anew() -> None:
    events = sse(
        start(), opened(0, type="tool_use", id="a", name="f", input={"x": 1}), stopped(0),
        opened(1, type="text", text=""), opened(1, type="text", text=""), delta(1, "text_delta", text="Hi"),
        delta(1, "input_json_delta", partial_json=3), ended("tool_use"),
    )  # fmt: skip
    assert fold(events).candidates[0].parts == (ToolCall("a", "f", '{"x":1}'), Text(""), Text("Hi"))
    done = DIALECT.stream_decoder()
    done.feed(json.dumps(ended("end_turn")).encode())
    assert done.feed(b"[DONE]") == [Done()]
    assert DIALECT.stream_decoder().feed(b"[DONE]") == []


def test_a_stream_without_its_finish_broke_off() -> None:
    for events in ([], [start()], [start(), *TEXT]):
        assert isinstance(sse(*events)[-1], Failure)


@given(st.lists(json_values | st.sampled_from([start(), *TEXT, ended("end_turn"), STOP, opened(0, type="tool_use")])))
def test_reading_a_stream_never_raises(payloads: list[Any]) -> None:
    decoder = DIALECT.stream_decoder()
    for payload in payloads:
        decoder.feed(json.dumps(payload).encode())
    decoder.end()


# Streams, written


def written(events: list[Event], to: Answering | None = None) -> bytes:
    encoder = DIALECT.stream_encoder(to or answering())
    return b"".join(encoder.feed(event) for event in events)


def read(stream: bytes) -> list[dict[str, Any]]:
    frames = SseDecoder().feed(stream)
    assert all(frame.event == json.loads(frame.data)["type"] for frame in frames)
    return [json.loads(frame.data) for frame in frames]


def accumulated(stream: bytes) -> dict[str, Any]:
    """The message that a well-formed stream tells, with every rule of the protocol checked."""
    first, *events = read(stream)
    assert first["type"] == "message_start"
    message: dict[str, Any] = first["message"]
    texts: dict[str, Any] = {}
    current: int | None = None
    for event in events:
        match event["type"]:
            case "content_block_start":
                assert current is None
                current = event["index"]
                assert current == len(message["content"])
                message["content"].append(event["content_block"])
                texts = {}
            case "content_block_delta":
                assert event["index"] == current
                block, change = message["content"][-1], dict(event["delta"])
                kind = change.pop("type")
                if kind == "input_json_delta":
                    texts["input"] = texts.get("input", "") + change["partial_json"]
                elif kind == "citations_delta":
                    block.setdefault("citations", []).append(change["citation"])
                else:
                    ((name, text),) = change.items()
                    block[name] += text
            case "content_block_stop":
                assert event["index"] == current
                if "input" in texts:
                    message["content"][-1]["input"] = json.loads(texts["input"] or "{}")
                current = None
            case "message_delta":
                assert current is None
                assert event["delta"]["stop_reason"]
                message |= event["delta"]
                message["usage"] |= event["usage"]
            case kind:
                assert kind == "message_stop"
                assert event is events[-1]
    assert events[-1]["type"] == "message_stop"
    return message


def test_a_stream_is_written_as_it_was_read() -> None:
    response = DIALECT.decode_response(ANSWER)
    assert accumulated(written(unfold(response))) == {**ANSWER, "model": "asked-for"}


def test_interleaved_parts_are_written_one_after_the_other() -> None:
    events: list[Event] = [
        Open(0, Text("")), Delta(0, "a"), Open(1, ToolCall("c1", "f")), Open(2, ToolCall("c2", "g")),
        Delta(2, '{"y":'), Delta(1, '{"x":'), Delta(0, "b"), Delta(1, "1}"), Delta(2, "2}"), Close(1),
        Open(3, Reasoning()), Delta(3, "late"), Sealed(3, Seal("gpt", "s")),
        Finish("tool_calls"), Tally(Usage(3, output=4)), Done(), Delta(0, "after the end"),
    ]  # fmt: skip
    message = accumulated(written(events))
    said = [block.get("text", block.get("input", block.get("thinking"))) for block in message["content"]]
    assert said == ["a", {"x": 1}, "b", {"y": 2}, "late"]
    assert message["content"][4]["signature"] == wrap(Seal("gpt", "s"))
    assert (message["usage"]["input_tokens"], message["usage"]["output_tokens"]) == (3, 4)


def test_a_seal_that_comes_late_and_notes_on_a_text_are_written() -> None:
    events: list[Event] = [
        Start("i", "m", Usage(5)), Start("i", "m", Usage(6)), Open(0, Reasoning()), Delta(0, "t"), Open(1, Text("x")),
        Annotated(1, "anthropic_messages", {"citations": [{"c": 1}], "deltas": []}), Annotated(1, "other", {"z": 1}),
        Sealed(0, Seal("gpt", "s")), Close(0), Delta(1, "y"), Delta(9, "nothing"), Close(1), Delta(1, "closed"),
        Sealed(1, Seal("gpt", "s")), Finish("stop", stop_sequence="END"), Done(),
    ]  # fmt: skip
    message = accumulated(written(events))
    assert message["content"] == [
        {"type": "thinking", "thinking": "t", "signature": ""},
        {"type": "text", "text": "x", "citations": [{"c": 1}]},
        {"type": "thinking", "thinking": "", "signature": wrap(Seal("gpt", "s"))},
        {"type": "text", "text": "y"},
    ]
    assert (message["usage"]["input_tokens"], message["stop_sequence"]) == (6, "END")


def test_a_failure_among_the_events_ends_the_stream() -> None:
    events = read(written([Start("i", "m"), Open(0, Text("x")), Failure(Fault(Kind.TIMEOUT, "late")), Done()]))
    assert [event["type"] for event in events][-2:] == ["content_block_stop", "error"]
    assert read(DIALECT.stream_encoder(answering()).fail(Fault(Kind.TIMEOUT, "late"), "r"))[0]["request_id"] == "r"


parts_of_streams = st.sampled_from(
    [Text(""), Text("given"), Reasoning(), Reasoning("", Seal("claude", "d"), redacted=True), Refusal(""),
     ToolCall("i", "f"), ToolCall("", "g", seal=Seal("gemini", "t")), Media("image", "image/png", data=PNG),
     Foreign("anthropic_messages", {"type": "server_tool_use", "id": "s", "name": "n", "input": {}}),
     Foreign("other", {"type": "x"})]
)  # fmt: skip
events_of_streams = st.one_of(
    st.builds(Delta, st.integers(0, 4), st.sampled_from(["", "1", "2"])),
    st.builds(Sealed, st.integers(0, 4), st.sampled_from([Seal("claude", "s"), Seal("gpt", "e")])),
    st.builds(Close, st.integers(0, 4)),
    st.builds(Annotated, st.integers(0, 4), st.just("anthropic_messages"), st.just({"citations": [{"c": 1}]})),
    st.builds(Tally, st.builds(Usage, st.integers(0, 9))),
    st.builds(Start, st.just("id"), st.just("m")),
)


@given(st.lists(st.one_of(events_of_streams, parts_of_streams), max_size=25))
def test_any_order_of_events_is_a_well_formed_stream(drawn: list[Any]) -> None:
    indexes = iter(range(len(drawn)))
    events = [event if hasattr(event, "index") or isinstance(event, Tally | Start) else Open(next(indexes), event)
              for event in drawn]  # fmt: skip
    events = [event for event in events if not isinstance(event, Annotated) or _is_text(events, event.index)]
    accumulated(written([*events, Finish("stop"), Done()]))
    encoder = DIALECT.stream_encoder(answering())
    out = b"".join(encoder.feed(event) for event in events) + encoder.fail(Fault(Kind.TIMEOUT, "late"), "req_1")
    *before, last = read(out)
    kinds = [event["type"] for event in before]
    assert last["type"] == "error"
    assert kinds.count("content_block_start") == kinds.count("content_block_stop")
    assert not {"message_stop", "message_delta"} & set(kinds)


def _is_text(events: list[Event], index: int) -> bool:
    return any(isinstance(e, Open) and e.index == index and isinstance(e.part, Text) for e in events)


def test_frames_get_the_event_line_that_sap_leaves_out() -> None:
    assert framed(b'{"type":"ping"}') == b'event: ping\ndata: {"type":"ping"}\n\n'
    assert framed(b'{"index":0, "type" : "content_block_stop"}').startswith(b"event: content_block_stop\n")
    assert framed(b"[DONE]") == b"data: [DONE]\n\n"
    assert [frame.event for frame in SseDecoder().feed(DIALECT.keepalive)] == ["ping"]


# Errors


@pytest.mark.parametrize(
    ("fault", "status", "kind", "words"),
    [
        (Fault(Kind.OVERLOADED, "busy"), 529, "overloaded_error", "busy"),
        (Fault(Kind.RATE_LIMITED, "slow"), 429, "rate_limit_error", "slow"),
        (Fault(Kind.CONTEXT_TOO_LONG, "Input is too long."), 400, "invalid_request_error", "prompt is too long: Input"),
        (
            Fault(Kind.CONTEXT_TOO_LONG, "prompt is too long: 9 > 8"),
            400,
            "invalid_request_error",
            "prompt is too long: 9",
        ),
        (Fault(Kind.UPSTREAM_FAILED, "x", status=500), 500, "api_error", "x"),
        (Fault(Kind.TIMEOUT, "x"), 504, "timeout_error", "x"),
        (Fault(Kind.MODEL_NOT_FOUND, "x"), 404, "not_found_error", "x"),
        (Fault(Kind.TOO_LARGE, "x"), 413, "request_too_large", "x"),
        (Fault(Kind.UNAUTHENTICATED, "x"), 401, "authentication_error", "x"),
    ],
)
def test_faults_as_the_messages_api_tells_them(fault: Fault, status: int, kind: str, words: str) -> None:
    told, body = DIALECT.encode_fault(fault, "req_1")
    assert (told, body["type"], body["error"]["type"], body["request_id"]) == (status, "error", kind, "req_1")
    assert body["error"]["message"].startswith(words)


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_a_payload_of_several_lines_is_one_event(newline: bytes) -> None:
    payload = newline.join([b"{", b'"type":', b'"ping"}'])
    assert DIALECT.framed(payload) == b'event: ping\ndata: {\ndata: "type":\ndata: "ping"}\n\n'


def test_only_its_own_errors_are_read() -> None:
    own = {"type": "error", "error": {"type": "invalid_request_error", "message": "invalid beta flag"}}
    fault = DIALECT.decode_fault(400, own)
    assert fault is not None
    assert (fault.kind, fault.status, fault.message) == (Kind.MALFORMED, 400, "invalid beta flag")
    too_long = {"type": "error", "error": {"type": "invalid_request_error", "message": "prompt is too long: 3 > 2"}}
    assert DIALECT.decode_fault(400, too_long).kind is Kind.CONTEXT_TOO_LONG  # type: ignore[union-attr]
    others: list[dict[str, Any]] = [
        {"message": "x"},
        {"error": "BadRequest", "message": "x"},
        {"error": {"message": "x"}},
        {},
    ]
    assert [DIALECT.decode_fault(400, other) for other in others] == [None] * 4


# The official SDK


@contextmanager
def serving(content_type: str, body: bytes, status: int = 200) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(status)
            self.send_header("content-type", content_type)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


MIXED: list[Event] = [
    Start("", "gpt-5", created=1),
    Open(0, Reasoning()), Delta(0, "hm"), Sealed(0, Seal("gpt", "enc")), Close(0),
    Open(1, Text("")), Delta(1, "Hello "), Delta(1, "there"),
    Open(2, ToolCall("call_1", "f", seal=Seal("gemini", "ts"))), Open(3, ToolCall("call_2", "g")),
    Delta(3, '{"b": 2}'), Delta(2, '{"a"'), Delta(2, ": 1}"), Close(2), Close(3),
    Open(4, ToolCall("call_3", "h")), Close(4),
    Finish("tool_calls"), Tally(Usage(11, 3, 0, 7, 2)), Done(),
]  # fmt: skip
ASK: Any = {"model": "m", "max_tokens": 10, "messages": [{"role": "user", "content": "x"}]}


def test_the_official_sdk_takes_the_stream() -> None:
    with serving("text/event-stream", DIALECT.keepalive + written(MIXED)) as url:
        client = anthropic.Anthropic(base_url=url, api_key="k", max_retries=0)
        with client.messages.stream(**ASK) as stream:
            text = "".join(stream.text_stream)
            message = stream.get_final_message()
    assert text == "Hello there"
    assert [block.type for block in message.content] == ["thinking", "text", "redacted_thinking", *["tool_use"] * 3]
    assert {block.name: block.input for block in message.content if block.type == "tool_use"} == {
        "f": {"a": 1}, "g": {"b": 2}, "h": {},
    }  # fmt: skip
    assert message.stop_reason == "tool_use"
    assert (message.usage.input_tokens, message.usage.cache_read_input_tokens, message.usage.output_tokens) == (8, 3, 7)


def test_the_official_sdk_takes_the_answer() -> None:
    body = msgspec.json.encode(DIALECT.encode_response(fold(MIXED), answering()))
    with serving("application/json", body) as url:
        message = anthropic.Anthropic(base_url=url, api_key="k", max_retries=0).messages.create(**ASK)
    assert [block.type for block in message.content] == ["thinking", "text", "redacted_thinking", *["tool_use"] * 3]
    assert message.usage.output_tokens == 7


def test_the_official_sdk_raises_what_failed_in_mid_stream() -> None:
    encoder = DIALECT.stream_encoder(answering())
    out = b"".join(encoder.feed(event) for event in MIXED[:9]) + encoder.fail(
        Fault(Kind.OVERLOADED, "busy now"), "req_1"
    )
    with serving("text/event-stream", out) as url:
        client = anthropic.Anthropic(base_url=url, api_key="k", max_retries=0)
        with pytest.raises(anthropic.APIStatusError, match="busy now"), client.messages.stream(**ASK) as stream:
            stream.get_final_message()


def test_the_official_sdk_branches_on_the_refusal_of_threads() -> None:
    status, body = DIALECT.encode_fault(refuse_thread({"thread": {"type": "create"}}), "req_1")
    with serving("application/json", msgspec.json.encode(body), status) as url:
        client = anthropic.Anthropic(base_url=url, api_key="k", max_retries=0)
        with pytest.raises(anthropic.BadRequestError) as caught:
            client.messages.create(**ASK)
    assert caught.value.body == body


@pytest.mark.parametrize(
    ("sampling", "taken", "lost"),
    [
        (Sampling(temperature=0.5), {}, {"temperature"}),
        (Sampling(temperature=1), {"temperature": 1}, set()),
        (Sampling(top_p=0.96), {"top_p": 0.96}, set()),
        (Sampling(top_p=0.5), {}, {"top_p"}),
        (Sampling(top_k=5), {}, {"top_k"}),
    ],
)
def test_while_it_thinks_claude_takes_few_settings(sampling: Sampling, taken: dict[str, Any], lost: set[str]) -> None:
    request = asked(user("x"), sampling=sampling, reasoning=ReasoningAsk("on", budget=2000))
    told = encode(request, "anthropic--claude-4-sonnet")
    assert {name: told.body[name] for name in ("temperature", "top_p", "top_k") if name in told.body} == taken
    assert fields(told) == lost


@pytest.mark.parametrize("is_error", [True, False])
def test_a_result_without_its_call_is_what_the_user_says(is_error: bool) -> None:
    orphan = ToolResult("z", (Text("r"),), is_error=is_error)
    told = encode(asked(user("x"), user(orphan)))
    assert f"(The tool call z {'failed' if is_error else 'answered'}:)" in json.dumps(told.body["messages"])


def events_of(*told: dict[str, Any]) -> list[Event]:
    decoder = DIALECT.stream_decoder()
    return [event for each in told for event in decoder.feed(json.dumps(each).encode())]


def started(index: int, block: dict[str, Any]) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def test_blocks_are_numbered_and_a_block_may_say_all_in_its_start() -> None:
    thinking = {"type": "thinking", "thinking": "hm", "signature": "s"}
    events = events_of(
        {"type": "message_start", "message": {}}, started(0, thinking), {"type": "content_block_stop", "index": 0},
        started(1, {"type": "text", "text": "x"}), {"type": "content_block_stop", "index": 1},
        started(2, {"type": "text", "text": ""}),
    )  # fmt: skip
    assert events == [
        Start("", ""), Open(0, Reasoning("")), Delta(0, "hm"), Sealed(0, Seal("claude", "s")), Close(0),
        Open(1, Text("")), Delta(1, "x"), Close(1), Open(2, Text("")),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("delta", "noted"),
    [
        ({"type": "citations_delta", "citation": {"a": 1}}, {"citations": [{"a": 1}]}),
        ({"type": "new_delta", "b": 2}, {"deltas": [{"type": "new_delta", "b": 2}]}),
    ],
)
def test_deltas_that_only_claudes_clients_know_stay_with_their_block(delta: Any, noted: Any) -> None:
    events = events_of(
        {"type": "message_start", "message": {}}, started(0, {"type": "text", "text": ""}),
        {"type": "content_block_delta", "index": 0, "delta": delta},
    )  # fmt: skip
    assert events[-1] == Annotated(0, DIALECT.name, noted)


@pytest.mark.parametrize("content", ["a\nb", [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]])
def test_a_document_of_blocks_is_text_for_others(content: Any) -> None:
    block = {"type": "document", "source": {"type": "content", "content": content}}
    request = decode({"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": [block]}]})
    [part] = request.turns[0].parts
    assert isinstance(part, Media)
    assert (part.media_type, part.text) == ("text/plain", "a\nb")


def test_what_only_claudes_answers_have_is_kept_for_claudes_clients() -> None:
    more = {"container": {"id": "c"}, "context_management": {"applied_edits": []}, "stop_details": {"type": "refusal"}}
    told = DIALECT.encode_response(DIALECT.decode_response({**ANSWER, **more, "odd": 1}), answering())
    assert told == {**ANSWER, **more, "model": "asked-for"}
