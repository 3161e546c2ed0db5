"""What each upstream demands of a conversation, checked on the request body. Written from the vendors' rules and SAP AI
Core's wire facts (sections 3.2, 4.3, 5), not from the encoders."""

from __future__ import annotations

import json
import re
from typing import Any

NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
GEMINI_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.:-]{0,63}")


def acceptable(name: str, body: dict[str, Any]) -> None:
    """An AssertionError for what the upstream would answer with a 400."""
    json.dumps(body)
    match name:
        case "openai_chat":
            chat(body)
        case "anthropic_messages":
            messages(body)
        case _:
            gemini(body)


def chat(body: dict[str, Any]) -> None:
    """Tool messages follow the assistant message whose calls they answer, each call is answered once; ids fit."""
    assert body["messages"]
    waiting: set[str] = set()
    for message in body["messages"]:
        role = message["role"]
        if role == "tool":
            assert message["tool_call_id"] in waiting, "answers a call that waits"
            waiting.remove(message["tool_call_id"])
            content = message["content"]
            assert isinstance(content, str) or all(block["type"] == "text" for block in content)
            continue
        assert not waiting, "every call is answered before anything else"
        if role == "assistant":
            calls = message.get("tool_calls", [])
            content = message.get("content")
            assert calls or content is not None or message.get("refusal"), "content may be null only beside calls"
            assert content != [], "a list of blocks holds some"
            assert calls or "tool_calls" not in message
            ids = [call["id"] for call in calls]
            assert len(set(ids)) == len(ids)
            for call in calls:
                assert 0 < len(call["id"]) <= 64
                if call["type"] == "function":
                    assert NAME.fullmatch(call["function"]["name"])
                    assert isinstance(call["function"]["arguments"], str)
            waiting = set(ids)
        else:
            assert role in ("system", "developer", "user")
            content = message["content"]
            assert isinstance(content, str) or content
    assert not waiting, "every call is answered"
    for tool in body.get("tools", []):
        if tool["type"] == "function":
            assert NAME.fullmatch(tool["function"]["name"])


def messages(body: dict[str, Any]) -> None:
    """User and assistant take turns, the user begins; results follow their calls at once and come first."""
    assert body["max_tokens"] > 0
    assert body["messages"]
    assert body["messages"][0]["role"] == "user"
    before = "assistant"
    waiting: set[str] = set()
    seen: set[str] = set()
    for message in body["messages"]:
        role = message["role"]
        assert role in ("user", "assistant")
        assert role != before, "turns alternate"
        before = role
        content = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        assert blocks, "a message holds something"
        answered = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
        assert set(answered) == waiting, "all calls are answered in the next message, and nothing else"
        assert len(answered) == len(waiting), "once each"
        kinds = [block["type"] == "tool_result" for block in blocks]
        assert kinds == sorted(kinds, reverse=True), "results come first"
        calls = [block["id"] for block in blocks if block["type"] == "tool_use"]
        assert role == "assistant" or not calls
        assert not seen & set(calls), "ids are used once"
        assert len(set(calls)) == len(calls)
        seen |= set(calls)
        waiting = set(calls)
        for block in blocks:
            messages_block(block)
    assert not waiting or body["messages"][-1]["role"] == "assistant"
    for tool in body.get("tools", []):
        assert NAME.fullmatch(tool["name"])
        assert tool["input_schema"]["type"] == "object"


def messages_block(block: dict[str, Any]) -> None:
    match block["type"]:
        case "text":
            assert block["text"].strip(), "no blank texts"
        case "tool_use":
            assert NAME.fullmatch(block["id"])
            assert NAME.fullmatch(block["name"])
            assert isinstance(block["input"], dict)
        case "tool_result":
            inner = block.get("content", "")
            for piece in inner if isinstance(inner, list) else ():
                messages_block(piece)
        case kind:
            assert kind in ("image", "document", "thinking", "redacted_thinking")


def gemini(body: dict[str, Any]) -> None:
    """A content with calls is followed by one with as many responses; roles alternate enough; parts are not empty."""
    contents = body["contents"]
    assert contents
    for number, content in enumerate(contents):
        assert content["role"] in ("user", "model")
        assert content["parts"], "a content holds something"
        calls = [part["functionCall"]["name"] for part in content["parts"] if "functionCall" in part]
        answers = [part["functionResponse"]["name"] for part in content["parts"] if "functionResponse" in part]
        assert all(GEMINI_NAME.fullmatch(name) for name in [*calls, *answers])
        assert content["role"] == "model" or not calls
        if answers:
            assert number > 0
            asked = contents[number - 1]["parts"]
            assert answers == [part["functionCall"]["name"] for part in asked if "functionCall" in part]
            assert len(answers) == len(content["parts"]), "responses stand alone"
        if calls and number + 1 < len(contents):
            assert any("functionResponse" in part for part in contents[number + 1]["parts"]), (
                "calls are answered at once"
            )
        for part in content["parts"]:
            assert "id" not in part.get("functionResponse", {})
            if "functionCall" in part:
                assert isinstance(part["functionCall"].get("args", {}), dict)
            if "functionResponse" in part:
                assert isinstance(part["functionResponse"]["response"], dict)
