"""Which conversation a request belongs to, as a 64-bit key: for prompt-cache affinity.

The first that is there: our own header, the tools' session headers, what the body says (``prompt_cache_key``,
``previous_response_id``, the session part of Anthropic's ``metadata.user_id``), else the prefix that stays the same
over the turns of a conversation: system prompt, tools and the first user turn. Always within one client key and model,
so that nobody meets another's conversation. Sub-agents stay with their parent, whose prefix they share.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

import msgspec

from aicore_proxy.gateway.exchange import ClientRequest
from aicore_proxy.protocol.envelope import Envelope
from aicore_proxy.protocol.fault import Fault
from aicore_proxy.routing.affinity import WARM

OURS = "x-aicore-proxy-session"
HEADERS = (
    OURS,
    "x-claude-code-session-id",
    # opencode's sub-agents name the root here, and themselves in x-session-id
    "x-parent-session-id",
    # Codex: a sub-agent has a thread of its own in the session of its parent
    "session-id",
    "session_id",
    "thread-id",
    "x-opencode-session",
    "x-session-id",
    "x-session-affinity",
    "x-litellm-session-id",
    "x-bf-session-id",
)
MEMBERS = ("prompt_cache_key", "previous_response_id")
LONGEST = 512
"""Characters of a session's name that count."""
LARGE = 256 * 1024
"""Bytes. In a body beyond it the turns are not looked through: their first bytes stand for the first turn."""
START = 1024
LONG_WARM = 3600.0
"""Seconds that a prefix is kept where the conversation asks for Anthropic's ``"ttl": "1h"``."""
SYSTEM = ("system", "instructions", "systemInstruction", "system_instruction")
TURNS = ("messages", "input", "contents")
BILLING = b"x-anthropic-billing-header"
"""Claude Code's first system block: it differs from turn to turn."""

_list = msgspec.json.Decoder(list[msgspec.Raw])
_SESSION_PART = re.compile(r"session_([0-9a-fA-F-]{16,64})$")


def session_of(request: ClientRequest, envelope: Envelope, key_id: str, model: str) -> int:
    """The key of the conversation that a request belongs to. Never raises."""
    digest = blake2b(digest_size=8)
    digest.update(f"{key_id}\0{model}\0".encode())
    name = _named(request, envelope)
    if name is not None:
        digest.update(b"n" + name[:LONGEST].encode(errors="replace"))
    else:
        for piece in _prefix(envelope):
            digest.update(b"p%d\0" % len(piece))
            digest.update(piece)
    return int.from_bytes(digest.digest(), "big")


def warm_seconds(envelope: Envelope) -> float:
    """How long the provider keeps the conversation's prefix after its last use."""
    if envelope.size <= LARGE and any(envelope.holds(name, b'"1h"') for name in ("system", "tools", "messages")):
        return LONG_WARM
    return WARM


def _named(request: ClientRequest, envelope: Envelope) -> str | None:
    for header in HEADERS:
        if value := (request.header(header) or "").strip():
            return value
    for member in MEMBERS:
        if value := _text(envelope, member):
            return value
    return _of_user(envelope)


def _text(envelope: Envelope, member: str) -> str:
    try:
        return envelope.get(member, str) or ""
    except Fault:  # of another type: the dialect will say so
        return ""


def _of_user(envelope: Envelope) -> str | None:
    """The session part of ``metadata.user_id``: a JSON text with ``session_id``, or older ``…_session_<uuid>``. A user
    alone is no session."""
    if not envelope.holds("metadata", b"session_"):
        return None
    try:
        user = (envelope.get("metadata", dict) or {}).get("user_id")
    except Fault:
        return None
    if not isinstance(user, str):
        return None
    if (match := _SESSION_PART.search(user)) is not None:
        return match[1]
    try:
        told = msgspec.json.decode(user)
    except (msgspec.MsgspecError, RecursionError):
        return None
    session = told.get("session_id") if isinstance(told, dict) else None
    return session if isinstance(session, str) and session else None


def _prefix(envelope: Envelope) -> Iterator[bytes]:
    for name in (*SYSTEM, "tools"):
        if name in envelope.members:
            raw = bytes(envelope.members[name])
            yield _normal(raw) if BILLING in raw else raw
    for name in TURNS:
        if name in envelope.members:
            yield from _first_turns(bytes(envelope.members[name]))


def _first_turns(raw: bytes) -> Iterator[bytes]:
    """Turns up to the first of the user's."""
    if len(raw) > LARGE or not raw.startswith(b"["):
        yield raw[:START]
        return
    try:
        turns = _list.decode(raw)
    except (msgspec.MsgspecError, RecursionError):
        yield raw[:START]
        return
    for turn in turns:
        yield _normal(bytes(turn))
        if b'"user"' in bytes(turn):
            return


def _normal(raw: bytes) -> bytes:
    """``raw`` without what moves from turn to turn: cache marks, the block that counts for billing, spaces."""
    try:
        return msgspec.json.encode(_unmarked(msgspec.json.decode(raw)))
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return raw


def _unmarked(value: Any) -> Any:
    match value:
        case dict():
            return {name: _unmarked(member) for name, member in value.items() if name != "cache_control"}
        case list():
            return [_unmarked(item) for item in value if not _bills(item)]
        case _:
            return value


def _bills(item: Any) -> bool:
    text = item.get("text") if isinstance(item, dict) else None
    return isinstance(text, str) and text.startswith(BILLING.decode())
