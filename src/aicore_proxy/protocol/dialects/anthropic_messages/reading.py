"""Typed access to decoded JSON: what is wrong with a client's body is a Fault that names the wire path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from aicore_proxy.protocol.fault import Fault, Kind
from aicore_proxy.protocol.neutral import NOTHING, CacheMark, Extras, Json

NAME = "anthropic_messages"
HOME = "claude"

MARK = frozenset({"type", "ttl"})
NONE: frozenset[str] = frozenset()

T = TypeVar("T")

_WANTED: Mapping[type, str] = {
    str: "a valid string",
    int: "a valid integer",
    float: "a valid number",
    bool: "a valid boolean",
    list: "a valid list",
    dict: "an object",
}


def malformed(path: str, words: str) -> Fault:
    """Fault(MALFORMED) in the wording of the Messages API: ``messages.0.role: Field required``."""
    return Fault(Kind.MALFORMED, f"{path}: {words}", param=path)


def typed(value: Json, kind: type[T], path: str) -> T:
    """``value``, known to be of ``kind``. Raises Fault(MALFORMED) naming ``path``. A whole number is a float too,
    a boolean is no number."""
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return value  # type: ignore[return-value]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise malformed(path, f"Input should be {_WANTED[kind]}")
    return value


def optional(node: Mapping[str, Json], name: str, kind: type[T], path: str) -> T | None:
    """The member ``name`` of ``node``, which stands at ``path``; None if absent or null."""
    value = node.get(name)
    if value is None or type(value) is kind:
        return value
    return typed(value, kind, f"{path}.{name}" if path else name)


def member(node: Mapping[str, Json], name: str, kind: type[T], path: str) -> T:
    """The member ``name`` of ``node``, which must be there."""
    value = optional(node, name, kind, path)
    if value is None:
        raise malformed(f"{path}.{name}" if path else name, "Field required")
    return value


def rest(node: Mapping[str, Json], known: frozenset[str]) -> Extras:
    """The members of ``node`` that the codec does not know. Null ones mean the same as absent ones."""
    if node.keys() <= known:
        return NOTHING
    return {name: value for name, value in node.items() if name not in known and value is not None}


def cache_of(node: Mapping[str, Json], known: frozenset[str], path: str) -> tuple[CacheMark | None, Extras]:
    """The prompt-cache breakpoint on ``node``, and its members beside the ``known`` ones, with what of
    ``cache_control`` is no part of a breakpoint."""
    extras = rest(node, known)
    if "cache_control" not in node or (control := optional(node, "cache_control", dict, path)) is None:
        return None, extras
    ttl = optional(control, "ttl", str, f"{path}.cache_control")
    more = rest(control, MARK if control.get("type", "ephemeral") == "ephemeral" else NONE)
    return CacheMark(ttl), {**extras, "cache_control": more} if more else extras
