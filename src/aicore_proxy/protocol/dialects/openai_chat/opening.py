"""The first frames of a relayed stream, as clients take them.

Azure's very first frame has no choice, only what its filters say of the prompt (SAP AI Core wire facts 3.4). Programs
written for OpenAI, its own examples among them, read ``chunk.choices[0]`` and end there; the Python SDK's ``stream()``
skips the frame and loses what it says. So that is told with the first frame that has a choice.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Raw

from aicore_proxy.protocol.envelope import Envelope

CHUNK = frozenset({"choices", "created", "id", "model", "object", "usage"})
"""Members that the frame with a choice has for itself."""

_members = msgspec.json.Decoder(dict[str, Raw])


def opening(payloads: Sequence[bytes]) -> list[bytes]:
    """``payloads`` up to the first content, with what frames without a choice say on the next one that has some."""
    out: list[bytes] = []
    waiting: list[bytes] = []
    told: dict[str, bytes] = {}
    for payload in payloads:
        members = _read(payload)
        if _bare(members):
            waiting.append(payload)
            told |= {name: bytes(raw) for name, raw in members.items() if name not in CHUNK}
        elif waiting and members:
            more = {name: text for name, text in told.items() if name not in members}
            out.append(Envelope(members, len(payload)).spliced(put=more) if more else payload)
            waiting.clear()
            told.clear()
        else:
            out.append(payload)
    return [*out, *waiting]


def _read(payload: bytes) -> dict[str, Raw]:
    """The members of a frame; none if it is no object."""
    try:
        return _members.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}


def _bare(members: dict[str, Raw]) -> bool:
    return _is(members, "choices", b"[]") and _is(members, "usage", b"null", b"") and "error" not in members


def _is(members: dict[str, Raw], name: str, *texts: bytes) -> bool:
    return bytes(members.get(name, b"")).replace(b" ", b"") in texts
