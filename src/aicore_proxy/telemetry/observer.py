"""What the gateway tells, as numbers and lines. Never raises: a failing observer fails no request."""

from __future__ import annotations

import logging

from aicore_proxy.gateway.call import Attempt, Call
from aicore_proxy.gateway.record import Record
from aicore_proxy.telemetry.logs import access, line_of
from aicore_proxy.telemetry.metrics import Metrics


class Telemetry:
    """The gateway's Observer."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def attempted(self, call: Call, attempt: Attempt) -> None:
        """An attempt ended."""
        if attempt.outcome is not None:
            self._metrics.upstream_attempts.labels(attempt.outcome.value).inc()

    def failed_over(self, call: Call, reason: str) -> None:
        """The next deployment is asked."""
        self._metrics.failovers.labels(reason).inc()
        if access.isEnabledFor(logging.DEBUG):
            access.debug("Failover of %s: %s", call.id, reason)

    def finished(self, record: Record) -> None:
        """A request ended."""
        status_class = f"{record.status // 100}xx"
        self._metrics.requests.labels(record.protocol, status_class).inc()
        if record.status == 499:
            self._metrics.client_disconnects.inc()
        if access.isEnabledFor(logging.INFO):
            access.info("%s", line_of(record))
