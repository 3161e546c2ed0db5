"""generateContent answers and errors, in both directions. Source of names: Vertex AI ``GenerateContentResponse`` and
``google.rpc.Status``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from aicore_proxy.protocol.dialects import Answering
from aicore_proxy.protocol.dialects.gemini.parts import PartWriter, decode_part
from aicore_proxy.protocol.dialects.gemini.wire import (
    NAME,
    Node,
    as_count,
    as_object,
    as_objects,
    as_text,
)
from aicore_proxy.protocol.fault import Fault, Kind, kind_of, status_in
from aicore_proxy.protocol.neutral import (
    Candidate,
    FinishReason,
    Foreign,
    Part,
    Reasoning,
    Response,
    Text,
    ToolCall,
    Usage,
)

Json = Any

# Finish reasons

FILTERED = frozenset({
    "SAFETY", "RECITATION", "PROHIBITED_CONTENT", "BLOCKLIST", "SPII", "LANGUAGE", "MODEL_ARMOR", "IMAGE_SAFETY",
    "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION",
})  # fmt: skip
BROKEN = frozenset({"MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "MALFORMED_RESPONSE", "TOO_MANY_TOOL_CALLS",
                    "MISSING_THOUGHT_SIGNATURE"})  # fmt: skip
"""The model wrote nothing that could be shown. Without content that is a failed attempt, which another may better."""

WIRE_FINISH: Mapping[FinishReason, str] = {
    "stop": "STOP",
    "tool_calls": "STOP",
    "stop_sequence": "STOP",
    "pause": "STOP",
    "length": "MAX_TOKENS",
    "context": "MAX_TOKENS",
    "content_filter": "SAFETY",
    "refusal": "SAFETY",
}


def finish_of(reason: str, *, called: bool) -> FinishReason:
    """The neutral reason for a ``finishReason``. Gemini has none for calls: ``called``."""
    if reason == "MAX_TOKENS":
        return "length"
    if reason in FILTERED:
        return "content_filter"
    return "tool_calls" if called else "stop"


def kept_reason(reason: str, finish: FinishReason) -> dict[str, Json]:
    """The reason itself, where the neutral one does not lead back to it."""
    return {} if reason == WIRE_FINISH[finish] else {"finishReason": reason}


def broken(reason: str, message: str) -> Fault:
    words = message or "the model's answer could not be read"
    return Fault(Kind.UPSTREAM_FAILED, f"Gemini ended with {reason}: {words}.".replace("..", "."), code=reason.lower())


# Usage


def usage_of(body: Mapping[str, Json]) -> Usage | None:
    """Gemini counts the tokens of tools' results and thoughts beside the prompt's and the answer's."""
    counts = as_object(body.get("usageMetadata", body.get("usage_metadata")))
    if not counts:
        return None
    thoughts = as_count(counts.get("thoughtsTokenCount"))
    return Usage(
        input=as_count(counts.get("promptTokenCount")) + as_count(counts.get("toolUsePromptTokenCount")),
        cache_read=as_count(counts.get("cachedContentTokenCount")),
        output=as_count(counts.get("candidatesTokenCount")) + thoughts,
        reasoning=thoughts,
    )


def wire_usage(usage: Usage) -> dict[str, Json]:
    counts = {
        "promptTokenCount": usage.input,
        "candidatesTokenCount": max(0, usage.output - usage.reasoning),
        "totalTokenCount": usage.input + usage.output,
    }
    if usage.estimated:
        counts["estimated"] = True
    if usage.reasoning:
        counts["thoughtsTokenCount"] = usage.reasoning
    if usage.cache_read:
        counts["cachedContentTokenCount"] = usage.cache_read
    return counts


# Reading


def decode_response(body: Mapping[str, Json]) -> Response:
    """Raises Fault(UPSTREAM_FAILED) on what is no answer, or one that the model could not finish."""
    if (fault := embedded_fault(body)) is not None:
        raise fault
    feedback = as_object(body.get("promptFeedback"))
    if not isinstance(body.get("candidates"), list) and not feedback:
        raise Fault(Kind.UPSTREAM_FAILED, "Gemini's answer has no candidates.")
    candidates = [_candidate(candidate) for candidate in as_objects(body.get("candidates"))]
    if not candidates:
        candidates = [Candidate((), "content_filter" if feedback.get("blockReason") else "stop")]
    return Response(
        id=as_text(body.get("responseId")),
        model=as_text(body.get("modelVersion")),
        candidates=tuple(candidates),
        usage=usage_of(body),
        extras={name: value for name, value in body.items() if name not in _READ},
    )


_READ = frozenset({"candidates", "usageMetadata", "responseId", "modelVersion"})
_READ_CANDIDATE = frozenset({"content", "finishReason", "index"})


