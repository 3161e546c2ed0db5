"""Edits on a request body, member by member: what nobody touches stays the client's own bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from aicore_proxy.protocol.envelope import Envelope, unreadable
from aicore_proxy.protocol.neutral import Json, Loss

T = TypeVar("T")


class Amending:
    """One body being amended for one deployment. Owns the edits and what was lost by them; the envelope and its
    decoded values belong to all attempts and are never changed: whoever edits a value makes a new one."""

    def __init__(self, envelope: Envelope, target: str) -> None:
        self.envelope = envelope
        self._target = target
        self._drop: set[str] = set()
        self._put: dict[str, Json] = {}
        self._losses: dict[Loss, None] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._put or (name in self.envelope.members and name not in self._drop)

    def names(self) -> list[str]:
        """The members that the client sent."""
        return list(self.envelope.members)

    def raw(self, name: str) -> msgspec.Raw:
        """The client's bytes of a member that it sent."""
        return self.envelope.members[name]

    def value(self, name: str, kind: type[T]) -> T | None:
        """The member as it stands, None if absent or null. Raises Fault(MALFORMED) on another type."""
        if name in self._put:
            value: Any = self._put[name]
            return value if isinstance(value, kind) else None
        return None if name in self._drop else self.envelope.get(name, kind)

    def put(self, name: str, value: Json) -> None:
        """Gives the member a new value (JSON values; Raw inside stays as it is)."""
        self._drop.discard(name)
        self._put[name] = value

    def drop(self, name: str) -> None:
        self._put.pop(name, None)
        self._drop.add(name)

    def lost(self, field: str, reason: str = "", *, harmless: bool = True) -> None:
        """Notes that ``field`` was left out or changed; each once."""
        self._losses[Loss(field, self._target, harmless, reason)] = None

    @property
    def losses(self) -> tuple[Loss, ...]:
        return tuple(self._losses)

    def body(self) -> bytes:
        """The amended body. Raises Fault(MALFORMED) on a value that cannot be written."""
        try:
            put = {name: msgspec.json.encode(value) for name, value in self._put.items()}
        except (UnicodeEncodeError, RecursionError, msgspec.MsgspecError) as error:
            raise unreadable(error) from None
        return self.envelope.spliced(self._drop, put)


def without(node: Mapping[str, Json], allowed: frozenset[str], path: str, amending: Amending) -> dict[str, Json]:
    """``node`` with its ``allowed`` members only; the others are noted under ``path``, unless null."""
    for name, value in node.items():
        if name not in allowed and value is not None:
            amending.lost(f"{path}.{name}")
    return {name: value for name, value in node.items() if name in allowed}
