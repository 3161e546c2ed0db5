"""What must not go up in a Gemini client's own ``contents``, when they are relayed to SAP."""

from __future__ import annotations

from typing import Any

from aicore_proxy.protocol.dialects.gemini.parts import BYPASS, seal_of
from aicore_proxy.protocol.dialects.gemini.wire import HOME

Json = Any

CALLS = ("functionCall", "function_call")
RESPONSES = ("functionResponse", "function_response")
SIGNATURES = ("thoughtSignature", "thought_signature")


def cleaned(contents: Json, *, signed_calls: bool) -> Json:
    """``contents`` as SAP and the model take them; the same object where there is nothing to change.

    Without ids of calls and results (SAP refuses ``functionResponse.id``: SAP AI Core wire facts, section 5) and
    without seals of other model families, which only this proxy can read; thoughts that such a seal belongs to go with
    it. ``signed_calls``: the first call of a Content that has no signature, since another model made it, gets the one
    that skips the check. What is malformed is left for the upstream to name.
    """
    listed = contents if isinstance(contents, list) else [contents]
    kept = [new for content in listed for new in _content(content, signed_calls)]
    return contents if _same(kept, listed) else kept


def _same(new: list[Json], old: list[Json]) -> bool:
    return len(new) == len(old) and all(one is other for one, other in zip(new, old, strict=True))


def _content(content: Json, signed_calls: bool) -> list[Json]:
    """``content`` itself, or a changed copy, or nothing where nothing is left of it."""
    wire = content.get("parts") if isinstance(content, dict) else None
    if not isinstance(wire, list | dict) or not wire:
        return [content]
    listed = wire if isinstance(wire, list) else [wire]
    parts = [new for part in listed for new in _part(part)]
    if signed_calls:
        _sign_first(parts)
    if _same(parts, listed):
        return [content]
    return [{**content, "parts": parts}] if parts else []


def _part(part: Json) -> list[Json]:
    """``part`` itself, or a changed copy, or nothing where nothing is left of it."""
    if not isinstance(part, dict):
        return [part]
    new = dict(part)
    for name in (*CALLS, *RESPONSES):
        inner = new.get(name)
        if isinstance(inner, dict) and "id" in inner:
            new[name] = {key: value for key, value in inner.items() if key != "id"}
    for name in SIGNATURES:
        value = new.get(name)
        seal = seal_of(value) if isinstance(value, str) else None
        if seal is not None and seal.family != HOME:
            del new[name]
            if new.get("thought") or new.get("text") == "":
                return []
    return [part if new == part else new]


def _sign_first(parts: list[Json]) -> None:
    for position, part in enumerate(parts):
        if isinstance(part, dict) and any(name in part for name in CALLS):
            if not any(part.get(name) for name in SIGNATURES):
                parts[position] = {**part, "thoughtSignature": BYPASS}
            return
