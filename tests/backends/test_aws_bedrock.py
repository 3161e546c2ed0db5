"""Claude on Bedrock: what goes up is only what SAP's deployments take (wire facts 4.3), the rest byte for byte."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aicore_proxy.backends import Ask, Prepared
from aicore_proxy.backends.aws_bedrock import AwsBedrock
from aicore_proxy.landscape import Deployment, spellings
from aicore_proxy.protocol.dialects import Decoding, Target
from aicore_proxy.protocol.dialects.anthropic_messages import DIALECT
from aicore_proxy.protocol.envelope import Envelope
from aicore_proxy.protocol.fault import Fault, Kind
from aicore_proxy.protocol.neutral import Request, Seal, Text, Turn
from aicore_proxy.protocol.profiles import profile_of
from aicore_proxy.protocol.seal import native, wrap

CAPTURES = Path(__file__).parents[1] / "captures"
BEDROCK = AwsBedrock()
HI: Any = [{"role": "user", "content": "Hi"}]
CUSTOM: Any = {"name": "f", "input_schema": {"type": "object"}}
REFUSED_BETAS = ("prompt-caching-2024-07-31", "structured-outputs-2025-12-15", "thinking-token-count-2026-05-13")


def deployment(model: str) -> Deployment:
    return Deployment("d1", "eu", "default", "aws-bedrock", f"anthropic--claude-{model}", "https://x/d1")


def prepare(body: Any, model: str = "4.5-sonnet", betas: tuple[str, ...] = (), *, stream: bool = False) -> Prepared:
    text = (
        body
        if isinstance(body, bytes)
        else json.dumps({"model": "m", "max_tokens": 10, "messages": HI} | body).encode()
    )
    prepared = BEDROCK.relayed(Envelope.parse(text), deployment(model), Ask(stream, betas))
    # A large body is read ahead, in steps: that changes nothing
    envelope = Envelope.parse(text)
    for _ in BEDROCK.read_ahead(envelope):
        pass
    assert BEDROCK.relayed(envelope, deployment(model), Ask(stream, betas)) == prepared
    return prepared


def sent(prepared: Prepared) -> Any:
    return json.loads(prepared.body)


def lost(prepared: Prepared, *, harmless: bool = True) -> list[str]:
    return [loss.field for loss in prepared.losses if loss.harmless is harmless]


# A second opinion on what Bedrock takes, from the wire page alone

TOP = {
    "anthropic_version", "anthropic_beta", "messages", "system", "max_tokens", "stop_sequences", "temperature", "top_p",
    "top_k", "tools", "tool_choice", "thinking", "output_config", "context_management",
}  # fmt: skip
KNOWN = {"text", "image", "document", "thinking", "redacted_thinking", "tool_use", "tool_result", "search_result"}


def refusals(body: dict[str, Any], model: str) -> Iterator[str]:
    """Why Bedrock would answer 400."""
    profile = profile_of(f"anthropic--claude-{model}")
    yield from (f"unknown member {name}" for name in body.keys() - TOP)
    if body["anthropic_version"] != "bedrock-2023-05-31":
        yield "anthropic_version"
    if set(body.get("anthropic_beta", ())) & set(REFUSED_BETAS):
        yield "invalid beta flag"
    for tool in body.get("tools", ()):
        if tool.get("type", "custom") != "custom" or tool["input_schema"]["type"] != "object":
            yield f"tool {tool['name']}"
        if tool.keys() - {"name", "description", "input_schema", "type", "cache_control"}:
            yield f"extra inputs on the tool {tool['name']}"
    roles = [message["role"] for message in body["messages"]]
    if "system" in roles and not (
        profile.mid_system and "mid-conversation-system-2026-04-07" in body["anthropic_beta"]
    ):
        yield "role 'system' is not supported on this model"
    for message in body["messages"]:
        if message.keys() - {"role", "content"}:
            yield "extra inputs on a message"
        for block in message["content"] if isinstance(message["content"], list) else ():
            yield from block_refusals(block)
    thinking = body.get("thinking", {})
    last = [message["content"] for message in body["messages"] if message["role"] == "assistant"][-1:]
    if thinking.get("type") == "enabled" and "tool_result" in json.dumps(body["messages"][-1]) and last:
        kinds = [block["type"] for block in last[0]]
        if "tool_use" in kinds and kinds[0] not in ("thinking", "redacted_thinking"):
            yield "a tool loop that did not begin with thinking"
    if thinking.keys() - {"type", "budget_tokens"} or (profile.thinking == "adaptive" and "budget_tokens" in thinking):
        yield "thinking"
    if profile.thinking == "adaptive" and body.keys() & {"temperature", "top_p", "top_k"}:
        yield "sampling"
    if "effort" in body.get("output_config", {}) and "effort-2025-11-24" not in body["anthropic_beta"]:
        yield "effort without its beta"
    if "context_management" in body and "context-management-2025-06-27" not in body["anthropic_beta"]:
        yield "context_management without its beta"


def block_refusals(block: dict[str, Any]) -> Iterator[str]:
    if block["type"] not in KNOWN:
        yield f"block {block['type']}"
    if block["type"] == "text" and not block["text"].strip():
        yield "text content blocks must contain non-whitespace text"
    if block.get("cache_control", {}).keys() - {"type", "ttl"}:
        yield "cache_control"
    for inner in block["content"] if isinstance(block.get("content"), list) and block["type"] == "tool_result" else ():
        yield from block_refusals(inner)


def captures() -> list[Any]:
    found = []
    for path in sorted(CAPTURES.glob("*/*.json")):
        capture = json.loads(path.read_text())
        where = str(capture["path"])
        if ("messages" in where or "invoke" in where) and "count_tokens" not in where:
            found.append(pytest.param(f"{path.parent.name}/{path.name}", capture, id=f"{path.parent.name}/{path.name}"))
    return found


REFUSED = {
    "claude-code/14-web-search-server-tool.json": {"tools.web_search"},
}
"""Captures that cannot be answered, with what is named."""


@pytest.mark.parametrize(("name", "capture"), captures())
@pytest.mark.parametrize("translated", [False, True], ids=["relayed", "translated"])
def test_requests_of_real_clients_become_what_bedrock_takes(
    name: str, capture: dict[str, Any], translated: bool
) -> None:
    body = capture["body"]
    named = str(body.get("model") or "claude-sonnet-4-5")
    model = next(s for s in spellings(named) if s.startswith("claude-") and s[7].isdigit()).removeprefix("claude-")
    headers = {name.lower(): value for name, value in capture["headers"].items()}
    betas = tuple(filter(None, headers.get("anthropic-beta", "").split(",")))
    if translated:
        request = DIALECT.decode_request(body, Decoding(model="m", betas=betas))
        target = deployment(model)
        encoded = DIALECT.encode_request(request, Target(target.model, profile_of(target.model), native("claude")))
        prepared = BEDROCK.translated(encoded, target, Ask(False, betas))
    else:
        prepared = prepare(json.dumps(body).encode(), model, betas)
    refused = REFUSED.get(name, set())
    assert set(lost(prepared, harmless=False)) == refused
    if not refused:
        assert list(refusals(sent(prepared), model)) == []


# Bytes


def test_what_needs_no_edit_stays_byte_for_byte() -> None:
    body = (
        b'{ "stream" : true, "max_tokens":  10, "messages": [ {"role":"user", "content":"1.0e2 \\u00e9 \xc3\xa9"} ],'
        b'\n "tools":[ {"name":"f","input_schema":{ "type":"object" }} ], "model":"m", "top_k": 1.50 }'
    )
    prepared = prepare(body, stream=True)
    assert prepared.path == "/invoke-with-response-stream"
    assert prepared.headers == (("Accept", "application/json"),)
    for kept in (
        b'"max_tokens":10',
        b'[ {"role":"user", "content":"1.0e2 \\u00e9 \xc3\xa9"} ]',
        b'[ {"name":"f","input_schema":{ "type":"object" }} ]',
        b'"top_k":1.50',
    ):
        assert kept in prepared.body
    assert sent(prepared).keys() == {"max_tokens", "messages", "tools", "top_k", "anthropic_version"}
    assert prepared.losses == ()
    assert prepare({}).path == "/invoke"


def test_only_the_edited_tool_is_written_anew() -> None:
    schema = b'{ "type":"object", "properties":{"a":{"default":1.50}} }'
    body = (
        b'{"max_tokens":1,"messages":[{"role":"user","content":"x"}],"tools":[{"name":"a","input_schema":'
        + schema
        + b'},{"name":"b","defer_loading":true,"input_schema":'
        + schema
        + b"}]}"
    )
    prepared = prepare(body)
    assert prepared.body.count(schema) == 2
    assert lost(prepared) == ["tools.defer_loading"]


def test_the_clients_request_is_never_changed_so_that_another_attempt_can_use_it() -> None:
    text = json.dumps({
        "messages": [*HI, {"role": "system", "content": [{"type": "text", "text": "s"}]}], "max_tokens": 1,
        "tools": [{**CUSTOM, "strict": True}], "thinking": {"type": "enabled", "budget_tokens": 5000, "display": "x"},
        "output_config": {"effort": "max"}, "cache_control": {"type": "ephemeral", "scope": "s"},
    }).encode()  # fmt: skip
    envelope = Envelope.parse(text)
    first = [BEDROCK.relayed(envelope, deployment(model), Ask()) for model in ("4.8-opus", "4.5-sonnet", "3.5-sonnet")]
    again = [BEDROCK.relayed(envelope, deployment(model), Ask()) for model in ("4.8-opus", "4.5-sonnet", "3.5-sonnet")]
    assert first == again
    assert envelope.decoded() == json.loads(text)


# Members


def test_betas_of_header_and_body_pass_where_they_are_known_as_accepted() -> None:
    header = ("claude-code-20250219", "context-1m-2025-08-07", "advanced-tool-use-2025-11-20", *REFUSED_BETAS)
    body = {"anthropic_beta": ["claude-code-20250219", "interleaved-thinking-2025-05-14", "brand-new-2027-01-01"]}
    prepared = prepare(body, betas=header)
    assert sent(prepared)["anthropic_beta"] == [
        "claude-code-20250219",
        "context-1m-2025-08-07",
        "tool-search-tool-2025-10-19",
        "interleaved-thinking-2025-05-14",
    ]
    assert lost(prepared) == [f"anthropic-beta.{flag}" for flag in (*REFUSED_BETAS, "brand-new-2027-01-01")]
    assert "anthropic_beta" not in sent(prepare({"anthropic_beta": ["x"]}))
    assert sent(prepare({}, "3.5-sonnet", ("interleaved-thinking-2025-05-14",))).get("anthropic_beta") is None


def test_context_management_goes_with_its_beta_only() -> None:
    body = {"context_management": {"edits": []}}
    assert lost(prepare(body)) == ["context_management"]
    kept = prepare(body, betas=("context-management-2025-06-27",))
    assert (sent(kept)["context_management"], kept.losses) == ({"edits": []}, ())


def test_unknown_members_are_dropped_and_named() -> None:
    names = ["metadata", "safeguards", "container", "mcp_servers", "service_tier", "inference_geo", "speed", "newest"]
    prepared = prepare({name: {"x": 1} for name in names} | {"thread": None})
    assert sent(prepared).keys() == {"max_tokens", "messages", "anthropic_version"}
    assert lost(prepared) == names


@pytest.mark.parametrize(
    ("model", "body", "wanted", "named"),
    [
        ("4.8-opus", {"thinking": {"type": "enabled", "budget_tokens": 5000}},
         {"thinking": {"type": "adaptive"}, "output_config": {"effort": "medium"}}, ["thinking.budget_tokens"]),
        ("4.8-opus", {"thinking": {"type": "enabled", "budget_tokens": 5000}, "output_config": {"effort": "max"}},
         {"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}}, ["thinking.budget_tokens"]),
        ("4.5-sonnet", {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}, "max_tokens": 9000},
         {"thinking": {"type": "enabled", "budget_tokens": 2048}}, ["thinking.type", "output_config.effort"]),
        ("4.5-sonnet", {"thinking": {"type": "adaptive"}, "max_tokens": 1024},
         {"thinking": {"type": "disabled"}}, ["thinking"]),
        ("4.5-sonnet", {"thinking": {"type": "adaptive"}, "max_tokens": 1025},
         {"thinking": {"type": "enabled", "budget_tokens": 1024}}, ["thinking.type"]),
        ("4.6-opus", {"thinking": {"type": "adaptive", "display": "omitted"}, "output_config": {"effort": "xhigh"}},
         {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}},
         ["thinking.display", "output_config.effort"]),
        ("5.5-sonnet", {"thinking": {"type": "adaptive", "block_binding": {"prefix_mismatch_behavior": "drop_block"}}},
         {"thinking": {"type": "adaptive"}}, ["thinking.block_binding"]),
        ("4.6-opus", {"thinking": {"type": "enabled", "budget_tokens": 5000}},
         {"thinking": {"type": "enabled", "budget_tokens": 5000}}, []),
        ("3.5-sonnet", {"thinking": {"type": "enabled", "budget_tokens": 5000}}, {}, ["thinking"]),
        ("3.5-sonnet", {"thinking": {"type": "disabled"}}, {}, []),
        ("4.8-opus", {"thinking": {"type": "disabled"}, "temperature": 1, "top_p": 0.9},
         {"thinking": {"type": "disabled"}}, ["top_p"]),
        ("4.5-sonnet", {"temperature": 0.5, "top_p": 0.9}, {"temperature": 0.5}, ["top_p"]),
        ("4.5-sonnet", {"temperature": 1.0, "top_p": 0.9}, {"top_p": 0.9}, []),
        ("3.5-sonnet", {"temperature": 0.5, "top_p": 0.9}, {"temperature": 0.5, "top_p": 0.9}, []),
        ("4.5-sonnet", {"output_format": {"type": "json_schema", "schema": {}}},
         {"output_config": {"format": {"type": "json_schema", "schema": {}}}}, []),
        ("4.5-sonnet", {"output_config": {"format": {"type": "json_schema", "schema": {}}, "task_budget": 1}},
         {"output_config": {"format": {"type": "json_schema", "schema": {}}}}, ["output_config.task_budget"]),
    ],
)  # fmt: skip
def test_how_to_answer_fits_the_model(model: str, body: Any, wanted: Any, named: list[str]) -> None:
    prepared = prepare(body, model)
    names = ("thinking", "output_config", "temperature", "top_p")
    assert {name: sent(prepared)[name] for name in names if name in sent(prepared)} == wanted
    assert lost(prepared) == named


def test_a_schema_that_the_model_cannot_keep_is_refused() -> None:
    prepared = prepare({"output_format": {"type": "json_schema", "schema": {}}}, "4-sonnet")
    assert lost(prepared, harmless=False) == ["output_config.format"]


def test_tools_are_custom_ones_with_known_members() -> None:
    extra = {"defer_loading": True, "eager_input_streaming": False, "input_examples": [{}], "strict": True, "newest": 1}
    prepared = prepare({
        "tools": [
            {**CUSTOM, **extra, "type": "custom", "cache_control": {"type": "ephemeral", "scope": "global"}},
            {"name": "typeless", "input_schema": {"properties": {}}},
            {"name": "bare"},
            {"type": "bash_20250124", "name": "bash"},
            {"type": "mcp_toolset", "mcp_server_name": "s"},
        ],
        "tool_choice": {"type": "any"},
    })  # fmt: skip
    assert sent(prepared)["tools"] == [
        {**CUSTOM, "type": "custom", "cache_control": {"type": "ephemeral"}},
        {"name": "typeless", "input_schema": {"properties": {}, "type": "object"}},
        {"name": "bare", "input_schema": {"type": "object", "properties": {}}},
    ]
    assert sorted(lost(prepared)) == sorted(
        ["tools.bash", "tools.mcp_toolset", "cache_control.scope", "tools.newest"]
        + [f"tools.{name}" for name, value in extra.items() if value and name != "newest"]
    )


@pytest.mark.parametrize(
    ("tools", "choice", "named"),
    [
        (
            [{"type": "web_search_20250305", "name": "web_search"}],
            {"type": "tool", "name": "web_search"},
            ["tools.web_search"],
        ),
        ([{"type": "web_search_20250305", "name": "web_search"}], {"type": "any"}, ["tools.web_search"]),
        ([{"type": "web_search_20250305", "name": "web_search"}], {"type": "auto"}, []),
        ([{"type": "web_search_20250305", "name": "web_search"}, CUSTOM], {"type": "any"}, []),
        ([{"type": "web_search_20250305", "name": "web_search"}, CUSTOM], {"type": "tool", "name": "f"}, []),
    ],
)
def test_a_forced_server_tool_is_refused_by_name(tools: Any, choice: Any, named: list[str]) -> None:
    prepared = prepare({"tools": tools, "tool_choice": choice})
    assert lost(prepared, harmless=False) == named
    assert ("tools" in sent(prepared)) == ("tool_choice" in sent(prepared)) == (CUSTOM in tools)


# The conversation


def blocks(*content: Any, role: str = "user") -> Any:
    return {"role": role, "content": list(content)}


def text(words: str, **more: Any) -> Any:
    return {"type": "text", "text": words, **more}


def told(words: str) -> Any:
    return text(f"<system-reminder>\n{words}\n</system-reminder>")


def test_blocks_are_cut_to_what_bedrock_knows() -> None:
    system = [text(" "), text("s", cache_control={"type": "ephemeral", "scope": "x"})]
    prepared = prepare({"system": system, "messages": [
        blocks(text("q"), text("\n")),
        blocks(
            {"type": "thinking", "thinking": "t", "signature": "c2ln"},
            text("a", citations=[], parsed_output=None),
            {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
            {"type": "tool_use", "id": "t", "name": "f", "input": {}, "caller": {"type": "direct"}},
            role="assistant",
        ),
        blocks(
            {"type": "tool_result", "tool_use_id": "t", "content": [
                {"type": "tool_reference", "tool_name": "g"}, text(""), text("r", cache_control={"type": "ephemeral"}),
            ]},
        ),
    ]})  # fmt: skip
    assert sent(prepared)["system"] == [text("s", cache_control={"type": "ephemeral"})]
    assert sent(prepared)["messages"] == [
        blocks(text("q")),
        blocks(
            {"type": "thinking", "thinking": "t", "signature": "c2ln"},
            text("a", citations=[]),
            {"type": "tool_use", "id": "t", "name": "f", "input": {}},
            role="assistant",
        ),
        blocks(
            {"type": "tool_result", "tool_use_id": "t", "content": [
                text("The tool g is available now."), text("r", cache_control={"type": "ephemeral"}),
            ]},
        ),
    ]  # fmt: skip
    assert set(lost(prepared)) == {
        "messages.content.server_tool_use", "messages.content.tool_use.caller", "cache_control.scope",
        "messages.content.tool_result.tool_reference",
    }  # fmt: skip


def test_a_block_that_bedrock_does_not_know_refuses_where_the_user_says_something_with_it() -> None:
    prepared = prepare({"messages": [blocks(text("q"), {"type": "container_upload", "file_id": "f"})]})
    assert lost(prepared, harmless=False) == ["messages.content.container_upload"]


def test_thoughts_of_other_models_stay_behind() -> None:
    foreign = {"type": "thinking", "thinking": "t", "signature": wrap(Seal("gpt", "enc"))}
    sealed = {"type": "redacted_thinking", "data": wrap(Seal("gemini", "ts"))}
    call = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    answer = blocks({"type": "tool_result", "tool_use_id": "t", "content": "r"})
    for cut in (foreign, sealed, {"type": "thinking", "thinking": "t", "signature": ""}):
        body = {
            "messages": [*HI, blocks(cut, call, role="assistant"), answer],
            "thinking": {"type": "enabled", "budget_tokens": 2000},
        }
        prepared = prepare(body)
        assert sent(prepared)["messages"][1] == blocks(call, role="assistant")
        # A tool loop that Claude did not begin with thoughts of its own bears no more of them
        assert sent(prepared)["thinking"] == {"type": "disabled"}
        assert lost(prepared) == ["messages.content.thinking", "thinking"]
        assert sent(prepare(body, "4.6-opus"))["thinking"] == {"type": "adaptive"}
    body = {"messages": [*HI, blocks(call, role="assistant"), answer], "thinking": {"type": "adaptive"}}
    assert sent(prepare(body))["thinking"] == {"type": "disabled"}
    assert sent(prepare(body, "4.8-opus"))["thinking"] == {"type": "adaptive"}
    body["thinking"] = {"type": "enabled", "budget_tokens": 2000}
    assert sent(prepare(body))["thinking"] == {"type": "disabled"}
    assert sent(prepare({**body, "messages": [*body["messages"], *HI]}))["thinking"] == body["thinking"]
    own = {"type": "thinking", "thinking": "t", "signature": "c2ln"}
    kept = prepare(
        {"messages": [*HI, blocks(own, foreign, call, role="assistant"), answer], "thinking": body["thinking"]}
    )
    assert sent(kept)["messages"][1] == blocks(own, call, role="assistant")
    assert sent(kept)["thinking"] == body["thinking"]


def test_a_file_is_refused_by_name_and_a_url_left_to_bedrock() -> None:
    for kind, named in (("url", []), ("file", ["image.source.file"])):
        image = {"type": "image", "source": {"type": kind, kind: "x"}}
        for message in (blocks(image), blocks({"type": "tool_result", "tool_use_id": "t", "content": [image]})):
            prepared = prepare({"messages": [message]})
            assert [field[-len("image.source.file") :] for field in lost(prepared, harmless=False)] == named
            assert sent(prepared)["messages"] == [message]


def test_system_messages_in_the_middle() -> None:
    call = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    answer = {"type": "tool_result", "tool_use_id": "t", "content": "r"}
    body = {"messages": [
        {"role": "user", "content": "q"},
        {"role": "system", "content": "one", "output_config": {"effort": "low"}},
        blocks(call, role="assistant"),
        {"role": "system", "content": [text("two")]},
        blocks(answer, text("u")),
        {"role": "system", "content": [text("three")]},
    ]}  # fmt: skip
    old, new = prepare(body), prepare(body, "4.8-opus")
    assert sent(old)["messages"] == [
        blocks(text("q"), told("one")),
        blocks(call, role="assistant"),
        blocks(answer, told("two"), text("u"), told("three")),
    ]
    assert sent(new)["messages"] == [
        {"role": "user", "content": "q"},
        {"role": "system", "content": "one"},
        blocks(call, role="assistant"),
        # "role 'system' must precede an 'assistant' message or end the array"
        blocks(answer, told("two"), text("u")),
        blocks(text("three"), role="system"),
    ]
    assert sent(new)["anthropic_beta"] == ["mid-conversation-system-2026-04-07"]
    assert lost(old) == lost(new) == ["messages.output_config"]
    assert "anthropic_beta" not in sent(old)


def test_system_messages_where_claude_takes_none() -> None:
    body = {"messages": [
        {"role": "system", "content": "first"},
        {"role": "user", "content": "q"},
        blocks(text("a"), role="assistant"),
        {"role": "system", "content": "<system-reminder>x</system-reminder>"},
        blocks(text("b"), role="assistant"),
        {"role": "system", "content": "last"},
    ]}  # fmt: skip
    for model in ("4.5-sonnet", "4.8-opus"):
        assert sent(prepare(body, model))["messages"] == [
            blocks(told("first"), text("q")),
            blocks(text("a"), role="assistant"),
            blocks(text("<system-reminder>x</system-reminder>")),
            blocks(text("b"), role="assistant"),
            blocks(told("last")),
        ]


def test_a_longer_history_does_not_change_what_was_sent_before() -> None:
    turns: list[Any] = []
    before: list[Any] = []
    for number in range(6):
        turns += [blocks(text(f"q{number}")), {"role": "system", "content": f"s{number}"}]
        now = sent(prepare({"messages": turns}))["messages"]
        assert now[: len(before)] == before
        turns.append(blocks(text(f"a{number}"), role="assistant"))
        before = sent(prepare({"messages": turns}))["messages"]


def test_automatic_caching_becomes_a_mark_at_the_end() -> None:
    mark = {"type": "ephemeral", "ttl": "1h"}
    prepared = prepare({"cache_control": {**mark, "scope": "x"}})
    assert sent(prepared)["messages"] == [blocks(text("Hi", cache_control=mark))]
    assert lost(prepared) == ["cache_control.scope"]
    full = {"system": [text(str(number), cache_control=mark) for number in range(4)], "cache_control": mark}
    assert lost(prepare(full)) == ["cache_control"]
    thought = {"messages": [*HI, blocks({"type": "thinking", "thinking": "t", "signature": "s"}, role="assistant")]}
    assert sent(prepare({**thought, "cache_control": mark}))["messages"] == thought["messages"]


def test_empty_messages_and_systems_are_left_out_but_not_the_last_message() -> None:
    prepared = prepare({"system": " ", "messages": [blocks(text("")), {"role": "user", "content": "x"}]})
    assert sent(prepared).keys() == {"max_tokens", "messages", "anthropic_version"}
    assert sent(prepared)["messages"] == [{"role": "user", "content": "x"}]
    assert sent(prepare({"messages": [{"role": "user", "content": ""}]}))["messages"] == [
        {"role": "user", "content": ""}
    ]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": "x"}, "messages"),
        ({"tools": [1]}, "tools"),
        ({"thinking": 1}, "thinking"),
        ({"system": 3}, "system"),
    ],
)
def test_wrong_types_are_named(body: Any, param: str) -> None:
    with pytest.raises(Fault) as caught:
        prepare(body)
    assert (caught.value.kind, caught.value.param) == (Kind.MALFORMED, param)


@pytest.mark.parametrize("body", [{"messages": [1, {"role": 2}, {"content": [3, {"type": 4}, {}]}]}, {"messages": []}])
def test_what_makes_no_sense_is_left_to_bedrock(body: Any) -> None:
    assert sent(prepare(body))["messages"] == body["messages"]


def test_a_translated_request_goes_through_the_same_edits() -> None:
    request = Request("openai_chat", "gpt", (Turn("user", (Text("q"),)),), user="u", stream=True)
    target = deployment("4.5-sonnet")
    encoded = DIALECT.encode_request(request, Target(target.model, profile_of(target.model), native("claude")))
    prepared = BEDROCK.translated(encoded, target, Ask(stream=True))
    assert sent(prepared) == {
        "max_tokens": 32000, "messages": [{"role": "user", "content": "q"}], "anthropic_version": "bedrock-2023-05-31",
    }  # fmt: skip
    assert lost(prepared) == ["user"]
