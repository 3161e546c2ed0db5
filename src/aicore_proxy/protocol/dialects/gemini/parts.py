"""Parts of a Content, in both directions.

Thought signatures stand on any part (Google, "Thought signatures"). On a function call it is the call's seal, on a
thought the Reasoning's. On any other part it becomes a Reasoning without text right behind that part; on an empty
text, which is how a stream ends, one that is ``redacted``. Writing turns that back, so the signature returns on the
part it came on. A seal of another family that has no text to stand with goes to a client on the next call: some
clients replay neither thoughts nor empty texts, and all replay that one.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from aicore_proxy.protocol.dialects.gemini.wire import HOME, NAME, Node, malformed
from aicore_proxy.protocol.neutral import (
    Foreign,
    Loss,
    Media,
    Part,
    Reasoning,
    Refusal,
    Seal,
    Text,
    ToolCall,
    ToolResult,
)
from aicore_proxy.protocol.seal import Sealer, restore

Json = Any

SKIPS_VALIDATION = ("skip_thought_signature_validator", "context_engineering_is_the_way_to_go")
BYPASS = base64.b64encode(SKIPS_VALIDATION[0].encode()).decode()
"""The signature for a call that Gemini did not make, which Google documents as ``skip_thought_signature_validator``.
The field is bytes, so JSON carries its base64: what google-genai, pydantic-ai and litellm put on the wire, and what
Vertex AI takes where the bare words were answered with an empty turn."""


# Reading


def seal_of(signature: str | None) -> Seal | None:
    """The seal in a ``thoughtSignature``, in the standard alphabet: google-genai sends it back in the URL-safe one."""
    seal = restore(signature, HOME)
    if seal is None or seal.family != HOME or seal.value in SKIPS_VALIDATION:
        return seal
    if not re.search("[-_]", seal.value):
        return seal
    value = seal.value.replace("-", "+").replace("_", "/")
    return Seal(HOME, value + "=" * (-len(value) % 4))


def decode_part(node: Node, call_id: str = "", result_id: str = "") -> list[Part]:
    """One wire part as one Part, or two where it carries a signature that has no place on the first. ``call_id``: id
    of a call that has none; ``result_id``: of the call that a functionResponse answers, whatever id it names."""
    if (call := node.node("functionCall")) is not None:
        seal = seal_of(node.text("thoughtSignature"))
        read = _call(call, call_id)
        read = msgspec.structs.replace(read, extras={**read.extras, **node.rest()})
        if seal is not None and seal.family != HOME:
            return [Reasoning("", seal), read]
        return [msgspec.structs.replace(read, seal=seal)]
    if (response := node.node("functionResponse")) is not None:
        node.take("thoughtSignature")
        return [_result(response, result_id, node)]
    media = media_of(node)
    text = node.text("text") if media is None else None
    if media is None and text is None:
        return [Foreign(NAME, dict(node.value), node.path)]
    seal = seal_of(node.text("thoughtSignature"))
    if media is not None:
        return [msgspec.structs.replace(media, extras={**media.extras, **node.rest()}), *_behind(seal)]
    text = text or ""
    if node.flag("thought"):
        return [Reasoning(text, seal, extras=node.rest())]
    if not text and seal is not None:
        return [Reasoning("", seal, redacted=True, extras=node.rest())]
    return [Text(text, extras=node.rest()), *_behind(seal)]


def _behind(seal: Seal | None) -> list[Part]:
    return [Reasoning("", seal)] if seal is not None else []


def _call(call: Node, call_id: str) -> ToolCall:
    name = call.text("name")
    if not name:
        raise call.refused("name", "the name of a function")
    args = call.node("args")
    arguments = msgspec.json.encode(args.value).decode() if args is not None else ""
    return ToolCall(call.text("id") or call_id, name, arguments, extras=_inner("functionCall", call))


def _inner(name: str, held: Node) -> dict[str, Json]:
    """What nobody read of the object that a part holds, under the object's name: written back into it."""
    return {name: more} if (more := held.rest()) else {}


