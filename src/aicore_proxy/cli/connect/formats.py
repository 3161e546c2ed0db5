"""The formats of settings files: each merges changes into a text and leaves the rest of it as it was."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import yaml
from msgspec import Struct

from aicore_proxy.cli.connect import jsonc
from aicore_proxy.cli.connect.edit import Edit, FormatError, edited

UNSAFE = "is written in a way that cannot be changed safely"

# --- YAML: members of the top mapping


def merged_yaml(text: str, edits: Sequence[Edit]) -> str:
    """Block mappings; the values are texts, numbers, switches and lists of them. Raises FormatError."""
    wanted = edited(_read_yaml(text), edits)
    for edit in edits:
        text = _changed_yaml(text, edit)
    try:
        fine = _read_yaml(text) == wanted
    except FormatError:
        fine = False
    if not fine:
        raise FormatError(UNSAFE)
    return text


def _read_yaml(text: str) -> Any:
    try:
        return yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise FormatError(
            f"is not valid YAML: {getattr(error, 'problem', None) or 'it cannot be read'}{place}"
        ) from None
    except (ValueError, RecursionError):
        raise FormatError("is not valid YAML") from None


def _changed_yaml(text: str, edit: Edit) -> str:
    (key,) = edit.path
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    if isinstance(root, yaml.MappingNode) and root.flow_style:
        raise FormatError(UNSAFE)
    found = [(name, value) for name, value in pairs if name.value == key]
    newline = "\r\n" if "\r\n" in text else "\n"
    entry = f"{key}: {_yaml_value(edit.value)}"
    if found:
        name, value = found[-1]
        start, end = name.start_mark.index, _yaml_end(value)
        if edit.value is not None:
            return text if yaml.safe_load(text)[key] == edit.value else text[:start] + entry + text[end:]
        after = re.match(r"[ \t]*(?:#[^\r\n]*)?(?:\r?\n|\Z)", text[end:])
        return text[:start] + text[end + (after.end() if after else 0) :]
    if edit.value is None:
        return text
    gap = newline if text and not text.endswith("\n") else ""
    return f"{text}{gap}{entry}{newline}"


def _yaml_end(node: yaml.Node) -> int:
    """Where a value's own text ends: PyYAML's mark of a block takes in what follows it."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _yaml_end(last[1] if isinstance(last, tuple) else last)
    if isinstance(node, yaml.ScalarNode) and node.style in ("|", ">"):
        raise FormatError(UNSAFE)
    return int(node.end_mark.index)


def _yaml_value(value: Any) -> str:
    plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z][A-Za-z0-9_./:@+-]*", value) and not value.endswith(":")
    if plain and yaml.safe_load(value) == value:
        return str(value)
    return json.dumps(value, ensure_ascii=False)


# --- TOML: members at the top, and whole tables


def merged_toml(text: str, edits: Sequence[Edit]) -> str:
    """A path of one step is a member at the top, a longer one a table of plain values. Raises FormatError."""
    wanted = _without_empty(edited(_read_toml(text), edits))
    for edit in edits:
        text = _changed_toml(text, edit)
    try:
        fine = _without_empty(_read_toml(text)) == wanted
    except FormatError:
        fine = False
    if not fine:
        raise FormatError(UNSAFE)
    return text


def _without_empty(value: dict[str, Any]) -> dict[str, Any]:
    """``[a.b]`` makes an ``a`` that goes with it."""
    inner = {key: _without_empty(one) if isinstance(one, dict) else one for key, one in value.items()}
    return {key: one for key, one in inner.items() if one != {}}


def _read_toml(text: str) -> Any:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise FormatError(f"is not valid TOML: {error}") from None


