"""A Fault as a whole answer in the client's dialect: status, body, the headers that tell when to try again."""

from __future__ import annotations

import math

import msgspec

from aicore_proxy.gateway.exchange import Fields, Reply
from aicore_proxy.protocol.dialects import Dialect
from aicore_proxy.protocol.envelope import Envelope
from aicore_proxy.protocol.fault import Fault, Kind

# Where nobody said when to come back. Codex gives up at once on a 429 without a Retry-After; SAP's windows are minutes
UNTOLD = {Kind.RATE_LIMITED: 10.0, Kind.OVERLOADED: 5.0}
LONG_WAIT = 60.0
JSON: Fields = (("content-type", "application/json"),)
HOP = "x-aicore-proxy-hop"
"""On every request to a deployment: who sent it."""


def refusal(dialect: Dialect, fault: Fault, request_id: str) -> Reply:
    """The answer to a client of ``dialect`` whose request ended in ``fault``.

    An upstream error of the same dialect goes out as its own bytes, with the request id as the member ``request_id``.
    """
    status, body = dialect.encode_fault(fault, request_id)
    text = _original(dialect, fault, request_id) or msgspec.json.encode(body)
    return Reply(status, (*JSON, *ids(dialect, request_id), *_retry(fault), *fault.headers), text)


def looped(what: str, *headers: tuple[str, str]) -> Fault:
    """A request that this proxy sent has come back to it. ``what``: led it there. No SDK is to try again."""
    words = f"A loop: {what} leads back to this proxy itself."
    return Fault(Kind.UPSTREAM_FAILED, words, status=508, code="loop", headers=(("x-should-retry", "false"), *headers))


def ids(dialect: Dialect, request_id: str) -> Fields:
    """The header fields that carry the request id: ``x-request-id``, and the dialect's own where that differs."""
    own = () if dialect.request_id_header == "x-request-id" else ((dialect.request_id_header, request_id),)
    return (("x-request-id", request_id), *own)


def _original(dialect: Dialect, fault: Fault, request_id: str) -> bytes | None:
    if fault.upstream is None or fault.upstream.dialect != dialect.name:
        return None
    try:
        envelope = Envelope.parse(fault.upstream.body)
    except Fault:
        return None
    # Shapes of SAP's own layers (``error`` a string, a bare ``message``) are none that the dialect's clients know
    if "error" not in envelope.members or not bytes(envelope.members["error"]).startswith(b"{"):
        return None
    return envelope.spliced(put={"request_id": msgspec.json.encode(request_id)})


def _retry(fault: Fault) -> Fields:
    seconds = fault.retry_after if fault.retry_after is not None else UNTOLD.get(fault.kind)
    if fault.kind is Kind.BUDGET_EXHAUSTED:
        return (("x-should-retry", "false"),)
    if seconds is None:
        return ()
    told = (("retry-after", str(max(1, math.ceil(seconds)))), ("retry-after-ms", str(math.ceil(seconds * 1000))))
    # An OpenAI SDK ignores a longer wait and hammers, Anthropic's sleeps it out
    return (*told, ("x-should-retry", "false")) if seconds > LONG_WAIT else told
