"""A configuration file as plain values, with the line of each: YAML 1.2's core, or JSON.

Nothing in a file can hurt: no tags, no expansion of aliases into endless values, bounded size and depth.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from msgspec import Struct

from aicore_proxy.config.settings import SettingsError

Place: TypeAlias = tuple[str | int, ...]
"""Where a value stands: ``("subaccounts", 0, "name")``."""

LARGEST = 1024 * 1024
"""Bytes. Of any file that is read here: configurations, service keys, keys."""
MOST_VALUES = 50_000
DEEPEST = 50
LONGEST_SHOWN = 60
NUMBER = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_CONSTANTS: Mapping[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


class Number(str):
    """A number in YAML as it is written: where a text is wanted, ``key: 0012`` means these four digits."""

    __slots__ = ()


class Document(Struct, frozen=True):
    """``lines``: of each value, as far as the format tells; the first is 1."""

    path: Path
    value: dict[str, Any]
    lines: Mapping[Place, int]


def written(place: Place) -> str:
    """A place as people write it: ``subaccounts[0].name``."""
    text = ""
    for step in place:
        text += f"[{step}]" if isinstance(step, int) else f".{shown(step)}" if text else shown(step)
    return text


def shown(name: str) -> str:
    """A name from a file, fit for a terminal and a log line."""
    text = printable(name)
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 1] + "…"


def printable(text: str) -> str:
    """A text without control characters or halves of characters."""
    return text if text.isprintable() else ascii(text)[1:-1]


def read_document(path: Path) -> Document:
    """The file's content. Raises SettingsError, with the line where it can be told."""
    text = read_text(path)
    return _json(path, text) if path.suffix == ".json" else _yaml(path, text)


def read_text(path: Path) -> str:
    """The text of a file, its beginning if it is a device that never ends. Raises SettingsError."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "no file can be called so"
        raise SettingsError([f"{printable(str(path))}: cannot be read: {why or error}."]) from None
    if len(content) > LARGEST:
        raise SettingsError([f"{path}: larger than 1 MiB, so it is no such file."])
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        utf16 = content[:2] in (b"\xff\xfe", b"\xfe\xff")
        words = "it is UTF-16" if utf16 else f"there is something else at byte {error.start}"
        raise SettingsError([f"{path}: must be UTF-8, but {words}."]) from None


def _json(path: Path, text: str) -> Document:
    problems: list[str] = []

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        if len(set(names)) < len(names):
            twice = [shown(name) for name in dict.fromkeys(names) if names.count(name) > 1]
            problems.extend(f"{path}: '{name}' stands twice." for name in twice)
        return dict(pairs)

    try:
        value = json.loads(text, object_pairs_hook=members) if text.strip() else {}
    except json.JSONDecodeError as error:
        raise SettingsError([f"{path}:{error.lineno}: not valid JSON: {error.msg} (column {error.colno})."]) from None
    except (RecursionError, ValueError):
        raise SettingsError([f"{path}: nested too deeply, or with a number that is too long."]) from None
    if too_deep(value):
        raise SettingsError([f"{path}: nested too deeply."])
    if not isinstance(value, dict):
        problems.append(f"{path}: must hold an object with settings.")
    if problems:
        raise SettingsError(problems)
    return Document(path, value, {})


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


def _yaml(path: Path, text: str) -> Document:
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        reader = _Reader(path)
        value = {} if node is None else reader.value(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise SettingsError([f"{path}{line}: not valid YAML: {_why(error)}."]) from None
    except yaml.YAMLError:
        raise SettingsError([f"{path}: not valid YAML: it has a control character."]) from None
    except RecursionError:
        raise SettingsError([f"{path}: nested too deeply."]) from None
    if value is None:
        value = {}
    if not isinstance(value, dict):
        reader.problems.append(f"{path}: must hold settings, one 'name: value' a line.")
    if reader.problems:
        raise SettingsError(reader.problems)
    return Document(path, value, reader.lines)


def _why(error: yaml.MarkedYAMLError) -> str:
    """The parser's words without what it quotes of the file: of ``key: *secret``, the secret."""
    words = error.problem or error.context or "it cannot be parsed"
    if words == "second occurrence":
        return "an anchor (&name) stands twice"
    if words.startswith("but ") and error.context:
        return f"{error.context}, {words}"
    if "undefined alias" in words:
        return "a text that begins with * needs quotes"
    if "cannot start any token" in words:
        tab, other = (
            "a tab stands where only spaces may",
            "a text that begins with a character like @, ` or % needs quotes",
        )
        return tab if r"\t" in words else other
    if "but got '{'" in words:
        return f"{words} (between braces or brackets a ${{…}} needs quotes)"
    return re.sub(r"(anchor|handle|directive) ('[^']*'|\"[^\"]*\")", r"\1", words)


class _Reader:
    """Turns nodes into values. Counts them, so that aliases of aliases end early."""

    def __init__(self, path: Path) -> None:
        self.lines: dict[Place, int] = {}
        self.problems: list[str] = []
        self._path = path
        self._values = 0

    def value(self, node: yaml.Node, place: Place) -> Any:
        self._values += 1
        line = node.start_mark.line + 1
        if self._values > MOST_VALUES or len(place) > DEEPEST:
            raise SettingsError([f"{self._path}:{line}: too many values, or nested too deeply."])
        self.lines.setdefault(place, line)
        match node:
            case yaml.ScalarNode():
                return self._scalar(node)
            case yaml.SequenceNode():
                return [self.value(item, (*place, number)) for number, item in enumerate(node.value)]
            case yaml.MappingNode():
                return self._mapping(node, place)
        return None

    def _mapping(self, node: yaml.MappingNode, place: Place) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else None
            line = key.start_mark.line + 1
            if name is None:
                self.problems.append(f"{self._path}:{line}: the name of a setting must be a text.")
            elif key.tag == "tag:yaml.org,2002:merge":
                sources = value.value if isinstance(value, yaml.SequenceNode) else [value]
                for source in reversed(sources):
                    found = self.value(source, place)
                    merged |= found if isinstance(found, dict) else {}
            elif name in own:
                self.problems.append(f"{self._path}:{line}: '{written((*place, name))}' stands twice.")
            else:
                self.lines[(*place, name)] = line
                own[name] = self.value(value, (*place, name))
        return merged | own

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        text: str = node.value
        if node.style in ("'", '"', "|", ">"):
            return text
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        return Number(text) if NUMBER.fullmatch(text) else text
