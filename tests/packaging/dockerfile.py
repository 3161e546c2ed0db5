"""The Dockerfile, read as far as its tests need it."""

from __future__ import annotations

import json
import re
from pathlib import Path

from msgspec import Struct

ROOT = Path(__file__).resolve().parent.parent.parent


class Instruction(Struct, frozen=True):
    """``text``: what follows the name, on one line."""

    name: str
    text: str

    @property
    def words(self) -> list[str]:
        return self.text.split()

    @property
    def array(self) -> list[str]:
        """Of the exec form."""
        value: list[str] = json.loads(self.text)
        return value

    @property
    def sources(self) -> list[str]:
        """Of a COPY from the context; none of one from another stage."""
        return [] if self.words[0].startswith("--from") else self.words[:-1]


def dockerfile() -> list[Instruction]:
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    found = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return [Instruction(name, re.sub(r"\s+", " ", rest)) for name, rest in found]


def stages() -> list[list[Instruction]]:
    found: list[list[Instruction]] = []
    for one in dockerfile():
        if one.name == "FROM":
            found.append([])
        elif found:
            found[-1].append(one)
    return found
