"""YAML as plain values, with the line of each: 1.2's core, read event by event.

PyYAML's own loader would read ``no`` as false and ``0012`` as ten, and compose a bomb before anybody can look at it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import yaml

Place: TypeAlias = tuple[str | int, ...]
"""Where a value stands: ``("subaccounts", 0, "name")``."""

MOST_VALUES = 20_000
DEEPEST = 50
NUMBER = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
MERGE = "<<"
CONSTANTS: Mapping[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


class Number(str):
    """A number in YAML as it is written: where a text is wanted, ``key: 0012`` means these four digits."""

    __slots__ = ()


class YamlProblem(Exception):
    """Why a text cannot be read, and in which line; 0: it cannot be told."""

    def __init__(self, line: int, words: str) -> None:
        super().__init__(words)
        self.line = line
        self.words = words


class YamlReader:
    """Reads one text. ``lines``: of each value; the first is 1. ``problems``: of a text that could be read, lines and
    words: names that are no texts, or stand twice."""

    def __init__(self, text: str) -> None:
        self.lines: dict[Place, int] = {}
        self.problems: list[tuple[int, str, Place]] = []
        self._events: Iterator[Any] = yaml.parse(text, Loader=yaml.SafeLoader)
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._values = 0

    def read(self) -> Any:
        """The one document's value; None where there is nothing. Raises YamlProblem."""
        try:
            return self._document()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            raise YamlProblem(mark.line + 1 if mark else 0, f"not valid YAML: {_why(error)}") from None
        except yaml.YAMLError:
            raise YamlProblem(0, "not valid YAML: it has a control character") from None

    def _document(self) -> Any:
        next(self._events)  # the stream's start
        value = None
        if isinstance(next(self._events), yaml.DocumentStartEvent):
            value = self._value(next(self._events), ())
            next(self._events)  # the document's end
            after = next(self._events)
            if isinstance(after, yaml.DocumentStartEvent):
                raise YamlProblem(_line(after), "a second document begins: one is enough")
        if too_deep(value):
            raise YamlProblem(0, "nested too deeply")
        return value

    def _value(self, event: Any, place: Place) -> Any:
        line = _line(event)
        self.lines.setdefault(place, line)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, line)
        before = self._values
        self._count(1, line)
        if len(place) > DEEPEST:
            raise YamlProblem(line, "nested too deeply")
        match event:
            case yaml.ScalarEvent():
                value = _scalar(event)
            case yaml.SequenceStartEvent():
                value = self._sequence(place)
            case _:
                value = self._mapping(place)
        if event.anchor is not None:
            self._anchors[event.anchor] = value, self._values - before
        return value

    def _alias(self, event: Any, line: int) -> Any:
        """What was anchored; it counts with all that is in it, so that aliases of aliases end early."""
        if event.anchor not in self._anchors:
            words = "not valid YAML: * names nothing that stands before it (a text that begins with * needs quotes)"
            raise YamlProblem(line, words)
        value, size = self._anchors[event.anchor]
        self._count(size, line)
        return value

    def _count(self, values: int, line: int) -> None:
        self._values += values
        if self._values > MOST_VALUES:
            raise YamlProblem(line, "too many values")

    def _sequence(self, place: Place) -> list[Any]:
        found: list[Any] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            found.append(self._value(event, (*place, len(found))))
        return found

    def _mapping(self, place: Place) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            line = _line(event)
            if not isinstance(event, yaml.ScalarEvent):
                self.problems.append((line, "the name of a setting must be a text", ()))
                self._value(event, (*place, ""))
                self._value(next(self._events), (*place, ""))
                continue
            self._count(1, line)
            name = event.value
            if name == MERGE and not event.style:
                merged |= self._merged(place, line)
            elif name in own:
                self.problems.append((line, "stands twice", (*place, name)))
                self._value(next(self._events), (*place, name))
            else:
                self.lines[(*place, name)] = line
                own[name] = self._value(next(self._events), (*place, name))
        return merged | own

    def _merged(self, place: Place, line: int) -> dict[str, Any]:
        given = self._value(next(self._events), place)
        merged: dict[str, Any] = {}
        for source in reversed(given if isinstance(given, list) else [given]):
            if not isinstance(source, dict):
                self.problems.append((line, "<< must be followed by names with values", ()))
                continue
            merged |= source
        return merged


def _line(event: Any) -> int:
    line: int = event.start_mark.line
    return line + 1


def _scalar(event: Any) -> Any:
    text: str = event.value
    if event.style:
        return text
    if text in CONSTANTS:
        return CONSTANTS[text]
    return Number(text) if NUMBER.fullmatch(text) else text


def too_deep(value: Any) -> bool:
    """Whether values stand in values in values, so that whoever walks through them may fall."""
    level = [value]
    for _ in range(DEEPEST + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True


def _why(error: yaml.MarkedYAMLError) -> str:
    """The parser's words without what it quotes of the file, which may be a secret."""
    words = error.problem or error.context or "it cannot be parsed"
    if "cannot start any token" in words:
        tab, other = "a tab stands where only spaces may", "a text that begins with @, ` or % needs quotes"
        return tab if r"\t" in words else other
    if "but got '{'" in words:
        return f"{words} (between braces or brackets a ${{…}} needs quotes)"
    return re.sub(r"(anchor|handle|directive) ('[^']*'|\"[^\"]*\")", r"\1", words)
