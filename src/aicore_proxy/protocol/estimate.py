"""Token counts where an upstream told none. They are marked as estimates wherever a client is told them: zeros would
pass for counts, and without any some clients fail or repeat the request."""

from __future__ import annotations

import struct
from base64 import b64decode
from collections.abc import Iterable, Iterator

import msgspec

from aicore_proxy.protocol.neutral import (
    Delta,
    Event,
    Media,
    Reasoning,
    Refusal,
    Request,
    Text,
    ToolCall,
    ToolResult,
    Usage,
)

BYTES_PER_TOKEN = 4
PER_TURN, PER_TOOL = 4, 12
IMAGE_TOKENS, PAGE_TOKENS, BYTES_PER_PAGE = 1600, 2000, 60_000


def estimated(request: Request, said: int, known: Usage | None = None) -> Usage:
    """The tokens of an answer of ``said`` bytes of text to ``request``. ``known``: what the upstream told at its begin,
    of which all but the output counts."""
    if known is None or not known.input:
        known = Usage(input=_tokens(sum(map(size, texts(request)))) + beside_texts(request))
    return msgspec.structs.replace(known, output=_tokens(said), estimated=True)


def spoken(events: Iterable[Event]) -> int:
    """Bytes of the text that ``events`` tell."""
    return sum(size(event.text) for event in events if isinstance(event, Delta))


def size(text: str) -> int:
    """Bytes."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def beside_texts(request: Request) -> int:
    """Tokens of ``request`` that are not its texts': of media, and of what holds turns and tools together."""
    return sum(map(_media_tokens, _media(request))) + PER_TURN * len(request.turns) + PER_TOOL * len(request.tools)


def texts(request: Request) -> Iterator[str]:
    """All that a model reads as text."""
    for turn in request.turns:
        for part in turn.parts:
            match part:
                case Text(text=text) | Reasoning(text=text) | Refusal(text=text):
                    yield text
                case ToolCall(name=name, arguments=arguments):
                    yield f"{name} {arguments}"
                case ToolResult(content=content):
                    yield from (piece.text for piece in content if isinstance(piece, Text))
                case Media(text=str(text)):
                    yield text
                case Media():
                    pass
                case _:
                    yield msgspec.json.encode(part.block).decode()
    for tool in request.tools:
        yield f"{tool.name} {tool.description or ''} {msgspec.json.encode(tool.schema or tool.block).decode()}"


def _tokens(length: int) -> int:
    return -(-length // BYTES_PER_TOKEN)


def _media(request: Request) -> Iterator[Media]:
    for turn in request.turns:
        for part in turn.parts:
            if isinstance(part, Media):
                yield part
            elif isinstance(part, ToolResult):
                yield from (piece for piece in part.content if isinstance(piece, Media))


def _media_tokens(media: Media) -> int:
    if media.text is not None:
        return 0
    if media.kind == "document":
        length = len(media.data or "") * 3 // 4
        return PAGE_TOKENS * max(1, length // BYTES_PER_PAGE)
    if media.kind == "image" and media.data and (size_of := _png_size(media.data)):
        width, height = size_of
        # Anthropic: width x height / 750, after scaling to at most 1568 px on the long side
        scale = min(1.0, 1568 / max(width, height, 1))
        return min(IMAGE_TOKENS, max(1, int(width * height * scale * scale / 750)))
    return IMAGE_TOKENS


def _png_size(data: str) -> tuple[int, int] | None:
    try:
        head = b64decode(data[:64], validate=True)
        return struct.unpack(">II", head[16:24]) if head[:8] == b"\x89PNG\r\n\x1a\n" else None
    except (ValueError, struct.error):
        return None
