"""Which layer an error answer came from, and what it says: SAP AI Core wire facts, section 8.2.

Four layers answer with four shapes: the mesh edge (plain text), SAP's model-access proxy (``error`` is a *string*
beside ``message``), the AI API and the model's vendor (``error`` is an object, or AWS's bare ``message``),
orchestration (object or array). Gateways in between add HTML; ``{}`` and nothing at all were seen.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from aicore_proxy.protocol.dialects import Dialect
from aicore_proxy.protocol.fault import Fault, Kind, UpstreamError, kind_of

MAX_WORDS = 4096
SHORTEST, LONGEST = 0.1, 3600.0
UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def fault_of(dialect: Dialect, status: int, headers: Mapping[str, str], body: bytes, wall: float) -> Fault:
    """The Fault in an error answer of a deployment that speaks ``dialect``. Never raises. ``wall``: Unix seconds, for
    HTTP dates.

    The vendor's own errors keep status, words and bytes. SAP refusing *us* (401, 403, 404 of a deployment) becomes
    502 with SAP's words: the client's key and model name were right.
    """
    value = _json(body)
    may_be_own = status >= 400 and status not in (401, 403, 404)
    own = dialect.decode_fault(status, value) if isinstance(value, dict) and may_be_own else None
    words, code, inner = _said(value, headers) if value is not None else (_text(body, headers), None, {})
    waits = retry_after(headers, wall), retry_after(inner, wall), own.retry_after if own else None
    wait = max((seconds for seconds in waits if seconds is not None), default=None)
    if wait is None and status == 429:
        wait = limit_reset(headers, wall)
    if own is not None:
        own.retry_after = wait
        own.upstream = UpstreamError(dialect.name, status, body)
        return own
    return _refused(status, words or _nothing_said(status), code, wait)


def _refused(status: int, words: str, code: str | None, wait: float | None) -> Fault:
    if status in (401, 403):
        words = f"SAP AI Core refused the proxy's own credentials or resource group: {words}"
        return Fault(Kind.UPSTREAM_FAILED, words, status=502, code="upstream_credentials")
    if status == 404:
        words = f"SAP AI Core does not know the deployment: {words}"
        return Fault(Kind.UPSTREAM_FAILED, words, status=502, code="upstream_deployment_not_found")
    if status < 400:
        words = f"SAP AI Core answered with an unexpected status {status}."
        return Fault(Kind.UPSTREAM_FAILED, words, status=502, code="upstream_error")
    return Fault(kind_of(status, words, code), words, status=status, code=code, retry_after=wait)


def empty_answer(status: int) -> Fault:
    """A success without an answer in it: seen on SAP's Bedrock deployments (wire facts 4.4); another may have one."""
    return Fault(Kind.UPSTREAM_FAILED, f"SAP AI Core answered {status} with an empty body.", code="upstream_empty")


def unreadable_answer(body: bytes, headers: Mapping[str, str]) -> Fault:
    """A success whose body is no answer of the dialect: HTML of a gateway, JSON cut in the middle."""
    what = "an HTML page" if _is_html(body, headers) else "something that is no answer of the model"
    return Fault(Kind.UPSTREAM_FAILED, f"SAP AI Core answered with {what}.", code="upstream_error")


def retry_after(headers: Mapping[str, str], wall: float) -> float | None:
    """Seconds to wait as told by any of the usual headers: the longest of several, 0.1 s to 1 h; None if none is
    readable. ``retry-after`` in seconds or as an HTTP date, ``retry-after-ms``, SAP's ``x-retry-after``."""
    told: list[float] = []
    for name, value in headers.items():
        match name.lower():
            case "retry-after" | "x-retry-after":
                told += [seconds for text in _several(value) if (seconds := _seconds(text, wall)) is not None]
            case "retry-after-ms":
                told += [float(text) / 1000 for text in value.split(",") if re.fullmatch(r"\s*\d+(\.\d+)?\s*", text)]
    return min(LONGEST, max(SHORTEST, *told)) if told else None


