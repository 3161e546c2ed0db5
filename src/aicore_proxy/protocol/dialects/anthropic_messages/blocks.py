"""Neutral parts -> content blocks of the Messages API, towards an upstream."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping

import msgspec

from aicore_proxy.protocol.dialects.anthropic_messages.reading import NAME
from aicore_proxy.protocol.neutral import (
    CacheMark,
    Extras,
    Foreign,
    Json,
    Loss,
    Media,
    Part,
    Reasoning,
    Refusal,
    Text,
    ToolCall,
    ToolResult,
)
from aicore_proxy.protocol.seal import Sealer

# What Claude reads as an image, and how each begins in base64
IMAGES = {"image/png": "iVBORw0KGgo", "image/jpeg": "/9j/", "image/gif": "R0lGOD", "image/webp": "UklGR"}
_CLEAN = re.compile(r"[a-zA-Z0-9_-]+")
_UNCLEAN = re.compile(r"[^a-zA-Z0-9_-]+")
LONGEST_NAME = 64


class Drafting:
    """One request being written. Owns its losses and the tool names that had to be changed."""

    def __init__(self, source: str, sealer: Sealer) -> None:
        self.own = source == NAME
        self.sealer = sealer
        self.losses: list[Loss] = []
        self.renamed: dict[str, str] = {}
        self.cut_thoughts = False

    def lost(self, field: str, reason: str = "", *, harmless: bool = True) -> None:
        """Notes that ``field`` was left out or changed; each once."""
        loss = Loss(field, NAME, harmless, reason)
        if loss not in self.losses:
            self.losses.append(loss)

    def tool_name(self, name: str) -> str:
        """``name`` in the alphabet and length that Claude takes; what changed is remembered for the answer."""
        clean = cleaned(name, LONGEST_NAME)
        if clean != name:
            self.renamed[clean] = name
        return clean


def cleaned(text: str, longest: int) -> str:
    """``text`` in ``[a-zA-Z0-9_-]``, at most ``longest``; a changed one ends in a digest, so two stay two."""
    if _CLEAN.fullmatch(text) and len(text) <= longest:
        return text
    digest = hashlib.sha256(text.encode(errors="replace")).hexdigest()[:8]
    stem = _UNCLEAN.sub("_", text)[: longest - 9]
    return f"{stem}_{digest}"


def marked(block: dict[str, Json], cache: CacheMark | None, extras: Extras) -> dict[str, Json]:
    """``block`` with its ``extras`` and its prompt-cache breakpoint."""
    if cache is None:
        return {**block, **extras} if extras else block
    more = extras.get("cache_control", {})
    ttl = {"ttl": cache.ttl} if cache.ttl else {}
    return {**block, **extras, "cache_control": {"type": "ephemeral", **ttl, **more}}


def encode_part(part: Part, draft: Drafting) -> dict[str, Json] | None:
    """The block for ``part``; None where there is none, with a Loss in ``draft`` unless it was empty."""
    match part:
        case Text(text=text, cache=cache, extras=extras):
            return text_block(text, cache, extras)
        case Reasoning():
            return thinking_block(part, draft)
        case ToolCall():
            return call_block(part, draft)
        case ToolResult():
            return result_block(part, draft)
        case Media():
            return media_block(part, draft)
        case Refusal(text=text, extras=extras):
            return text_block(text, None, extras)
        case Foreign(dialect=dialect, block=block) if dialect == NAME:
            return dict(block)
    draft.lost("content", "a block of another API")
    return None


def text_block(text: str, cache: CacheMark | None, extras: Extras) -> dict[str, Json] | None:
    """Claude refuses texts without a visible character (SAP AI Core wire facts 4.3)."""
    for whole in ("search_result", "tool_reference"):
        if whole in extras:
            return dict(extras[whole])
    return marked({"type": "text", "text": text}, cache, extras) if text.strip() else None


def thinking_block(part: Reasoning, draft: Drafting) -> dict[str, Json] | None:
    """A thinking block without a valid signature is a 400, so without a seal of Claude's there is none at all."""
    signature = draft.sealer(part.seal)
    if signature is None:
        draft.cut_thoughts = True
        if part.text or part.seal:
            draft.lost("content.thinking", "thoughts of another model, or without their signature")
        return None
    if part.redacted:
        return {"type": "redacted_thinking", "data": signature, **part.extras}
    return {"type": "thinking", "thinking": part.text, "signature": signature, **part.extras}


