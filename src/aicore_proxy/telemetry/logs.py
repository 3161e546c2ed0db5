"""Log lines on standard error: readable ones. One line per request, with its id; never content, keys or raw paths."""

from __future__ import annotations

import logging
import sys

from aicore_proxy.gateway.record import Record

access = logging.getLogger("aicore_proxy.access")


class OneLine(logging.Formatter):
    """A record is one line, whatever a message holds; a traceback follows on lines of its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        line = super().formatMessage(record)
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


def set_up(level: str) -> None:
    """Sends all log lines of the process to standard error."""
    writer = logging.StreamHandler(sys.stderr)
    writer.setFormatter(OneLine("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [writer]
    root.setLevel(logging.WARNING)
    logging.getLogger("aicore_proxy").setLevel(level.upper())


def line_of(record: Record) -> str:
    """A request in one line."""
    words = [record.route, str(record.status), f"{record.duration * 1000:.0f}ms", f"id={record.request_id}"]
    if record.model:
        words.append(f"model={record.model}")
    if record.stream:
        words.append("stream")
    if record.key_name:
        words.append(f"key={record.key_name}")
    for attempt in record.attempts:
        outcome = attempt.outcome.value if attempt.outcome else "open"
        why = f":{attempt.reason}" if attempt.reason else ""
        words.append(f"{attempt.deployment}={outcome}{why}")
    if record.kind:
        words.append(f"error={record.kind}")
    return " ".join(words)
