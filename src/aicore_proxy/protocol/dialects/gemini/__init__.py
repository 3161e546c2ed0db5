"""Google's generateContent as a dialect: the Gemini API's clients, and Vertex AI behind SAP AI Core.

Model and streaming stand in the path of the URL. Signatures of thoughts are the seals of family ``gemini``.
"""

from __future__ import annotations

from aicore_proxy.protocol.dialects import Dialect
from aicore_proxy.protocol.dialects.gemini.generation import FIELDS
from aicore_proxy.protocol.dialects.gemini.request import decode_request, encode_request
from aicore_proxy.protocol.dialects.gemini.response import (
    decode_fault,
    decode_response,
    encode_fault,
    encode_response,
    usage_of,
)
from aicore_proxy.protocol.dialects.gemini.stream import KEEPALIVE, Decoder, Encoder, framed
from aicore_proxy.protocol.dialects.gemini.wire import HOME, NAME

DIALECT = Dialect(
    name=NAME,
    home=HOME,
    decode_request=decode_request,
    encode_request=encode_request,
    decode_response=decode_response,
    encode_response=encode_response,
    stream_decoder=Decoder,
    stream_encoder=Encoder,
    decode_fault=decode_fault,
    encode_fault=encode_fault,
    framed=framed,
    keepalive=KEEPALIVE,
    notable=(b'"usageMetadata"', b'"finishReason"', b'"promptFeedback"', b'"functionCall"', b'"error"'),
    answers=("candidates", "promptFeedback"),
    counts=("usageMetadata", "usage_metadata"),
    decode_usage=usage_of,
)

__all__ = ["DIALECT", "FIELDS", "NAME"]
