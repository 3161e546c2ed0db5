"""Half a character in JSON: an escape like ``\\ud83d`` without its other half.

JSON's grammar allows it, and JavaScript clients write it where a text was cut inside an emoji. No UTF-8 can hold it and
the vendors refuse it, so that a conversation that once has one gets no answer any more. U+FFFD stands for it, as the
web's own encoders write it. Upstreams too cut emojis, between two pieces of a stream.
"""

from __future__ import annotations

import re

LARGEST = 4 * 1024 * 1024
"""Bytes that are searched: more would hold up other requests."""

# Every escape in its turn, so that what a backslash belongs to is never in doubt: a pair, a half, another
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|[^u](?:\\[^u])*|u)"
)


def mended(text: bytes) -> bytes | None:
    """JSON text with U+FFFD for each half; None if it has none. For text that could not be read."""
    if len(text) > LARGEST or (b"\\ud" not in text and b"\\uD" not in text):
        return None
    new = _ESCAPE.sub(lambda found: b"\\ufffd" if found[1] else found[0], text)
    return new if new != text else None