def _result(response: Node, call_id: str, node: Node) -> ToolResult:
    value = response.take("response")
    if value is not None and not isinstance(value, dict):
        # The API takes objects only; clients that send the bare words mean them
        value = {"output": value if isinstance(value, str) else msgspec.json.encode(value).decode()}
    said, is_error = _said(value or {})
    content: list[Text | Media | Foreign] = [Text(said)] if said or value else []
    for part in response.nodes("parts"):
        media = media_of(part)
        content.append(
            Foreign(NAME, dict(part.value))
            if media is None
            else msgspec.structs.replace(media, extras={**media.extras, **part.rest()})
        )
    given = response.text("id")
    return ToolResult(
        call_id or given or "",
        tuple(content),
        is_error,
        response.text("name"),
        extras=_inner("functionResponse", response) | node.rest(),
    )


def _said(response: Mapping[str, Json]) -> tuple[str, bool]:
    """(text, is error) of a function's response. ``output`` and ``error`` are the keys that the API names; any other
    object is the output as a whole."""
    if not response:
        return "", False
    name, value = next(iter(response.items()))
    if len(response) == 1 and name in ("output", "error") and isinstance(value, str):
        return value, name == "error"
    return msgspec.json.encode(response).decode(), "error" in response


def response_of(text: str, is_error: bool, *, own: bool) -> dict[str, Json]:
    """The ``response`` object for a result's text. ``own``: it came in Gemini's dialect, where an object is an object
    and not words that look like one."""
    if own:
        whole = json_object(text)
        if whole is not None and is_error == ("error" in whole) and _said(whole) == (text, is_error):
            return whole
    return {"error" if is_error else "output": text}


def json_object(text: str) -> dict[str, Json] | None:
    if not text.startswith("{"):
        return None
    try:
        value = msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError):
        return None
    return value if isinstance(value, dict) else None


# Media


def media_of(node: Node) -> Media | None:
    if (inline := node.node("inlineData")) is not None:
        media_type = inline.text("mimeType")
        data = inline.text("data") or ""
        kind = kind_of_media(media_type)
        if media_type == "text/plain" and (text := _plain(data)) is not None:
            media = Media("document", media_type, text=text, name=inline.text("displayName"))
        else:
            media = Media(kind, media_type, data=_standard(data, inline), name=inline.text("displayName"))
        return msgspec.structs.replace(media, extras=_inner("inlineData", inline))
    if (file := node.node("fileData")) is not None:
        media_type = file.text("mimeType")
        url = file.text("fileUri")
        if not url:
            raise file.refused("fileUri", "a URI")
        kind = kind_of_media(media_type or _guessed(url))
        return Media(kind, media_type, url=url, name=file.text("displayName"), extras=_inner("fileData", file))
    return None


HEAD = 64
"""Characters of base64 that are looked at: enough to tell it from a path or a URL, and no matter for 60 MB."""
MAX_PLAIN = 1024 * 1024


def _standard(data: str, node: Node) -> str:
    """Base64 in the standard alphabet, padded: the API takes both, other dialects' upstreams do not."""
    if "-" in data or "_" in data:
        data = data.replace("-", "+").replace("_", "/")
    data += "=" * (-len(data) % 4)
    if not re.fullmatch(r"[A-Za-z0-9+/\s]*={0,2}\s*", data[:HEAD]):
        raise malformed(node.at("data"), "base64")
    return data


def _plain(data: str) -> str | None:
    """The text in base64, if it is UTF-8 that would be written the same way again."""
    if len(data) > MAX_PLAIN:
        return None
    try:
        text = base64.b64decode(data, validate=True).decode()
    except (binascii.Error, UnicodeError, ValueError):
        return None
    return text if base64.b64encode(text.encode()).decode() == data else None


def kind_of_media(media_type: str | None) -> Any:
    match (media_type or "").partition("/")[0]:
        case "image" | "audio" | "video" as kind:
            return kind
        case _:
            return "document"


