"""docs/clients.md names every tool, its file and every option of ``connect``."""

from __future__ import annotations

from pathlib import Path

import click

from aicore_proxy.cli.connect.command import connect
from aicore_proxy.cli.connect.tools import TOOLS

PAGE = (Path(__file__).parents[2] / "docs" / "clients.md").read_text()


def test_every_tool_has_its_row() -> None:
    for tool in TOOLS.values():
        rows = [line for line in PAGE.splitlines() if line.startswith("| `") and f"`{tool.name}`" in line.split("|")[1]]
        assert len(rows) == 1, tool.name
        if tool.file is not None:
            path = str(tool.file({"HOME": "/home/me"}, Path("/work"))).replace("/home/me", "~").removeprefix("/work/")
            assert f"`{path}`" in rows[0], path


def test_every_option_is_told() -> None:
    for option in connect.params:
        if isinstance(option, click.Option):
            names = {*option.opts, *option.secondary_opts}
            assert any(f"`{name}`" in PAGE for name in names), names
