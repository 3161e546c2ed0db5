"""Text for a terminal: how wide it is, whether it shows colours and characters beyond ASCII, and wrapping to fit."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping
from typing import TextIO

import click
from msgspec import Struct

WIDEST = 120
PIPED = 100
PLAIN = str.maketrans({"✓": "+", "✗": "x", "→": ">", "·": "-", "…": "...", "—": "-", "’": "'", "–": "-"})


class Terminal(Struct, frozen=True):
    """``width``: in characters; ``unicode``: whether more than ASCII shows; ``colours``: whether they do; ``live``:
    whether a line may be written over."""

    width: int
    unicode: bool
    colours: bool
    live: bool

    @classmethod
    def of(cls, stream: TextIO, environ: Mapping[str, str] = os.environ) -> Terminal:
        """What ``stream`` is. ``NO_COLOR`` and ``TERM=dumb`` are heeded."""
        terminal = stream.isatty()
        width = shutil.get_terminal_size((PIPED, 24)).columns if terminal or environ.get("COLUMNS") else PIPED
        smart = terminal and environ.get("TERM", "") != "dumb"
        encoding = (getattr(stream, "encoding", None) or "ascii").lower().replace("-", "")
        return cls(
            max(20, min(width, WIDEST)), encoding.startswith("utf"), smart and not environ.get("NO_COLOR"), smart
        )

    def shown(self, text: str) -> str:
        """``text`` without control characters, in characters that this terminal has."""
        clean = "".join(c if c.isprintable() else " " for c in text)
        return clean if self.unicode else clean.translate(PLAIN).encode("ascii", "replace").decode()

    def coloured(self, text: str, colour: str = "", *, bold: bool = False, dim: bool = False) -> str:
        if not self.colours:
            return text
        return click.style(text, fg=colour or None, bold=bold or None, dim=dim or None)

    def wrapped(self, text: str, first: str, rest: str) -> Iterable[str]:
        """Lines of ``text``; ``first`` and ``rest`` are the indents. Long words (ids, URLs) are kept whole where they
        fit on a line."""
        width = max(self.width, len(rest) + 12)
        lines = textwrap.wrap(
            self.shown(text), width, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False
        )
        return lines or [first.rstrip()]


def out() -> Terminal:
    """The standard output."""
    return Terminal.of(sys.stdout)
