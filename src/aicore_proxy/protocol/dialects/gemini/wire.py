"""Gemini's JSON as it comes: camelCase or snake_case, one object where an array is meant, numbers as strings.

litellm and google-genai's automatic function calling send snake_case; SAP's help page has objects for ``contents``,
``parts`` and ``safety_settings`` (SAP AI Core wire facts, section 5).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from aicore_proxy.protocol.fault import Fault, Kind

NAME = "gemini"
HOME = "gemini"

Json = Any


@lru_cache(maxsize=512)
def camel(name: str) -> str:
    """``system_instruction`` -> ``systemInstruction``."""
    return re.sub(r"(?<=[a-z0-9])_([a-z])", lambda match: match[1].upper(), name)


@lru_cache(maxsize=512)
def snake(name: str) -> str:
    """``systemInstruction`` -> ``system_instruction``; the very same string where there is nothing to change."""
    return re.sub("[A-Z]", lambda match: f"_{match[0].lower()}", name) if not name.islower() else name


class Node:
    """One object of a request, read member by member under their camelCase names. A member of a wrong type is a
    Fault(MALFORMED) that names its path; null counts as absent. What nobody read is :meth:`rest`."""

    __slots__ = ("_read", "path", "value")

    def __init__(self, value: Mapping[str, Json], path: str = "") -> None:
        self.value = value
        self.path = path
        self._read: set[str] = set()

    def at(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def take(self, name: str) -> Json:
        value = None
        if name in self.value:
            self._read.add(name)
            value = self.value[name]
        if value is None and (other := snake(name)) is not name and other in self.value:
            self._read.add(other)
            value = self.value[other]
        return value

    def leave(self, *names: str) -> None:
        """Counts members as unread again."""
        self._read -= {spelling for name in names for spelling in (name, snake(name))}

    def text(self, name: str) -> str | None:
        value = self.take(name)
        if value is None or isinstance(value, str):
            return value
        raise self.refused(name, "a string")

    def flag(self, name: str) -> bool | None:
        value = self.take(name)
        if value is None or isinstance(value, bool):
            return value
        raise self.refused(name, "true or false")

    def number(self, name: str) -> float | None:
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, int | float) and not isinstance(value, bool):
            return value
        raise self.refused(name, "a number")

    def integer(self, name: str) -> int | None:
        """An integer; also ``20.0`` and ``"20"``, which the API takes too."""
        match self.take(name):
            case None:
                return None
            case bool():
                pass
            case int(value):
                return value
            case float(value) if value.is_integer():
                return int(value)
            case str(value) if re.fullmatch(r"-?\d{1,18}", value):
                return int(value)
        raise self.refused(name, "an integer")

    def node(self, name: str) -> Node | None:
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, dict):
            return Node(value, self.at(name))
        raise self.refused(name, "an object")

    def nodes(self, name: str) -> list[Node]:
        """Objects of an array; one object stands for an array of it."""
        value = self.take(name)
        if value is None:
            return []
        if isinstance(value, dict):
            return [Node(value, self.at(name))]
        if not isinstance(value, list):
            raise self.refused(name, "an array of objects")
        path = self.at(name)
        for index, item in enumerate(value):
            if not isinstance(item, dict):
                raise malformed(f"{path}[{index}]", "an object")
        return [Node(item, f"{path}[{index}]") for index, item in enumerate(value)]

    def texts(self, name: str) -> tuple[str, ...]:
        value = self.take(name)
        if value is None:
            return ()
        if isinstance(value, str):
            return (value,)
        if not isinstance(value, list):
            raise self.refused(name, "an array of strings")
        for index, item in enumerate(value):
            if not isinstance(item, str):
                raise malformed(f"{self.at(name)}[{index}]", "a string")
        return tuple(value)

    def rest(self) -> dict[str, Json]:
        """Members that nobody read, under camelCase names."""
        if len(self._read) == len(self.value):
            return {}
        return {camel(name): value for name, value in self.value.items() if name not in self._read}

    def refused(self, name: str, wanted: str) -> Fault:
        return malformed(self.at(name), wanted)


def malformed(path: str, wanted: str) -> Fault:
    return Fault(Kind.MALFORMED, f"'{path}' must be {wanted}.", param=path)


# What an upstream sends is read leniently: a stream decoder never raises. It is decoded JSON, so ``dict`` is asked for:
# asking for ``Mapping`` costs ten times as much


def as_object(value: Json) -> Mapping[str, Json]:
    return value if isinstance(value, dict) else {}


def as_objects(value: Json) -> list[Mapping[str, Json]]:
    if isinstance(value, dict):
        return [value]
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def as_text(value: Json) -> str:
    return value if isinstance(value, str) else ""


def as_count(value: Json) -> int:
    """A count of an answer; int64 may come as a string."""
    if isinstance(value, str) and value.isdecimal():
        return int(value[:18])
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 else 0
