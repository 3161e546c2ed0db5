"""What every framing gives: the payloads of a stream, one by one."""

from __future__ import annotations

from msgspec import Struct

LIMIT = 8 * 1024 * 1024
"""Bytes of one frame. A longer one is a Fault(UPSTREAM_FAILED): nothing here grows without bound."""


class Frame(Struct, frozen=True, gc=False):
    """One event. ``raw``: its bytes on the wire, with what ends it. ``data``: its payload (JSON text, or ``[DONE]``).
    ``event``: its name, where the framing gave one."""

    raw: bytes
    data: bytes
    event: str | None = None
