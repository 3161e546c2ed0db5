"""docs/simulator.md lists every statement of the wire that the simulator implements, each with a test that exists."""

import re
from pathlib import Path

import msgspec

from aicore_proxy.simulator.landscape import Switches
from aicore_proxy.simulator.scripts import Script

ROOT = Path(__file__).parents[2]
DOC = (ROOT / "docs" / "simulator.md").read_text()


def test_every_statement_has_its_test_and_every_test_its_statement() -> None:
    written = {
        name
        for path in (ROOT / "tests" / "simulator").glob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_wire_\w+)", path.read_text(), re.MULTILINE)
    }

    assert set(re.findall(r"`(test_wire_\w+)`", DOC)) == written
    assert len(written) > 90


def test_every_key_of_a_script_and_every_switch_is_described() -> None:
    names = [field.name for kind in (Script, Switches) for field in msgspec.structs.fields(kind)]

    assert [name for name in names if f"`{name}`" not in DOC] == []