_TYPES = {
    "png": "image/png", "jpg": "image/jpeg", "jpeg": "image/jpeg", "webp": "image/webp", "gif": "image/gif",
    "heic": "image/heic", "heif": "image/heif", "pdf": "application/pdf", "txt": "text/plain", "md": "text/plain",
    "html": "text/html", "mp3": "audio/mpeg", "wav": "audio/wav", "mp4": "video/mp4", "mov": "video/quicktime",
    "webm": "video/webm",
}  # fmt: skip
_USUAL = {"image": "image/jpeg", "document": "application/pdf", "audio": "audio/mpeg", "video": "video/mp4"}


def _guessed(url: str) -> str | None:
    return _TYPES.get(url.partition("?")[0].rpartition(".")[2].lower())


def encode_media(media: Media, losses: list[Loss], *, own: bool) -> dict[str, Json] | None:
    """``inlineData`` or ``fileData``; None where only the client's own vendor could read it (a file id)."""
    beside = dict(media.extras)
    inner: dict[str, Json] = beside.pop("inlineData", beside.pop("fileData", {}))
    if media.name:
        inner = {"displayName": media.name, **inner}
    if media.detail not in (None, "auto"):
        losses.append(Loss("content.image.detail", NAME, reason="no such setting"))
    if media.file_id is not None:
        losses.append(Loss(f"content.{media.kind}.file_id", NAME, harmless=False, reason="a file of another API"))
        return None
    if media.url is not None:
        data = _DATA_URL.match(media.url)
        if data is None:
            guessed = media.media_type or _guessed(media.url)
            mime = media.media_type if own else _named(guessed, media, own)
            told = {"mimeType": mime} if mime else {}
            return {"fileData": {**told, "fileUri": media.url, **inner}, **beside}
        body = {"mimeType": _named(data[1] or media.media_type, media, own), "data": media.url[data.end() :]}
        return {"inlineData": {**body, **inner}, **beside}
    if media.text is not None:
        encoded = base64.b64encode(media.text.encode(errors="replace")).decode()
        return {"inlineData": {"mimeType": "text/plain", "data": encoded, **inner}, **beside}
    mime = _named(media.media_type, media, own)
    return {"inlineData": {"mimeType": mime, "data": media.data or "", **inner}, **beside}


def _named(media_type: str | None, media: Media, own: bool) -> str:
    """A type as Gemini spells it: ``image/jpg``, which many clients send, is none."""
    if media_type == "image/jpg" and not own:
        return "image/jpeg"
    return media_type or str(_USUAL[media.kind])


_DATA_URL = re.compile(r"data:([^;,]*)(?:;[^,]*)?;base64,")


# Writing


