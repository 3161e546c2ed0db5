"""Requests in both client protocols, and what their answers say."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import httpx2

GPT, CLAUDE, GEMINI = "gpt-5", "claude-sonnet-4-5", "gemini-2.5-pro"
MODELS = (GPT, CLAUDE, GEMINI)
PROTOCOLS = ("chat", "messages")
PATHS = {"chat": "/v1/chat/completions", "messages": "/v1/messages"}


def body(protocol: str, model: str, text: str, *, stream: bool = False, **more: Any) -> dict[str, Any]:
    """A request with one user turn."""
    asked: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": text}], "stream": stream, **more}
    if protocol == "messages":
        asked.setdefault("max_tokens", 4096)
    return asked


def simulate(prompt: str = "Hello!", /, **script: Any) -> str:
    """A prompt that scripts the simulator."""
    return f"{prompt}\nsimulate: {json.dumps(script)}"


def events(text: str) -> Iterator[tuple[str, Any]]:
    """(event, data) of a text/event-stream; data decoded where it is JSON."""
    for block in text.replace("\r\n", "\n").split("\n\n"):
        name, data = "", []
        for line in block.split("\n"):
            if line.startswith("event:"):
                name = line[6:].strip()
            elif line.startswith("data:"):
                data.append(line[5:].strip())
        if data:
            joined = "\n".join(data)
            yield name, joined if joined == "[DONE]" else json.loads(joined)


def said(protocol: str, answer: httpx2.Response) -> str:
    """The text of an answer, streamed or not; fails unless the answer is whole and well formed."""
    assert answer.status_code == 200, answer.text
    if not answer.headers["content-type"].startswith("text/event-stream"):
        return text_of(protocol, answer.json())
    told = list(events(answer.text))
    if protocol == "chat":
        assert told[-1][1] == "[DONE]", answer.text[-500:]
        chunks = [data for _, data in told[:-1]]
        assert not [c for c in chunks if "error" in c], answer.text
        choices = [choice for chunk in chunks for choice in chunk["choices"]]
        assert [c["finish_reason"] for c in choices if c["finish_reason"]], answer.text
        return "".join(choice["delta"].get("content") or "" for choice in choices)
    assert [name for name, _ in told] == [data["type"] for _, data in told]
    told = [event for event in told if event[0] != "ping"]
    assert told[0][0] == "message_start"
    assert told[-1][0] == "message_stop", answer.text[-500:]
    assert [data for name, data in told if name == "message_delta"]
    return "".join(
        data["delta"].get("text", "")
        for name, data in told
        if name == "content_block_delta" and "text" in data["delta"]
    )


def text_of(protocol: str, answer: Mapping[str, Any]) -> str:
    if protocol == "chat":
        return answer["choices"][0]["message"]["content"] or ""
    return "".join(block.get("text", "") for block in answer["content"] if block["type"] == "text")


def error_of(protocol: str, answer: httpx2.Response) -> dict[str, Any]:
    """The error object of a refusal in the client's protocol, with the request id checked."""
    value = answer.json()
    assert value["request_id"] == answer.headers["x-request-id"]
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    if protocol == "messages":
        assert value["type"] == "error"
        assert answer.headers["request-id"] == value["request_id"]
    return value["error"]
