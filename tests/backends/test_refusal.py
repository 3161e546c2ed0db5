"""Every error shape of SAP AI Core (wire facts, section 8.2), and what a gateway in between makes of one."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicore_proxy.backends.refusal import empty_answer, fault_of, limit_reset, retry_after, unreadable_answer
from aicore_proxy.protocol.dialects import Dialect, anthropic_messages, gemini, openai_chat
from aicore_proxy.protocol.fault import Kind

CHAT, MESSAGES, GEMINI = openai_chat.DIALECT, anthropic_messages.DIALECT, gemini.DIALECT
NOON = 1_764_072_000.0  # 2025-11-25 12:00:00 UTC


class Row(NamedTuple):
    name: str
    dialect: Dialect
    status: int
    body: bytes | dict[str, Any] | list[Any]
    kind: Kind
    told: int
    words: str
    headers: tuple[tuple[str, str], ...] = ()


ENVOY = "upstream connect error or disconnect/reset before headers. reset reason: connection failure"
TOO_LONG = "This model's maximum context length is 128000 tokens."
ROWS = [
    Row("edge: expired token", CHAT, 401, b"Jwt is expired", Kind.UPSTREAM_FAILED, 502, "Jwt is expired"),
    Row("edge: wrong group", MESSAGES, 403, b"RBAC: access denied", Kind.UPSTREAM_FAILED, 502, "RBAC: access denied"),
    Row("edge: no upstream", GEMINI, 503, b"no healthy upstream", Kind.OVERLOADED, 503, "no healthy upstream"),
    Row("edge: connect error", CHAT, 503, ENVOY.encode(), Kind.OVERLOADED, 503, ENVOY),
    Row("edge: timeout", CHAT, 504, b"upstream request timeout", Kind.TIMEOUT, 504, "upstream request timeout"),
    Row("proxy layer: error is a string", MESSAGES, 400,
        {"error": "BadRequest", "message": "Subpath 'count-tokens' is not allowed for model 'm'."},
        Kind.MALFORMED, 400, "Subpath 'count-tokens' is not allowed for model 'm'."),
    Row("proxy layer: throttled", CHAT, 429, {"error": "TooManyRequests", "message": "Too many."},
        Kind.RATE_LIMITED, 429, "Too many."),
    Row("proxy layer: a label and no message", CHAT, 429, {"error": "TooManyRequests"},
        Kind.RATE_LIMITED, 429, "TooManyRequests"),
    Row("AI API", CHAT, 404, {"error": {"code": "01010076", "message": "Deployment not found", "requestId": "r"}},
        Kind.UPSTREAM_FAILED, 502, "Deployment not found"),
    Row("AI API: precondition", MESSAGES, 412, {"error": {"code": "0101", "message": "Invalid Request"}},
        Kind.MALFORMED, 412, "Invalid Request"),
    Row("Azure", CHAT, 400,
        {"error": {"code": None, "message": "Bad temperature", "param": "temperature"}},
        Kind.MALFORMED, 400, "Bad temperature"),
    Row("Azure: context", CHAT, 400, {"error": {"code": "context_length_exceeded", "message": TOO_LONG}},
        Kind.CONTEXT_TOO_LONG, 400, TOO_LONG),
    Row("Azure: content filter", CHAT, 400,
        {"error": {"code": "content_filter", "message": "Filtered.", "innererror": {"content_filter_result": {}}}},
        Kind.CONTENT_FILTERED, 400, "Filtered."),
    Row("AWS: bare message", MESSAGES, 400, {"message": "temperature: 3 is not less or equal to 1.0"},
        Kind.MALFORMED, 400, "temperature: 3 is not less or equal to 1.0"),
    Row("AWS: throttled", MESSAGES, 429, {"message": "Too many tokens, please wait before trying again."},
        Kind.RATE_LIMITED, 429, "Too many tokens, please wait before trying again.",
        (("x-amzn-errortype", "ThrottlingException"),)),
    Row("Anthropic", MESSAGES, 400,
        {"type": "error", "error": {"type": "invalid_request_error", "message": "invalid beta flag"}},
        Kind.MALFORMED, 400, "invalid beta flag"),
    Row("Anthropic: prompt", MESSAGES, 400,
        {"type": "error", "error": {"type": "invalid_request_error", "message": "prompt is too long: 3 > 2 maximum"}},
        Kind.CONTEXT_TOO_LONG, 400, "prompt is too long: 3 > 2 maximum"),
    Row("Anthropic: overloaded", MESSAGES, 529,
        {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
        Kind.OVERLOADED, 529, "Overloaded"),
    Row("Google", GEMINI, 400, {"error": {"code": 400, "message": "Bad part", "status": "INVALID_ARGUMENT"}},
        Kind.MALFORMED, 400, "Bad part"),
    Row("Google: throttled", GEMINI, 429,
        {"error": {"code": 429, "message": "Quota", "status": "RESOURCE_EXHAUSTED"}}, Kind.RATE_LIMITED, 429, "Quota"),
    Row("Google: in an array", GEMINI, 500, [{"error": {"code": 500, "message": "Oops", "status": "INTERNAL"}}],
        Kind.UPSTREAM_FAILED, 500, "Oops"),
    Row("orchestration", CHAT, 400,
        {"error": {"request_id": "r", "code": 400, "message": "400 - LLM Module: no.", "location": "LLM Module"}},
        Kind.MALFORMED, 400, "400 - LLM Module: no."),
    Row("orchestration: fallbacks", CHAT, 429,
        {"error": [{"code": 500, "message": "first"},
                   {"code": 429, "message": "429 - Too many requests.", "headers": {"x-retry-after": "30"}}]},
        Kind.RATE_LIMITED, 429, "429 - Too many requests."),
    Row("errors, plural", CHAT, 500, {"errors": {"message": "plural"}}, Kind.UPSTREAM_FAILED, 500, "plural"),
    Row("RPT", CHAT, 422, {"status": {"code": 2}, "detail": [{"loc": [], "msg": "Too many rows"}]},
        Kind.MALFORMED, 422, "Too many rows"),
    Row("an empty object", CHAT, 400, {}, Kind.MALFORMED, 400, "status 400"),
    Row("null", MESSAGES, 500, b"null", Kind.UPSTREAM_FAILED, 500, "status 500"),
    Row("nothing", GEMINI, 502, b"", Kind.UPSTREAM_FAILED, 502, "status 502"),
    Row("HTML of a gateway", CHAT, 502, b"<html><body><h1>502</h1></body></html>",
        Kind.UPSTREAM_FAILED, 502, "status 502", (("content-type", "text/html"),)),
    Row("HTML that says it is text", CHAT, 503, b"\n <!DOCTYPE html><title>x</title>",
        Kind.OVERLOADED, 503, "status 503"),
    Row("JSON cut in the middle", MESSAGES, 500, b'{"error": {"mess', Kind.UPSTREAM_FAILED, 500, "status 500"),
    Row("invalid UTF-8", CHAT, 500, b"\xff\xfebroken", Kind.UPSTREAM_FAILED, 500, "broken"),
    Row("redirect", CHAT, 307, b"", Kind.UPSTREAM_FAILED, 502, "307"),
    Row("request timeout", MESSAGES, 408, b"stream timeout", Kind.TIMEOUT, 408, "stream timeout"),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_every_error_shape_is_understood(row: Row) -> None:
    body = row.body if isinstance(row.body, bytes) else json.dumps(row.body).encode()

    fault = fault_of(row.dialect, row.status, dict(row.headers), body, NOON)

    assert (fault.kind, fault.status) == (row.kind, row.told)
    assert row.words in fault.message
    assert "<" not in fault.message
    # ... and every client is told, in its own shape, with the request id
    for client in (CHAT, MESSAGES, GEMINI):
        status, told = client.encode_fault(fault, "req_1")
        overload = {MESSAGES.name: 529}.get(client.name, 503)
        assert status == (overload if row.kind is Kind.OVERLOADED else row.told)
        assert told["request_id"] == "req_1"
        assert row.words in told["error"]["message"]


@given(st.binary(max_size=200), st.integers(100, 599), st.sampled_from([CHAT, MESSAGES, GEMINI]))
def test_no_error_body_makes_an_error_of_its_own(body: bytes, status: int, dialect: Dialect) -> None:
    fault = fault_of(dialect, status, {"content-type": "application/json"}, body, NOON)

    assert fault.message
    assert 400 <= fault.status <= 599


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["error", "message", "code", "type", "headers", "errors", "detail"]), inner)
    ),
    max_leaves=10,
)


@given(JSON_VALUES, st.sampled_from([400, 401, 404, 429, 500, 503]), st.sampled_from([CHAT, MESSAGES, GEMINI]))
def test_no_json_of_any_shape_is_misread(value: object, status: int, dialect: Dialect) -> None:
    fault = fault_of(dialect, status, {}, json.dumps(value).encode(), NOON)

    assert isinstance(fault.message, str)
    assert fault.message


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"Retry-After": "7"}, 7),
        ({"retry-after": "0"}, 0.1),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "abc"}, None),
        ({"retry-after": "1e9"}, 3600),
        ({"retry-after": "3, 9"}, 9),
        ({"retry-after": "Tue, 25 Nov 2025 12:00:30 GMT"}, 30),
        ({"retry-after": "Tue, 25 Nov 2025 11:00:00 GMT"}, 0.1),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"x-retry-after": "30"}, 30),
        ({"retry-after": "2", "x-retry-after": "30", "retry-after-ms": "100"}, 30),
    ],
)
def test_retry_after_is_read_in_every_form_and_clamped(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, NOON) == seconds


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m30.5s"}, 90.5),
        ({"X-RateLimit-Remaining-Tokens": "0", "X-RateLimit-Reset-Tokens": "20"}, 20),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "20ms"}, 0.1),
        ({"x-ratelimit-remaining-tokens": "7", "x-ratelimit-reset-tokens": "30s"}, None),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "soon"}, None),
        ({"x-ratelimit-remaining-tokens": "0"}, None),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "2d"}, 3600),
        (
            {
                "anthropic-ratelimit-requests-remaining": "0",
                "anthropic-ratelimit-requests-reset": "2025-11-25T12:00:30Z",
                "anthropic-ratelimit-tokens-remaining": "0",
                "anthropic-ratelimit-tokens-reset": "2025-11-25T12:00:45+00:00",
            },
            45,
        ),
        ({"anthropic-ratelimit-requests-remaining": "0", "anthropic-ratelimit-requests-reset": "9" * 40}, 3600),
    ],
)
def test_limits_that_are_used_up_say_when_they_begin_anew(headers: dict[str, str], seconds: float | None) -> None:
    assert limit_reset(headers, NOON) == seconds
    assert fault_of(CHAT, 429, headers, b"{}", NOON).retry_after == seconds
    assert fault_of(CHAT, 429, {**headers, "retry-after": "3"}, b"{}", NOON).retry_after == 3
    assert fault_of(CHAT, 500, headers, b"{}", NOON).retry_after is None


@given(st.text(max_size=30))
def test_no_reset_is_an_error(text: str) -> None:
    seconds = limit_reset({"x-ratelimit-remaining-a": "0", "x-ratelimit-reset-a": text}, NOON)
    assert seconds is None or 0.1 <= seconds <= 3600


def test_the_wait_inside_an_orchestration_error_counts() -> None:
    body = b'{"error": {"code": 429, "message": "m", "headers": {"x-retry-after": "30"}}}'

    assert fault_of(CHAT, 429, {"retry-after": "5"}, body, NOON).retry_after == 30


def test_the_vendor_s_own_bytes_are_kept_for_clients_of_its_dialect() -> None:
    body = b'{"error":{"code":"x","message":"kept","inner":1.50}}'

    kept = fault_of(CHAT, 400, {}, body, NOON).upstream

    assert kept is not None
    assert (kept.dialect, kept.body) == (CHAT.name, body)


def test_answers_without_an_answer_are_another_deployment_s_chance() -> None:
    assert empty_answer(200).elsewhere
    assert unreadable_answer(b"<html>", {}).elsewhere
    assert "HTML" in unreadable_answer(b"<html>", {}).message