class PartWriter:
    """Writes the parts of one Content. ``own``: their source is this dialect too, so nothing is tidied.
    ``with_ids``: towards a client; SAP refuses ``functionResponse.id`` (SAP AI Core wire facts, section 5).
    ``names``: of functions, as they go up. ``thoughts``: whether their texts are shown."""

    def __init__(
        self,
        sealer: Sealer,
        losses: list[Loss],
        *,
        own: bool,
        with_ids: bool,
        names: Mapping[str, str],
        thoughts: bool = True,
    ) -> None:
        self.sealer = sealer
        self.losses = losses
        self.own = own
        self.with_ids = with_ids
        self.names = names
        self.thoughts = thoughts

    def written(self, parts: Sequence[Part]) -> list[dict[str, Json]]:
        wire: list[dict[str, Json]] = []
        signature: str | None = None
        for position, part in enumerate(parts):
            match part:
                case Text(text=text, extras=extras) if text or self.own:
                    wire.append({"text": text, **extras})
                case Refusal(text=text) if text or self.own:
                    wire.append({"text": text})
                case Reasoning(text="") if (sealed := self.sealer(part.seal)) is not None:
                    following = parts[position + 1] if position + 1 < len(parts) else None
                    if not part.redacted and wire and _may_bear(wire[-1]):
                        wire[-1]["thoughtSignature"] = sealed
                    elif bears(following, part, self.sealer):
                        signature = sealed
                    else:
                        wire.append(alone(part, sealed))
                case Reasoning():
                    wire += self._thought(part)
                case ToolCall():
                    wire.append(self.call(part, signature))
                    signature = None
                case Media() if (media := encode_media(part, self.losses, own=self.own)) is not None:
                    wire.append(media)
                case ToolResult():
                    wire.append(self.result(part))
                case Foreign(dialect=dialect, block=block) if dialect == NAME:
                    wire.append(dict(block))
                case _:
                    pass  # empty, or named in the losses already
        return wire

    def _thought(self, part: Reasoning) -> list[dict[str, Json]]:
        if not self.thoughts:
            return []
        sealed = self.sealer(part.seal)
        if part.seal is not None and sealed is None:
            self.losses.append(Loss("content.reasoning", NAME, reason="thoughts of another model family"))
            return []
        if not part.text and not (self.own and not part.redacted):
            return []
        signature = {"thoughtSignature": sealed} if sealed is not None else {}
        return [{"text": part.text, "thought": True, **signature, **part.extras}]

    def call(self, part: ToolCall, signature: str | None = None) -> dict[str, Json]:
        if part.kind == "custom":
            args: dict[str, Json] | None = {"input": part.arguments}
        else:
            args = json_object(part.arguments.strip()) if part.arguments.strip() else {}
            if args is None:
                # Not what a function takes, but what the model wrote
                args = {"arguments": part.arguments}
        beside = dict(part.extras)
        inner = beside.pop("functionCall", {})
        body: dict[str, Json] = {"id": part.id} if self.with_ids and part.id else {}
        body |= {"name": self.names.get(part.name, part.name), "args": args, **inner}
        sealed = self.sealer(part.seal) or signature
        return {"functionCall": body} | ({"thoughtSignature": sealed} if sealed else {}) | beside

    def result(self, part: ToolResult, name: str | None = None, *, nested: bool = True) -> dict[str, Json]:
        """A functionResponse. ``nested``: media stand inside it, else the caller puts them elsewhere."""
        told = name or part.name or part.call_id or "unknown"
        text = "\n".join(piece.text for piece in part.content if isinstance(piece, Text))
        parts: list[dict[str, Json]] = []
        for piece in part.content if nested else ():
            match piece:
                case Media() if (media := encode_media(piece, self.losses, own=self.own)) is not None:
                    parts.append(media)
                case Foreign(block=block):
                    parts.append(dict(block))
                case _:
                    pass
        empty = self.own and not any(isinstance(piece, Text) for piece in part.content)
        body: dict[str, Json] = {"id": part.call_id} if self.with_ids and part.call_id else {}
        body |= {"name": self.names.get(told, told)}
        body["response"] = {} if empty else response_of(text, part.is_error, own=self.own)
        if parts:
            body["parts"] = parts
        beside = dict(part.extras)
        inner = beside.pop("functionResponse", {})
        return {"functionResponse": {**body, **inner}, **beside}


def bears(following: Part | None, reasoning: Reasoning, sealer: Sealer) -> bool:
    """Whether the seal of a Reasoning without text may stand on the part that follows."""
    return isinstance(following, ToolCall) and not reasoning.redacted and sealer(following.seal) is None


def alone(reasoning: Reasoning, sealed: str) -> dict[str, Json]:
    """A seal as a part of its own: on an empty text where Gemini's stream ended so, else on an empty thought."""
    thought = {} if reasoning.redacted else {"thought": True}
    return {"text": "", **thought, "thoughtSignature": sealed, **reasoning.extras}


def _may_bear(wire: Mapping[str, Json]) -> bool:
    """Whether a written part may still take a signature that came on it."""
    if "thoughtSignature" in wire or "thought" in wire:
        return False
    return "inlineData" in wire or "fileData" in wire or bool(wire.get("text"))
