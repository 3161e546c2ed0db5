"""Token counts and finish reasons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aicore_proxy.protocol.neutral import FinishReason, Json, Usage

FINISHES: Mapping[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}

WIRE: Mapping[FinishReason, str] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "stop_sequence": "stop",
    "content_filter": "content_filter",
    "refusal": "content_filter",
    "pause": "stop",
    "context": "length",
}


def decode_finish(reason: Json, *, called: bool, refused: bool) -> FinishReason:
    """Why an answer ended. ``called``: it has tool calls: OpenAI says ``stop`` where the tool was forced, but the
    calls are to be run. ``refused``: it has a refusal, for which OpenAI says ``stop`` too."""
    known = FINISHES.get(reason, "stop") if isinstance(reason, str) else "stop"
    if known == "stop":
        return "tool_calls" if called else "refusal" if refused else "stop"
    return known


def encode_finish(reason: FinishReason, *, called: bool, refused: bool, legacy: bool) -> str:
    """OpenAI's word. A refusal told as such ends with ``stop``; one that broke an answer off, with
    ``content_filter``."""
    if reason == "refusal" and refused:
        return "stop"
    if reason == "tool_calls" or (reason == "stop" and called):
        return "function_call" if legacy else "tool_calls"
    return WIRE.get(reason, "stop")


def decode_usage(usage: Json) -> Usage | None:
    """OpenAI's counts: cached tokens are among the prompt's, reasoning ones among the completion's."""
    if not isinstance(usage, dict):
        return None
    given, made = _details(usage, "prompt_tokens_details"), _details(usage, "completion_tokens_details")
    return Usage(
        input=_count(usage, "prompt_tokens"),
        cache_read=_count(given, "cached_tokens"),
        cache_write=_count(given, "cache_write_tokens"),
        output=_count(usage, "completion_tokens"),
        reasoning=_count(made, "reasoning_tokens"),
    )


def _details(usage: Mapping[str, Json], name: str) -> Mapping[str, Json]:
    details = usage.get(name)
    return details if isinstance(details, dict) else {}


def _count(node: Mapping[str, Json], name: str) -> int:
    value = node.get(name)
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**53 else 0


def encode_usage(usage: Usage | None) -> dict[str, Any]:
    """Always whole: zeros where nothing is known."""
    usage = usage or Usage()
    given: dict[str, Any] = {"cached_tokens": usage.cache_read, "audio_tokens": 0}
    if usage.cache_write:
        given["cache_write_tokens"] = usage.cache_write
    return {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input + usage.output,
        "prompt_tokens_details": given,
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
        **({"estimated": True} if usage.estimated else {}),
    }
