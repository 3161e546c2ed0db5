"""A function call whose arguments come in pieces, put together: Vertex AI's ``partialArgs``.

With ``functionCallingConfig.streamFunctionCallArguments`` a call begins with its name and ``willContinue``; each later
part brings pieces, ``{"jsonPath": "$.a[0].b", "stringValue": "…", "willContinue": true}``, and one without
``willContinue`` ends it (Vertex AI API reference: FunctionCall, PartialArg; the path is RFC 9535's).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from aicore_proxy.protocol.dialects.gemini.wire import as_object, as_objects, as_text, snake

Json = Any

MOST = 100
"""Items that a piece may add to an array: an index far beyond its end is none."""

_STEP = re.compile(r"""\.([^.\[\]]+)|\[(\d{1,6})\]|\['((?:[^'\\]|\\.)*)'\]|\["((?:[^"\\]|\\.)*)"\]""")
_VALUES = ("stringValue", "numberValue", "boolValue")


class Gathering:
    """The call of one candidate that is still coming. Owned by its candidate."""

    __slots__ = ("_args", "_part")

    def __init__(self) -> None:
        self._part: dict[str, Json] | None = None
        self._args: dict[str, Json] = {}

    def taken(self, part: Mapping[str, Json]) -> Mapping[str, Json] | None:
        """``part`` itself, or the whole call that it ends; None while more of that is to come."""
        call = _of(part, "functionCall")
        if not isinstance(call, dict):
            return part
        if self._part is None and not (_of(call, "willContinue") or _of(call, "partialArgs")):
            return part
        self._begin(part, call)
        for piece in as_objects(_of(call, "partialArgs")):
            self._add(piece)
        return None if _of(call, "willContinue") else self.ended()

    def ended(self) -> Mapping[str, Json] | None:
        """The call as far as it came; None if there is none."""
        part, self._part = self._part, None
        args, self._args = self._args, {}
        if part is None:
            return None
        return {**part, "functionCall": {**part["functionCall"], "args": args}}

    def _begin(self, part: Mapping[str, Json], call: Mapping[str, Json]) -> None:
        """What stands beside the pieces: name, id and signature come with the first part, or later."""
        kept = {
            name: value for name, value in call.items() if snake(name) not in ("args", "partial_args", "will_continue")
        }
        before = self._part or {"functionCall": {}}
        beside = {name: value for name, value in part.items() if snake(name) != "function_call"}
        self._part = {**before, **beside, "functionCall": {**before["functionCall"], **kept}}
        self._args.update(as_object(_of(call, "args")))

    def _add(self, piece: Mapping[str, Json]) -> None:
        steps = _steps(as_text(_of(piece, "jsonPath")))
        told = [name for name in _VALUES if _of(piece, name) is not None]
        if steps:
            _put(self._args, steps, _of(piece, told[0]) if told else None)


def _of(node: Mapping[str, Json], name: str) -> Json:
    return node.get(name, node.get(snake(name)))


def _steps(path: str) -> list[str | int]:
    """``$.a[0].b`` -> ["a", 0, "b"]; empty for what is no such path."""
    steps: list[str | int] = []
    at = 1
    if not path.startswith("$"):
        return []
    while at < len(path):
        if (match := _STEP.match(path, at)) is None:
            return []
        name, index, *quoted = match.groups()
        word = next((text for text in (name, *quoted) if text is not None), "")
        steps.append(int(index) if index is not None else re.sub(r"\\(.)", r"\1", word))
        at = match.end()
    return steps


def _put(target: Json, steps: list[str | int], value: Json) -> None:
    """Sets what ``steps`` lead to; more of a string goes behind what is there. A path that does not fit is left."""
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        fresh: Json = None if following is None else ([] if isinstance(following, int) else {})
        match target, step:
            case dict(), str():
                old = target.get(step)
            case list(), int() if step < len(target) + MOST:
                target += [None] * (step + 1 - len(target))
                old = target[step]
            case _:
                return
        if following is None:
            target[step] = old + value if isinstance(old, str) and isinstance(value, str) else value
        elif old is None:
            target[step] = fresh
        target = target[step]
