"""The neutral form -> a Messages body for a Claude model, by its Profile.

``model`` and ``stream`` are in it; a backend whose paths say them takes them out. Where the client asks for a prefill
that the model refuses, a user's request to go on follows it; an answer of JSON without a schema is asked for in a last
system text; an output schema that the model cannot take becomes a forced tool, which ``Undo.output_tool`` turns back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from aicore_proxy.protocol.clearing import cleared
from aicore_proxy.protocol.dialects import Target
from aicore_proxy.protocol.dialects.anthropic_messages.blocks import Drafting, compact
from aicore_proxy.protocol.dialects.anthropic_messages.conversation import (
    CONTINUE,
    Block,
    Message,
    split_system,
    trimmed_end,
    write_messages,
    write_system,
)
from aicore_proxy.protocol.dialects.anthropic_messages.offer import Offer, offered
from aicore_proxy.protocol.dialects.anthropic_messages.reading import NAME
from aicore_proxy.protocol.dialects.anthropic_messages.thinking import Thinking, thinking_for
from aicore_proxy.protocol.json_mode import JSON_ONLY
from aicore_proxy.protocol.neutral import Encoded, Json, Loss, Request, Sampling, Undo
from aicore_proxy.protocol.profiles import Profile


def encode_request(request: Request, target: Target) -> Encoded:
    """A Messages body for ``target``. Never raises: what it cannot take is among the losses."""
    losses: list[Loss] = []
    profile = target.profile
    request = cleared(request, NAME, losses)
    draft = Drafting(request.source, target.sealer)
    offer = offered(request, profile, draft)
    leading, turns = split_system(request.turns)
    if not turns and leading and not draft.own:
        # Claude wants a message: instructions alone are one
        *before, last = request.turns
        leading, turns = [part for turn in before for part in turn.parts], [replace(last, role="user")]
    system = write_system(leading, draft)
    wants_json = request.output is not None and request.output.kind == "json"
    if wants_json:
        system.append({"type": "text", "text": JSON_ONLY})
    messages = write_messages(turns, draft, mid_system=profile.mid_system)
    prefill = trimmed_end(messages)
    if prefill and not profile.prefill:
        draft.lost("messages", "the model takes no prefill: it is asked to go on instead")
        messages.append(Message("user", [{"type": "text", "text": CONTINUE}]))
        prefill = False
    asked_tokens = request.sampling.max_tokens
    max_tokens = profile.max_output if asked_tokens is None else asked_tokens
    if profile.most_output is not None and max_tokens > profile.most_output and not draft.own:
        max_tokens = profile.most_output
        draft.lost("max_tokens", f"the model writes at most {max_tokens} tokens")
    thinking = thinking_for(request, profile, messages, draft, max_tokens, forced=offer.forced, prefill=prefill)
    body = _body(request, target, offer, system, messages, thinking)
    body |= sampled(request.sampling, profile, thinking.on, draft)
    _lose_unsaid(request, draft)
    undo = Undo(draft.renamed, offer.output_tool, offer.custom_tools, bare_json=wants_json)
    return Encoded(body, (*losses, *draft.losses), undo)


def _body(
    request: Request, target: Target, offer: Offer, system: list[Block], messages: list[Message], thinking: Thinking
) -> dict[str, Json]:
    body: dict[str, Json] = {"model": target.model, "max_tokens": thinking.max_tokens}
    extras = dict(request.extras)
    if system:
        body["system"] = compact(system)
    body["messages"] = [message.encoded() for message in messages]
    if offer.tools:
        body["tools"] = offer.tools
    if offer.choice:
        body["tool_choice"] = offer.choice
    if thinking.config is not None:
        body["thinking"] = thinking.config
    if config := output_config(thinking.effort, offer.schema, extras.pop("output_config", {})):
        body["output_config"] = config
    metadata = dict(extras.pop("metadata", {}))
    if request.user is not None:
        metadata["user_id"] = request.user
    if metadata:
        body["metadata"] = metadata
    if request.stream:
        body["stream"] = True
    more = extras.pop("cache_control", {})
    if request.cache is not None:
        ttl = {"ttl": request.cache.ttl} if request.cache.ttl else {}
        body["cache_control"] = {"type": "ephemeral", **ttl, **more}
    return body | extras


def output_config(effort: str | None, schema: Mapping[str, Json] | None, more: Mapping[str, Json]) -> Block:
    config: Block = {name: value for name, value in more.items() if name != "format"}
    if effort is not None:
        config["effort"] = effort
    if schema is not None:
        config["format"] = {"type": "json_schema", "schema": schema, **more.get("format", {})}
    elif "format" in more:
        config["format"] = more["format"]
    return config


def sampled(sampling: Sampling, profile: Profile, thinking: bool, draft: Drafting) -> Block:
    """Temperature, top_p, top_k and stop sequences as the model takes them. Its defaults are never a loss."""
    out: Block = {}
    for name in ("temperature", "top_p", "top_k"):
        value = getattr(sampling, name)
        if value is None:
            continue
        if name in profile.refuses:
            if not (value == 1 and name != "top_k"):
                draft.lost(name, "the model refuses it")
        elif thinking and not _bearable(name, value):
            draft.lost(name, "not while thinking")
        else:
            out[name] = value
    if (temperature := out.get("temperature")) is not None and temperature > 1:
        out["temperature"] = 1
        draft.lost("temperature", "at most 1")
    if profile.one_of_sampling and "temperature" in out and "top_p" in out:
        # 1 is what each is anyway
        if out["temperature"] == 1 or out["top_p"] == 1:
            del out["temperature" if out["temperature"] == 1 else "top_p"]
        else:
            del out["top_p"]
            draft.lost("top_p", "not together with temperature")
    if stop := [text for text in sampling.stop if draft.own or text.strip()]:
        out["stop_sequences"] = stop
    if len(stop) < len(sampling.stop):
        draft.lost("stop_sequences", "white space alone")
    return out


def _bearable(name: str, value: float) -> bool:
    """Extended thinking takes a temperature of 1, a top_p from 0.95, and no top_k."""
    return (name == "temperature" and value == 1) or (name == "top_p" and value >= 0.95)


def _lose_unsaid(request: Request, draft: Drafting) -> None:
    """What the Messages API has no word for. Zero penalties and one candidate are what it does anyway."""
    sampling = request.sampling
    unsaid: Sequence[tuple[str, object]] = (
        ("seed", sampling.seed is not None),
        ("presence_penalty", sampling.presence_penalty),
        ("frequency_penalty", sampling.frequency_penalty),
        ("logprobs", sampling.logprobs is not None),
        ("logit_bias", sampling.logit_bias),
        ("verbosity", request.output is not None and request.output.verbosity),
    )
    for name, asked in unsaid:
        if asked:
            draft.lost(name)
    if sampling.n is not None and sampling.n > 1:
        draft.lost("n", "Claude gives one answer", harmless=False)
