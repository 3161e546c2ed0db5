"""OpenAI embeddings: what a request may be, and answers in the encoding that the client asked for.

Pure functions for a relay to an upstream of the same API. An upstream of another (Gemini, Titan, Cohere) has to write
its own body from :class:`EmbeddingRequest` and its answer as :func:`answer`; nothing else here would change.

OpenAI's SDKs ask for ``base64`` by default and decode little-endian float32. Node decodes even a float array in its
place, and returns nonsense without an error: so what the upstream gives is turned into what was asked for.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct

from aicore_proxy.protocol.fault import Fault, Kind
from aicore_proxy.protocol.neutral import Extras, Json, Usage
from aicore_proxy.protocol.openai_members import malformed, member, missing, not_offered, optional, typed, wrong_type

KNOWN = frozenset({"model", "input", "dimensions", "encoding_format", "user"})
MOST_INPUTS = 2048
"""OpenAI API reference, ``input``: "must be 2048 dimensions or less"."""

Encoding = Literal["float", "base64"]


class EmbeddingRequest(Struct, frozen=True):
    """What is to be embedded: texts, or token ids of texts (one list per text). ``single``: the client sent one
    input, not a list of one. ``extras``: members that this API does not know."""

    model: str
    texts: tuple[str, ...] = ()
    tokens: tuple[tuple[int, ...], ...] = ()
    single: bool = False
    dimensions: int | None = None
    encoding: Encoding = "float"
    user: str | None = None
    extras: Extras = {}


# Requests


def decode_request(body: Mapping[str, Json]) -> EmbeddingRequest:
    """Raises Fault(MALFORMED) that names the wire path."""
    model = member(body, "model", str)
    told = body.get("input")
    if told is None:
        raise missing("input")
    texts, tokens, single = _inputs(told)
    dimensions = optional(body, "dimensions", int)
    if dimensions is not None and dimensions < 1:
        raise malformed("dimensions", f"Invalid value for 'dimensions': {dimensions} is less than the minimum of 1.")
    return EmbeddingRequest(
        model=model,
        texts=texts,
        tokens=tokens,
        single=single,
        dimensions=dimensions,
        encoding=_encoding(optional(body, "encoding_format", str)),
        user=optional(body, "user", str),
        extras={name: value for name, value in body.items() if name not in KNOWN and value is not None},
    )


def _encoding(told: str | None) -> Encoding:
    match told:
        case None | "float":
            return "float"
        case "base64":
            return "base64"
        case _:
            raise not_offered(told, ("float", "base64"), "encoding_format")


def _inputs(told: Json) -> tuple[tuple[str, ...], tuple[tuple[int, ...], ...], bool]:
    match told:
        case str():
            return (_text(told, "input"),), (), True
        case []:
            raise malformed("input", "Invalid 'input': empty array. Expected at least one input.")
        case [int(), *_] if not isinstance(told[0], bool):
            return (), (_tokens(told, "input"),), True
        case [str() | list(), *_] if len(told) > MOST_INPUTS:
            words = f"Invalid 'input': array too long. Expected at most {MOST_INPUTS} inputs, but got {len(told)}."
            raise malformed("input", words)
        case [str(), *_]:
            return (
                tuple(_text(typed(text, str, f"input[{i}]"), f"input[{i}]") for i, text in enumerate(told)),
                (),
                False,
            )
        case [list(), *_]:
            return (
                (),
                tuple(_tokens(typed(ids, list, f"input[{i}]"), f"input[{i}]") for i, ids in enumerate(told)),
                False,
            )
        case _:
            raise wrong_type(told, "a string, an array of strings or an array of token ids", "input")


def _text(text: str, path: str) -> str:
    if not text:
        raise malformed(path, f"Invalid '{path}': input cannot be an empty string.")
    return text


def _tokens(ids: Sequence[Json], path: str) -> tuple[int, ...]:
    if not ids:
        raise malformed(path, f"Invalid '{path}': empty array. Expected at least one token id.")
    return tuple(_token(token, f"{path}[{i}]") for i, token in enumerate(ids))


def _token(token: Json, path: str) -> int:
    number = typed(token, int, path)
    if number < 0:
        raise malformed(path, f"Invalid '{path}': a token id cannot be negative.")
    return number


# Answers


def as_asked(body: Mapping[str, Json], encoding: Encoding) -> Mapping[str, Json]:
    """An upstream's answer with each vector in ``encoding``; the same object if it is so already. Raises
    Fault(UPSTREAM_FAILED) on what is no answer of this API."""
    data = body.get("data")
    if not isinstance(data, list) or not all(isinstance(entry, dict) for entry in data):
        raise _unreadable("has no list of embeddings")
    turned = [_entry(entry, encoding) for entry in data]
    if all(new is old for new, old in zip(turned, data, strict=True)):
        return body
    return {**body, "data": turned}


def _entry(entry: Mapping[str, Json], encoding: Encoding) -> Mapping[str, Json]:
    match entry.get("embedding"), encoding:
        case (str(), "base64") | (list(), "float"):
            return entry
        case list(vector), "base64":
            return {**entry, "embedding": packed(vector)}
        case str(text), "float":
            return {**entry, "embedding": unpacked(text)}
        case _:
            raise _unreadable("has an embedding that is neither an array nor base64")


def packed(vector: Sequence[Json]) -> str:
    """Base64 of little-endian float32. Raises Fault(UPSTREAM_FAILED) if it holds anything but numbers."""
    try:
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    except (struct.error, OverflowError, TypeError):
        raise _unreadable("has an embedding that holds something but numbers") from None


def unpacked(text: str) -> list[float]:
    """The numbers of a base64 vector. Raises Fault(UPSTREAM_FAILED) on what is none."""
    try:
        data = base64.b64decode(text, validate=True)
        vector = list(struct.unpack(f"<{len(data) // 4}f", data))
    except (binascii.Error, struct.error, ValueError):
        raise _unreadable("has an embedding that is no base64 of float32") from None
    if not all(map(math.isfinite, vector)):
        raise _unreadable("has an embedding that is no base64 of float32")
    return vector


def _unreadable(what: str) -> Fault:
    return Fault(Kind.UPSTREAM_FAILED, f"SAP AI Core's answer {what}.", code="upstream_error")


def usage_of(body: Mapping[str, Json]) -> Usage | None:
    """Tokens read; embeddings have no output."""
    match body.get("usage"):
        case {"prompt_tokens": int(tokens)} | {"total_tokens": int(tokens)} if not isinstance(tokens, bool):
            return Usage(input=max(0, tokens))
        case _:
            return None


def answer(vectors: Sequence[Sequence[float]], request: EmbeddingRequest, tokens: int) -> dict[str, Any]:
    """A whole answer for ``vectors``, in order of the inputs, which took ``tokens``."""
    data = [
        {"object": "embedding", "index": i, "embedding": packed(v) if request.encoding == "base64" else list(v)}
        for i, v in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": request.model, "usage": usage}