def _candidate(body: Mapping[str, Json]) -> Candidate:
    parts: list[Part] = []
    for wire in as_objects(as_object(body.get("content")).get("parts")):
        for part in answer_parts(wire):
            _append(parts, part)
    reason = as_text(body.get("finishReason")) or "STOP"
    if reason in BROKEN and not parts:
        raise broken(reason, as_text(body.get("finishMessage")))
    finish = finish_of(reason, called=any(isinstance(part, ToolCall) for part in parts))
    extras = {name: value for name, value in body.items() if name not in _READ_CANDIDATE}
    return Candidate(tuple(parts), finish, extras={**extras, **kept_reason(reason, finish)})


def _append(parts: list[Part], part: Part) -> None:
    """Pieces of one text or one thought belong together, as they would in a stream."""
    match parts[-1] if parts else None, part:
        case _, Text(text="") | Reasoning(text="", seal=None):
            pass
        case Text(text=text, extras=extras) as before, Text(text=more) if not extras and not part.extras:
            parts[-1] = replace(before, text=text + more)
        case Reasoning(seal=None, extras=extras) as before, Reasoning(redacted=False) if not extras and not part.extras:
            parts[-1] = replace(part, text=before.text + part.text)
        case _:
            parts.append(part)


def answer_parts(wire: Mapping[str, Json]) -> list[Part]:
    """One part of an answer. A call's name without a prefix that ends in a colon, which the model sometimes puts
    before the declared name (SAP AI Core wire facts, section 5). What cannot be read is kept whole."""
    if len(wire) == 1 and isinstance(text := wire.get("text"), str):
        return [Text(text)]
    try:
        parts = decode_part(Node(wire))
    except Fault:
        return [Foreign(NAME, dict(wire))]
    return [replace(p, name=_bare(p.name)) if isinstance(p, ToolCall) else p for p in parts]


def _bare(name: str) -> str:
    return name.rpartition(":")[2] or name


# Writing


def encode_response(response: Response, answering: Answering) -> dict[str, Json]:
    body: dict[str, Json] = {}
    blocked = _blocked(response)
    candidates = [] if blocked else [candidate_of(c, i, answering) for i, c in enumerate(response.candidates)]
    if candidates:
        body["candidates"] = candidates
    usage = response.usage or Usage()
    body["usageMetadata"] = wire_usage(usage)
    body["modelVersion"] = answering.request.model or response.model
    body["responseId"] = response.id or answering.fresh_id
    return {**body, **response.extras}


def _blocked(response: Response) -> bool:
    """A prompt that was blocked has no candidates, only ``promptFeedback``."""
    return "promptFeedback" in response.extras and not any(c.parts for c in response.candidates)


def answer_writer(answering: Answering) -> PartWriter:
    """Writes parts for the client; thoughts not where it said ``includeThoughts: false``."""
    ask = answering.request.reasoning
    shown = ask is None or ask.visible is not False
    return PartWriter(answering.sealer, [], own=False, with_ids=True, names={}, thoughts=shown)


def candidate_of(candidate: Candidate, index: int, answering: Answering) -> dict[str, Json]:
    writer = answer_writer(answering)
    reason = candidate.extras.get("finishReason") or WIRE_FINISH[candidate.finish]
    extras = {name: value for name, value in candidate.extras.items() if name != "finishReason"}
    return {
        "content": {"role": "model", "parts": writer.written(candidate.parts)},
        "finishReason": reason,
        "index": index,
        **extras,
    }


# Errors

STATUSES: Mapping[Kind, str] = {
    Kind.MALFORMED: "INVALID_ARGUMENT",
    Kind.UNSUPPORTED: "INVALID_ARGUMENT",
    Kind.CONTEXT_TOO_LONG: "INVALID_ARGUMENT",
    Kind.CONTENT_FILTERED: "INVALID_ARGUMENT",
    Kind.UNAUTHENTICATED: "UNAUTHENTICATED",
    Kind.FORBIDDEN: "PERMISSION_DENIED",
    Kind.MODEL_NOT_FOUND: "NOT_FOUND",
    Kind.TOO_LARGE: "INVALID_ARGUMENT",
    Kind.RATE_LIMITED: "RESOURCE_EXHAUSTED",
    Kind.BUDGET_EXHAUSTED: "RESOURCE_EXHAUSTED",
    Kind.OVERLOADED: "UNAVAILABLE",
    Kind.UPSTREAM_FAILED: "INTERNAL",
    Kind.TIMEOUT: "DEADLINE_EXCEEDED",
    Kind.INTERNAL: "INTERNAL",
}
RETRY_INFO = "type.googleapis.com/google.rpc.RetryInfo"


