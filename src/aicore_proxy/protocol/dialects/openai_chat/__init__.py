"""OpenAI Chat Completions: spoken by most clients, and by Azure OpenAI deployments on SAP AI Core.

Sources: OpenAI's API reference; SAP AI Core wire facts, section 3 (what Azure's frames and errors look like there).
Thoughts go to clients as ``reasoning_content``, as DeepSeek, OpenRouter's and LiteLLM's users know it; the protocol
has no slot for seals.
"""

from __future__ import annotations

from aicore_proxy.protocol.dialects import Dialect
from aicore_proxy.protocol.dialects.openai_chat.encode import encode_request
from aicore_proxy.protocol.dialects.openai_chat.faults import decode_fault, encode_fault
from aicore_proxy.protocol.dialects.openai_chat.opening import opening
from aicore_proxy.protocol.dialects.openai_chat.reading import HOME, NAME
from aicore_proxy.protocol.dialects.openai_chat.request import decode_request
from aicore_proxy.protocol.dialects.openai_chat.response import decode_response, encode_response
from aicore_proxy.protocol.dialects.openai_chat.stream import ChatDecoder
from aicore_proxy.protocol.dialects.openai_chat.stream_encoder import ENDING, ChatEncoder, framed
from aicore_proxy.protocol.dialects.openai_chat.usage import decode_usage

__all__ = ["DIALECT", "NAME"]

DIALECT = Dialect(
    name=NAME,
    home=HOME,
    decode_request=decode_request,
    encode_request=encode_request,
    decode_response=decode_response,
    encode_response=encode_response,
    stream_decoder=ChatDecoder,
    stream_encoder=ChatEncoder,
    decode_fault=decode_fault,
    encode_fault=encode_fault,
    framed=framed,
    keepalive=b": keep-alive\n\n",
    # Azure's every frame has "usage":null and "finish_reason":null. Of a server that writes spaces a relay reads every
    # frame (pipe.Relay)
    notable=(b'"usage":{', b'"finish_reason":"', b'"error"', b'{"message"', b"[DONE]"),
    answers=("choices",),
    ending=ENDING,
    opening=opening,
    decode_usage=lambda answer: decode_usage(answer.get("usage")),
)
