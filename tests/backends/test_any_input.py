"""Whatever JSON a client sends: a relay takes it up or refuses it with a Fault, and never fails itself."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicore_proxy.backends import Ask, Backend, Prepared
from aicore_proxy.backends.aws_bedrock import AwsBedrock
from aicore_proxy.backends.azure_openai import AzureOpenAI
from aicore_proxy.backends.gcp_vertexai import GcpVertexAI
from aicore_proxy.landscape import Deployment
from aicore_proxy.protocol.envelope import Envelope
from aicore_proxy.protocol.fault import Fault, Kind

NAMES = [
    "type",
    "role",
    "content",
    "text",
    "messages",
    "system",
    "contents",
    "parts",
    "tools",
    "tool_choice",
    "function",
    "name",
    "parameters",
    "input_schema",
    "thinking",
    "reasoning_content",
    "cache_control",
    "scope",
    "signature",
    "tool_calls",
    "tool_call_id",
    "id",
    "tool_use_id",
    "source",
    "url",
    "data",
    "output_config",
    "format",
    "effort",
    "output_format",
    "budget_tokens",
    "display",
    "max_tokens",
    "temperature",
    "top_p",
    "stop",
    "metadata",
    "context_management",
    "anthropic_beta",
    "generationConfig",
    "functionCall",
    "functionResponse",
    "thoughtSignature",
    "reasoning_effort",
    "provider_specific_fields",
    "n",
    "thread",
]
WORDS = [
    "text",
    "thinking",
    "redacted_thinking",
    "tool_use",
    "tool_result",
    "image",
    "document",
    "user",
    "assistant",
    "system",
    "enabled",
    "adaptive",
]
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2**70) | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", " ", "YWljcDEuZ3B0Lng=", "x" * 50, *WORDS]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=25,
)  # fmt: skip
NODES = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=4)
TURNS = st.lists(
    st.builds(lambda node, parts: {**node, "content": parts, "parts": parts}, NODES, st.lists(NODES, max_size=3))
)
BODIES = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=4) | st.builds(
    lambda turns, node: {**node, "messages": turns, "contents": turns, "tools": turns}, TURNS, NODES
)
RELAYS: list[tuple[Backend, str]] = [
    (AzureOpenAI(), "gpt-4o"),
    (AzureOpenAI(), "gpt-5.4"),
    (AwsBedrock(), "anthropic--claude-4.5-sonnet"),
    (AwsBedrock(), "anthropic--claude-5.5-opus"),
    (GcpVertexAI(), "gemini-2.5-pro"),
    (GcpVertexAI(), "gemini-3.5-flash"),
]


@pytest.mark.parametrize(("backend", "model"), RELAYS, ids=[model for _, model in RELAYS])
@given(body=BODIES)
def test_no_body_makes_a_relay_fail(backend: Backend, model: str, body: dict[str, Any]) -> None:
    deployment = Deployment("d1", "eu", "default", "any", model, "https://api.example/d1")
    ways: list[Prepared | Kind] = []
    for ahead in (False, True):
        envelope = Envelope.parse(json.dumps(body).encode())
        try:
            if ahead:
                list(backend.read_ahead(envelope))
            ways.append(backend.relayed(envelope, deployment, Ask(stream=True, betas=("x",))))
        except Fault as fault:
            ways.append(fault.kind)

    prepared = ways[0]
    assert ways[1] == prepared, "a large body is read ahead, in steps: that changes nothing"
    if isinstance(prepared, Kind):
        assert prepared in (Kind.MALFORMED, Kind.UNSUPPORTED)
    else:
        assert isinstance(json.loads(prepared.body), dict)
