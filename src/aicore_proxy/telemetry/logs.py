"""Log lines on standard error: for people on a terminal, JSON for machines. One line per request, with its id; never
content, keys or raw paths."""

from __future__ import annotations

import datetime
import json
import logging
import sys

import msgspec

from aicore_proxy.gateway.call import Attempt
from aicore_proxy.gateway.record import Record
from aicore_proxy.telemetry.shapes import told

access = logging.getLogger("aicore_proxy.access")


class OneLine(logging.Formatter):
    """A record is one line, whatever a message holds; a traceback follows on lines of its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        line = super().formatMessage(record)
        if (bodies := getattr(record, "bodies", None)) is not None:
            line = f"{line}: {json.dumps(bodies)}"
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


class JsonLines(logging.Formatter):
    """A record is one JSON object, its traceback a member; what a request's line tells are members of their own."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line: dict[str, object] = {
            "time": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        request = getattr(record, "request", None)
        line["message"] = "request" if request is not None else record.getMessage()
        if request is not None:
            line |= request
        if (bodies := getattr(record, "bodies", None)) is not None:
            line["bodies"] = bodies
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        try:
            text = msgspec.json.encode(line, enc_hook=str).decode()
        except UnicodeEncodeError:  # half a character
            return json.dumps(line, default=str)
        # Some readers end a line at U+2028 too
        return text if text.isascii() else json.dumps(line, default=str)


def set_up(level: str, form: str = "auto") -> None:
    """Sends all log lines of the process to standard error: as text or JSON; ``auto``: text on a terminal."""
    writer = logging.StreamHandler(sys.stderr)
    text = form == "text" or (form == "auto" and sys.stderr.isatty())
    writer.setFormatter(OneLine("%(asctime)s %(levelname)-7s %(name)s: %(message)s") if text else JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [writer]
    root.setLevel(logging.WARNING)
    set_level(level)


def set_level(level: str) -> None:
    """What is logged from now on: ``debug``, ``info``, ``warning`` or ``error``."""
    logging.getLogger("aicore_proxy").setLevel(level.upper())


def log_request(record: Record) -> None:
    """Writes the one line of a request."""
    if access.isEnabledFor(logging.INFO):
        access.info("%s", Line(record), extra={"request": members_of(record)})


class Line:
    """A request's line as text, made when it is written."""

    __slots__ = ("_record",)

    def __init__(self, record: Record) -> None:
        self._record = record

    def __str__(self) -> str:
        return line_of(self._record)


def members_of(record: Record) -> dict[str, object]:
    """A request as members of a JSON line. Times in milliseconds; what is not known is left out."""
    members: dict[str, object] = {
        "id": record.request_id,
        "key": record.key_name,
        "protocol": record.protocol,
        "endpoint": record.route,
        "status": record.status,
        "outcome": outcome_of(record),
        "duration_ms": millis(record.duration),
        "overhead_ms": millis(record.overhead),
        "first_token_ms": millis(record.first_content),
        "stream": record.stream,
        "model": record.model,
    }
    if (serving := record.serving) is not None:
        members |= {
            "deployment": serving.deployment.id,
            "subaccount": serving.deployment.subaccount,
            "relayed": serving.relayed,
            "fallback": record.fallback,
            "affinity": None if serving.warm is None else "hit" if serving.warm else "miss",
            "dropped": sorted({told(loss.field) for loss in serving.losses}) or None,
            "attempts": [attempt_of(attempt) for attempt in record.attempts],
        }
    if (usage := record.usage) is not None:
        members["tokens"] = {
            "input": usage.input,
            "output": usage.output,
            "cache_read": usage.cache_read,
            "cache_write": usage.cache_write,
            "reasoning": usage.reasoning,
        }
    return {name: value for name, value in members.items() if value is not None and value != ""}


def attempt_of(attempt: Attempt) -> dict[str, object]:
    members: dict[str, object] = {
        "deployment": str(attempt.deployment),
        "outcome": attempt.outcome.value if attempt.outcome is not None else "open",
    }
    if attempt.reason:
        members["reason"] = attempt.reason[:64]
    if attempt.ended:
        members["duration_ms"] = millis(attempt.ended - attempt.started)
    return members


def line_of(record: Record) -> str:
    """A request in one line, for people."""
    words = [record.route, str(record.status), f"{record.duration * 1000:.0f}ms", f"id={record.request_id}"]
    if record.model:
        words.append(f"model={record.model}")
    if record.stream:
        words.append("stream")
    if record.key_name:
        words.append(f"key={record.key_name}")
    for attempt in record.attempts:
        outcome = attempt.outcome.value if attempt.outcome else "open"
        why = f":{attempt.reason[:64]}" if attempt.reason else ""
        words.append(f"{attempt.deployment}={outcome}{why}")
    if (usage := record.usage) is not None:
        cached = f"(cached={usage.cache_read})" if usage.cache_read else ""
        words.append(f"tokens={usage.input}{cached}+{usage.output}")
    if record.first_content is not None:
        words.append(f"first={record.first_content * 1000:.0f}ms")
    if record.overhead is not None:
        words.append(f"overhead={record.overhead * 1000:.1f}ms")
    if record.kind or record.left:
        words.append(f"error={outcome_of(record)}")
    return " ".join(words)


def outcome_of(record: Record) -> str:
    """``ok``, the Fault's kind, or ``client_left:`` and where."""
    return f"client_left:{record.left}" if record.left else record.kind or "ok"


def millis(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 2)
