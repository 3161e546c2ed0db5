"""Errors as OpenAI writes them, and as Azure OpenAI and what stands before it send them."""

from __future__ import annotations

from collections.abc import Mapping

from aicore_proxy.protocol.fault import Fault, Kind, kind_of, status_in
from aicore_proxy.protocol.neutral import Json

MOST_WORDS = 4096

INVALID = "invalid_request_error"
TYPES: Mapping[Kind, tuple[str, str | None]] = {
    Kind.MALFORMED: (INVALID, None),
    Kind.UNSUPPORTED: (INVALID, "unsupported_parameter"),
    Kind.CONTEXT_TOO_LONG: (INVALID, "context_length_exceeded"),
    Kind.CONTENT_FILTERED: (INVALID, "content_filter"),
    Kind.UNAUTHENTICATED: (INVALID, "invalid_api_key"),
    Kind.FORBIDDEN: (INVALID, "permission_denied"),
    Kind.MODEL_NOT_FOUND: (INVALID, "model_not_found"),
    Kind.TOO_LARGE: (INVALID, "request_too_large"),
    Kind.RATE_LIMITED: ("rate_limit_error", "rate_limit_exceeded"),
    Kind.BUDGET_EXHAUSTED: ("insufficient_quota", "insufficient_quota"),
    Kind.OVERLOADED: ("server_error", "overloaded"),
    Kind.UPSTREAM_FAILED: ("server_error", "upstream_error"),
    Kind.TIMEOUT: ("server_error", "timeout"),
    Kind.INTERNAL: ("server_error", None),
}
"""OpenAI's ``type`` and ``code`` for each Kind."""

MATCHED = frozenset({Kind.CONTEXT_TOO_LONG, Kind.CONTENT_FILTERED})
"""Kinds whose code clients match on: never another vendor's."""

# Statuses for error frames inside a 200, which have only a type or a word as their code
_STATUSES: Mapping[str, int] = {
    "invalid_request_error": 400,
    "badrequest": 400,
    "bad_request": 400,
    "content_filter": 400,
    "context_length_exceeded": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "too_many_requests": 429,
    "toomanyrequests": 429,
    "toomanyrequest": 429,
    "tokens": 429,
    "requests": 429,
    "insufficient_quota": 429,
    "overloaded_error": 503,
    "overloaded": 503,
    "serviceunavailable": 503,
    "timeout": 504,
    "timeout_error": 504,
}


def encode_fault(fault: Fault, request_id: str) -> tuple[int, dict[str, Json]]:
    """(status, body) of an error answer. Overload is 503, whatever the upstream called it."""
    kind, code = TYPES[fault.kind]
    if fault.kind not in MATCHED and fault.code:
        code = fault.code
    error = {"message": fault.message, "type": kind, "param": fault.param, "code": code}
    return (503 if fault.status == 529 else fault.status), {"error": error, "request_id": request_id}


def decode_fault(status: int, body: Mapping[str, Json]) -> Fault | None:
    """The Fault of Azure OpenAI's own error body (SAP AI Core wire facts 3.8); None if it is of another layer."""
    error = body.get("error")
    if not isinstance(error, dict) or not isinstance(error.get("message"), str):
        return None
    return _fault(status, error)


def _fault(status: int, error: Mapping[str, Json]) -> Fault:
    message = _text(error.get("message")) or "The upstream answered with an error and no words."
    code = _text(error.get("code")) or None
    inner = error.get("innererror")
    hints = " ".join(
        (code or "", _text(error.get("type")), _text(inner.get("code")) if isinstance(inner, dict) else "")
    )
    kind = kind_of(status, message, hints)
    return Fault(kind, message, status=status, code=code, param=_text(error.get("param")) or None)


def stream_fault(frame: Mapping[str, Json]) -> Fault | None:
    """The Fault of an error frame inside a 200; None if it is none. Shapes: Azure's ``{"error": {"code": "429", …}}``
    (SAP AI Core wire facts 3.4), SAP's ``{"error": "TooManyRequests", "message": …}``, ``{"message": …}``,
    ``{"type": "error", …}`` (8.2, 8.3)."""
    error = frame.get("error")
    match error:
        case dict():
            told: Mapping[str, Json] = error
        case str() if error:
            told = {"code": error, "message": frame.get("message") or frame.get("detail") or error}
        case list() if error and isinstance(error[-1], dict):
            told = error[-1]
        case _ if "choices" not in frame and (frame.get("type") == "error" or isinstance(frame.get("message"), str)):
            told = {"code": frame.get("code", frame.get("status")), "message": frame.get("message")}
        case _:
            return None
    status = _status(told.get("code"), told.get("status"), told.get("type"))
    # An error inside a 200 is a failure of this deployment, whatever it calls it: its own 401, 403, 404 too
    return _fault(status, told)


def _status(*words: Json) -> int:
    for word in words:
        if isinstance(word, int) and not isinstance(word, bool) and 400 <= word < 600:
            return word
        if isinstance(word, str):
            status = status_in(word) or _STATUSES.get(word.lower())
            if status is not None:
                return status
    return 500


def _text(value: Json) -> str:
    match value:
        case str():
            return value[:MOST_WORDS]
        case bool() | None:
            return ""
        case int():
            return str(value)
        case _:
            return ""


def unreadable(words: str) -> Fault:
    """Fault(UPSTREAM_FAILED) for what is no answer of this dialect."""
    return Fault(Kind.UPSTREAM_FAILED, words, code="upstream_error")
