"""The clock for what ends somewhere else: it goes on while the machine sleeps, and nobody sets it."""

from __future__ import annotations

import sys
import time

_number: int | None = getattr(
    time, {"linux": "CLOCK_BOOTTIME", "darwin": "CLOCK_MONOTONIC"}.get(sys.platform, ""), None
)


def elapsed() -> float:
    """Seconds since some moment. ``time.monotonic`` stands still while a machine with Linux or macOS sleeps; the wall
    clock is set by people and by NTP."""
    return time.monotonic() if _number is None else time.clock_gettime(_number)
