"""The command ``aicore-proxy``: one module per command."""

from __future__ import annotations

import os

import click

from aicore_proxy import __version__
from aicore_proxy.cli.commands import Commands


@click.group(commands=Commands(), context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="aicore-proxy")
def main() -> None:
    """An LLM proxy for SAP AI Core: OpenAI and Anthropic clients on every model family."""
    try:
        os.getcwd()  # noqa: PTH109
    except OSError:
        raise click.ClickException("The folder that this was started in is gone: go to one that is there.") from None
