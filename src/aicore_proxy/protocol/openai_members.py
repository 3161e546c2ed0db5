"""Typed access to decoded JSON, for the dialects of OpenAI's APIs: what is wrong with a client's body is a Fault in
OpenAI's wording that names the wire path."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeVar

from aicore_proxy.protocol.fault import Fault, Kind
from aicore_proxy.protocol.neutral import Json

T = TypeVar("T")

_WANTED: Mapping[type, str] = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "a boolean",
    list: "an array",
    dict: "an object",
}
_GOT: Mapping[type, str] = {**_WANTED, type(None): "null"}


def malformed(path: str, words: str) -> Fault:
    """Fault(MALFORMED) that names ``path`` as OpenAI writes it (``messages[0].content``)."""
    return Fault(Kind.MALFORMED, words, param=path)


def wrong_type(value: Json, wanted: str, path: str) -> Fault:
    """Fault(MALFORMED) in OpenAI's wording."""
    got = _GOT.get(type(value), "something else")
    return malformed(path, f"Invalid type for '{path}': expected {wanted}, but got {got} instead.")


def not_offered(value: str, offered: Collection[str], path: str) -> Fault:
    """Fault(MALFORMED) for a word that is none of ``offered``."""
    words = ", ".join(f"'{word}'" for word in offered)
    return malformed(path, f"Invalid value for '{path}': '{value[:64]}'. Supported values are: {words}.")


def missing(path: str) -> Fault:
    return malformed(path, f"Missing required parameter: '{path}'.")


def typed(value: Json, kind: type[T], path: str) -> T:
    """``value``, known to be of ``kind``. Raises Fault(MALFORMED) naming ``path``. A whole number is a float and an
    integer, however it was written; a boolean is no number."""
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return value  # type: ignore[return-value]
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)  # type: ignore[return-value]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise wrong_type(value, _WANTED[kind], path)
    return value


def at(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def optional(node: Mapping[str, Json], name: str, kind: type[T], path: str = "") -> T | None:
    """The member ``name`` of ``node``, which stands at ``path``; None if absent or null."""
    value = node.get(name)
    return None if value is None else typed(value, kind, at(path, name))


def member(node: Mapping[str, Json], name: str, kind: type[T], path: str = "") -> T:
    """The member ``name`` of ``node``, which must be there."""
    value = optional(node, name, kind, path)
    if value is None:
        raise missing(at(path, name))
    return value


def rest(node: Mapping[str, Json], known: Collection[str]) -> dict[str, Json]:
    """The members of ``node`` that the codec does not know. Null ones mean the same as absent ones."""
    return {name: value for name, value in node.items() if name not in known and value is not None}
