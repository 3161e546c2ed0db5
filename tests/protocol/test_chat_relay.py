"""What a relayed Chat request holds that OpenAI refuses: found quickly, taken out by name, and nothing else changed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicore_proxy.protocol.dialects.openai_chat.relay import mended_messages, mended_tools, suspicious

MARK = {"type": "ephemeral"}
LONG = "toolu_" + "x" * 60
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TEXT = {"type": "text", "text": "x"}

Message = dict[str, Any]


def assistant(**more: Any) -> Message:
    return {"role": "assistant", "content": "x", **more}


MENDED: dict[str, tuple[Message, Message, set[str]]] = {
    "thoughts": (assistant(reasoning_content="t"), assistant(), {"messages.reasoning_content"}),
    "thoughts, shortly": (assistant(reasoning="t"), assistant(), {"messages.reasoning"}),
    "another proxy's": (
        assistant(provider_specific_fields={"a": 1}),
        assistant(),
        {"messages.provider_specific_fields"},
    ),
    "a marked message": ({"role": "user", "cache_control": MARK}, {"role": "user"}, {"messages.cache_control"}),
    "a marked part": (
        {"role": "user", "content": [{**TEXT, "cache_control": MARK}, TEXT]},
        {"role": "user", "content": [TEXT, TEXT]},
        {"messages.content.cache_control"},
    ),
    "a marked call": (
        assistant(tool_calls=[{**CALL, "cache_control": MARK}]),
        assistant(tool_calls=[CALL]),
        {"messages.tool_calls.cache_control"},
    ),
    "a call of another proxy": (
        assistant(tool_calls=[{**CALL, "provider_specific_fields": {}}]),
        assistant(tool_calls=[CALL]),
        {"messages.tool_calls.provider_specific_fields"},
    ),
    **{
        kind: (
            {"role": "assistant", "content": [{"type": kind, "x": "y"}, TEXT]},
            {"role": "assistant", "content": [TEXT]},
            {f"messages.content.{kind}"},
        )
        for kind in ("thinking", "redacted_thinking", "reasoning")
    },
}


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("name", MENDED)
def test_what_openai_refuses_is_taken_out_and_named(name: str, large: bool) -> None:
    message, wanted, names = MENDED[name]
    before = [{"role": "user", "content": "x" * (300_000 if large else 1)}]
    lost: set[str] = set()

    assert suspicious(json.dumps([*before, message]).encode())
    assert mended_messages([*before, message], lost) == [*before, wanted]
    assert lost == names


@pytest.mark.parametrize("large", [False, True])
def test_ids_that_are_too_long_are_shortened_alike(large: bool) -> None:
    asking, answer = (
        assistant(tool_calls=[{**CALL, "id": LONG}]),
        {"role": "tool", "tool_call_id": LONG, "content": "y"},
    )
    padding = [{"role": "user", "content": "x" * 300_000}] if large else []
    lost: set[str] = set()
    mended = mended_messages([asking, answer], lost)

    assert mended[1]["tool_call_id"] == mended[0]["tool_calls"][0]["id"] != LONG
    assert len(mended[1]["tool_call_id"]) <= 40 < len(LONG)
    assert lost == set()
    assert suspicious(json.dumps([*padding, answer]).encode())


PLAIN: list[Any] = [
    [{"role": "user", "content": "What is \"cache_control\" and thinking?"}, assistant(tool_calls=[CALL])],
    [{"role": "user", "content": [TEXT]}, {"role": "tool", "tool_call_id": "c" * 40, "content": "x"}],
    "no list",
    [5, None],
]  # fmt: skip


@pytest.mark.parametrize("messages", PLAIN)
def test_what_needs_no_mending_is_the_same_object(messages: Any) -> None:
    lost: set[str] = set()
    assert mended_messages(messages, lost) is messages
    assert mended_tools(messages, lost) is messages
    assert lost == set()


def test_a_large_conversation_that_only_speaks_of_it_is_not_suspicious() -> None:
    speaking = [{"role": "user", "content": [{"type": "text", "text": "x" * 300_000, "reasoning_effort": 1}]}]
    body = json.dumps(
        [*speaking, assistant(tool_calls=[{**CALL, "function": {"name": "f", "thinking": "y"}}])]
    ).encode()
    assert not suspicious(body)
    assert suspicious(body[-200:])  # a small one is simply looked at
    assert not suspicious(b'[{"role":"user","content":"x"}]')
    assert suspicious(b'[{"thinking": ' + b" " * 300_000)  # nobody can read it


parts = st.sampled_from([TEXT, {**TEXT, "cache_control": MARK}, {"type": "thinking"}, {"type": "refusal"}, 5])
calls = st.sampled_from([CALL, {**CALL, "cache_control": MARK}, {"provider_specific_fields": 1}, 5])
# (An id that is too long is found where its result stands: OpenAI wants one for every call)
messages = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "tool"])},
    optional={
        "content": st.text(max_size=5) | st.lists(parts, max_size=3) | st.just("x" * 300_000),
        "tool_calls": st.lists(calls, max_size=2),
        "tool_call_id": st.sampled_from(["c", LONG]),
        "reasoning_content": st.just("t"),
    },
)


@given(st.lists(messages, max_size=4))
def test_nothing_to_mend_escapes_the_quick_look(conversation: list[Message]) -> None:
    mended = mended_messages(conversation, set())
    assert mended is conversation or suspicious(json.dumps(conversation).encode())
    assert mended_messages(mended, set()) is mended, "once is enough"


def test_marks_of_tools_are_taken_out() -> None:
    function = {"name": "f", "parameters": {}}
    plain, marked = {"type": "function", "function": function}, {"function": {**function, "cache_control": MARK}}
    lost: set[str] = set()
    tools = [plain, {**plain, "cache_control": MARK}, {**plain, **marked}]

    assert mended_tools(tools, lost) == [plain] * 3
    assert lost == {"tools.cache_control"}
    assert mended_tools([plain], lost) == [plain]
