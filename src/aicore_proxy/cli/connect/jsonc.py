"""JSON, with comments or without, changed in place: what is not changed stays as it was, byte for byte."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from aicore_proxy.cli.connect.edit import Edit, FormatError, edited

DEEPEST = 100
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"')
_SCALAR = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null")
_SPACE = re.compile(r"[ \t\r\n]+")
_COMMENT = re.compile(r"//[^\r\n]*|/\*(?s:.*?)\*/")


class Node(Struct):
    """A value and where it stands. ``members``: of an object."""

    value: Any
    start: int
    end: int
    members: list[Member] | None = None


class Member(Struct):
    """``comma``: where the comma after it stands, None: there is none."""

    key: str
    start: int
    node: Node
    comma: int | None = None


class _Reader:
    """One reading of a text. ``comments``: they and trailing commas are taken."""

    def __init__(self, text: str, *, comments: bool) -> None:
        self._text = text
        self._comments = comments
        self._at = 1 if text.startswith("\ufeff") else 0

    def read(self) -> Node:
        self._skip()
        node = self._value(0)
        self._skip()
        if self._at < len(self._text):
            raise self._wrong("something follows the end")
        return node

    def _skip(self) -> None:
        while True:
            match = _SPACE.match(self._text, self._at)
            if match is None and self._comments:
                match = _COMMENT.match(self._text, self._at)
            if match is None:
                return
            self._at = match.end()

    def _value(self, depth: int) -> Node:
        if depth > DEEPEST:
            raise self._wrong("it is nested too deeply")
        start = self._at
        first = self._text[start : start + 1]
        if first == "{":
            return self._object(depth)
        if first == "[":
            return self._array(depth)
        match = _STRING.match(self._text, start) or _SCALAR.match(self._text, start)
        if match is None:
            raise self._wrong("a value is missing")
        self._at = match.end()
        return Node(json.loads(match[0]), start, self._at)

    def _object(self, depth: int) -> Node:
        start = self._at
        members: list[Member] = []
        self._at += 1
        while True:
            self._skip()
            if self._text.startswith("}", self._at) and self._may_close(members):
                break
            if members and members[-1].comma is None:
                raise self._wrong("a comma is missing")
            key = _STRING.match(self._text, self._at)
            if key is None:
                raise self._wrong("a name in double quotes is missing")
            self._at = key.end()
            self._skip()
            if not self._text.startswith(":", self._at):
                raise self._wrong("a colon is missing")
            self._at += 1
            self._skip()
            member = Member(json.loads(key[0]), key.start(), self._value(depth + 1))
            members.append(member)
            self._skip()
            if self._text.startswith(",", self._at):
                member.comma = self._at
                self._at += 1
        self._at += 1
        return Node({member.key: member.node.value for member in members}, start, self._at, members)

    def _may_close(self, members: list[Member]) -> bool:
        return self._comments or not members or members[-1].comma is None

    def _array(self, depth: int) -> Node:
        start = self._at
        values: list[Any] = []
        comma = True
        self._at += 1
        while True:
            self._skip()
            if self._text.startswith("]", self._at) and (self._comments or not values or not comma):
                break
            if not comma:
                raise self._wrong("a comma is missing")
            values.append(self._value(depth + 1).value)
            self._skip()
            comma = self._text.startswith(",", self._at)
            self._at += comma
        self._at += 1
        return Node(values, start, self._at)

    def _wrong(self, words: str) -> FormatError:
        line = self._text.count("\n", 0, self._at) + 1
        column = self._at - self._text.rfind("\n", 0, self._at)
        kind = "JSON" if not self._comments else "JSON with comments"
        return FormatError(f"is not valid {kind}: {words} in line {line}, column {column}")


def read(text: str, *, comments: bool) -> Any:
    """The value of a text; an empty one is an empty object. Raises FormatError."""
    return _Reader(text, comments=comments).read().value if text.strip("\ufeff \t\r\n") else {}


def merged(text: str, edits: Sequence[Edit], *, comments: bool) -> str:
    """The text with the changes. Raises FormatError."""
    if not text.strip("\ufeff \t\r\n"):
        return json.dumps(edited({}, edits), indent=2, ensure_ascii=False) + "\n"
    wanted = edited(read(text, comments=comments), edits)
    for edit in edits:
        text = _changed(text, edit, comments=comments)
    if read(text, comments=comments) != wanted:
        raise FormatError("is written in a way that cannot be changed safely")
    return text


def _changed(text: str, edit: Edit, *, comments: bool) -> str:
    node = _Reader(text, comments=comments).read()
    for depth, key in enumerate(edit.path):
        assert node.members is not None, "edited() has looked"
        member = next((one for one in reversed(node.members) if one.key == key), None)
        last = depth == len(edit.path) - 1
        if member is None:
            return text if edit.value is None else _inserted(text, node, key, _nested(edit, depth + 1))
        if last and edit.value is None:
            return _removed(text, node, member)
        if last or member.node.value is None:
            value = _nested(edit, depth + 1)
            if value is None or member.node.value == value:
                return text
            written = _written(value, _indent_at(text, member.start), _unit(text), text)
            return text[: member.node.start] + written + text[member.node.end :]
        node = member.node
    return text


def _nested(edit: Edit, depth: int) -> Any:
    """The value that stands ``depth`` steps down the path."""
    value = edit.value
    for key in reversed(edit.path[depth:]):
        value = None if value is None else {key: value}
    return value


def _inserted(text: str, node: Node, key: str, value: Any) -> str:
    """With one more member, after the others, written as they are."""
    assert node.members is not None
    inside = text[node.start : node.end]
    newline = "\r\n" if "\r\n" in text else "\n"
    name = json.dumps(key, ensure_ascii=False)
    if node.members and "\n" not in inside:
        entry = f"{name}: {json.dumps(value, ensure_ascii=False)}"
        last = node.members[-1]
        at = last.node.end if last.comma is None else last.comma + 1
        return f"{text[:at]}{', ' if last.comma is None else ' '}{entry}{text[at:]}"
    outer = _indent_at(text, node.start)
    indent = _indent_at(text, node.members[0].start) if node.members else outer + _unit(text)
    entry = f"{newline}{indent}{name}: {_written(value, indent, _unit(text), text)}"
    if not node.members:
        content = text[node.start + 1 : node.end - 1].rstrip()
        return f"{text[: node.start + 1]}{content}{entry}{newline}{outer}{text[node.end - 1 :]}"
    last = node.members[-1]
    body = text[: node.end - 1].rstrip()
    ending = text[len(body) : node.end - 1]
    ending = ending if "\n" in ending else newline + outer
    text = body + entry + ending + text[node.end - 1 :]
    return text if last.comma is not None else f"{text[: last.node.end]},{text[last.node.end :]}"


def _removed(text: str, node: Node, member: Member) -> str:
    """Without one member and its comma; the line goes where nothing else stands on it."""
    assert node.members is not None
    place = node.members.index(member)
    start, end = member.start, member.node.end if member.comma is None else member.comma + 1
    before, after = text[:start], text[end:]
    if "\n" in before[len(before.rstrip(" \t\r\n")) :] and re.match(r"[ \t]*\r?\n", after):
        before = before.rstrip(" \t")
        before = before.removesuffix("\n").removesuffix("\r")
    elif member.comma is not None:
        after = after.lstrip(" ")
    if member.comma is None and place > 0:
        comma = node.members[place - 1].comma
        assert comma is not None
        before = before[:comma] + (before[comma + 1 :] if before[comma + 1 :].strip() else "")
    return before + after


def _indent_at(text: str, place: int) -> str:
    line = text[text.rfind("\n", 0, place) + 1 : place]
    return line[: len(line) - len(line.lstrip(" \t"))]


def _unit(text: str) -> str:
    """One step of the text's indentation."""
    match = re.search(r"\n([ \t]+)\S", text)
    return match[1] if match else "  "


def _written(value: Any, indent: str, unit: str, text: str) -> str:
    lines = json.dumps(value, indent=unit, ensure_ascii=False).split("\n")
    return ("\r\n" if "\r\n" in text else "\n").join([lines[0], *(indent + line for line in lines[1:])])
