"""AWS's binary event stream (``application/vnd.amazon.eventstream``), as Bedrock sends it if asked for it.

Layout (SAP AI Core wire facts, section 4.2): total length, length of the headers, CRC-32 of these eight bytes, headers,
payload, CRC-32 of everything before; all numbers big-endian, 32 bits.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Iterator

import msgspec

from aicore_proxy.protocol.fault import Fault, Kind
from aicore_proxy.protocol.framing.frame import LIMIT, Frame

PRELUDE = struct.Struct(">III")
CRC = struct.Struct(">I")
OVERHEAD = PRELUDE.size + CRC.size

# Bytes of a header's value by its type; None: a 16-bit length stands before it (bytes, string)
VALUE_SIZE = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 6: None, 7: None, 8: 8, 9: 16}

ERROR_TYPES = {
    "throttlingexception": "rate_limit_error",
    "servicequotaexceededexception": "rate_limit_error",
    "serviceunavailableexception": "overloaded_error",
    "modelnotreadyexception": "overloaded_error",
    "modeltimeoutexception": "timeout_error",
    "validationexception": "invalid_request_error",
    "accessdeniedexception": "permission_error",
    "resourcenotfoundexception": "not_found_error",
}
"""AWS exception (lower case) -> Anthropic error type; all others (``modelStreamErrorException``,
``internalServerException``) are ``api_error``."""


class AwsEventStreamDecoder:
    """One stream. Gives the JSON payload of each event, as SAP's own SSE of the same stream would: an invoke chunk's
    inner event, a Converse event under its name; an exception as ``{"type": "error", "error": {type, message}}``."""

    __slots__ = ("_fault", "_held")

    def __init__(self) -> None:
        self._held = bytearray()
        self._fault: Fault | None = None

    def feed(self, chunk: bytes) -> list[Frame]:
        """The frames that ``chunk`` completes. Raises Fault(UPSTREAM_FAILED) on a wrong checksum or length, once the
        frames before it were given."""
        if self._fault is not None:
            raise self._fault
        self._held += chunk
        frames: list[Frame] = []
        try:
            for raw in self._messages():
                if (frame := _frame(raw)) is not None:
                    frames.append(frame)  # noqa: PERF401  those before a fault are given
        except Fault as fault:
            self._fault = fault
            if not frames:
                raise
        return frames

    def end(self) -> list[Frame]:
        """Nothing: a message without its last byte cannot be checked. Raises the Fault that is still owed."""
        if self._fault is not None:
            raise self._fault
        return []

    def _messages(self) -> Iterator[bytes]:
        """Whole messages, taken out of what is held."""
        start = 0
        held = self._held
        try:
            while len(held) - start >= PRELUDE.size:
                total, headers, checksum = PRELUDE.unpack_from(held, start)
                if zlib.crc32(held[start : start + 8]) != checksum:
                    raise _damaged("prelude checksum")
                if not OVERHEAD + headers <= total <= LIMIT:
                    raise _damaged("length")
                if len(held) - start < total:
                    return
                raw = bytes(held[start : start + total])
                start += total
                if zlib.crc32(raw[:-4]) != CRC.unpack_from(raw, total - 4)[0]:
                    raise _damaged("checksum")
                yield raw
        finally:
            del held[:start]


def _frame(raw: bytes) -> Frame | None:
    total, size, _ = PRELUDE.unpack_from(raw)
    headers = _headers(raw[PRELUDE.size : PRELUDE.size + size])
    payload = raw[PRELUDE.size + size : total - 4]
    match headers.get(":message-type"):
        case "exception":
            return Frame(raw, _error(headers.get(":exception-type", ""), _message(payload)))
        case "error":
            return Frame(raw, _error(headers.get(":error-code", ""), headers.get(":error-message", "")))
    match headers.get(":event-type", ""):
        case "initial-response":
            return None
        case "chunk":
            return Frame(raw, _inner(payload))
        case name:
            return Frame(raw, b"{" + msgspec.json.encode(name) + b":" + payload + b"}", name)


def _headers(block: bytes) -> dict[str, str]:
    """The string headers of a message."""
    found: dict[str, str] = {}
    at = 0
    try:
        while at < len(block):
            end = at + 1 + block[at]
            name = block[at + 1 : end].decode()
            kind = block[end]
            size = VALUE_SIZE[kind]
            at = end + 1
            if size is None:
                size = int.from_bytes(block[at : at + 2], "big")
                at += 2
            if kind == 7:
                found[name] = block[at : at + size].decode()
            at += size
    except (IndexError, KeyError, UnicodeDecodeError):
        raise _damaged("headers") from None
    return found


def _inner(payload: bytes) -> bytes:
    """The event inside an invoke chunk: ``{"bytes": base64, "p": padding}``."""
    try:
        return base64.b64decode(msgspec.json.decode(payload, type=_Chunk).bytes, validate=True)
    except (msgspec.MsgspecError, ValueError):
        raise _damaged("payload") from None


class _Chunk(msgspec.Struct):
    bytes: str


def _message(payload: bytes) -> str:
    try:
        body = msgspec.json.decode(payload, type=dict[str, msgspec.Raw])
        text = body.get("message") or body.get("Message") or body["originalMessage"]
        return msgspec.json.decode(text, type=str)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError):
        return payload.decode("utf-8", "replace").strip()


def _error(exception: str, message: str) -> bytes:
    kind = ERROR_TYPES.get(exception.lower(), "api_error")
    return msgspec.json.encode({"type": "error", "error": {"type": kind, "message": message or exception}})


def _damaged(what: str) -> Fault:
    return Fault(Kind.UPSTREAM_FAILED, f"SAP AI Core sent a damaged event stream (wrong {what}).")
