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

LARGEST = 4 * 1024 * 1024
MOST_VALUES = 100_000
DEEPEST = 50
_INT = re.compile(r"[-+]?\d{1,400}")
_FLOAT = re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?")
_CONSTANTS: Mapping[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


class Document(Struct, frozen=True):
    """``lines``: of each value, as far as the format tells; the first is 1."""

    path: Path
    value: dict[str, Any]
    lines: Mapping[Place, int]


def written(place: Place) -> str:
    """A place as people write it: ``subaccounts[0].name``."""
    text = ""
    for step in place:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def read_document(path: Path) -> Document:
    """The file's content. Raises SettingsError, with the line where it can be told."""
    try:
        if path.stat().st_size > LARGEST:
            raise SettingsError([f"{path}: larger than 4 MiB, so it is no configuration file."])
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SettingsError([f"{path}: cannot be read: {error.strerror or error}."]) from None
    except UnicodeDecodeError as error:
        raise SettingsError([f"{path}: not UTF-8 (at byte {error.start})."]) from None
    return _json(path, text) if path.suffix == ".json" else _yaml(path, text)


def _json(path: Path, text: str) -> Document:
    problems: list[str] = []

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        problems.extend(f"{path}: '{name}' stands twice." for name in dict.fromkeys(names) if names.count(name) > 1)
        return dict(pairs)

    try:
        value = json.loads(text, object_pairs_hook=members) if text.strip() else {}
    except json.JSONDecodeError as error:
        raise SettingsError([f"{path}:{error.lineno}: not valid JSON: {error.msg} (column {error.colno})."]) from None
    except (RecursionError, ValueError):
        raise SettingsError([f"{path}: nested too deeply, or with a number that is too long."]) from None
    if not isinstance(value, dict):
        problems.append(f"{path}: must hold an object with settings.")
    if problems:
        raise SettingsError(problems)
    return Document(path, value, {})


def _yaml(path: Path, text: str) -> Document:
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        reader = _Reader(path)
        value = {} if node is None else reader.value(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise SettingsError([f"{path}{line}: not valid YAML: {error.problem or error.context}."]) from None
    except yaml.YAMLError as error:
        raise SettingsError([f"{path}: not valid YAML: {str(error).splitlines()[0]}."]) from None
    except RecursionError:
        raise SettingsError([f"{path}: nested too deeply."]) from None
    if value is None:
        value = {}
    if not isinstance(value, dict):
        reader.problems.append(f"{path}: must hold settings, one 'name: value' a line.")
    if reader.problems:
        raise SettingsError(reader.problems)
    return Document(path, value, reader.lines)


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
        if _INT.fullmatch(text):
            return int(text)
        if _FLOAT.fullmatch(text):
            return float(text)
        return text
