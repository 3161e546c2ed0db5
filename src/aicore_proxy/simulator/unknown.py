"""Members and beta flags that a script makes unknown to a deployment, refused in its vendor's words.

Wordings: SAP AI Core wire facts 3 (Azure), 4.3 (Claude; a refused flag is not named), 5 (Google).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def complaint(body: Mapping[str, Any], names: Sequence[str], executable: str) -> str | None:
    """What the vendor says to a body that holds one of ``names``: a dotted path (``tools.*.strict``) or a beta flag.
    None: it holds none."""
    flags = body.get("anthropic_beta")
    if isinstance(flags, list) and any(name in flags for name in names):
        return "invalid beta flag"
    places = [place for name in names if (place := _found(body, name.split("."))) is not None]
    if not places:
        return None
    match executable:
        case "aws-bedrock":
            return "\n".join(f"{'.'.join(place)}: Extra inputs are not permitted" for place in places)
        case "gcp-vertexai":
            return "Invalid JSON payload received. " + "\n".join(_google(place) for place in places)
        case _ if len(places[0]) == 1:
            plural = "s" if len(places) > 1 else ""
            return f"Unrecognized request argument{plural} supplied: {', '.join('.'.join(place) for place in places)}"
        case _:
            return f"Unknown parameter: '{_indexed(places[0])}'."


def _found(node: Any, steps: Sequence[str]) -> list[str] | None:
    """The first place in ``node`` that ``steps`` lead to."""
    step, *below = steps
    if step == "*" and isinstance(node, list):
        for number, item in enumerate(node):
            if (place := _found(item, below)) is not None:
                return [str(number), *place]
        return None
    if not isinstance(node, Mapping) or step not in node:
        return None
    if not below:
        return [step]
    place = _found(node[step], below)
    return None if place is None else [step, *place]


def _indexed(place: Sequence[str]) -> str:
    return "".join(f"[{step}]" if step.isdecimal() else f".{step}" for step in place)[1:]


def _google(place: Sequence[str]) -> str:
    where = f" at '{_indexed(place[:-1])}'" if len(place) > 1 else ""
    return f'Unknown name "{place[-1]}"{where}: Cannot find field.'
