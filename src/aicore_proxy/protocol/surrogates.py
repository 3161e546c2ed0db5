"""Half a character in JSON: an escape like ``\\ud83d`` without its other half.

JSON's grammar allows it, and JavaScript clients write it where a text was cut inside an emoji. No UTF-8 can hold it and
the vendors refuse it, so that a conversation that once has one gets no answer any more. U+FFFD stands for it, as the
web's own encoders write it. Upstreams too cut emojis, between two pieces of a stream.
"""

from __future__ import annotations

import re

LARGEST = 8 * 1024 * 1024
"""Bytes that are searched: more would hold up other requests."""

_SURROGATES = re.compile(
    rb"(?<!\\)((?:\\\\)*)(?:(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})|\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
)


def mended(text: bytes) -> bytes | None:
    """JSON text with U+FFFD for each half; None if it has none. For text that could not be read."""
    if len(text) > LARGEST or (b"\\ud" not in text and b"\\uD" not in text):
        return None
    new = _SURROGATES.sub(lambda found: found[0] if found[2] else found[1] + b"\\ufffd", text)
    return new if new != text else None
