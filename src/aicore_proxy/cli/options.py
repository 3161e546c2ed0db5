"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import click

Option: TypeAlias = Callable[[Callable[..., Any]], Callable[..., Any]]

config_option = click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Configuration file (AICORE_PROXY_CONFIG, then aicore-proxy.yaml here, then the user's own).",
)


def json_option(words: str = "For scripts.") -> Option:
    """``--json``, as the argument ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help=words)


def seconds_option(name: str, default: float, words: str) -> Option:
    """A length of time: more than none."""
    return click.option(name, type=click.FloatRange(0, min_open=True), default=default, show_default=True, help=words)
