"""Executable ``gcp-vertexai``: Gemini on Vertex AI. Source: SAP AI Core wire facts, section 5.

No version and no project in the path: everything of Google's down to ``/models/`` is SAP's to add. A stream is asked
for with ``alt=sse``, as SAP's own client does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import msgspec

from aicore_proxy.backends import Ask, Prepared
from aicore_proxy.landscape import Deployment
from aicore_proxy.protocol.dialects.gemini import NAME
from aicore_proxy.protocol.dialects.gemini.relay import cleaned
from aicore_proxy.protocol.envelope import Envelope, decoded
from aicore_proxy.protocol.neutral import Encoded
from aicore_proxy.protocol.profiles import profile_of
from aicore_proxy.protocol.seal import WRAPPED

Json = Any

DROPPED = ("model", "stream")
"""Members that stand in the path, and would be unknown in the body."""


class GcpVertexAI:
    """How to ask a Gemini deployment."""

    @property
    def dialect(self) -> str:
        return NAME

    def read_ahead(self, envelope: Envelope) -> Iterator[None]:
        """See Backend: nothing of it takes long."""
        return iter(())

    def relayed(self, envelope: Envelope, deployment: Deployment, ask: Ask) -> Prepared:
        """The client's bytes without ``model`` and ``stream``. ``contents`` is written anew only where it holds what
        may not go up as it is: ids of calls, seals of other models, calls that a Gemini 3 finds unsigned."""
        put: dict[str, bytes] = {}
        signed_calls = profile_of(deployment.model).signed_calls
        if _suspicious(envelope, signed_calls):
            contents = decoded(envelope.members["contents"], "contents")
            fit = cleaned(contents, signed_calls=signed_calls)
            if fit is not contents:
                put["contents"] = msgspec.json.encode(fit)
        return Prepared(_path(deployment, ask), envelope.spliced(drop=DROPPED, put=put))

    def translated(self, encoded: Encoded, deployment: Deployment, ask: Ask) -> Prepared:
        return Prepared(_path(deployment, ask), msgspec.json.encode(encoded.body), losses=encoded.losses)


def _suspicious(envelope: Envelope, signed_calls: bool) -> bool:
    # functionCall, function_response, ...
    called = envelope.holds("contents", b'"function')
    return (called and (signed_calls or envelope.holds("contents", b'"id"'))) or envelope.holds(
        "contents", WRAPPED.encode()
    )


def _path(deployment: Deployment, ask: Ask) -> str:
    verb = "streamGenerateContent?alt=sse" if ask.stream else "generateContent"
    return f"/models/{quote(deployment.model, safe='')}:{verb}"