def encode_fault(fault: Fault, request_id: str) -> tuple[int, dict[str, Json]]:
    """``google.rpc.Status`` as JSON, with Google's own details where there are any. The wait stands in a ``RetryInfo``:
    Gemini CLI reads nothing else."""
    status = 503 if fault.kind is Kind.OVERLOADED and fault.status == 529 else fault.status
    error: dict[str, Json] = {"code": status, "message": fault.message, "status": STATUSES[fault.kind]}
    details: list[Json] = list(fault.details) if isinstance(fault.details, list) else []
    if not details and (fault.code or fault.param):
        told = {"reason": (fault.code or "INVALID_FIELD").upper(), "domain": "sap-ai-core-llm-proxy"}
        field = {"metadata": {"field": fault.param}} if fault.param else {}
        details.append({"@type": "type.googleapis.com/google.rpc.ErrorInfo", **told, **field})
    if fault.retry_after is not None and _delay(details) is None:
        details.append({"@type": RETRY_INFO, "retryDelay": f"{fault.retry_after:.3f}".rstrip("0").rstrip(".") + "s"})
    if details:
        error["details"] = details
    return status, {"error": error, "request_id": request_id}


def decode_fault(status: int, body: Mapping[str, Json]) -> Fault | None:
    """A Google error: ``{"error": {"code": 400, "message", "status", "details"}}``. None if ``body`` is none."""
    error = body.get("error")
    if not isinstance(error, dict) or not isinstance(error.get("message"), str):
        return None
    name = error.get("status")
    if not isinstance(name, str) and not isinstance(error.get("code"), int):
        return None
    message = error["message"]
    kind = kind_of(status, message, name if isinstance(name, str) else None)
    # What the kind says already is no code that another dialect's clients could use
    code = name if isinstance(name, str) and name not in STATUSES.values() else None
    if name == "DEADLINE_EXCEEDED":
        kind = Kind.TIMEOUT
    details = error.get("details")
    return Fault(
        kind,
        message,
        status=status,
        code=code,
        retry_after=_delay(details),
        details=list(details) if isinstance(details, list) and details else None,
    )


def _delay(details: Json) -> float | None:
    for detail in as_objects(details):
        delay = detail.get("retryDelay")
        if detail.get("@type") == RETRY_INFO and isinstance(delay, str):
            try:
                seconds = float(delay.removesuffix("s"))
            except ValueError:
                continue
            if 0 <= seconds < 1e9:
                return seconds
    return None


def embedded_fault(body: Mapping[str, Json]) -> Fault | None:
    """The error in an answer of status 200, whichever layer wrote it (SAP AI Core wire facts, sections 8.2 and 8.3);
    None if there is none."""
    if "candidates" in body or "promptFeedback" in body:
        return None
    error = body.get("error")
    match error:
        case Mapping():
            status = _status(error.get("code"), error.get("status"), error.get("type"))
            known = decode_fault(status, body)
            words = as_text(error.get("message")) or "The upstream reported an error."
            told = error.get("status") or error.get("type") or error.get("code")
            return known or _failed(status, words, told)
        case list() if several := as_objects(error):
            return embedded_fault({"error": several[-1]})
        case str():
            return _failed(
                _status(body.get("code"), body.get("status"), error), as_text(body.get("message")) or error, error
            )
        case _ if isinstance(body.get("message"), str):
            return _failed(
                _status(body.get("code"), body.get("status"), body.get("type")), body["message"], body.get("type")
            )
        case _:
            return None


def _failed(status: int, words: str, code: Json) -> Fault:
    told = str(code) if isinstance(code, str | int) else None
    return Fault(kind_of(status, words, told), words, status=status, code=told)


_BY_LABEL = {
    "RESOURCE_EXHAUSTED": 429, "TOOMANYREQUESTS": 429, "RATE_LIMIT": 429, "THROTTL": 429, "UNAVAILABLE": 503,
    "OVERLOADED": 529, "DEADLINE_EXCEEDED": 504, "TIMEOUT": 504, "INVALID": 400, "BADREQUEST": 400,
    "FAILED_PRECONDITION": 400, "NOT_FOUND": 404, "PERMISSION": 403, "UNAUTHENTICATED": 401,
}  # fmt: skip


def _status(*told: Json) -> int:
    """The status that an error inside a 200 stands for: a number, or what its label says; else 502."""
    for value in told:
        if isinstance(value, int) and not isinstance(value, bool) and 400 <= value <= 599:
            return value
        if isinstance(value, str):
            if (status := status_in(value)) is not None:
                return status
            label = value.upper().replace(" ", "")
            if (labelled := next((s for word, s in _BY_LABEL.items() if word in label), None)) is not None:
                return labelled
    return 502
