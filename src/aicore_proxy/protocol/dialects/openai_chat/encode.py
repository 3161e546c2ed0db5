"""The neutral form -> a Chat Completions request for an upstream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aicore_proxy.protocol.clearing import cleared
from aicore_proxy.protocol.dialects import Target
from aicore_proxy.protocol.dialects.openai_chat.asking import encode_effort, encode_output, encode_sampling
from aicore_proxy.protocol.dialects.openai_chat.conversation import Conversation
from aicore_proxy.protocol.dialects.openai_chat.reading import NAME
from aicore_proxy.protocol.dialects.openai_chat.tools import Naming, encode_tools
from aicore_proxy.protocol.neutral import Encoded, Loss, Request, Text, Turn


def encode_request(request: Request, target: Target) -> Encoded:
    """The body that ``target`` takes. Never raises: what it cannot take is a Loss. A stream of another dialect's
    client always asks for usage."""
    losses: list[Loss] = []
    own = request.source == NAME
    request = cleared(request, NAME, losses)
    profile = target.profile
    naming = Naming()
    offer = encode_tools(request, profile, naming, losses)
    conversation = Conversation(request.source, profile, naming, offer.as_functions, losses)
    extras = dict(request.extras)
    form = extras.pop("response_format", {})
    body: dict[str, Any] = {"model": target.model, "messages": conversation.written(_asked(request, own=own))}
    body |= offer.members
    body |= encode_sampling(request.sampling, profile, losses)
    body |= encode_output(request.output, profile, form if isinstance(form, dict) else {}, losses, own=own)
    if effort := encode_effort(request.reasoning, profile, bool(offer.kinds), losses):
        body["reasoning_effort"] = effort
    if request.user is not None:
        body["user"] = request.user
    if request.cache is not None:
        losses.append(Loss("cache_control", NAME, reason="OpenAI caches by itself"))
    options = extras.pop("stream_options", {})
    if request.stream:
        body["stream"] = True
        usage = {"include_usage": True} if request.stream_usage or not own else {}
        options = {**usage, **(options if isinstance(options, dict) else {})}
    if options:
        body["stream_options"] = options
    return Encoded({**body, **extras}, _once(losses), offer.undo(naming))


JSON_WORDS = "Answer with a JSON object."


def _asked(request: Request, *, own: bool) -> Sequence[Turn]:
    """The turns; with a word about JSON where it must be JSON and nobody says so, which OpenAI refuses. It stands
    first, where later turns do not move it."""
    if own or request.output is None or request.output.kind != "json":
        return request.turns
    said = any("json" in part.text.lower() for turn in request.turns for part in turn.parts if isinstance(part, Text))
    return request.turns if said else (Turn("system", (Text(JSON_WORDS),)), *request.turns)


def _once(losses: Sequence[Loss]) -> tuple[Loss, ...]:
    return tuple(loss for i, loss in enumerate(losses) if loss not in losses[:i])
