"""The commands by name. Each is imported when it is asked for: a health check need not load what serves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from importlib import import_module

import click

MODULES: Mapping[str, str] = {
    "run": "serve",
    "serve": "serve",
    "simulate": "simulate",
    "doctor": "doctor.command",
    "models": "models",
    "config": "config",
    "health": "health",
    "completion": "completion",
    "chat": "chat",
    "bench": "bench",
    "why": "why",
    "replay": "replay",
    "connect": "connect.command",
}
"""A command's name -> its module in this package; the module's attribute has the command's name."""


class Commands(MutableMapping[str, click.Command]):
    """What click takes for a dictionary of commands. Owns those that were imported."""

    def __init__(self) -> None:
        self._known: dict[str, click.Command | None] = dict.fromkeys(MODULES)

    def __getitem__(self, name: str) -> click.Command:
        known = self._known[name]
        if known is None:
            known = self._known[name] = getattr(import_module(f"aicore_proxy.cli.{MODULES[name]}"), name)
        return known

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._known[name] = command

    def __delitem__(self, name: str) -> None:
        del self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)
