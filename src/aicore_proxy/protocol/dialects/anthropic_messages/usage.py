"""Token counts and stop reasons, both ways. Anthropic's ``input_tokens`` leaves cached tokens out; the neutral
``input`` is all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from aicore_proxy.protocol.neutral import FinishReason, Json, Usage

STOPS: Mapping[str, FinishReason] = {
    "end_turn": "stop",
    "max_tokens": "length",
    "stop_sequence": "stop_sequence",
    "tool_use": "tool_calls",
    "pause_turn": "pause",
    "refusal": "refusal",
    "model_context_window_exceeded": "context",
}
REASONS = {reason: stop for stop, reason in STOPS.items()} | {"content_filter": "refusal"}


def count(node: Mapping[str, Json], *names: str) -> int | None:
    """The first of ``names`` that is a count."""
    for name in names:
        value = node.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    return None


def decode_usage(node: Json, before: Usage | None = None) -> Usage | None:
    """The neutral Usage; what ``node`` leaves out stays as ``before`` (the counts of a stream are cumulative)."""
    if not isinstance(node, dict):
        return before
    old = before or Usage()
    fresh = count(node, "input_tokens")
    read = count(node, "cache_read_input_tokens")
    written = count(node, "cache_creation_input_tokens")
    split = node.get("cache_creation")
    long = count(split, "ephemeral_1h_input_tokens") if isinstance(split, dict) else None
    if written is None and isinstance(split, dict):
        written = (count(split, "ephemeral_5m_input_tokens") or 0) + (long or 0)
    details = node.get("output_tokens_details")
    thought = count(details, "thinking_tokens") if isinstance(details, dict) else None
    read, written = _kept(read, old.cache_read), _kept(written, old.cache_write)
    fresh = _kept(fresh, old.input - old.cache_read - old.cache_write)
    return Usage(
        input=fresh + read + written,
        cache_read=read,
        cache_write=written,
        output=_kept(count(node, "output_tokens"), old.output),
        reasoning=_kept(thought, old.reasoning),
        cache_write_1h=_kept(long, old.cache_write_1h),
    )


def decode_metrics(node: Json) -> Usage | None:
    """``amazon-bedrock-invocationMetrics`` of the last event (SAP AI Core wire facts 4.2)."""
    if not isinstance(node, dict) or count(node, "inputTokenCount") is None:
        return None
    read, written = count(node, "cacheReadInputTokenCount") or 0, count(node, "cacheWriteInputTokenCount") or 0
    fresh = count(node, "inputTokenCount") or 0
    return Usage(fresh + read + written, read, written, count(node, "outputTokenCount") or 0)


def _kept(value: int | None, before: int) -> int:
    return before if value is None else value


def encode_usage(usage: Usage | None) -> dict[str, Json]:
    """In full: some clients repeat a request without end when counts are missing."""
    usage = usage or Usage()
    return {
        "input_tokens": max(0, usage.input - usage.cache_read - usage.cache_write),
        "cache_creation_input_tokens": usage.cache_write,
        "cache_read_input_tokens": usage.cache_read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": max(0, usage.cache_write - usage.cache_write_1h),
            "ephemeral_1h_input_tokens": usage.cache_write_1h,
        },
        "output_tokens": usage.output,
        **({"output_tokens_details": {"thinking_tokens": usage.reasoning}} if usage.reasoning else {}),
        **({"estimated": True} if usage.estimated else {}),
    }


def counted(payload: bytes, usage: Callable[[], Usage]) -> bytes:
    """An event, or a whole answer, with the counts without which Anthropic's SDKs fail, where it has none."""
    try:
        event = msgspec.json.decode(payload, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return payload
    kind = event.get("type")
    holder = event.get("message") if kind == "message_start" else event
    if kind not in ("message_start", "message_delta", "message") or not isinstance(holder, dict):
        return payload
    if isinstance(holder.get("usage"), dict):
        return payload
    holder["usage"] = encode_usage(usage())
    return msgspec.json.encode(event)


def encode_stop(reason: FinishReason | None, *, called: bool, refused: bool = False) -> str:
    """The stop reason; whether there were calls decides between ``end_turn`` and ``tool_use``."""
    match reason:
        case None | "stop" | "tool_calls":
            return "tool_use" if called else "refusal" if refused else "end_turn"
        case _:
            return REASONS[reason]
