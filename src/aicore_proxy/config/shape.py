"""Plain values into the Structs of the settings, with every problem told at once: where, what, and what would be right.

msgspec stops at the first problem; people want to mend a file in one go. No message shows a value: it may be a secret.
"""

from __future__ import annotations

import difflib
import json
import types
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct

from aicore_proxy.config.document import shown
from aicore_proxy.config.yaml_values import Number, Place, too_deep

Tell = Callable[[Place, str], None]
"""Takes a problem: the place, and what is wrong there and would be right."""

WANTED = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", dict: "names with values"}


class Given(str):
    """A text that a variable gave: it may stand for a number."""

    __slots__ = ()


@lru_cache
def kinds_of(struct: type[Struct]) -> dict[str, Any]:
    """The type of each field."""
    return get_type_hints(struct)


def shaped(value: Any, kind: Any, place: Place, tell: Tell) -> Any:
    """``value`` as ``kind``; what does not fit is told and left out (None)."""
    if kind is Any:
        return plain(value, place, tell)
    origin, inner = get_origin(kind), get_args(kind)
    if origin is types.UnionType:
        return None if value is None else shaped(value, next(k for k in inner if k is not type(None)), place, tell)
    if isinstance(kind, type) and issubclass(kind, Struct):
        return _struct(value, kind, place, tell)
    if origin is dict:
        if inner[1] is Any and isinstance(value, str):
            return _of_json(value, place, tell)
        return _mapping(value, inner[1], place, tell)
    if origin is tuple:
        return _several(value, inner[0], place, tell)
    return _scalar(value, kind, place, tell)


def _struct(value: Any, kind: type[Struct], place: Place, tell: Tell) -> Struct:
    """What does not fit is left at its default; required texts are empty then, so that lists keep their places."""
    kinds = kinds_of(kind)
    required = {field.name: "" for field in msgspec.structs.fields(kind) if field.required}
    if not isinstance(value, Mapping):
        tell(place, f"must be {WANTED[dict]}")
        return kind(**required)
    found = {}
    for name, given in value.items():
        if name not in kinds:
            tell((*place, name), f"is not a setting{suggestion(name, kinds)}")
        elif given is not None and (fit := shaped(given, kinds[name], (*place, name), tell)) is not None:
            found[name] = fit
    for name in required:
        if value.get(name) is None:
            tell((*place, name), "is missing")
    return kind(**(required | found))


def _mapping(value: Any, inner: Any, place: Place, tell: Tell) -> dict[str, Any] | None:
    if not isinstance(value, Mapping):
        tell(place, f"must be {WANTED[dict]}")
        return None
    fit = {
        _text(str(name), (*place, name), tell): shaped(given, inner, (*place, name), tell)
        for name, given in value.items()
    }
    return {name: given for name, given in fit.items() if name is not None and given is not None}


def _of_json(text: str, place: Place, tell: Tell) -> dict[str, Any] | None:
    """A service key as a text: so a variable may hold it."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or too_deep(value):
        tell(place, f"must be {WANTED[dict]}, or a text of JSON with them")
        return None
    key: dict[str, Any] | None = plain(value, place, tell)
    return key


def _several(value: Any, inner: Any, place: Place, tell: Tell) -> tuple[Any, ...] | None:
    if isinstance(value, str) and inner is str:
        return tuple(text.strip() for text in value.split(",") if text.strip())
    if not isinstance(value, list | tuple):
        tell(place, "must be a list")
        return None
    # Also what does not fit has its place, so that all that follow keep theirs
    return tuple(shaped(item, inner, (*place, number), tell) or "" for number, item in enumerate(value))


def plain(value: Any, place: Place, tell: Tell) -> Any:
    """Members of a service key. All that count are texts, so numbers become such."""
    match value:
        case dict():
            return {_text(str(name), place, tell): plain(inner, (*place, name), tell) for name, inner in value.items()}
        case list():
            return [plain(inner, (*place, number), tell) for number, inner in enumerate(value)]
        case str():
            return _text(value, place, tell)
        case int() | float() if not isinstance(value, bool):
            return str(value)
    return value


def _text(value: str, place: Place, tell: Tell) -> str | None:
    try:
        value.encode()
    except UnicodeEncodeError:
        tell(place, "has half of a character (a lone surrogate)")
        return None
    return str(value)


def _scalar(value: Any, kind: type, place: Place, tell: Tell) -> Any:
    if isinstance(value, Given) and kind is not str:
        try:
            return msgspec.convert(str(value).strip(), kind, strict=False)
        except msgspec.ValidationError:
            tell(place, f"must be {WANTED[kind]}")
            return None
    if isinstance(value, Number) and kind in (int, float):
        return _number(value, kind, place, tell)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value) if abs(value) < 1e300 else float("inf")
    if kind is str and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)  # a key or a name of digits, without quotes
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        tell(place, f"must be {WANTED.get(kind, kind.__name__)}")
        return None
    return _text(value, place, tell) if isinstance(value, str) else value


def _number(value: Number, kind: type, place: Place, tell: Tell) -> Any:
    try:
        return kind(value)
    except ValueError:  # of int: it has a point, or thousands of digits
        tell(place, f"must be {WANTED[kind]}")
        return None


def suggestion(name: str, known: Mapping[str, Any]) -> str:
    """``: did you mean …?`` where a known name is near."""
    near = difflib.get_close_matches(shown(str(name)), known, 1, cutoff=0.6)
    if near:
        return f": did you mean '{near[0]}'?"
    return f" (there are: {', '.join(known)})" if len(known) < 12 else " (`aicore-proxy config schema` has them all)"
