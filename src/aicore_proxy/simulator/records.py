"""The requests received last, for tests to look at."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import msgspec
from msgspec import Struct

from aicore_proxy.simulator.landscape import Deployment
from aicore_proxy.simulator.server import Request

KEPT = 1_000
BODIES = 256 * 1024 * 1024


class Record(Struct):
    """One request. ``body`` None: let go, since all bodies together are limited."""

    subaccount: str | None
    deployment: str | None
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes | None
    at: float


class Records:
    """The last thousand, bodies as they came. Owned by the Simulator."""

    def __init__(self) -> None:
        self._records: deque[Record] = deque()
        self._bytes = 0

    def add(self, request: Request, deployment: Deployment) -> None:
        """Keeps a request; older ones make room."""
        self._records.append(
            Record(
                deployment.subaccount,
                deployment.id,
                request.method,
                request.path,
                request.query,
                request.headers,
                request.body,
                time.time(),
            )
        )
        self._bytes += len(request.body)
        while len(self._records) > KEPT:
            self._bytes -= len(self._records.popleft().body or b"")
        if self._bytes > BODIES:
            self._let_go()

    def _let_go(self) -> None:
        for record in self._records:
            if self._bytes <= BODIES:
                break
            self._bytes -= len(record.body or b"")
            record.body = None

    def clear(self) -> None:
        self._records.clear()
        self._bytes = 0

    def listed(self) -> list[dict[str, Any]]:
        """As the control endpoint shows them, oldest first."""
        return [{**msgspec.structs.asdict(record), "body": _shown(record.body)} for record in self._records]


def _shown(body: bytes | None) -> Any:
    if body is None:
        return None
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return body.decode("utf-8", "replace")
