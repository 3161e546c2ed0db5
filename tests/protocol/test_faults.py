"""What an upstream's status and words mean, and what any code inside a stream may be."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aicore_proxy.protocol.dialects import Dialect, anthropic_messages, gemini, openai_chat
from aicore_proxy.protocol.fault import FILTERED, TOO_LONG, Fault, Kind, kind_of
from aicore_proxy.protocol.neutral import Failure

DIALECTS = [openai_chat.DIALECT, anthropic_messages.DIALECT, gemini.DIALECT]

TRAITS: dict[Kind, tuple[int, bool]] = {
    Kind.MALFORMED: (400, False),
    Kind.UNSUPPORTED: (400, False),
    Kind.CONTEXT_TOO_LONG: (400, False),
    Kind.CONTENT_FILTERED: (400, False),
    Kind.UNAUTHENTICATED: (401, False),
    Kind.FORBIDDEN: (403, False),
    Kind.MODEL_NOT_FOUND: (404, False),
    Kind.TOO_LARGE: (413, False),
    Kind.RATE_LIMITED: (429, True),
    Kind.BUDGET_EXHAUSTED: (429, False),
    Kind.OVERLOADED: (503, True),
    Kind.UPSTREAM_FAILED: (502, True),
    Kind.TIMEOUT: (504, True),
    Kind.INTERNAL: (500, False),
}


@pytest.mark.parametrize("kind", [*Kind])
def test_what_follows_from_a_kind(kind: Kind) -> None:
    fault = Fault(kind, "words")
    assert (fault.status, fault.elsewhere) == TRAITS[kind]
    assert Fault(kind, "words", status=418).status == 418
    assert str(fault) == "words"


STATUSES = {
    Kind.MALFORMED: [400, 405, 409, 422, 499],
    Kind.TOO_LARGE: [413],
    Kind.RATE_LIMITED: [429],
    Kind.OVERLOADED: [503, 529],
    Kind.TIMEOUT: [408, 425, 504],
    Kind.UPSTREAM_FAILED: [402, 200, 302, 399, 401, 403, 404, 500, 501, 502, 599],
}


@pytest.mark.parametrize(("kind", "status"), [(kind, status) for kind, each in STATUSES.items() for status in each])
def test_the_kind_of_a_status(kind: Kind, status: int) -> None:
    assert kind_of(status, "words", "code") is kind


@pytest.mark.parametrize("status", [400, 413, 422])
@pytest.mark.parametrize(
    ("kind", "phrase"),
    [(Kind.CONTEXT_TOO_LONG, phrase) for phrase in TOO_LONG] + [(Kind.CONTENT_FILTERED, phrase) for phrase in FILTERED],
)
def test_vendors_words_for_what_does_not_fit_or_is_filtered(kind: Kind, phrase: str, status: int) -> None:
    assert kind_of(status, f"Sorry: {phrase.upper()}!") is kind
    assert kind_of(status, "words", phrase.upper()) is kind
    assert kind_of(500, phrase) is Kind.UPSTREAM_FAILED


CODES = {
    "400": 400, "429": 429, "503": 503, "599": 599, "600": 0, "399": 0, "4290": 0, "04290": 0, "0429": 0, "²": 0,
    "٤٢٩": 0, "9" * 5000: 0, "0500" + "1" * 5000: 0, "4.29": 0, " 429": 0, "429\n": 0, "": 0,
}  # fmt: skip
"""What an upstream may call an error, and the status that it says; 0: none."""


@pytest.mark.parametrize("code", CODES, ids=lambda code: ascii(code[:8]))
@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_any_code_inside_a_stream_is_a_failure_with_a_status(dialect: Dialect, code: str) -> None:
    shapes: list[Any] = [{"error": {"code": code, "message": "x"}}]
    for told in shapes:
        events = dialect.stream_decoder().feed(json.dumps(told).encode())
        fault = events[-1].fault if isinstance(events[-1], Failure) else None
        assert fault is not None
        assert 400 <= fault.status <= 599
        assert fault.kind is (kind_of(CODES[code], "x") if CODES[code] else Kind.UPSTREAM_FAILED)


@pytest.mark.parametrize(
    ("event", "kind", "code"),
    [
        ({"error": "ThrottlingException", "message": "slow"}, Kind.RATE_LIMITED, "ThrottlingException"),
        ({"error": "TooManyRequests", "message": "x"}, Kind.RATE_LIMITED, "TooManyRequests"),
        ({"message": "Too many tokens, please wait"}, Kind.RATE_LIMITED, None),
        ({"error": {"type": "rate_limit_error", "message": "x"}}, Kind.RATE_LIMITED, "rate_limit_error"),
        ({"error": "ServiceUnavailable", "message": "x"}, Kind.OVERLOADED, "ServiceUnavailable"),
        ({"error": {"message": "Overloaded"}}, Kind.OVERLOADED, None),
        ({"error": {"code": 503, "message": "x"}}, Kind.OVERLOADED, "503"),
        ({"error": "ModelTimeout", "message": "x"}, Kind.TIMEOUT, "ModelTimeout"),
        ({"message": "The model timed out"}, Kind.TIMEOUT, None),
        ({"error": "ValidationException", "message": "x"}, Kind.MALFORMED, "ValidationException"),
        ({"error": {"type": "invalid_request_error", "message": "x"}}, Kind.MALFORMED, "invalid_request_error"),
        ({"error": "BadRequest", "message": "x"}, Kind.MALFORMED, "BadRequest"),
        (
            {"error": "ValidationException", "message": "Input is too long"},
            Kind.CONTEXT_TOO_LONG,
            "ValidationException",
        ),
        ({"error": "Whatever", "message": "x"}, Kind.UPSTREAM_FAILED, "Whatever"),
    ],
)
def test_errors_of_other_layers_in_a_stream_of_messages(event: dict[str, Any], kind: Kind, code: str | None) -> None:
    events = anthropic_messages.DIALECT.stream_decoder().feed(json.dumps(event).encode())
    assert isinstance(events[-1], Failure)
    fault = events[-1].fault
    said = event.get("message") or event["error"]["message"]
    assert (fault.kind, fault.code, fault.message) == (kind, code, said)


@pytest.mark.parametrize(
    ("label", "kind"),
    [
        ("Too Many Requests", Kind.RATE_LIMITED), ("RESOURCE_EXHAUSTED", Kind.RATE_LIMITED),
        ("rate_limit_error", Kind.RATE_LIMITED), ("ThrottlingException", Kind.RATE_LIMITED),
        ("UNAVAILABLE", Kind.OVERLOADED), ("overloaded_error", Kind.OVERLOADED),
        ("DEADLINE_EXCEEDED", Kind.TIMEOUT), ("GatewayTimeout", Kind.TIMEOUT),
        ("INVALID_ARGUMENT", Kind.MALFORMED), ("BadRequest", Kind.MALFORMED), ("FAILED_PRECONDITION", Kind.MALFORMED),
        ("NOT_FOUND", Kind.UPSTREAM_FAILED), ("PERMISSION_DENIED", Kind.UPSTREAM_FAILED),
        ("UNAUTHENTICATED", Kind.UPSTREAM_FAILED), ("whatever", Kind.UPSTREAM_FAILED),
    ],
)  # fmt: skip
@pytest.mark.parametrize("shape", ["status", "type", "bare"])
def test_labels_of_errors_in_a_stream_of_gemini(label: str, kind: Kind, shape: str) -> None:
    told = {"error": label, "message": "x"} if shape == "bare" else {"error": {shape: label, "message": "x"}}
    events = gemini.DIALECT.stream_decoder().feed(json.dumps(told).encode())
    assert isinstance(events[-1], Failure)
    assert events[-1].fault.kind is kind


WORDS = {
    400: "invalid_request_error badrequest bad_request", 401: "authentication_error", 403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error rate_limit_exceeded too_many_requests TooManyRequests toomanyrequest tokens requests "
         "insufficient_quota",
    503: "overloaded_error Overloaded ServiceUnavailable", 504: "timeout timeout_error", 500: "other",
}  # fmt: skip


@pytest.mark.parametrize(
    ("status", "word"), [(status, word) for status, words in WORDS.items() for word in words.split()]
)
def test_words_of_errors_in_a_chat_stream(status: int, word: str) -> None:
    for told in ({"error": {"code": word, "message": "x"}}, {"error": {"type": word, "message": "x"}}):
        events = openai_chat.DIALECT.stream_decoder().feed(json.dumps(told).encode())
        assert isinstance(events[-1], Failure)
        assert events[-1].fault.status == status


@pytest.mark.parametrize(
    ("code", "told"),
    [(500, "500"), ("x", "x"), ("", None), (None, None), (True, None), ([5], None), ("y" * 5000, "y" * 4096)],
)
def test_the_code_of_azures_error_is_words(code: Any, told: str | None) -> None:
    fault = openai_chat.DIALECT.decode_fault(500, {"error": {"code": code, "param": code, "message": "x"}})
    assert fault is not None
    assert (fault.code, fault.param) == (told, told)
