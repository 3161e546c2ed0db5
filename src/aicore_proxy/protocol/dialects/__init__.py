"""The registry of dialects, and what each offers.

A dialect's module has the pieces; ``DIALECT`` in it binds them. Nothing here performs I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from aicore_proxy.protocol.fault import Fault
from aicore_proxy.protocol.neutral import Encoded, Event, Json, Request, Response, Undo, Usage
from aicore_proxy.protocol.profiles import Profile
from aicore_proxy.protocol.seal import Sealer


class StreamDecoder(Protocol):
    """Reads an upstream's stream. One per stream."""

    def feed(self, data: bytes) -> list[Event]:
        """Events of one frame's payload (an SSE ``data``, an AWS event's JSON). Never raises: what cannot be read is
        a Failure."""
        ...

    def end(self) -> list[Event]:
        """What the end of the bytes means: what was left open closed and Done after an orderly end; a Failure if the
        stream broke off without its finish."""
        ...


class StreamEncoder(Protocol):
    """Writes a client's stream: whole frames, well formed whatever the events' order in other dialects. One per
    stream."""

    def feed(self, event: Event) -> bytes: ...

    def fail(self, fault: Fault, request_id: str) -> bytes:
        """The dialect's error event, after closing what is open, and the dialect's proper end after an error."""
        ...


class Decoding(Struct, frozen=True):
    """What a decoder needs beside the body. ``model`` and ``stream`` where the dialect has them in the path
    (Gemini); ``betas``: values of ``anthropic-beta``."""

    model: str | None = None
    stream: bool | None = None
    betas: tuple[str, ...] = ()


class Target(Struct, frozen=True):
    """Whom a request is encoded for: the upstream model's name, its Profile, and the sealer towards it."""

    model: str
    profile: Profile
    sealer: Sealer


class Answering(Struct, frozen=True):
    """Whom an answer is encoded for: the request it answers (its ``model`` is what the client is told, its
    ``stream_usage``, ``n`` and ``reasoning.visible`` are heeded), its ``undo``, the sealer towards the client, an id
    to use where the upstream gave none (without prefix), the time (Unix seconds), and the request id that an error
    event tells."""

    request: Request
    sealer: Sealer
    undo: Undo = Undo()
    fresh_id: str = ""
    now: int = 0
    request_id: str = ""


def as_they_are(payloads: Sequence[bytes]) -> Sequence[bytes]:
    return payloads


class Dialect(Struct, frozen=True):
    """One wire protocol. ``home``: the model family whose seals its slots carry natively.

    ``keepalive``: bytes that belong to no answer and that its clients bear in the middle of a stream.
    ``notable``: byte strings one of which every frame holds that carries usage, an error or the end.
    ``framed``: one payload as its frame for clients (``event:`` lines where the dialect has them).
    ``decode_request`` raises Fault(MALFORMED) that names the wire path; ``encode_request`` never raises: a thing that
    cannot be taken is a Loss. ``decode_response`` raises Fault(UPSTREAM_FAILED) on what is no answer of the dialect.
    ``decode_fault(status, headers, body)`` reads an error answer's JSON body (already known to be an object) or None
    if it is not of this dialect. ``encode_fault(fault, request_id)`` is (status, body). ``answers``: top-level members
    one of which every whole answer has. ``ending``: the frames that end an orderly stream, where the dialect has any
    (``message_stop``, ``[DONE]``). ``decode_usage``: the tokens that a whole answer counts, of those of its top-level
    members that ``counts`` names. ``counted``: a relayed payload, or a whole answer's body, with the given tokens where
    the protocol demands some and it has none; None: the protocol demands none. ``opening``: a relayed stream's payloads
    up to its first content, as clients take them.
    """

    name: str
    home: str
    decode_request: Callable[[Mapping[str, Json], Decoding], Request]
    encode_request: Callable[[Request, Target], Encoded]
    decode_response: Callable[[Mapping[str, Json]], Response]
    encode_response: Callable[[Response, Answering], dict[str, Json]]
    stream_decoder: Callable[[], StreamDecoder]
    stream_encoder: Callable[[Answering], StreamEncoder]
    decode_fault: Callable[[int, Mapping[str, Json]], Fault | None]
    encode_fault: Callable[[Fault, str], tuple[int, dict[str, Json]]]
    framed: Callable[[bytes], bytes]
    keepalive: bytes
    notable: tuple[bytes, ...]
    answers: tuple[str, ...] = ()
    ending: bytes = b""
    opening: Callable[[Sequence[bytes]], Sequence[bytes]] = as_they_are
    request_id_header: str = "x-request-id"
    counts: tuple[str, ...] = ("usage",)
    decode_usage: Callable[[Mapping[str, Json]], Usage | None] = lambda _: None
    counted: Callable[[bytes, Callable[[], Usage]], bytes] | None = None
