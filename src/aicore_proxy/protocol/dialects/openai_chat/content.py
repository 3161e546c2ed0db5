"""Parts of a message's content, read and written: text, images, audio, files."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

from aicore_proxy.protocol.dialects.openai_chat.reading import NAME, cache_of
from aicore_proxy.protocol.neutral import NOTHING, Extras, Foreign, Json, Media, Part, Refusal, Text
from aicore_proxy.protocol.openai_members import malformed, member, optional, rest, typed, wrong_type

PDF = "application/pdf"
_MEDIA_TYPES = {"txt": "text/plain", "md": "text/markdown", "csv": "text/csv", "json": "application/json"}


def decode_content(content: Json, path: str) -> tuple[Part, ...]:
    """The parts of a ``content``: a string, null, or a list of parts. Raises Fault(MALFORMED)."""
    match content:
        case None:
            return ()
        case str():
            return (Text(content),)
        case list():
            return tuple(decode_part(part, f"{path}[{i}]") for i, part in enumerate(content))
        case _:
            raise wrong_type(content, "a string or an array of objects", path)


def decode_part(part: Json, path: str) -> Part:
    if isinstance(part, str):
        return Text(part)
    part = typed(part, dict, path)
    kind = part.get("type", "text" if "text" in part else None)
    if not isinstance(kind, str):
        raise malformed(f"{path}.type", f"Missing required parameter: '{path}.type'.")
    match kind:
        case "text":
            cache, more = cache_of(part)
            text = member(part, "text", str, path)
            return Text(text, cache, _with(rest(part, ("type", "text", "cache_control")), more))
        case "refusal":
            return Refusal(member(part, "refusal", str, path), rest(part, ("type", "refusal")) or NOTHING)
        case "image_url":
            return _image(part, path)
        case "input_audio":
            return _audio(part, path)
        case "file":
            return _file(part, path)
        case _:
            return Foreign(NAME, part, path)


def _with(extras: dict[str, Json], more: Extras) -> Extras:
    extras.update(more)
    return extras or NOTHING


def _extras(part: Mapping[str, Json], name: str, held: Mapping[str, Json], known: tuple[str, ...]) -> Extras:
    """What else stands on a media part, and in the object it holds under its type's name."""
    extras = rest(part, ("type", name, "cache_control"))
    if inner := rest(held, known):
        extras[name] = inner
    return extras


def _image(part: Mapping[str, Json], path: str) -> Part:
    held = part.get("image_url")
    # A bare string is what several older clients send
    held = {"url": held} if isinstance(held, str) else member(part, "image_url", dict, path)
    url = member(held, "url", str, f"{path}.image_url")
    cache, more = cache_of(part)
    extras = _with(dict(_extras(part, "image_url", held, ("url", "detail"))), more)
    detail = optional(held, "detail", str, f"{path}.image_url")
    media_type, data = of_data_url(url)
    if data is None:
        return Media("image", url=url, detail=detail, cache=cache, extras=extras)
    return Media("image", media_type, data=data, detail=detail, cache=cache, extras=extras)


def _audio(part: Mapping[str, Json], path: str) -> Part:
    held = member(part, "input_audio", dict, path)
    cache, more = cache_of(part)
    return Media(
        "audio",
        f"audio/{member(held, 'format', str, f'{path}.input_audio')}",
        data=member(held, "data", str, f"{path}.input_audio"),
        cache=cache,
        extras=_with(dict(_extras(part, "input_audio", held, ("data", "format"))), more),
    )


def _file(part: Mapping[str, Json], path: str) -> Part:
    held = member(part, "file", dict, path)
    inside = f"{path}.file"
    name = optional(held, "filename", str, inside)
    file_id = optional(held, "file_id", str, inside)
    told = optional(held, "file_data", str, inside)
    cache, more = cache_of(part)
    extras = _with(dict(_extras(part, "file", held, ("filename", "file_id", "file_data"))), more)
    if told is None and file_id is None:
        raise malformed(inside, f"'{inside}' must have 'file_data' or 'file_id'.")
    if told is None:
        return Media("document", file_id=file_id, name=name, cache=cache, extras=extras)
    if told.startswith(("http://", "https://")):
        return Media("document", url=told, name=name, cache=cache, extras=extras)
    media_type, data = of_data_url(told)
    if data is None:
        # Base64 without the data URL around it: as OpenAI's reference describes the field
        media_type, data = _MEDIA_TYPES.get((name or "").rpartition(".")[2].lower(), PDF), told
    if media_type == "text/plain" and (text := _plain(data)) is not None:
        return Media("document", media_type, text=text, name=name, cache=cache, extras=extras)
    return Media("document", media_type, data=data, name=name, cache=cache, extras=extras)


def of_data_url(url: str) -> tuple[str | None, str | None]:
    """(media type, base64) of a ``data:`` URL; (None, None) of any other."""
    if url[:5].lower() != "data:":
        return None, None
    head, comma, data = url[5:].partition(",")
    if not comma:
        return None, None
    media_type, *parameters = head.split(";")
    if "base64" not in parameters:
        data = base64.b64encode(unquote_to_bytes(data)).decode()
    return media_type.strip().lower() or "text/plain", data


def data_url(media_type: str, data: str) -> str:
    return f"data:{media_type};base64,{data}"


def _plain(data: str) -> str | None:
    try:
        return base64.b64decode(data, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return None


# Writing


def encode_media(media: Media, *, own: bool) -> dict[str, Any] | None:
    """The part for ``media``; None where Chat has none (video; another API's file id, a document at a URL). ``own``:
    it came in this dialect. A plain-text document of another dialect becomes text under its name."""
    match media:
        case Media(kind="image", file_id=None):
            url = media.url or data_url(media.media_type or "image/png", media.data or "")
            detail = {"detail": media.detail} if media.detail else {}
            return _written(media, "image_url", {"url": url, **detail})
        case Media(kind="audio", data=str(data)):
            form = (media.media_type or "audio/wav").partition("/")[2].partition(";")[0]
            form = {"mpeg": "mp3", "x-wav": "wav", "wave": "wav"}.get(form, form) if not own else form
            return _written(media, "input_audio", {"data": data, "format": form})
        case Media(kind="document", text=str(text)) if not own:
            title = f' name="{media.name}"' if media.name else ""
            return {"type": "text", "text": f"<document{title}>\n{text}\n</document>"}
        case Media(kind="document", text=str(text)):
            return _file_part(media, data_url("text/plain", base64.b64encode(text.encode()).decode()))
        case Media(kind="document", data=str(data)):
            return _file_part(media, data_url(media.media_type or PDF, data), None if own else _pdf_name(media))
        case Media(kind="document", url=str(url)) if own:
            return _file_part(media, url)
        case Media(kind="document", file_id=str(file_id)) if own:
            name = {"filename": media.name} if media.name else {}
            return _written(media, "file", {"file_id": file_id, **name})
        case _:
            return None


def _pdf_name(media: Media) -> str:
    """OpenAI reads a file by the ending of its name; other dialects' titles have none."""
    name = media.name or "file"
    return name if name.lower().endswith(".pdf") or media.media_type not in (None, PDF) else f"{name}.pdf"


def _file_part(media: Media, told: str, given_name: str | None = None) -> dict[str, Any]:
    name = given_name or media.name
    return _written(media, "file", {"file_data": told, **({"filename": name} if name else {})})


def _written(media: Media, name: str, held: dict[str, Json]) -> dict[str, Any]:
    extras = dict(media.extras)
    inner = extras.pop(name, {})
    return {"type": name, name: {**held, **inner}, **extras}
