"""JSON without a schema (Chat's ``json_object``) from models that have no mode for it: they are told in words, and what
they wrap their answer in is taken off again, so that the client gets JSON alone."""

from __future__ import annotations

import re
from typing import Literal

JSON_ONLY = "Answer with a single JSON object and nothing else: no words around it, no code fence."

OPENING = re.compile(r"\s*```[ \t]*\w*[ \t]*\r?\n?(?=\s*[\[{])")
MAY_OPEN = re.compile(r"\s*`{0,2}|\s*```[ \t]*\w*\s*")
CLOSING = re.compile(r"\r?\n[ \t]*```")  # never inside of JSON, whose strings hold no line break
MARGIN = "` \t\r\n"

State = Literal["unknown", "bare", "fenced", "over"]


class Unfenced:
    """One text of an answer, piece by piece, without the code fence around its JSON and without what follows the fence.
    A text that does not open with one is unchanged.

    Held back are only white space and backticks, and the name of a language behind them.
    """

    __slots__ = ("_held", "_state")

    def __init__(self) -> None:
        self._held = ""
        self._state: State = "unknown"

    def feed(self, text: str) -> str:
        """What of the text so far goes on."""
        if self._state == "bare":
            return text
        self._held += text
        if self._state == "unknown":
            self._state = self._recognised()
        match self._state:
            case "fenced":
                return self._inside()
            case "bare":
                return self.end()
            case _:
                return ""

    def end(self) -> str:
        """What was held back and is no fence."""
        held, self._held = self._held, ""
        return held if self._state in ("unknown", "bare") else ""

    def _recognised(self) -> State:
        if opening := OPENING.match(self._held):
            self._held = self._held[opening.end() :]
            return "fenced"
        return "unknown" if MAY_OPEN.fullmatch(self._held) else "bare"

    def _inside(self) -> str:
        if closing := CLOSING.search(self._held):
            kept, self._held = self._held[: closing.start()], ""
            self._state = "over"
            return kept
        kept = self._held.rstrip(MARGIN)
        self._held = self._held[len(kept) :]
        return kept
