"""Why a request went as it went: a bounded memory of the last ones, whichever process served them.

For ``aicore-proxy why``. No content, no secrets: names, times, reasons.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from itertools import count
from typing import Any

from aicore_proxy.gateway.record import Record
from aicore_proxy.landscape import Deployment
from aicore_proxy.server.peers import Peers

KEPT = 10_000
"""Requests of each process."""
PATIENCE = 1.0
"""Seconds that the other processes are waited for."""
ASKED, TOLD = "why", "because"


class Why:
    """Owns what is remembered, and what was asked of the other processes. Lives in one event loop."""

    def __init__(self, peers: Peers, kept: int = KEPT) -> None:
        self._peers = peers
        self._kept = kept
        self._records: OrderedDict[str, Record] = OrderedDict()
        self._numbers = count(1)
        self._waiting: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._name = secrets.token_hex(8)
        peers.subscribe(ASKED, self._asked)
        peers.subscribe(TOLD, self._told)

    def remember(self, record: Record) -> None:
        """A request has ended. Of several with the same id the last counts."""
        self._records.pop(record.request_id, None)
        self._records[record.request_id] = record
        if len(self._records) > self._kept:
            self._records.popitem(last=False)

    async def explain(self, request_id: str) -> dict[str, Any] | None:
        """What became of a request, as plain values; None: no process remembers it."""
        if (record := self._records.get(request_id)) is not None:
            return explained(record)
        token = f"{self._name}-{next(self._numbers)}"
        answer = self._waiting[token] = asyncio.get_running_loop().create_future()
        self._peers.publish(ASKED, [token, request_id])
        try:
            async with asyncio.timeout(PATIENCE if self._peers.others else 0):
                found: dict[str, Any] = await answer
                return found
        except TimeoutError:
            return None
        finally:
            del self._waiting[token]

    def _asked(self, value: Any) -> None:
        token, request_id = value
        if (record := self._records.get(request_id)) is not None:
            self._peers.publish(TOLD, [token, explained(record)])

    def _told(self, value: Any) -> None:
        token, explanation = value
        waiting = self._waiting.get(token)
        if waiting is not None and not waiting.done():
            waiting.set_result(explanation)


def explained(record: Record) -> dict[str, Any]:
    """A Record as plain values: times in milliseconds since the request came in."""
    begun = record.began

    def since(at: float) -> float | None:
        return round((at - begun) * 1000, 1) if at else None

    plans = [
        {
            "at_ms": since(planned.at),
            "ranked": [place(deployment) for deployment in planned.plan.ranked],
            "skipped": [
                {
                    **place(skipped.deployment),
                    "reason": skipped.skip.reason.value,
                    "for_s": None if skipped.skip.until == float("inf") else round(skipped.skip.until - planned.at, 1),
                }
                for skipped in planned.plan.skipped
            ],
        }
        for planned in record.plans
    ]
    attempts = [
        {
            "number": attempt.number,
            **place(attempt.deployment),
            "outcome": attempt.outcome.value if attempt.outcome is not None else "",
            "reason": attempt.reason,
            "started_ms": since(attempt.started),
            "first_byte_ms": since(attempt.first_byte),
            "first_content_ms": since(attempt.first_content),
            "ended_ms": since(attempt.ended),
            "cached": attempt.warm,
            "relayed": attempt.relayed,
            "refused": list(dict.fromkeys(attempt.taught)),
            "dropped": list(dict.fromkeys(loss.field for loss in attempt.losses)),
        }
        for attempt in record.attempts
    ]
    return {
        "request_id": record.request_id,
        "route": record.route,
        "protocol": record.protocol,
        "key": record.key_name,
        "model": record.model,
        "fallback": record.fallback,
        "stream": record.stream,
        "status": record.status,
        "kind": record.kind,
        "duration_ms": round(record.duration * 1000, 1),
        "overhead_ms": None if record.overhead is None else round(record.overhead * 1000, 2),
        "plans": plans,
        "attempts": attempts,
    }


def place(deployment: Deployment) -> dict[str, str]:
    """Which deployment it is, in names that the operator knows."""
    return {
        "deployment": deployment.id,
        "subaccount": deployment.subaccount,
        "resource_group": deployment.resource_group,
        "model": deployment.model,
    }
