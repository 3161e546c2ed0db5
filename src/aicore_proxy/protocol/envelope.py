"""A JSON body as its top-level members, each still the client's own bytes."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

import msgspec

from aicore_proxy.protocol import surrogates
from aicore_proxy.protocol.fault import Fault, Kind

BOM = b"\xef\xbb\xbf"
NO_NUMBERS = (b"NaN", b"Infinity")

T = TypeVar("T")

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_whole = msgspec.json.Decoder(dict[str, Any])


class Envelope:
    """A client's request body. ``members`` are slices of the original bytes: the last of a name that stands twice
    wins, for what we read as for what goes up. Immutable after :meth:`parse`; decoded lazily, once. ``memo``: what was
    found in it, for whoever found it."""

    __slots__ = ("_decoded", "_values", "members", "memo", "size")

    def __init__(self, members: Mapping[str, msgspec.Raw], size: int) -> None:
        self.members = members
        self.size = size
        self.memo: dict[str, Any] = {}
        self._values: dict[str, Any] = {}
        self._decoded: dict[str, Any] | None = None

    @classmethod
    def parse(cls, body: bytes) -> Envelope:
        """Splits ``body``, also one that begins with a BOM or holds half a character (``surrogates.py``). Raises
        Fault(MALFORMED) with the place: bad JSON, bad UTF-8, NaN, no object, too deep."""
        body = body.removeprefix(BOM)
        try:
            # Raw members are not checked for UTF-8: once, here
            body.decode()
            return cls(_members.decode(body), len(body))
        except msgspec.DecodeError as error:
            if not isinstance(error, msgspec.ValidationError) and (better := surrogates.mended(body)) is not None:
                return cls.parse(better)
            raise unreadable(error, body=body) from None
        except (UnicodeDecodeError, RecursionError) as error:
            raise unreadable(error) from None

    def get(self, name: str, kind: type[T]) -> T | None:
        """The member ``name`` as ``kind``; None if absent or null. Raises Fault(MALFORMED, param=name) on another
        type."""
        if name not in self.members:
            return None
        if name not in self._values:
            self._values[name] = decoded(self.members[name], name)
        value = self._values[name]
        if value is None:
            return None
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            wanted = {str: "a string", bool: "true or false", int: "an integer", list: "an array", dict: "an object"}
            raise Fault(Kind.MALFORMED, f"'{name}' must be {wanted.get(kind, kind.__name__)}.", param=name)
        return value

    def holds(self, name: str, needle: bytes) -> bool:
        """Whether the bytes of the member ``name`` contain ``needle``."""
        return name in self.members and needle in bytes(self.members[name])

    def decoded(self) -> dict[str, Any]:
        """The whole body. Raises Fault(MALFORMED) on what only shows inside a member: huge integers, deep nesting."""
        if self._decoded is None:
            self._decoded = {name: decoded(raw, name) for name, raw in self.members.items()}
        return self._decoded

    def spliced(self, drop: Collection[str] = (), put: Mapping[str, bytes] | None = None) -> bytes:
        """The body without ``drop`` and with ``put`` (JSON text by name; replaces in place, else appended); all other
        members byte for byte."""
        put = put or {}
        parts: list[bytes] = [b"{"]
        for name, raw in self.members.items():
            if name in drop:
                continue
            parts += (msgspec.json.encode(name), b":", put.get(name, raw), b",")
        for name, text in put.items():
            if name not in self.members:
                parts += (msgspec.json.encode(name), b":", text, b",")
        if len(parts) == 1:
            return b"{}"
        parts[-1] = b"}"
        return b"".join(parts)


def decoded(raw: msgspec.Raw | bytes, name: str) -> Any:
    """A member's value. Raises Fault(MALFORMED) that names it."""
    try:
        return msgspec.json.decode(raw)
    except (UnicodeDecodeError, msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise unreadable(error, name) from None


def unreadable(error: Exception, name: str | None = None, body: bytes | None = None) -> Fault:
    """The Fault for a body that is no usable JSON, in words that help."""
    where = f" in '{name}'" if name else ""
    match error:
        case RecursionError():
            words = f"The request body is nested too deeply{where}."
        case UnicodeDecodeError(start=start):
            words = f"The request body is not valid UTF-8 (at byte {start})."
        case msgspec.ValidationError():
            text = str(error)
            is_object = "`object`" in text and not where
            words = "The request body must be a JSON object." if is_object else f"Invalid value{where}: {text}."
        case _ if body is not None and not body.strip():
            words = "The request body is empty: a JSON object is needed."
        case _:
            words = f"The request body is not valid JSON{where}: {error}."
            if body is not None and (place := re.search(r"\(byte (\d+)\)", words)):
                found = body[int(place[1]) :]
                words += next((f" JSON has no {name.decode()}." for name in NO_NUMBERS if found.startswith(name)), "")
    return Fault(Kind.MALFORMED, words, param=name)
