"""One change of a tool's settings, and what cannot be changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct


class Edit(Struct, frozen=True):
    """The value at ``path`` becomes ``value``; None: it goes, if it is there."""

    path: tuple[str, ...]
    value: Any


class FormatError(Exception):
    """Why a text cannot be edited, as the rest of a sentence that begins with the file's name."""


def edited(value: Any, edits: Sequence[Edit]) -> Any:
    """``value`` with the changes, as values: what an edited text must mean. Raises FormatError."""
    for edit in edits:
        value = _with(value, edit.path, edit.value, ())
    return value


def _with(node: Any, path: tuple[str, ...], value: Any, above: tuple[str, ...]) -> Any:
    if not path:
        return value
    if node is None:
        node = {}
    if not isinstance(node, dict):
        raise FormatError(f"holds something else than settings at {'.'.join(above) or 'its top'}")
    key, rest = path[0], path[1:]
    if value is None and not rest:
        return {name: inner for name, inner in node.items() if name != key}
    if value is None and node.get(key) is None:
        return node
    return {**node, key: _with(node.get(key), rest, value, (*above, key))}
