"""Anthropic's Messages API: clients of ``/v1/messages``, and Claude on SAP's Bedrock deployments (``invoke``).

``request`` reads a client's request, ``encode`` (with ``conversation``, ``blocks``, ``offer``, ``thinking``) writes
one for a model; ``response``, ``stream`` and ``stream_encoder`` do the answers.
"""

from __future__ import annotations

import msgspec

from aicore_proxy.protocol.dialects import Dialect
from aicore_proxy.protocol.dialects.anthropic_messages.encode import encode_request
from aicore_proxy.protocol.dialects.anthropic_messages.faults import decode_fault, encode_fault
from aicore_proxy.protocol.dialects.anthropic_messages.reading import HOME, NAME
from aicore_proxy.protocol.dialects.anthropic_messages.request import decode_request, refuse_thread
from aicore_proxy.protocol.dialects.anthropic_messages.response import decode_response, encode_response
from aicore_proxy.protocol.dialects.anthropic_messages.stream import MessagesDecoder
from aicore_proxy.protocol.dialects.anthropic_messages.stream_encoder import MessagesEncoder
from aicore_proxy.protocol.dialects.anthropic_messages.usage import counted, decode_usage

__all__ = ["DIALECT", "framed", "refuse_thread"]

_FIRST = b'{"type":"'


class _Typed(msgspec.Struct):
    type: str = ""


_typed = msgspec.json.Decoder(_Typed)


def framed(payload: bytes) -> bytes:
    """One event's JSON as a frame with its ``event:`` line, which SAP leaves out (wire facts 4.2) and without which
    Anthropic's SDKs skip the event."""
    if payload.startswith(_FIRST):
        end = payload.find(b'"', len(_FIRST))
        kind = payload[len(_FIRST) : end] if end > 0 else b""
    else:
        try:
            kind = _typed.decode(payload).type.encode()
        except (msgspec.MsgspecError, UnicodeDecodeError):
            kind = b""
    lines = payload.replace(b"\r\n", b"\n").replace(b"\n", b"\ndata: ") if b"\n" in payload else payload
    return b"event: %b\ndata: %b\n\n" % (kind, lines) if kind else b"data: %b\n\n" % lines


DIALECT = Dialect(
    name=NAME,
    home=HOME,
    decode_request=decode_request,
    encode_request=encode_request,
    decode_response=decode_response,
    encode_response=encode_response,
    stream_decoder=MessagesDecoder,
    stream_encoder=MessagesEncoder,
    decode_fault=decode_fault,
    encode_fault=encode_fault,
    framed=framed,
    keepalive=b'event: ping\ndata: {"type": "ping"}\n\n',
    notable=(b'"message', b'"error"'),
    answers=("content",),
    ending=b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
    request_id_header="request-id",
    decode_usage=lambda answer: decode_usage(answer.get("usage")),
    counted=counted,
)