def call_block(part: ToolCall, draft: Drafting) -> dict[str, Json]:
    arguments = {"input": part.arguments} if part.kind == "custom" else parsed(part.arguments, draft)
    block = {"type": "tool_use", "id": part.id, "name": draft.tool_name(part.name), "input": arguments}
    return marked(block, part.cache, part.extras)


def parsed(arguments: str, draft: Drafting) -> dict[str, Json]:
    """Claude takes only objects as a call's input."""
    try:
        value = msgspec.json.decode(arguments or "{}")
    except (msgspec.MsgspecError, RecursionError, UnicodeEncodeError):
        draft.lost("tool_use.input", "arguments that are no JSON")
        return {"arguments": arguments}
    if isinstance(value, dict):
        return value
    return {} if value is None else {"arguments": value}


def result_block(part: ToolResult, draft: Drafting) -> dict[str, Json]:
    blocks = [block for piece in part.content if (block := encode_part(piece, draft)) is not None]
    if part.is_error and not blocks:
        blocks = [{"type": "text", "text": "Error"}]
    result: dict[str, Json] = {"type": "tool_result", "tool_use_id": part.call_id}
    if blocks:
        result["content"] = compact(blocks)
    if part.is_error:
        result["is_error"] = True
    return marked(result, part.cache, part.extras)


def compact(blocks: list[dict[str, Json]]) -> Json:
    """One plain text as a string, else the list."""
    match blocks:
        case [{"type": "text", "text": text, **more}] if not more:
            return text
        case _:
            return blocks


# Images and documents


def media_block(part: Media, draft: Drafting) -> dict[str, Json] | None:
    """An image or document. What Claude cannot be shown (audio, video, other formats) is a Loss that refuses."""
    source: Mapping[str, Json] | None
    match part:
        case Media(kind="image" | "document", extras={"source": dict() as kept}):
            source = kept
        case Media(kind="image" | "document", url=str() as url):
            source = {"type": "url", "url": url}
        case Media(kind="image" | "document", file_id=str() as file_id) if draft.own:
            source = {"type": "file", "file_id": file_id}
        case Media(kind="document", text=str() as text):
            source = {"type": "text", "media_type": "text/plain", "data": text}
        case Media(kind="image", data=str() as data):
            source = image_source(data, part.media_type, draft.own)
        case Media(kind="document", data=str() as data):
            source = document_source(data, part.media_type, draft.own)
        case _:
            source = None
    if source is None:
        what = part.media_type or ("a file id of another API" if part.file_id else part.kind)
        draft.lost(f"content.{part.kind}", f"Claude cannot be shown {what}", harmless=False)
        return None
    if part.detail not in (None, "auto"):
        draft.lost("content.image.detail")
    title = {"title": part.name} if part.name and part.kind == "document" else {}
    extras = {name: value for name, value in part.extras.items() if name != "source"}
    return marked({"type": part.kind, "source": source, **title}, part.cache, extras)


def image_source(data: str, media_type: str | None, own: bool) -> dict[str, Json] | None:
    """The type is told by the data: Claude refuses one that does not match."""
    seen = next((name for name, start in IMAGES.items() if data.startswith(start)), None)
    told = {"image/jpg": "image/jpeg"}.get(media_type or "", media_type)
    kind = seen or told
    if kind in IMAGES or own:
        return {"type": "base64", "media_type": kind, "data": data} if kind else {"type": "base64", "data": data}
    return None


def document_source(data: str, media_type: str | None, own: bool) -> dict[str, Json] | None:
    kind = media_type or ("application/pdf" if data.startswith("JVBERi") else None)
    if kind == "application/pdf" or (own and kind):
        return {"type": "base64", "media_type": kind, "data": data}
    if kind and (kind.startswith("text/") or kind in ("application/json", "application/xml", "application/x-yaml")):
        try:
            text = base64.b64decode(data, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError, ValueError):
            return None
        return {"type": "text", "media_type": "text/plain", "data": text}
    return {"type": "base64", "data": data} if own else None
