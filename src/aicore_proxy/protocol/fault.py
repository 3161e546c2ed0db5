"""The error taxonomy: one exception for everything that ends a request, whoever was at fault."""

from __future__ import annotations

import re
from enum import Enum
from typing import NamedTuple

from msgspec import Struct


class Traits(NamedTuple):
    """What follows from a Kind: our status, whether another deployment may answer."""

    status: int
    elsewhere: bool


class Kind(Enum):
    """Why a request failed. Statuses, types and codes per dialect stand in the dialects' own tables."""

    MALFORMED = "malformed"
    UNSUPPORTED = "unsupported"
    CONTEXT_TOO_LONG = "context_too_long"
    CONTENT_FILTERED = "content_filtered"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    MODEL_NOT_FOUND = "model_not_found"
    TOO_LARGE = "too_large"
    RATE_LIMITED = "rate_limited"
    BUDGET_EXHAUSTED = "budget_exhausted"
    OVERLOADED = "overloaded"
    UPSTREAM_FAILED = "upstream_failed"
    TIMEOUT = "timeout"
    INTERNAL = "internal"

    @property
    def traits(self) -> Traits:
        return TRAITS[self]


TRAITS = {
    Kind.MALFORMED: Traits(400, elsewhere=False),
    Kind.UNSUPPORTED: Traits(400, elsewhere=False),
    Kind.CONTEXT_TOO_LONG: Traits(400, elsewhere=False),
    Kind.CONTENT_FILTERED: Traits(400, elsewhere=False),
    Kind.UNAUTHENTICATED: Traits(401, elsewhere=False),
    Kind.FORBIDDEN: Traits(403, elsewhere=False),
    Kind.MODEL_NOT_FOUND: Traits(404, elsewhere=False),
    Kind.TOO_LARGE: Traits(413, elsewhere=False),
    Kind.RATE_LIMITED: Traits(429, elsewhere=True),
    Kind.BUDGET_EXHAUSTED: Traits(429, elsewhere=False),
    Kind.OVERLOADED: Traits(503, elsewhere=True),
    Kind.UPSTREAM_FAILED: Traits(502, elsewhere=True),
    Kind.TIMEOUT: Traits(504, elsewhere=True),
    Kind.INTERNAL: Traits(500, elsewhere=False),
}


class UpstreamError(Struct, frozen=True):
    """An upstream's own error answer, for a client of the same dialect: its bytes go out as they came."""

    dialect: str
    status: int
    body: bytes


class Fault(Exception):
    """Ends a request, or a stream, with an error in the client's dialect.

    ``message``: words for the client: the upstream's own where it had any (clients match on them). ``status``: the
    upstream's, where it is to be kept; else the Kind's. ``code``: the machine-readable code (``model_not_found``).
    ``param``: the field at fault. ``retry_after``: seconds. ``upstream``: the original bytes. ``details``: of the
    error in its own dialect: members of Anthropic's ``error.details`` (``error_code``), on which its SDKs branch, or
    Google's list. ``headers``: further ones.
    """

    def __init__(
        self,
        kind: Kind,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
        upstream: UpstreamError | None = None,
        details: dict[str, object] | list[object] | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.status = status if status is not None else kind.traits.status
        self.code = code
        self.param = param
        self.retry_after = retry_after
        self.upstream = upstream
        self.details = details
        self.headers = headers

    @property
    def elsewhere(self) -> bool:
        """Whether another deployment of the model may answer instead."""
        return self.kind.traits.elsewhere

    def __repr__(self) -> str:
        return f"Fault({self.kind.name}, {self.status}, {self.message!r})"


# What upstreams say, in lower case. Each vendor's wording of "the prompt does not fit" (clients compact on these).
TOO_LONG = (
    "prompt is too long",
    "input is too long",
    "maximum context length",
    "context_length_exceeded",
    "exceeds the context window",
    "exceed context limit",
    "exceeds the maximum number of tokens allowed",
    "input token count",
    "input tokens exceed",
    "too many tokens in request",
)
FILTERED = (
    "content_filter",
    "content management policy",
    "content filtering policy",
    "prompt filtered due to safety",
    "responsibleaipolicyviolation",
)


def status_in(code: str) -> int | None:
    """The status that an upstream wrote as the code of an error; None: the code is a word, or another number."""
    return int(code) if re.fullmatch("[45][0-9]{2}", code) else None


def kind_of(status: int, message: str, code: str | None = None) -> Kind:
    """The Kind of an upstream's error by its status and words. A 401, 402, 403 or 404 here is SAP refusing *us*."""
    words = f"{code or ''} {message}".lower()
    if status in (400, 413, 422):
        if any(phrase in words for phrase in TOO_LONG):
            return Kind.CONTEXT_TOO_LONG
        if any(phrase in words for phrase in FILTERED):
            return Kind.CONTENT_FILTERED
        return Kind.TOO_LARGE if status == 413 else Kind.MALFORMED
    if status == 429:
        return Kind.RATE_LIMITED
    if status in (503, 529):
        return Kind.OVERLOADED
    if status in (408, 425, 504):
        return Kind.TIMEOUT
    if status in (401, 402, 403, 404) or status >= 500 or status < 400:
        return Kind.UPSTREAM_FAILED
    return Kind.MALFORMED
