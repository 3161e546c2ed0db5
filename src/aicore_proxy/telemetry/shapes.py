"""Bodies without what they say: member names that protocols define, and how long texts are. For logs at debug level."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from aicore_proxy.telemetry.tape import Message, Recorded

MOST = 8
"""Items of a list, and members whose names nobody defined, that are shown; of the rest the number."""
DEEPEST = 12
LARGEST = 256 * 1024
"""Bytes of a body that is looked through."""
_WORD = re.compile(r"[a-z][a-z_0-9]{0,31}")
TELLING = frozenset({"role", "type", "object", "finish_reason", "stop_reason", "finishReason", "status"})
"""Members whose values are words of the protocol."""
_NAMES = """
model messages system tools tool_choice max_tokens max_completion_tokens temperature top_p top_k stop stream
stop_sequences stream_options include_usage metadata user user_id thinking budget_tokens reasoning_effort reasoning
effort summary response_format json_schema output_config format name description parameters schema input_schema
strict function content text image image_url url detail source data media_type tool_calls tool_call_id tool_use_id
id input arguments is_error cache_control ttl citations signature refusal audio prompt_cache_key
prompt_cache_retention seed n logprobs top_logprobs presence_penalty frequency_penalty logit_bias
parallel_tool_calls service_tier store verbosity prediction modalities anthropic_version anthropic_beta betas
context_management container mcp_servers choices index message delta usage prompt_tokens completion_tokens
total_tokens prompt_tokens_details completion_tokens_details cached_tokens reasoning_tokens input_tokens
output_tokens cache_read_input_tokens cache_creation_input_tokens cache_creation stop_sequence created
system_fingerprint reasoning_content error code param request_id details contents parts functionCall
functionResponse args response systemInstruction generationConfig maxOutputTokens thinkingConfig safetySettings
toolConfig functionDeclarations inlineData mimeType fileData candidates usageMetadata promptTokenCount
candidatesTokenCount thoughtsTokenCount totalTokenCount modelVersion responseId thought thoughtSignature embedding
encoding_format dimensions
"""
KNOWN = TELLING | frozenset(_NAMES.split())
"""Members that the protocols define, whose names may be told."""


def told(field: str) -> str:
    """A field's path (``tools.0.cache_control``), whose parts that no protocol defines are ``other``."""
    return ".".join(part if part in KNOWN or part.isdigit() else "other" for part in field.split("."))


def shapes_of(recorded: Recorded) -> dict[str, Any]:
    """The bodies of a request's four stages, without content."""
    return {
        "asked": shape_of(recorded.client_request),
        "attempts": [
            {"sent": shape_of(attempt.request), "status": attempt.response.status, "got": shape_of(attempt.response)}
            for attempt in recorded.attempts
        ],
        "answered": shape_of(recorded.client_response),
    }


def shape_of(message: Message) -> Any:
    """A body: JSON as its shape, a stream as how many events of which kind it had, else its size."""
    text = message.body.text
    if not text or message.body.size > LARGEST:
        return f"{message.body.size} bytes"
    try:
        return shape(msgspec.json.decode(text))
    except (msgspec.MsgspecError, RecursionError):
        kinds = list(_events(text))
        return {"events": len(kinds), "last": kinds[-1]} if kinds else f"{message.body.size} bytes"


def shape(value: Any, depth: int = 0) -> Any:
    """A JSON value with every text as its length, unless it is a word of a protocol."""
    match value:
        case str():
            return f"{len(value)} characters"
        case dict() if depth < DEEPEST:
            known = {name: _member(name, inner, depth) for name, inner in value.items() if name in KNOWN}
            others = [inner for name, inner in value.items() if name not in KNOWN]
            if others:
                known["other members"] = [shape(inner, depth + 1) for inner in others[:MOST]]
                if len(others) > MOST:
                    known["more members"] = len(others) - MOST
            return known
        case list() if depth < DEEPEST:
            items = [shape(item, depth + 1) for item in value[:MOST]]
            return [*items, f"{len(value) - MOST} more"] if len(value) > MOST else items
        case dict() | list():
            return f"{len(value)} deeper"
        case bool() | None:
            return value
        case _:
            return "number"


def _member(name: str, value: Any, depth: int) -> Any:
    if name in TELLING and isinstance(value, str) and _WORD.fullmatch(value):
        return value
    return shape(value, depth + 1)


def _events(text: str) -> Iterator[str]:
    """The kind of each server-sent event, as far as its protocol names one."""
    for line in text.splitlines():
        if not line.startswith("data:"):
            continue
        try:
            told = msgspec.json.decode(line[5:].strip())
        except (msgspec.MsgspecError, RecursionError):
            yield "[DONE]" if line[5:].strip() == "[DONE]" else "unreadable"
            continue
        kind = told.get("type") or told.get("object") if isinstance(told, dict) else None
        error = isinstance(told, dict) and "error" in told
        yield "error" if error else kind if isinstance(kind, str) and re.fullmatch(r"[a-z._]{1,40}", kind) else "event"
