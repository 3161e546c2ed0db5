"""Request bodies that came compressed, inflated no further than a limit."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterator
from typing import Protocol

from aicore_proxy.protocol.fault import Fault, Kind

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

SLICE = 256 * 1024
ZSTD_WINDOW_LOG = 23
"""RFC 9659: a zstd content coding needs a window of 8 MiB at most. A larger one would cost its size in memory."""
CODINGS = ("gzip", "x-gzip", "deflate", "zstd", "identity")


class Inflater(Protocol):
    """One member or frame of a compressed body."""

    def pieces(self, data: bytes) -> Iterator[bytes]: ...

    def rest(self) -> bytes | None:
        """What follows the end; None: the end has not come."""


def coding_of(values: list[str]) -> str | None:
    """The one coding that a request's Content-Encoding names; None: it is not compressed.

    Raises Fault UNSUPPORTED with status 415 for one that is not understood, or several.
    """
    named = [coding.strip().lower() for value in values for coding in value.split(",")]
    named = [coding for coding in named if coding not in ("", "identity")]
    if not named:
        return None
    if len(named) > 1 or named[0] not in CODINGS:
        words = "The Content-Encoding is not understood: send the body as it is, or as gzip, deflate or zstd."
        accepted = (("accept-encoding", "gzip, deflate, zstd"),)
        raise Fault(Kind.UNSUPPORTED, words, status=415, code="unsupported_content_encoding", headers=accepted)
    return named[0]


def inflate(data: bytes, coding: str, limit: int) -> bytes:
    """The inflated body. Blocks: to be run in a thread (the decompressors let go of the interpreter lock).

    Raises Fault TOO_LARGE as soon as more than ``limit`` bytes have come out, MALFORMED where the data is damaged.
    """
    taken: list[bytes] = []
    size = 0
    try:
        while data:
            inflater = _inflater(coding, data)
            for piece in inflater.pieces(data):
                size += len(piece)
                if size > limit:
                    raise too_large(limit)
                taken.append(piece)
            rest = inflater.rest()
            if rest is None:
                raise damaged(coding)
            data = rest  # gzip members and zstd frames may follow one another
    except (zlib.error, zstd.ZstdError, EOFError) as error:
        raise damaged(coding) from error
    return b"".join(taken)


def too_large(limit: int) -> Fault:
    """The Fault for a body over the limit."""
    return Fault(Kind.TOO_LARGE, f"The request body is larger than {limit} bytes.", code="request_too_large")


def damaged(coding: str) -> Fault:
    """The Fault for a body that is not what its Content-Encoding says."""
    return Fault(Kind.MALFORMED, f"The request body is damaged: it is not valid {coding}.", code="invalid_encoding")


def _inflater(coding: str, data: bytes) -> Inflater:
    match coding:
        case "zstd":
            return Zstd()
        case "deflate":
            # Named after zlib's format (RFC 9110, 8.4.1.2), but often sent without its header, whose first byte is x8
            zlib_format = data[0] & 0x0F == 8 and len(data) > 1 and int.from_bytes(data[:2], "big") % 31 == 0
            return Zlib(zlib.MAX_WBITS if zlib_format else -zlib.MAX_WBITS)
        case _:
            return Zlib(zlib.MAX_WBITS | 16)


class Zlib:
    """gzip and deflate. ``window_bits``: zlib's, which also names the format."""

    def __init__(self, window_bits: int) -> None:
        self._stream = zlib.decompressobj(window_bits)

    def pieces(self, data: bytes) -> Iterator[bytes]:
        view = memoryview(data)
        for start in range(0, len(view), SLICE):
            pending: bytes | memoryview = view[start : start + SLICE]
            while pending and not self._stream.eof:
                piece = self._stream.decompress(pending, SLICE)
                pending = self._stream.unconsumed_tail
                yield piece
            if self._stream.eof:
                self._rest = self._stream.unused_data + bytes(view[start + SLICE :])
                return
        yield self._stream.flush()

    def rest(self) -> bytes | None:
        return self._rest if self._stream.eof else None


class Zstd:
    """Zstandard."""

    def __init__(self) -> None:
        options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG}
        self._stream = zstd.ZstdDecompressor(options=options)

    def pieces(self, data: bytes) -> Iterator[bytes]:
        yield self._stream.decompress(data, SLICE)
        while not self._stream.eof and not self._stream.needs_input:
            yield self._stream.decompress(b"", SLICE)

    def rest(self) -> bytes | None:
        return self._stream.unused_data if self._stream.eof else None
