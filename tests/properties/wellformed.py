"""What a client of each protocol may rely on, checked on the bytes. Written from the vendors' descriptions of their
streams, not from the encoders."""

from __future__ import annotations

import json
from typing import Any, Literal

End = Literal["whole", "error", "nothing"]


def check(name: str, wire: bytes) -> End:
    """How the stream ends; an AssertionError if it is not well formed."""
    if not wire:
        return "nothing"
    match name:
        case "openai_chat":
            return chat(wire)
        case "anthropic_messages":
            return messages(wire)
        case _:
            return gemini(wire)


def frames(wire: bytes) -> list[tuple[str | None, bytes]]:
    """(event name, data), as strict as the strictest client."""
    assert wire.endswith(b"\n\n")
    assert b"\r" not in wire
    found = []
    for block in wire[:-2].split(b"\n\n"):
        *names, last = block.split(b"\n")
        assert last.startswith(b"data: "), block
        assert len(names) <= 1
        assert all(name.startswith(b"event: ") for name in names)
        found.append((names[0][7:].decode() if names else None, last[6:]))
    return found


def chat(wire: bytes) -> End:
    payloads = [data for _, data in frames(wire)]
    done = payloads[-1] == b"[DONE]"
    chunks = [json.loads(data) for data in (payloads[:-1] if done else payloads)]
    failed = bool(chunks) and "error" in chunks[-1]
    assert done != failed, "ends with [DONE], or with an error and then without it"
    if failed:
        error = chunks.pop()["error"]
        assert isinstance(error["message"], str)
        assert {"type", "code"} <= error.keys()
    assert len({(chunk["id"], chunk["model"], chunk["created"]) for chunk in chunks}) <= 1
    open_choices: set[int] = set()
    finished: set[int] = set()
    calls: dict[int, int] = {}
    for chunk in chunks:
        assert "error" not in chunk
        assert chunk["object"] == "chat.completion.chunk"
        for choice in chunk["choices"]:
            number, delta = choice["index"], choice["delta"]
            assert number not in finished, "nothing follows a finish reason"
            if number not in open_choices:
                assert delta["role"] == "assistant", "the first delta tells the role"
                open_choices.add(number)
            for call in delta.get("tool_calls", []):
                chat_call(call, calls, number)
            if choice["finish_reason"] is not None:
                finished.add(number)
        if chunk.get("usage") is not None:
            assert chunk["choices"] == []
    if not failed:
        assert finished == open_choices != set(), "every candidate has one finish reason"
    return "error" if failed else "whole"


def chat_call(call: dict[str, Any], calls: dict[int, int], number: int) -> None:
    seen = calls.get(number, 0)
    if call["index"] == seen:
        assert call["id"]
        assert call["type"] in ("function", "custom")
        assert call[call["type"]]["name"]
        calls[number] = seen + 1
    assert call["index"] < calls[number], "calls are numbered without gaps"
    if "function" in call:
        assert isinstance(call["function"]["arguments"], str)


def messages(wire: bytes) -> End:
    events = [(name, json.loads(data)) for name, data in frames(wire)]
    assert all(name == event["type"] for name, event in events), "the event: line repeats the type"
    kinds = [event["type"] for _, event in events]
    failed = kinds[-1] == "error"
    assert kinds.count("error") == (1 if failed else 0)
    if failed and len(kinds) == 1:
        return "error"
    assert kinds[0] == "message_start"
    assert kinds.count("message_start") == 1
    message = events[0][1]["message"]
    assert message["content"] == []
    assert {"input_tokens", "output_tokens"} <= message["usage"].keys()
    opened: int | None = None
    following = 0
    finished = False
    for _, event in events[1:]:
        match event["type"]:
            case "content_block_start":
                assert not finished
                assert opened is None
                assert event["index"] == following, "blocks are numbered without gaps"
                opened, following = following, following + 1
                assert event["content_block"]["type"]
            case "content_block_delta":
                assert event["index"] == opened, "deltas belong to the open block"
                assert event["delta"]["type"]
            case "content_block_stop":
                assert event["index"] == opened
                opened = None
            case "message_delta":
                assert opened is None
                assert not finished, "one message_delta"
                finished = True
                assert event["delta"]["stop_reason"]
                assert "output_tokens" in event["usage"]
            case "message_stop":
                assert finished
            case "error":
                assert event["error"]["type"]
                assert isinstance(event["error"]["message"], str)
            case kind:
                assert kind == "ping"
    if not failed:
        assert opened is None, "every block is closed"
        assert kinds[-1] == "message_stop"
        assert kinds.count("message_stop") == 1
    return "error" if failed else "whole"


def gemini(wire: bytes) -> End:
    parsed = frames(wire)
    assert all(name is None for name, _ in parsed)
    chunks = [json.loads(data) for _, data in parsed]
    failed = "error" in chunks[-1]
    if failed:
        error = chunks.pop()["error"]
        assert isinstance(error["code"], int)
        assert error["status"]
        assert isinstance(error["message"], str)
    finished: set[int] = set()
    seen: set[int] = set()
    for chunk in chunks:
        assert "error" not in chunk
        for candidate in chunk.get("candidates", []):
            number = candidate.get("index", 0)
            assert number not in finished, "nothing follows a finish reason"
            seen.add(number)
            for part in candidate.get("content", {}).get("parts", []):
                if "functionCall" in part:
                    assert isinstance(part["functionCall"]["args"], dict)
                    assert part["functionCall"]["name"]
            if candidate.get("finishReason"):
                finished.add(number)
    if not failed:
        assert finished == seen != set(), "every candidate has one finish reason"
        assert "usageMetadata" in chunks[-1]
    return "error" if failed else "whole"
