"""Errors of the Messages API, both ways."""

from __future__ import annotations

from collections.abc import Mapping

from aicore_proxy.protocol.fault import Fault, Kind, kind_of
from aicore_proxy.protocol.neutral import Json

TYPES: Mapping[Kind, str] = {
    Kind.MALFORMED: "invalid_request_error",
    Kind.UNSUPPORTED: "invalid_request_error",
    Kind.CONTEXT_TOO_LONG: "invalid_request_error",
    Kind.CONTENT_FILTERED: "invalid_request_error",
    Kind.UNAUTHENTICATED: "authentication_error",
    Kind.FORBIDDEN: "permission_error",
    Kind.MODEL_NOT_FOUND: "not_found_error",
    Kind.TOO_LARGE: "request_too_large",
    Kind.RATE_LIMITED: "rate_limit_error",
    Kind.BUDGET_EXHAUSTED: "rate_limit_error",
    Kind.OVERLOADED: "overloaded_error",
    Kind.UPSTREAM_FAILED: "api_error",
    Kind.TIMEOUT: "timeout_error",
    Kind.INTERNAL: "api_error",
}
STATUSES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
OVERLOADED = 529
TOO_LONG = "prompt is too long"


def decode_fault(status: int, body: Mapping[str, Json]) -> Fault | None:
    """The Fault in ``{"type": "error", "error": {"type", "message"}}``; None for a body of another shape, AWS's bare
    ``{"message"}`` included: its bytes are no answer for a Messages client."""
    error = body.get("error")
    if body.get("type") != "error" or not isinstance(error, dict):
        return None
    kind = error.get("type") if isinstance(error.get("type"), str) else None
    message = error.get("message")
    words = message if isinstance(message, str) and message else f"The model failed with {kind or 'an error'}."
    if status < 400 or (status == 500 and kind in STATUSES):
        # An error inside a 200, or in a stream: its type tells what the status would have been
        status = STATUSES.get(kind or "", 500)
    details = error.get("details")
    return Fault(
        kind_of(status, words, kind),
        words,
        status=status,
        details=dict(details) if isinstance(details, dict) else None,
    )


def encode_fault(fault: Fault, request_id: str) -> tuple[int, dict[str, Json]]:
    """Status and body. Clients compact on ``prompt is too long``; overload is 529."""
    message = fault.message
    if fault.kind is Kind.CONTEXT_TOO_LONG and TOO_LONG not in message.lower():
        message = f"{TOO_LONG}: {message}"
    error: dict[str, Json] = {"type": TYPES[fault.kind], "message": message}
    if isinstance(fault.details, dict) and fault.details:
        error["details"] = dict(fault.details)
    status = OVERLOADED if fault.kind is Kind.OVERLOADED else fault.status
    return status, {"type": "error", "error": error, "request_id": request_id}
