"""Embeddings: relayed to Azure OpenAI deployments; vectors in the encoding that was asked for."""

from __future__ import annotations

import msgspec

from aicore_proxy.backends.served import is_embedding
from aicore_proxy.gateway.attempts import Attempts
from aicore_proxy.gateway.call import Call
from aicore_proxy.protocol.dialects.embeddings import as_asked, decode_request
from aicore_proxy.protocol.fault import Fault, Kind


def check_operation(name: str, model: str, *, embeds: bool) -> None:
    """Raises Fault(UNSUPPORTED) where embeddings are asked of a model that answers, or an answer of one that makes
    embeddings. ``name``: what the client calls ``model``."""
    if embeds != is_embedding(model):
        words = "makes no embeddings" if embeds else "makes embeddings only: /v1/embeddings is where to ask it"
        raise Fault(Kind.UNSUPPORTED, f"The model '{name}' {words}.", code="unsupported_model", param="model")


async def embedded(attempts: Attempts, call: Call) -> bytes:
    """The answer to an embeddings request. Raises Fault.

    Node's OpenAI SDK asks for base64 and decodes whatever comes, floats into nonsense: an upstream that ignored the
    encoding is corrected here.
    """
    asked = decode_request(call.envelope.decoded())
    body = await attempts.whole(call)
    answer = msgspec.json.decode(body)
    turned = as_asked(answer, asked.encoding)
    return body if turned is answer else msgspec.json.encode(turned)
