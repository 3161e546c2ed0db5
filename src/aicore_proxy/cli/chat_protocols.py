"""What ``chat`` and ``connect`` speak to the proxy: one entry per protocol, requests out, pieces of an answer in."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from aicore_proxy.cli.connection import Answer, ProxyError

MAX_TOKENS = 16384
"""For protocols that demand a bound: what every current model takes."""


class Turn(Struct, frozen=True):
    """One message. ``role``: ``user`` or ``assistant``."""

    role: str
    text: str


class Usage(Struct, frozen=True):
    """Tokens; ``cached`` is part of ``sent``, ``thought`` part of ``made``."""

    sent: int = 0
    made: int = 0
    cached: int = 0
    thought: int = 0


class Piece(Struct, frozen=True):
    """A piece of an answer: ``text``, ``thought`` (what the model shows of its thinking), or what the end tells."""

    text: str = ""
    thought: str = ""
    usage: Usage | None = None
    finish: str = ""
    """Why it ended, in the protocol's word."""


class Protocol(Struct, frozen=True):
    """How a model is asked. ``headers``: of a key. ``body``: of model, turns, system prompt and bound (0: none).
    ``pieces``: of a streamed answer; raises ProxyError for an error in it, and for one that breaks off."""

    name: str
    path: str
    headers: Callable[[str], dict[str, str]]
    body: Callable[[str, Sequence[Turn], str, int], dict[str, Any]]
    pieces: Callable[[Answer], Iterator[Piece]]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def _chat_body(model: str, turns: Sequence[Turn], system: str, bound: int) -> dict[str, Any]:
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": turn.role, "content": turn.text} for turn in turns]
    limits = {"max_completion_tokens": bound} if bound else {}
    return {
        "model": model,
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
        **limits,
    }


def _chat_pieces(answer: Answer) -> Iterator[Piece]:
    ended = False
    for _, data in answer.events():
        if data == "[DONE]":
            ended = True
            break
        chunk = _event(data)
        if usage := chunk.get("usage"):
            yield Piece(usage=_chat_usage(usage))
        for choice in chunk.get("choices") or []:
            delta = choice.get("delta") or {}
            if text := delta.get("content") or delta.get("refusal"):
                yield Piece(text=text)
            if thought := delta.get("reasoning_content"):
                yield Piece(thought=thought)
            if finish := choice.get("finish_reason"):
                ended = True
                yield Piece(finish=finish)
    if not ended:
        raise ProxyError("The answer broke off: its end is missing.")


def _chat_usage(usage: Mapping[str, Any]) -> Usage:
    return Usage(
        usage.get("prompt_tokens") or 0,
        usage.get("completion_tokens") or 0,
        (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0,
        (usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0,
    )


def _messages_headers(key: str) -> dict[str, str]:
    return {**bearer(key), "anthropic-version": "2023-06-01"}


def _messages_body(model: str, turns: Sequence[Turn], system: str, bound: int) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": bound or MAX_TOKENS,
        "messages": [{"role": turn.role, "content": turn.text} for turn in turns],
        "stream": True,
    }
    return {**body, "system": system} if system else body


def _messages_pieces(answer: Answer) -> Iterator[Piece]:
    usage: dict[str, Any] = {}
    for _, data in answer.events():
        event = _event(data)
        match event.get("type"):
            case "message_start":
                usage |= (event.get("message") or {}).get("usage") or {}
            case "content_block_delta":
                delta = event.get("delta") or {}
                yield Piece(text=delta.get("text") or "", thought=delta.get("thinking") or "")
            case "message_delta":
                usage |= {name: value for name, value in (event.get("usage") or {}).items() if value is not None}
                yield Piece(finish=(event.get("delta") or {}).get("stop_reason") or "")
            case "message_stop":
                yield Piece(usage=_messages_usage(usage))
                return
    raise ProxyError("The answer broke off: its end is missing.")


def _messages_usage(usage: Mapping[str, Any]) -> Usage:
    cached = usage.get("cache_read_input_tokens") or 0
    sent = (usage.get("input_tokens") or 0) + cached + (usage.get("cache_creation_input_tokens") or 0)
    thought = (usage.get("output_tokens_details") or {}).get("thinking_tokens") or 0
    return Usage(sent, usage.get("output_tokens") or 0, cached, thought)


def _event(data: str) -> dict[str, Any]:
    """One event's data. Raises ProxyError for an error, and for what is not JSON."""
    try:
        value = json.loads(data)
    except ValueError:
        raise ProxyError(f"The answer holds something that is not JSON: {data[:120]}") from None
    if not isinstance(value, dict):
        raise ProxyError(f"The answer holds something unexpected: {data[:120]}")
    if error := value.get("error"):
        words = error.get("message") if isinstance(error, dict) else error
        raise ProxyError(f"The answer ended with an error: {words}")
    return value


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("chat", "/v1/chat/completions", bearer, _chat_body, _chat_pieces),
        Protocol("messages", "/v1/messages", _messages_headers, _messages_body, _messages_pieces),
    )
}
"""By the name that ``--protocol`` takes."""
