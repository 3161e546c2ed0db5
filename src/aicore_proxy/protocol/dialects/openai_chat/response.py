"""Whole answers, read from an upstream and written for a client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aicore_proxy.protocol.dialects import Answering
from aicore_proxy.protocol.dialects.openai_chat.content import data_url, of_data_url
from aicore_proxy.protocol.dialects.openai_chat.faults import stream_fault, unreadable
from aicore_proxy.protocol.dialects.openai_chat.reading import FUNCTION_CALL, NAME
from aicore_proxy.protocol.dialects.openai_chat.tools import is_legacy
from aicore_proxy.protocol.dialects.openai_chat.usage import decode_finish, decode_usage, encode_finish, encode_usage
from aicore_proxy.protocol.neutral import (
    NOTHING,
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
from aicore_proxy.protocol.openai_members import rest

ID = "chatcmpl-"
ANSWER = frozenset({"id", "object", "created", "model", "choices", "usage"})
MESSAGE = frozenset({"role", "content", "refusal", "reasoning_content", "reasoning", "tool_calls", "function_call",
                     "images", "annotations"})  # fmt: skip

# Reading


def decode_response(body: Mapping[str, Json]) -> Response:
    """The neutral form of an answer. Raises Fault: UPSTREAM_FAILED if it is none, another if it is an error."""
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices:
        fault = stream_fault(body)
        raise fault or unreadable("SAP AI Core answered with no choices.")
    answer_id = text_of(body.get("id"))
    indexed = [
        (number_of(choice.get("index"), i), choice) for i, choice in enumerate(choices) if isinstance(choice, dict)
    ]
    if not indexed:
        raise unreadable("SAP AI Core answered with choices that are no objects.")
    candidates = tuple(_candidate(choice, answer_id) for _, choice in sorted(indexed, key=lambda pair: pair[0]))
    return Response(
        id=answer_id,
        model=text_of(body.get("model")),
        candidates=candidates,
        usage=decode_usage(body.get("usage")),
        created=number_of(body.get("created"), 0),
        extras=rest(body, ANSWER) or NOTHING,
    )


def _candidate(choice: Mapping[str, Json], answer_id: str) -> Candidate:
    held = choice.get("message")
    message: Mapping[str, Json] = held if isinstance(held, dict) else {}
    extras = rest(choice, ("index", "message", "finish_reason", "logprobs"))
    if more := rest(message, MESSAGE):
        extras["message"] = more
    annotations = message.get("annotations")
    parts = (
        *_thoughts(message),
        *_spoken(message, choice.get("logprobs"), annotations),
        *_images(message.get("images")),
    )
    calls = _calls(message, answer_id)
    refused = any(isinstance(part, Refusal) for part in parts)
    finish = decode_finish(choice.get("finish_reason"), called=bool(calls), refused=refused)
    return Candidate((*parts, *calls), finish, extras=extras or NOTHING)


def thought_of(message: Mapping[str, Json]) -> str:
    """``reasoning_content`` (DeepSeek), or ``reasoning`` (OpenRouter, vLLM)."""
    return text_of(message.get("reasoning_content")) or text_of(message.get("reasoning"))


def _thoughts(message: Mapping[str, Json]) -> tuple[Part, ...]:
    thought = thought_of(message)
    return (Reasoning(thought),) if thought else ()


def _spoken(message: Mapping[str, Json], logprobs: Json, annotations: Json) -> tuple[Part, ...]:
    """The texts and the refusal. Log probabilities and annotations stand on the part they are about, as in a stream."""
    probabilities: Mapping[str, Json] = logprobs if isinstance(logprobs, dict) else {}
    about = {"logprobs": probabilities.get("content"), "annotations": annotations}
    extras = {name: value for name, value in about.items() if isinstance(value, list) and value}
    parts: list[Part] = []
    match message.get("content"):
        case str(text) if text:
            parts.append(Text(text, extras=extras or NOTHING))
        case list(blocks):
            parts += [_block(block) for block in blocks if isinstance(block, dict)]
        case _:
            pass
    if refusal := text_of(message.get("refusal")):
        tokens = probabilities.get("refusal")
        parts.append(Refusal(refusal, {"logprobs": tokens} if isinstance(tokens, list) and tokens else NOTHING))
    return tuple(parts)


def _block(block: Mapping[str, Json]) -> Part:
    match block:
        case {"type": "text", "text": str(text)}:
            return Text(text)
        case {"type": "refusal", "refusal": str(text)}:
            return Refusal(text)
        case _:
            return Foreign(NAME, block)


def _images(images: Json) -> tuple[Part, ...]:
    return tuple(image_of(image) for image in images if isinstance(image, dict)) if isinstance(images, list) else ()


def image_of(block: Mapping[str, Json]) -> Part:
    """An image in an answer, as OpenRouter and LiteLLM write it."""
    match block:
        case {"image_url": {"url": str(url)}}:
            media_type, data = of_data_url(url)
            return Media("image", url=url) if data is None else Media("image", media_type, data=data)
        case _:
            return Foreign(NAME, block)


def _calls(message: Mapping[str, Json], answer_id: str) -> tuple[ToolCall, ...]:
    calls = []
    told = message.get("tool_calls")
    for i, call in enumerate(told if isinstance(told, list) else ()):
        if isinstance(call, dict) and (read := _call(call, answer_id, i)) is not None:
            calls.append(read)
    legacy = message.get("function_call")
    if isinstance(legacy, dict) and (name := text_of(legacy.get("name"))):
        calls.append(ToolCall(FUNCTION_CALL + bare(answer_id), name, text_of(legacy.get("arguments"))))
    return tuple(calls)


def _call(call: Mapping[str, Json], answer_id: str, number: int) -> ToolCall | None:
    kind = "custom" if call.get("type") == "custom" or "custom" in call else "function"
    held = call.get(kind)
    if not isinstance(held, dict):
        return None
    call_id = text_of(call.get("id")) or made_id(answer_id, 0, number)
    text = text_of(held.get("input" if kind == "custom" else "arguments"))
    extras = rest(call, ("id", "type", "index", kind))
    return ToolCall(call_id, text_of(held.get("name")), text, kind, extras=extras or NOTHING)  # type: ignore[arg-type]


def made_id(answer_id: str, candidate: int, number: int) -> str:
    """An id for a call that came without one; none where the answer has none either (the pipe then gives one)."""
    return f"call_{bare(answer_id)}_{candidate}_{number}" if answer_id else ""


def bare(answer_id: str) -> str:
    return answer_id.removeprefix(ID)[:24]


def text_of(value: Json) -> str:
    return value if isinstance(value, str) else ""


def number_of(value: Json, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else default


# Writing


def encode_response(response: Response, answering: Answering) -> dict[str, Any]:
    """A ``chat.completion``. Everything is there that any client was seen to need."""
    legacy = is_legacy(answering.request.tools)
    choices = [
        _choice(candidate, number, answering, legacy=legacy) for number, candidate in enumerate(response.candidates)
    ]
    return {
        "id": answer_id_of(response.id, answering),
        "object": "chat.completion",
        "created": response.created or answering.now,
        "model": answering.request.model,
        "choices": choices,
        "usage": encode_usage(response.usage),
        **response.extras,
    }


def answer_id_of(upstream_id: str, answering: Answering) -> str:
    """The upstream's id, with OpenAI's prefix; a fresh one where it gave none."""
    told = upstream_id or answering.fresh_id
    return told if told.startswith(ID) else ID + told


def shows_thoughts(answering: Answering) -> bool:
    """Whether the client gets the model's thoughts: unless it asked not to."""
    asked = answering.request.reasoning
    return asked is None or asked.visible is not False


