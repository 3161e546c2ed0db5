"""Names of this dialect, and what its nodes share."""

from __future__ import annotations

from collections.abc import Mapping

from aicore_proxy.protocol.neutral import CacheMark, Extras, Json
from aicore_proxy.protocol.openai_members import rest

NAME = "openai_chat"
HOME = "gpt"

FUNCTION_CALL = "call_function_"
"""How the ids of calls begin that came in the deprecated form ``function_call``, which has none."""


def cache_of(node: Mapping[str, Json]) -> tuple[CacheMark | None, Extras]:
    """The prompt-cache breakpoint on ``node`` as LiteLLM and aider send it to Claude through this protocol
    (``cache_control`` as Anthropic writes it), and what of it is none."""
    control = node.get("cache_control")
    if control is None:
        return None, {}
    if not isinstance(control, dict) or control.get("type", "ephemeral") != "ephemeral":
        return None, {"cache_control": control}
    ttl = control.get("ttl")
    more = rest(control, ("type", "ttl") if isinstance(ttl, str) else ("type",))
    return CacheMark(ttl if isinstance(ttl, str) else None), {"cache_control": more} if more else {}
