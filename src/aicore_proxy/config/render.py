"""Settings as text: YAML that reads back as the same, and values that may be shown."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec
import yaml

from aicore_proxy.config.settings import SECRETS, Settings
from aicore_proxy.config.yaml_values import Number

MASK = "****"
FROM_FILES = {name: f"{name}_file" for name in ("api_key", "metrics_key", "key", "service_key")}
"""Secrets that stand in a file of their own where one is named."""


def masked(settings: Settings) -> dict[str, Any]:
    """The settings as plain values; of a secret that is set only that it is."""
    plain: dict[str, Any] = _masked(msgspec.to_builtins(settings))
    return plain


def _masked(value: Any, name: str = "") -> Any:
    if name in SECRETS and value:
        return MASK
    if isinstance(value, dict):
        # The names of a mapping that the operator fills are no fields: an alias may be called "key"
        fields = not name or name in ("models", "routing")
        return {inner: _masked(given, inner if fields else "-") for inner, given in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(item) for item in value]
    return value


def dump(settings: Settings) -> str:
    """A configuration file of what is not the default, secrets included: ``load`` reads the same settings from it."""
    plain: dict[str, Any] = msgspec.to_builtins(settings)
    defaults = msgspec.to_builtins(Settings())
    chosen = {name: value for name, value in plain.items() if value != defaults[name]}
    for part in (chosen, *chosen.get("subaccounts", ()), *chosen.get("keys", ())):
        for secret, file in FROM_FILES.items():
            if part.get(file):
                part.pop(secret, None)
    return yaml_of(escaped(without_empty(chosen)))


def without_empty(chosen: dict[str, Any]) -> dict[str, Any]:
    """The settings without what is left empty in their subaccounts and keys."""

    def is_given(name: str, value: Any) -> bool:
        return bool(value) or name == "name" or (name == "service_key" and value is not None)

    def given(item: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in item.items() if is_given(name, value)}

    several = {name: [given(item) for item in chosen[name]] for name in ("subaccounts", "keys") if name in chosen}
    return chosen | several


def escaped(value: Any) -> Any:
    """Plain values whose texts are meant as they are: no ``${…}`` in them is a reference."""
    match value:
        case dict():
            return {name: escaped(given) for name, given in value.items()}
        case list() | tuple():
            return [escaped(given) for given in value]
        case str():
            return value.replace("${", "$${")
    return value


def yaml_of(plain: dict[str, Any]) -> str:
    """Plain values as YAML, in their order."""
    if not plain:
        return ""
    return yaml.dump(_natural(plain), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110, indent=2)


def _natural(value: Any) -> Any:
    """Numbers that were kept as they were written, as numbers."""
    match value:
        case dict():
            return {str(name): _natural(given) for name, given in value.items()}
        case list() | tuple():
            return [_natural(given) for given in value]
        case Number():
            try:
                return int(value)
            except ValueError:
                return float(value)
        case str():
            return str(value)
    return value


def _text(dumper: yaml.representer.BaseRepresenter, text: str) -> yaml.Node:
    # Unicode's other line breaks get lost in any other style
    style = None if text.replace("\n", "").isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


class _Dumper(yaml.SafeDumper):
    """Lists stand indented under their name; nothing is an alias of something else."""

    yaml_representers: ClassVar = {**yaml.SafeDumper.yaml_representers, str: _text}

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        return True
