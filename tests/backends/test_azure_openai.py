"""What goes up to an Azure OpenAI deployment: the client's bytes, but for what the model or OpenAI's API refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aicore_proxy.backends import Ask, Prepared
from aicore_proxy.backends.azure_openai import AzureOpenAI
from aicore_proxy.landscape import Deployment
from aicore_proxy.protocol.envelope import Envelope
from aicore_proxy.protocol.neutral import Encoded, Loss

CAPTURES = Path(__file__).parents[1] / "captures"
AZURE = AzureOpenAI()
HELLO = [{"role": "user", "content": "hello"}]


def deployed(model: str) -> Deployment:
    return Deployment("d1", "eu", "default", "azure-openai", model, "https://api.example/v2/inference/deployments/d1")


def relayed(members: dict[str, Any], model: str = "gpt-4.1", *, stream: bool = False) -> Prepared:
    body = json.dumps({"model": model, "messages": HELLO, **members}).encode()
    return AZURE.relayed(Envelope.parse(body), deployed(model), Ask(stream))


def sent(members: dict[str, Any], model: str = "gpt-4.1") -> dict[str, Any]:
    """What of a request goes up beside the model and a plain hello."""
    body: dict[str, Any] = json.loads(relayed(members, model).body)
    assert body.pop("model") == model
    if body["messages"] == HELLO:
        del body["messages"]
    return body


def lost(members: dict[str, Any], model: str = "gpt-4.1") -> list[str]:
    losses = relayed(members, model).losses
    assert all(loss.harmless for loss in losses)
    return [loss.field for loss in losses]


def captured() -> list[Any]:
    named = {f"{path.parent.name}/{path.stem}": json.loads(path.read_bytes()) for path in CAPTURES.glob("*/*.json")}
    chats = {name: capture["body"] for name, capture in named.items() if capture["path"].endswith("/chat/completions")}
    return [pytest.param(body, id=name) for name, body in sorted(chats.items())]


def test_paths_and_headers() -> None:
    whole, stream = relayed({}), relayed({"stream": True}, stream=True)
    assert whole.path == stream.path == "/chat/completions?api-version=2025-04-01-preview"
    assert whole.headers == (("Accept", "application/json"),)
    assert stream.headers == (("Accept", "text/event-stream"),)
    embeddings = AZURE.embeddings(Envelope.parse(b'{"input": "a"}'))
    assert embeddings.path == "/embeddings?api-version=2025-04-01-preview"
    assert json.loads(embeddings.body) == {"input": "a"}


def test_members_pass_byte_for_byte() -> None:
    body = b'{"model":"gpt-4.1", "messages" : [ {"role":"user","content":"caf\\u00e9  1.0e0"} ],"temperature":1.0E0}'
    prepared = AZURE.relayed(Envelope.parse(body), deployed("gpt-4.1"), Ask())
    assert b'[ {"role":"user","content":"caf\\u00e9  1.0e0"} ]' in prepared.body
    assert b'"temperature":1.0E0' in prepared.body
    assert prepared.losses == ()


MENDED = {"openai-python/32-prompt-cache-key-prediction-websearch", "opencode/04-chat-reasoning-replayed",
          "litellm/04-openai-tool-round-trip-turn2"}  # fmt: skip


@pytest.mark.parametrize("body", captured())
def test_captured_requests_go_up_to_classic_models_as_they_are(body: dict[str, Any], request: Any) -> None:
    prepared = AZURE.relayed(Envelope.parse(json.dumps(body).encode()), deployed("gpt-4.1"), Ask())
    changed = json.loads(prepared.body)
    effort = {"reasoning_effort"} & body.keys()
    if request.node.callspec.id in MENDED:
        assert prepared.losses
    else:
        assert changed == {name: value for name, value in body.items() if name not in effort}
        assert {loss.field for loss in prepared.losses} == effort


@pytest.mark.parametrize(
    ("model", "given", "expected"),
    [
        ("gpt-4.1", {"max_tokens": 5}, {"max_tokens": 5}),
        ("gpt-4.1", {"max_tokens": 5, "max_completion_tokens": 6}, {"max_completion_tokens": 6}),
        ("gpt-5", {"max_tokens": 5}, {"max_completion_tokens": 5}),
        ("gpt-5", {"max_tokens": None}, {}),
        ("gpt-5", {"max_tokens": 5, "max_completion_tokens": None}, {"max_completion_tokens": 5}),
        ("gpt-5", {"max_tokens": 5, "max_completion_tokens": 6}, {"max_completion_tokens": 6}),
        ("o3", {"max_completion_tokens": 6}, {"max_completion_tokens": 6}),
    ],
)
def test_the_bound_has_the_name_that_the_model_takes(model: str, given: Any, expected: Any) -> None:
    assert sent(given, model) == expected
    assert lost(given, model) == []


def test_sampling_that_the_model_refuses_is_dropped() -> None:
    asked = {"temperature": 0.2, "top_p": 0.9, "presence_penalty": 0.1, "logprobs": True, "top_logprobs": 2, "seed": 1}
    assert sent(asked, "gpt-4.1") == asked
    assert sent(asked, "gpt-5") == {"seed": 1}
    assert lost(asked, "gpt-5") == ["temperature", "top_p", "presence_penalty", "logprobs", "top_logprobs"]
    assert sent({"temperature": 1}, "gpt-5") == {"temperature": 1}
    assert sent({"temperature": 1.0}, "o3") == {"temperature": 1.0}


TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]


@pytest.mark.parametrize(
    ("model", "given", "effort", "losses"),
    [
        ("gpt-5", {"reasoning_effort": "low"}, "low", []),
        ("gpt-5", {"reasoning_effort": "low", "tools": TOOLS}, "low", []),
        ("gpt-5", {"reasoning_effort": "xhigh"}, "high", ["reasoning_effort"]),
        ("gpt-5.2", {"reasoning_effort": "minimal"}, "low", ["reasoning_effort"]),
        ("gpt-5.2", {"reasoning_effort": "high", "tools": TOOLS}, None, ["reasoning_effort"]),
        ("gpt-5.2", {"reasoning_effort": "high", "functions": [{"name": "f"}]}, None, ["reasoning_effort"]),
        ("gpt-5.2", {"reasoning_effort": "high", "tools": []}, "high", []),
        ("gpt-5.2", {"reasoning_effort": "none"}, "none", []),
        ("gpt-4.1", {"reasoning_effort": "low"}, None, ["reasoning_effort"]),
        ("gpt-5", {"reasoning": {"effort": "low"}}, "low", []),
        ("gpt-5", {"reasoning": {"effort": "low", "summary": "auto"}}, "low", ["reasoning.summary"]),
        ("gpt-5", {"thinking": {"type": "enabled", "budget_tokens": 30000}}, "high", []),
        ("gpt-5.2", {"thinking": {"type": "disabled"}}, "none", []),
        ("gpt-4.1", {"thinking": {"type": "disabled"}}, None, []),
        ("gpt-5", {"reasoning_effort": None}, None, []),
    ],
)
def test_effort_is_what_the_model_takes(model: str, given: Any, effort: str | None, losses: list[str]) -> None:
    tools = {name: value for name, value in given.items() if name in ("tools", "functions")}
    assert sent(given, model) == tools | ({"reasoning_effort": effort} if effort else {})
    assert lost(given, model) == losses


def test_an_effort_of_the_wrong_type_is_for_the_upstream_to_judge() -> None:
    assert sent({"reasoning_effort": 5}, "gpt-5") == {"reasoning_effort": 5}


def test_members_of_other_vendors_are_dropped_and_openais_own_pass() -> None:
    openai = {"store": False, "metadata": {"a": "b"}, "user": "u", "safety_identifier": "s", "prompt_cache_key": "k",
              "service_tier": "auto", "prediction": {"type": "content", "content": "x"}, "modalities": ["text"],
              "parallel_tool_calls": True, "stream_options": {"include_usage": True}}  # fmt: skip
    assert sent({**openai, "top_k": 5, "web_search_options": {}, "provider": {}}) == openai
    assert lost({"top_k": 5, "web_search_options": {}, "min_p": None}) == ["top_k", "web_search_options"]
    assert sent({"verbosity": "low"}, "gpt-5") == {"verbosity": "low"}
    assert lost({"verbosity": "low"}, "gpt-4.1") == ["verbosity"]
    assert lost({"parallel_tool_calls": False}, "o3") == ["parallel_tool_calls"]


def test_what_openai_does_not_take_in_messages_and_tools_is_taken_out() -> None:
    long_id = "chatcmpl-tool-0123456789abcdef0123456789abcdef"
    mark = {"cache_control": {"type": "ephemeral"}}
    given = {
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": "s", **mark}]},
            {"role": "user", "content": "u", **mark},
            {
                "role": "assistant",
                "content": [{"type": "thinking", "thinking": "t", "signature": "s"}, {"type": "text", "text": "a"}],
                "reasoning_content": "t",
                "thinking_blocks": [],
                "tool_calls": [
                    {"id": long_id, "type": "function", "function": {"name": "f", "arguments": "{}"}, **mark,
                     "provider_specific_fields": {}},
                ],
            },
            {"role": "tool", "tool_call_id": long_id, "content": "r"},
        ],
        "tools": [{**TOOLS[0], **mark}, {"type": "function", "function": {"name": "g", **mark}}],
    }  # fmt: skip
    body = sent(given)
    call = body["messages"][2]["tool_calls"][0]
    assert body["messages"] == [
        {"role": "system", "content": [{"type": "text", "text": "s"}]},
        {"role": "user", "content": "u"},
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "a"}],
            "tool_calls": [{"id": call["id"], "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": call["id"], "content": "r"},
    ]
    assert len(call["id"]) <= 40
    assert body["tools"] == [*TOOLS, {"type": "function", "function": {"name": "g"}}]
    assert lost(given) == [
        "messages.cache_control",
        "messages.content.cache_control",
        "messages.content.thinking",
        "messages.reasoning_content",
        "messages.thinking_blocks",
        "messages.tool_calls.cache_control",
        "messages.tool_calls.provider_specific_fields",
        "tools.cache_control",
    ]


@pytest.mark.parametrize("message", [
    {"role": "user", "content": "u", "cache_control": {"type": "ephemeral"}},
    {"role": "user", "content": [{"type": "text", "text": "u", "cache_control": {"type": "ephemeral"}}]},
    {"role": "assistant", "content": "a", "reasoning_content": "t"},
    {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "t"}]},
    {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "provider_specific_fields": {}}]},
    {"role": "tool", "tool_call_id": "c" * 41, "content": "r"},
    {"role": "user", "content": 'say "reasoning_content" and "cache_control"'},
    {"role": "tool", "tool_call_id": "c" * 40, "content": [{"type": "text", "text": "thinking"}]},
    "thinking",
    {"content": [5], "tool_calls": ["reasoning"]},
])  # fmt: skip
def test_a_large_conversation_is_mended_like_a_small_one(message: Any) -> None:
    padding = {"role": "user", "content": "x" * 300_000}
    small, large = ({"messages": [message, *more]} for more in ((), (padding,)))
    assert sent(large)["messages"] == [*sent(small)["messages"], padding]
    assert lost(large) == lost(small)


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "reasoning"}],
        [{"role": "user", "content": 'say "reasoning_content" and "cache_control"'}],
        [{"role": "user", "content": "x"}, {"role": "tool", "tool_call_id": "a" * 40, "content": "x"}],
        "nonsense with thinking",
        ["reasoning", 5, {"content": {"cache_control": 1}}],
    ],
)
def test_messages_that_only_look_like_it_pass_byte_for_byte(messages: Any) -> None:
    raw = json.dumps(messages, separators=(" , ", " : ")).encode()
    body = b'{"messages":' + raw + b"}"
    prepared = AZURE.relayed(Envelope.parse(body), deployed("gpt-4.1"), Ask())
    assert raw in prepared.body
    assert prepared.losses == ()


def test_a_translated_body_goes_up_as_the_encoder_wrote_it() -> None:
    losses = (Loss("top_k", "openai_chat"),)
    prepared = AZURE.translated(Encoded({"messages": HELLO}, losses), deployed("gpt-5"), Ask(stream=True))
    assert json.loads(prepared.body) == {"messages": HELLO}
    assert prepared.losses == losses
    assert prepared.headers == (("Accept", "text/event-stream"),)
