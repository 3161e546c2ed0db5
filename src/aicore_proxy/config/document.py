"""A configuration file as plain values, with the line of each: YAML 1.2's core, or JSON.

Nothing in a file can hurt: no tags, no expansion of aliases into endless values, bounded size and depth.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from aicore_proxy.config.settings import SettingsError
from aicore_proxy.config.yaml_values import Place, YamlProblem, YamlReader, too_deep

LARGEST = 1024 * 1024
"""Bytes. Of any file that is read here: configurations, service keys, keys."""
LONGEST_SHOWN = 60


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
    return Document(path, value, _lines_of_json(text))


def _lines_of_json(text: str) -> Mapping[Place, int]:
    """JSON is YAML, but for tabs: so its lines can be told too."""
    reader = YamlReader(text.replace("\t", " "))
    try:
        reader.read()
    except YamlProblem:
        return {}
    return reader.lines


def _yaml(path: Path, text: str) -> Document:
    reader = YamlReader(text)
    try:
        value = reader.read()
    except YamlProblem as problem:
        where = f"{path}:{problem.line}" if problem.line else str(path)
        raise SettingsError([f"{where}: {problem.words}."]) from None
    value = {} if value is None else value
    named = [(line, f"'{written(place)}' {words}" if place else words) for line, words, place in reader.problems]
    problems = [f"{path}:{line}: {words}." for line, words in named]
    if not isinstance(value, dict):
        problems.append(f"{path}: must hold settings, one 'name: value' a line.")
    if problems:
        raise SettingsError(problems)
    return Document(path, value, reader.lines)