def _choice(candidate: Candidate, number: int, answering: Answering, *, legacy: bool) -> dict[str, Any]:
    extras = dict(candidate.extras)
    more = extras.pop("message", {})
    message, calls = _message(candidate.parts, answering, legacy=legacy)
    refused = message["refusal"] is not None
    finish = encode_finish(candidate.finish, called=calls, refused=refused, legacy=legacy)
    return {
        "index": number,
        "message": {**message, **more},
        "logprobs": _logprobs(candidate.parts),
        "finish_reason": finish,
        **extras,
    }


def _message(parts: Sequence[Part], answering: Answering, *, legacy: bool) -> tuple[dict[str, Any], bool]:
    """The message, and whether it has calls."""
    texts = [part.text for part in parts if isinstance(part, Text)]
    refusals = [part.text for part in parts if isinstance(part, Refusal)]
    calls = [part for part in parts if isinstance(part, ToolCall)]
    content = "".join(texts) if texts else None if calls or refusals else ""
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": "\n".join(refusals) or None}
    thoughts = "".join(part.text for part in parts if isinstance(part, Reasoning))
    if thoughts and shows_thoughts(answering):
        message["reasoning_content"] = thoughts
    if calls and legacy:
        message["function_call"] = {"name": calls[0].name, "arguments": calls[0].arguments or "{}"}
    elif calls:
        message["tool_calls"] = [encode_call(call) for call in calls]
    if images := [image_block(part) for part in parts if isinstance(part, Media) and part.kind == "image"]:
        message["images"] = images
    if annotations := _joined(parts, Text, "annotations"):
        message["annotations"] = annotations
    return message, bool(calls)


def _logprobs(parts: Sequence[Part]) -> dict[str, Any] | None:
    content, refusal = _joined(parts, Text, "logprobs"), _joined(parts, Refusal, "logprobs")
    return {"content": content or None, "refusal": refusal or None} if content or refusal else None


def _joined(parts: Sequence[Part], kind: type[Text | Refusal], name: str) -> list[Json]:
    """What stands under ``name`` on the parts of ``kind``, in order."""
    found = [part.extras.get(name) for part in parts if isinstance(part, kind)]
    return [item for told in found if isinstance(told, list) for item in told]


def encode_call(call: ToolCall) -> dict[str, Any]:
    if call.kind == "custom":
        held = {"name": call.name, "input": call.arguments}
    else:
        held = {"name": call.name, "arguments": call.arguments or "{}"}
    return {"id": call.id, "type": call.kind, call.kind: held, **call.extras}


def image_block(media: Media) -> dict[str, Any]:
    """An image that the model made, as OpenRouter and LiteLLM show it."""
    url = media.url or data_url(media.media_type or "image/png", media.data or "")
    return {"type": "image_url", "image_url": {"url": url}}
