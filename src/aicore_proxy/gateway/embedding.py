"""Embeddings: relayed to Azure OpenAI deployments; vectors in the encoding that was asked for."""

from __future__ import annotations

import msgspec

from aicore_proxy.backends.served import is_embedding
from aicore_proxy.gateway.attempts import Attempts
from aicore_proxy.gateway.call import Call
from aicore_proxy.protocol.dialects.embeddings import as_asked, decode_request
from aicore_proxy.protocol.fault import Fault, Kind


async def embedded(attempts: Attempts, call: Call) -> bytes:
    """The answer to an embeddings request. Raises Fault.

    Node's OpenAI SDK asks for base64 and decodes whatever comes, floats into nonsense: an upstream that ignored the
    encoding is corrected here.
    """
    asked = decode_request(call.envelope.decoded())
    if not is_embedding(call.sap_model):
        words = f"The model '{call.model}' makes no embeddings."
        raise Fault(Kind.UNSUPPORTED, words, code="unsupported_model", param="model")
    body = await attempts.whole(call)
    answer = msgspec.json.decode(body)
    turned = as_asked(answer, asked.encoding)
    return body if turned is answer else msgspec.json.encode(turned)