def _changed_toml(text: str, edit: Edit) -> str:
    newline = "\r\n" if "\r\n" in text else "\n"
    if len(edit.path) == 1:
        return _changed_member(text, edit.path[0], edit.value, newline)
    name = ".".join(_toml_name(step) for step in edit.path)
    header = re.search(rf"(?m)^[ \t]*\[[ \t]*{re.escape(name)}[ \t]*\][^\n]*(?:\n|\Z)", text)
    lines = [f"[{name}]", *(f"{_toml_name(key)} = {json.dumps(value)}" for key, value in (edit.value or {}).items())]
    table = newline.join(lines) + newline
    if header is None:
        if edit.value is None:
            return text
        gap = "" if not text else newline if text.endswith("\n") else newline * 2
        return text + gap + table
    following = re.search(r"(?m)^[ \t]*\[", text[header.end() :])
    end = header.end() + following.start() if following else len(text)
    old = text[header.start() : end]
    kept = "" if not following else old[len(old.rstrip()) :].removeprefix(newline)
    if edit.value is None:
        return text[: header.start()] + text[end:]
    same = _read_toml(old) == _read_toml(table)
    return text if same else text[: header.start()] + table + kept + text[end:]


def _changed_member(text: str, key: str, value: Any, newline: str) -> str:
    first = re.search(r"(?m)^[ \t]*\[", text)
    top = len(text) if first is None else first.start()
    line = re.search(rf"(?m)^[ \t]*{re.escape(_toml_name(key))}[ \t]*=[^\r\n]*(\r?\n|\Z)", text[:top])
    if line is not None and tomllib.loads(line[0]).get(key) == value:
        return text
    entry = "" if value is None else f"{_toml_name(key)} = {json.dumps(value, ensure_ascii=False)}{newline}"
    if line is not None:
        return text[: line.start()] + entry + text[line.end() :]
    head = text[:top]
    gap = newline if head and not head.endswith("\n") else ""
    return head + gap + entry + text[top:]


def _toml_name(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)


# --- variables, one per line


def merged_env(text: str, edits: Sequence[Edit]) -> str:
    """A ``.env`` file: ``NAME=value``, ``export`` before it or not. Raises FormatError."""
    newline = "\r\n" if "\r\n" in text else "\n"
    lines = text.splitlines(keepends=True)
    for edit in edits:
        (name,) = edit.path
        own = re.compile(rf"\s*(export\s+)?{re.escape(name)}\s*=")
        places = [number for number, line in enumerate(lines) if own.match(line)]
        for number in reversed(places[:-1] if edit.value is not None else places):
            del lines[number]
        if edit.value is None:
            continue
        at = places[-1] - (len(places) - 1) if places else len(lines)
        before = own.match(lines[at]) if places else None
        export = (before[1] or "") if before else ""
        if at == len(lines) and lines and not lines[-1].endswith("\n"):
            lines[-1] += newline
        lines[at : at + 1] = [f"{export}{name}={env_value(edit.value)}{newline}"]
    return "".join(lines)


def env_value(value: str) -> str:
    """A value as a shell and as dotenv readers take it."""
    return value if re.fullmatch(r"[A-Za-z0-9_./:@+-]+", value) else "'" + value.replace("'", "'\\''") + "'"


def _read_env(text: str) -> Any:
    lines = (re.match(r"\s*(?:export\s+)?([A-Za-z_]\w*)\s*=(.*)", line) for line in text.splitlines())
    return {line[1]: line[2] for line in lines if line}


class Format(Struct, frozen=True):
    """``read``: the value of a text; ``merge``: text and changes in, text out. Both raise FormatError."""

    read: Callable[[str], Any]
    merge: Callable[[str, Sequence[Edit]], str]


FORMATS = {
    "json": Format(partial(jsonc.read, comments=False), partial(jsonc.merged, comments=False)),
    "jsonc": Format(partial(jsonc.read, comments=True), partial(jsonc.merged, comments=True)),
    "yaml": Format(_read_yaml, merged_yaml),
    "toml": Format(_read_toml, merged_toml),
    "env": Format(_read_env, merged_env),
}
"""By the name that a tool's entry gives."""
