"""``${VARIABLE}`` in the texts of a configuration file: secrets need not stand in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from aicore_proxy.config.shape import Given, Tell
from aicore_proxy.config.yaml_values import Place

# $${ is a ${ that stands for itself; ${NAME:-else} has a default
_REFERENCE = re.compile(r"\$(\$\{)|\$\{([^{}]*)\}")
_NAME = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)


def resolved(value: Any, environ: Mapping[str, str], tell: Tell, place: Place = ()) -> Any:
    """``value`` with the variables' values in its texts. A variable that is not set, and has no default, is told."""
    match value:
        case dict():
            return {name: resolved(given, environ, tell, (*place, name)) for name, given in value.items()}
        case list():
            return [resolved(given, environ, tell, (*place, number)) for number, given in enumerate(value)]
        case str() if "${" in value:
            return _text(value, environ, tell, place)
    return value


def _text(text: str, environ: Mapping[str, str], tell: Tell, place: Place) -> str:
    def put(match: re.Match[str]) -> str:
        if match[1]:
            return match[1]
        named = _NAME.fullmatch(match[2])
        if named is None:
            tell(place, "has a ${…} without the name of a variable in it ($${ stands for ${)")
            return ""
        name, default = named[1], named[2]
        if environ.get(name):
            return environ[name]
        if default is None:
            tell(place, f"needs the variable {name}, which is not set")
        return default or ""

    return Given(_REFERENCE.sub(put, text))
