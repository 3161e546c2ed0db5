"""docs/protocols.md is what the rosetta folders prove: no cell without a test or a listed loss."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
DOC = ROOT / "docs" / "protocols.md"
ROSETTA = ROOT / "tests" / "rosetta"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("print_protocols", ROOT / "scripts" / "print_protocols.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_is_printed(script: ModuleType) -> None:
    assert DOC.read_text() == script.printed(), "run scripts/print_protocols.py > docs/protocols.md"


def test_no_cell_is_without_a_test_or_a_listed_loss(script: ModuleType) -> None:
    rows = [row for row in script.printed().splitlines() if row.startswith("|") and "`" in row]
    unexplained = [row for row in rows if "?" in row]
    assert rows
    assert unexplained == []


def test_every_row_is_shown_by_its_folder(script: ModuleType) -> None:
    sides = {"request": script.REQUESTS, "response": script.RESPONSES, "fault": script.FAULTS}
    for side, features in sides.items():
        for feature in features:
            node = json.loads((ROSETTA / feature.folder / "neutral.json").read_text())[side]
            for member in feature.path.split("."):
                if feature.folder == "no-usage":
                    assert member not in node
                    continue
                node = (
                    node[int(member) if isinstance(node, list) else member]
                    if member in node or isinstance(node, list)
                    else None
                )
                if node is None:
                    # Shown by being empty: a call without arguments, a result without content
                    assert feature.folder.startswith("empty-")
                    break


def test_every_folder_has_its_row(script: ModuleType) -> None:
    shown = {feature.folder for feature in (*script.REQUESTS, *script.RESPONSES, *script.FAULTS)}
    assert shown == {path.parent.name for path in ROSETTA.glob("*/neutral.json")}


def test_every_note_is_needed(script: ModuleType) -> None:
    """A note about a place that no longer differs is out of date."""
    for folder, path, dialect in script.NOTES:
        found = script.losses(folder).get(dialect, {})
        assert any(script.touched(path, found.get(side, {})) for side in ("request", "client", "response")), path
