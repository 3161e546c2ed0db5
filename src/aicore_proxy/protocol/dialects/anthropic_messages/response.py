"""Whole answers of the Messages API, both ways."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from aicore_proxy.protocol.dialects import Answering
from aicore_proxy.protocol.dialects.anthropic_messages.reading import NAME, rest, typed
from aicore_proxy.protocol.dialects.anthropic_messages.request import decode_part
from aicore_proxy.protocol.dialects.anthropic_messages.usage import STOPS, decode_usage, encode_stop, encode_usage
from aicore_proxy.protocol.fault import Fault, Kind
from aicore_proxy.protocol.neutral import (
    Candidate,
    Foreign,
    Json,
    Media,
    Part,
    Reasoning,
    Refusal,
    Response,
    Text,
    ToolCall,
)

RESPONSE = frozenset(("id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage"))
ANSWERED = ("container", "context_management", "stop_details")
"""Members beside the known ones that an answer of ours may carry."""


def decode_response(body: Mapping[str, Json]) -> Response:
    """An upstream's answer. Raises Fault(UPSTREAM_FAILED) on what is none."""
    content = body.get("content")
    if not isinstance(content, list):
        raise Fault(Kind.UPSTREAM_FAILED, "The model's answer has no content.", code="upstream_error")
    try:
        parts = tuple(
            decode_part(typed(block, dict, f"content.{i}"), f"content.{i}") for i, block in enumerate(content)
        )
    except Fault as fault:
        raise Fault(
            Kind.UPSTREAM_FAILED, f"The model's answer cannot be read: {fault}", code="upstream_error"
        ) from None
    stop = body.get("stop_reason")
    sequence = body.get("stop_sequence")
    candidate = Candidate(
        parts,
        STOPS.get(stop, "stop") if isinstance(stop, str) else "stop",
        sequence if isinstance(sequence, str) else None,
        rest(body, RESPONSE),
    )
    return Response(
        id=str(body.get("id") or ""),
        model=str(body.get("model") or ""),
        candidates=(candidate,),
        usage=decode_usage(body.get("usage")),
    )


def encode_response(response: Response, answering: Answering) -> dict[str, Json]:
    """The answer for a Messages client; of several candidates the first."""
    candidate = response.candidates[0] if response.candidates else Candidate(())
    content: list[dict[str, Json]] = []
    for index, part in enumerate(candidate.parts):
        content += answer_blocks(part, answering, index)
    called = any(block["type"] == "tool_use" for block in content)
    refused = any(isinstance(part, Refusal) for part in candidate.parts)
    return {
        "id": response.id or f"msg_{answering.fresh_id}",
        "type": "message",
        "role": "assistant",
        "model": answering.request.model or response.model,
        "content": content,
        "stop_reason": encode_stop(candidate.finish, called=called, refused=refused),
        "stop_sequence": candidate.stop_sequence,
        "usage": encode_usage(response.usage),
        **{name: candidate.extras[name] for name in ANSWERED if name in candidate.extras},
    }


def answer_blocks(part: Part, answering: Answering, index: int) -> list[dict[str, Json]]:
    """The blocks for one part of an answer: none for an empty text, two for a call with a foreign seal."""
    match part:
        case Text(text=text, extras=extras):
            citations = {"citations": extras["citations"]} if "citations" in extras else {}
            return [{"type": "text", "text": text, **citations}] if text else []
        case Reasoning():
            block = thinking_block(part, answering)
            return [block] if block else []
        case ToolCall(seal=seal):
            # The block has no slot for a seal that clients give back: it goes before it
            data = answering.sealer(seal)
            sealed = [{"type": "redacted_thinking", "data": data}] if data else []
            return [*sealed, {**call_block(part, answering, index), "input": arguments_of(part.arguments)}]
        case Refusal(text=text):
            return [{"type": "text", "text": text}] if text else []
        case Foreign(dialect=dialect, block=block) if dialect == NAME:
            return [dict(block)]
        case Media(kind=kind, media_type=media_type):
            return [{"type": "text", "text": f"[The model answered with {media_type or kind}: not shown here]"}]
    return []


def thinking_block(part: Reasoning, answering: Answering) -> dict[str, Json] | None:
    """A thinking block; ``signature`` is always there, empty where there is no seal: SDKs need the member, and an
    empty one comes back as no seal."""
    signature = answering.sealer(part.seal)
    if part.redacted:
        return {"type": "redacted_thinking", "data": signature} if signature else None
    text = "" if hidden(answering) else part.text
    if not text and not signature:
        return None
    return {"type": "thinking", "thinking": text, "signature": signature or ""}


def hidden(answering: Answering) -> bool:
    """Whether the client asked for thinking without its text (``display: "omitted"``)."""
    ask = answering.request.reasoning
    return ask is not None and ask.visible is False


def call_block(part: ToolCall, answering: Answering, index: int) -> dict[str, Json]:
    """The start of a ``tool_use`` block, with an id of our own where the upstream gave none."""
    identity = part.id or f"toolu_{answering.fresh_id}{index}"
    return {"type": "tool_use", "id": identity, "name": part.name, "input": {}}


def arguments_of(arguments: str) -> Json:
    """Arguments as the object that clients expect; what is none is kept as text in one."""
    try:
        value = msgspec.json.decode(arguments or "{}")
    except (msgspec.MsgspecError, RecursionError, UnicodeEncodeError):
        return {"arguments": arguments}
    return value if isinstance(value, dict) else {} if value is None else {"arguments": value}
