"""How an attempt ended, as routing sees it."""

from __future__ import annotations

from enum import Enum

from aicore_proxy.protocol.fault import Fault, Kind


class Outcome(Enum):
    OK = "ok"
    CLIENT_FAULT = "client_fault"
    THROTTLED = "throttled"
    UNAVAILABLE = "unavailable"
    TIMEOUT = "timeout"
    UNAUTHORIZED = "unauthorized"
    CANCELLED = "cancelled"


def outcome_of(fault: Fault) -> Outcome:
    """The Outcome of an attempt that ended in ``fault``."""
    match fault.kind:
        case Kind.RATE_LIMITED:
            return Outcome.THROTTLED
        case Kind.TIMEOUT:
            return Outcome.TIMEOUT
        case Kind.UPSTREAM_FAILED if fault.code == "upstream_credentials":
            return Outcome.UNAUTHORIZED
        case Kind.UPSTREAM_FAILED | Kind.OVERLOADED | Kind.INTERNAL:
            return Outcome.UNAVAILABLE
        case _:
            return Outcome.CLIENT_FAULT


# The best error of several, for a client whose request failed everywhere: the one that says most about when to come
# back (a throttle) before a server's own words before a failed connection.
_RANK = {Outcome.CLIENT_FAULT: 0, Outcome.THROTTLED: 1, Outcome.UNAVAILABLE: 2, Outcome.TIMEOUT: 3}


def best_of(faults: list[Fault]) -> Fault:
    """What a client is told when every attempt failed: the best fault there was, with the earliest Retry-After."""
    best = min(faults, key=lambda fault: (_RANK.get(outcome_of(fault), 4), fault.upstream is None))
    waits = [fault.retry_after for fault in faults if fault.retry_after is not None]
    if waits and best.kind in (Kind.RATE_LIMITED, Kind.OVERLOADED):
        best.retry_after = min(waits)
    return best