def limit_reset(headers: Mapping[str, str], wall: float) -> float | None:
    """Seconds until a vendor's limits that are used up begin anew, 0.1 s to 1 h; None if none is told. OpenAI's
    ``x-ratelimit-remaining-…`` and ``-reset-…`` hold a time like ``6m0s``, Anthropic's ``anthropic-ratelimit-…`` a
    date."""
    fields = {name.lower(): value.strip() for name, value in headers.items()}
    spent = [name for name, value in fields.items() if "ratelimit-" in name and "remaining" in name and value == "0"]
    resets = (_span(fields.get(name.replace("remaining", "reset"), ""), wall) for name in spent)
    told = [seconds for seconds in resets if seconds is not None]
    return min(LONGEST, max(SHORTEST, *told)) if told else None


def _span(text: str, wall: float) -> float | None:
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    if re.fullmatch(r"(\d+(\.\d+)?(d|h|ms|m|s))+", text):
        return sum(float(number) * UNITS[unit] for number, unit in re.findall(r"([\d.]+)(d|h|ms|m|s)", text))
    try:
        return datetime.fromisoformat(text).timestamp() - wall
    except (ValueError, OverflowError):
        return None


def _several(value: str) -> list[str]:
    # A date holds a comma itself
    return [value] if re.search("[a-zA-Z]{3}", value) else value.split(",")


def _seconds(text: str, wall: float) -> float | None:
    text = text.strip()
    if re.fullmatch(r"\d+(\.\d+)?(e\d+)?", text):
        return float(text)
    try:
        return parsedate_to_datetime(text).timestamp() - wall
    except (ValueError, IndexError, OverflowError):
        return None


def _json(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _said(value: Any, headers: Mapping[str, str]) -> tuple[str, str | None, Mapping[str, str]]:
    """(words, code, headers inside the body) of a JSON error, whatever its layer."""
    if isinstance(value, list):
        value = next((item for item in value if isinstance(item, dict)), {})
    if not isinstance(value, dict):
        return (value[:MAX_WORDS] if isinstance(value, str) else ""), None, {}
    error = value.get("error", value.get("errors"))
    if isinstance(error, list):
        # Orchestration with fallbacks: one per attempt, the last gave the status
        error = next((item for item in reversed(error) if isinstance(item, dict)), {})
    if isinstance(error, dict):
        inner = error.get("headers")
        told = {str(k): str(v) for k, v in inner.items()} if isinstance(inner, dict) else {}
        return _words(error.get("message")) or _words(value.get("message")), _code(error.get("code")), told
    words = _words(value.get("message")) or _words(value.get("error_description")) or _detail(value.get("detail"))
    if isinstance(error, str):
        return words or error[:MAX_WORDS], error[:128] if words else None, {}
    return words, headers.get("x-amzn-errortype", "").partition(":")[0] or None, {}


def _words(value: Any) -> str:
    return value[:MAX_WORDS] if isinstance(value, str) else ""


def _code(value: Any) -> str | None:
    return str(value)[:128] if isinstance(value, str | int) and not isinstance(value, bool) else None


def _detail(value: Any) -> str:
    if isinstance(value, list):
        return "; ".join(_words(item.get("msg")) for item in value if isinstance(item, dict))[:MAX_WORDS]
    return _words(value)


def _text(body: bytes, headers: Mapping[str, str]) -> str:
    """Plain words of the mesh edge; none of an HTML page's or of broken JSON."""
    if _is_html(body, headers) or body.lstrip()[:1] in (b"{", b"[") or body.strip() == b"null":
        return ""
    return " ".join("".join(c if c.isprintable() else " " for c in body[:MAX_WORDS].decode(errors="ignore")).split())


def _is_html(body: bytes, headers: Mapping[str, str]) -> bool:
    return "text/html" in headers.get("content-type", "") or bool(
        re.match(rb"\s*<(!doctype|html)", body[:256], re.IGNORECASE)
    )


def _nothing_said(status: int) -> str:
    return f"SAP AI Core answered with status {status} and no words."
