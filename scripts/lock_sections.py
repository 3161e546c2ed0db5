"""Joins two compiled requirement files: the first whole, then what only the second has, behind a marker line."""

import re
import sys
from pathlib import Path

MARKER = "# --- tests and checks: make run stops reading here ---"


def pins(path: str) -> dict[str, str]:
    """Requirement blocks of a compiled file, by their first line."""
    text = Path(path).read_text()
    blocks = re.findall(r"^\S.*(?:\n[ \t]+.*)*", text, re.MULTILINE)
    return {block.splitlines()[0]: block for block in blocks if not block.startswith("#")}


def main() -> None:
    serve, everything = pins(sys.argv[1]), pins(sys.argv[2])
    print("# Written by scripts/lock.sh from pyproject.toml. Installed with --require-hashes.")
    print("\n".join(serve.values()))
    print(MARKER)
    print("\n".join(block for head, block in everything.items() if head not in serve))


main()
